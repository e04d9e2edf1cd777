"""Real archives are verified to the last byte, by an operation and by the auditor's script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archive.exporting import export
from archive.finishing import finish
from archive.stores_folder import FolderColdStore
from archive.verifier import verify_archive
from archive.volume import prefix_of
from ledger.application import Ledger
from ledger.errors import ConflictError, InvalidRequestError
from ledger.findings import Level
from tests.contracts.archive_script import verify_by_script
from tests.contracts.cold_places import ColdPlace
from tests.integration.archiving import ORIGIN, SIGNER, Archive, new_archive
from tests.integration.views import new_order
from workers.archive_checks import VerifiedArchives, chosen_by_chance, verify_archives
from workers.verification import verify_record
from workers.workshop import Workshop


@pytest.fixture(scope="module")
def archive(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Two years in a folder, one after the other."""
    archive = new_archive(ledger, tmp_path_factory.mktemp("archive"))
    for year in (2000, 2001):
        archive.fill(year)
        label = archive.close(year)
        export(archive.archiving, label)
        archive.seal()
        finish(archive.archiving, label)
    return archive


@pytest.fixture
def workshop(archive: Archive) -> Workshop:
    """A worker that knows where archives are."""
    return _workshop(archive, archive_url=_folder(archive).as_uri())


def test_a_real_archive_is_what_was_signed_to_the_last_byte(archive: Archive) -> None:
    told: list[dict[str, int]] = []
    for label in ("FY2000-01", "FY2001-02"):
        prefix = prefix_of(ORIGIN, label, 1)
        found = verify_archive(archive.archiving.store, prefix, [SIGNER.public], content=True, tell=told.append)
        assert (found.findings, found.not_compared, found.holds) == ([], [], True)
        assert found.evidence["manifest_sha256"] == archive.year(label).manifest_sha256
        assert told[-1]["parts"] == told[-1]["parts_total"] == 2 * found.evidence["objects"]
        assert told[-1]["bytes"] == found.evidence["bytes"]


def test_the_script_finds_a_real_archive_as_it_was_signed(archive: Archive, tmp_path: Path) -> None:
    place = ColdPlace("folder", archive.archiving.store, tmp_path, folder=_folder(archive))
    ended, lines = verify_by_script(place, prefix_of(ORIGIN, "FY2001-02", 1))
    assert (ended, lines[-1]) == (0, "All of it is as it was signed."), lines


@pytest.mark.parametrize("content", [False, True])
def test_the_archives_of_a_year_are_verified_as_an_operation(workshop: Workshop, content: bool) -> None:
    result = verify_record(workshop, _order(content=content))
    assert (result["holds"], result["findings"], result["not_compared"]) == (True, [], [])
    assert [each["fiscal_year"] for each in result["archives"]] == ["FY2001-02"]
    assert result["archives"][0]["content"] is content


def test_all_archives_are_verified_and_what_differs_is_named(archive: Archive, workshop: Workshop) -> None:
    assert [each["fiscal_year"] for each in _all(workshop).archives] == ["FY2000-01", "FY2001-02"]
    part = next(_folder(archive).glob("v1/books/FY2000-01/g0001/data/*/*.zst"))
    data = part.read_bytes()
    part.chmod(0o644)
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    try:
        found = _all(workshop)
    finally:
        part.write_bytes(data)
    told = [(finding.code, finding.object) for finding in found.findings]
    assert told == [("object_differs", part.relative_to(_folder(archive)).as_posix())]


def test_a_sample_of_each_archive_is_read_and_which_objects_is_chance(archive: Archive, workshop: Workshop) -> None:
    found = verify_archives(workshop, lambda told: None, label=None, content=False, sample=2)
    assert found.holds
    assert [(each["fiscal_year"], len(each["sample"])) for each in found.archives] == [
        ("FY2000-01", 2),
        ("FY2001-02", 2),
    ]
    objects: list[Any] = list(range(5))  # any will do
    drawn = {tuple(chosen_by_chance(2, objects)) for _ in range(1_000)}
    assert {each for chosen in drawn for each in chosen} == set(objects)
    assert sorted(chosen_by_chance(9, objects)) == objects


def test_a_manifest_that_is_signed_and_not_the_one_of_the_log_is_found(archive: Archive) -> None:
    found = verify_archive(
        archive.archiving.store,
        prefix_of(ORIGIN, "FY2001-02", 1),
        [SIGNER.public],
        content=False,
        manifest_sha256=archive.year("FY2000-01").manifest_sha256,
    )
    assert [finding.code for finding in found.findings] == ["manifest_of_another"]


def test_what_cannot_be_verified_is_refused(archive: Archive, workshop: Workshop) -> None:
    with pytest.raises(ConflictError, match="FY1990-91"):
        verify_record(workshop, _order("FY1990-91"))
    with pytest.raises(InvalidRequestError, match="No place"):
        verify_record(_workshop(archive, archive_url=None), _order())
    with pytest.raises(InvalidRequestError, match="nobody"):
        verify_record(_workshop(archive, archive_url="s3://bucket", archive_verifier_profile="nobody"), _order())


def _order(label: str = "FY2001-02", *, content: bool = False) -> Any:
    return new_order(level=Level.ARCHIVES.value, fiscal_year=label, content=content)


def _all(workshop: Workshop) -> VerifiedArchives:
    return verify_archives(workshop, lambda told: None, label=None, content=False)


def _folder(archive: Archive) -> Path:
    store = archive.archiving.store
    assert isinstance(store, FolderColdStore)
    return store._folder


def _workshop(archive: Archive, **settings: Any) -> Workshop:
    workshop = archive.places[0].workshop
    values = {"seal_public_keys": str(SIGNER.public), **settings}
    return Workshop(workshop.ledger, workshop.blobs, workshop.settings.model_copy(update=values), workshop.calendar)
