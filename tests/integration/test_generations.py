"""A year that goes into cold storage, comes back, is reopened and goes there again, with all that is done about it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from archive import closing
from archive.dropping import drop_if_due
from archive.exporting import export
from archive.finishing import finish
from archive.garbage import garbage
from archive.retention import report
from archive.stores import Tier
from ledger.application import Ledger
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage, Status
from ledger.domain.year_states import Ground, YearState
from tests.integration.archiving import CONTRACT, HEADER, ORIGIN, Archive, label_of, lines, new_archive
from tests.integration.place import STAMP, Place
from tests.integration.years import SECOND
from workers.archives import decide_hold, request_restore, restore_fiscal_year
from workers.operations import operate
from workers.years import closing_of

YEARS = iter(range(2000, 2024, 2))


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Archive:
    return new_archive(ledger, tmp_path)


def shelve(archive: Archive, year: int) -> str:
    """Close a year, and all that follows until its rows are gone."""
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    finish(archive.archiving, label)
    archive.archiving.decide(label, lambda _, year: year.authorize_drop(SECOND, ground=Ground.APPROVAL))
    assert drop_if_due(archive.archiving, label, days=None).state is YearState.DROPPED
    return label


def closes(archive: Archive) -> Any:
    return closing_of(archive.ledger, archive.places[0].workshop.settings)


def bring_back(archive: Archive, label: str, folder: Path) -> dict[str, Any]:
    place = archive.places[0].with_settings(archive_url=(folder / "cold").as_uri())
    store = archive.archiving.store
    asked = request_restore(closes(archive), store, label, STAMP, tier=Tier.STANDARD, days=1, reason="an audit")
    place.follow()
    ended = operate(place.workshop, restore_fiscal_year, asked.id, Stage.RESTORE_YEAR, time.time(), lambda _: None)
    assert isinstance(ended, Operation)
    assert (ended.status, ended.error) == (OperationStatus.COMPLETED, None)
    assert ended.result is not None
    return ended.result


def content(archive: Archive, place: Place, schema: str, label: str) -> list[tuple[Any, ...]]:
    partition = f"data.{place.dataset}__{label.lower().replace('-', '_')}"
    table = partition if schema == "data" else f"{schema}.{place.dataset}"
    return archive.query(f"SELECT * FROM {table} ORDER BY _job, _record")


def test_a_year_goes_and_comes_and_goes_again_with_what_was_missing_and_its_books_balance(
    archive: Archive, tmp_path: Path
) -> None:
    year = next(YEARS)
    jobs = archive.fill(year)
    before = {p.dataset: content(archive, p, "data", label_of(year)) for p in archive.places}
    label = shelve(archive, year)
    schema = bring_back(archive, label, tmp_path)["schema"]
    assert {p.dataset: content(archive, p, schema, label) for p in archive.places} == before
    told = [logged.topic for job in jobs for logged in archive.ledger.events_of(job)]
    assert told.count("filejob.restored") == len(jobs)
    closing.decide(closes(archive), label, STAMP, lambda year: year.request_reopen(STAMP, reason="an invoice"))
    closing.reopen(closes(archive), label, SECOND)
    assert {p.dataset: content(archive, p, "data", label) for p in archive.places} == before
    [place, other] = archive.places
    late = place.send((HEADER + lines(year, range(95, 97))).encode(), CONTRACT, may_adjust=True)
    place.perform(late, Stage.PLAN)
    place.follow()
    place.perform(late, Stage.LOAD)
    assert archive.ledger.job(late).status is Status.COMPLETED
    assert shelve(archive, year) == label
    result = bring_back(archive, label, tmp_path)
    rows = {table["dataset"]: table["rows"] for table in result["tables"]}
    assert (result["generation"], rows) == (2, {place.dataset: 92, other.dataset: 90})
    assert report(archive.ledger, archive.archiving.store, archive.year(label))["findings"] == []
    assert garbage(archive.ledger, archive.archiving.store, ORIGIN)["objects"] == []


def test_a_year_that_was_held_before_it_was_archived_has_its_objects_held_when_they_are_sealed(
    archive: Archive,
) -> None:
    year = next(YEARS)
    archive.fill(year)
    label = archive.close(year)
    decide_hold(closes(archive), label, STAMP, lambda year: year.place_hold(STAMP, case="2026/17"))
    export(archive.archiving, label)
    archive.seal()
    assert finish(archive.archiving, label).state is YearState.VERIFIED
    found = report(archive.ledger, archive.archiving.store, archive.year(label))
    assert (found["findings"], found["holds"]) == ([], ["2026/17"])
    assert found["generations"][0]["held"] > 10
