"""Years whose way into cold storage crosses something else: reopenings, rebuilds, upgrades, damage, other years."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from archive import finishing
from archive.books import BooksDoNotBalanceError
from archive.dropping import drop_if_due
from archive.exporting import export
from archive.finishing import ArchiveDiffersError, finish
from archive.verifier import verify_archive
from archive.volume import prefix_of
from ledger.application import Ledger
from ledger.domain.base import Stamp
from ledger.domain.contract import Contract
from ledger.domain.words import Stage
from ledger.domain.year_states import Ground, YearState
from ledger.errors import ConflictError
from ledger.failpoints import FailpointError
from projections import data_view
from tests.integration.archiving import CONTRACT, HEADER, ORIGIN, Archive, armed, label_of, lines, new_archive
from tests.integration.place import STAMP, Place
from tests.integration.test_generations import bring_back, put_back, shelve
from tests.integration.test_table_rebuild import Yard
from tests.integration.views import new_order
from tests.integration.years import SECOND

YEARS = iter(range(1950, 1999, 3))
KEYED = Contract(
    (replace(CONTRACT.columns[0], nullable=False), *CONTRACT.columns[1:]),
    fiscal_date_column="paid_on",
    key=("number",),
    rejects_max="100%",
)


@pytest.fixture
def year() -> int:
    return next(YEARS)


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Archive:
    return new_archive(ledger, tmp_path)


def load(archive: Archive, place: Place, data: str, contract: Contract = CONTRACT, *, may_adjust: bool = False) -> UUID:
    job_id = place.send((HEADER + data).encode(), contract, may_adjust=may_adjust)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    return job_id


def rows_of(archive: Archive, place: Place, label: str) -> int:
    [(count,)] = archive.query(f"SELECT count(*) FROM data.{place.dataset}__{label.lower().replace('-', '_')}")
    return int(count)


def test_a_table_that_was_built_while_a_year_was_reopened_does_not_take_its_rows_away(
    archive: Archive, year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = archive.places[0]
    load(archive, place, lines(year, range(8)) + lines(year + 1, range(3)))
    label = shelve(archive, year)
    bring_back(archive, label, tmp_path)
    asked = archive.ledger.request(Stage.REBUILD, {"view": f"data.{place.dataset}"}, STAMP)
    settle = data_view.TableBuild.settle

    def reopen_meanwhile(build: data_view.TableBuild) -> None:
        settle(build)
        put_back(archive, label)

    monkeypatch.setattr(data_view.TableBuild, "settle", reopen_meanwhile)
    with pytest.raises(ConflictError, match="was reopened while"):
        Yard(place).view.rebuild(replace(new_order(), id=asked.id))
    assert rows_of(archive, place, label) == 8


def test_a_reopened_year_takes_no_key_twice_though_its_partition_was_made_anew(
    archive: Archive, year: int, tmp_path: Path
) -> None:
    place, other = archive.places
    load(archive, place, lines(year, range(5)), KEYED)
    load(archive, other, lines(year + 1, range(5)), KEYED)  # it has no row of the year
    label = shelve(archive, year)
    bring_back(archive, label, tmp_path)
    put_back(archive, label)
    for each in (place, other):
        for _ in range(2):
            load(archive, each, lines(year, range(6)), KEYED, may_adjust=True)
        assert rows_of(archive, each, label) == 6


@pytest.mark.parametrize(
    "statement",
    ["ALTER TABLE data.{0} DETACH PARTITION data.{0}__{1}", "DROP TABLE data.{0}"],
    ids=["detached", "gone"],
)
def test_rows_that_are_in_no_table_of_the_year_do_not_balance(archive: Archive, year: int, statement: str) -> None:
    place, other = archive.places
    load(archive, place, lines(year, range(5)))
    job_id = load(archive, other, lines(year, range(7)))
    with archive.ledger.transaction() as session:
        session.execute(text(statement.format(other.dataset, label_of(year).lower().replace("-", "_"))))
    label = archive.close(year)
    with pytest.raises(BooksDoNotBalanceError, match=f"{job_id} has rows of {label}"):
        export(archive.archiving, label)


def test_rows_are_not_dropped_when_the_archive_is_not_any_more_what_was_verified(
    archive: Archive, year: int, tmp_path: Path
) -> None:
    load(archive, archive.places[0], lines(year, range(60)))
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    finish(archive.archiving, label)
    archive.archiving.decide(label, lambda _, year: year.authorize_drop(SECOND, ground=Ground.APPROVAL))
    for part in (tmp_path / "cold").glob(f"{prefix_of(ORIGIN, label, 1)}/data/*/*"):
        part.unlink()
    with pytest.raises(ArchiveDiffersError):
        drop_if_due(archive.archiving, label, days=None)
    assert rows_of(archive, archive.places[0], label) == 60


def test_a_generation_that_was_given_up_is_in_the_way_of_none_that_follows(
    archive: Archive, year: int, tmp_path: Path
) -> None:
    load(archive, archive.places[0], lines(year, range(60)))
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    put_back(archive, label)
    archive.close(year)
    with armed(tmp_path / "failpoints", "table_tried"), pytest.raises(FailpointError):
        export(archive.archiving, label)
    put_back(archive, label)
    archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    assert finish(archive.archiving, label).state is YearState.VERIFIED
    (tmp_path / "cold" / prefix_of(ORIGIN, label, 1) / "MANIFEST.json").unlink()  # the one that it supersedes
    found = verify_archive(archive.archiving.store, prefix_of(ORIGIN, label, 3), archive.archiving.keys, content=False)
    assert {finding.code for finding in found.findings} >= {"object_missing"}


def test_an_upgrade_with_another_script_does_not_stop_an_archive_that_is_half_finished(
    archive: Archive, year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(archive, archive.places[0], lines(year, range(60)))
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    with armed(tmp_path / "failpoints", "lock_raised"), pytest.raises(FailpointError):
        finish(archive.archiving, label)
    monkeypatch.setattr(finishing, "README", finishing.README + "A line more.\n")
    assert finish(archive.archiving, label).state is YearState.VERIFIED


def test_a_plan_is_not_taken_for_one_of_the_next_generation(archive: Archive, year: int) -> None:
    load(archive, archive.places[0], lines(year, range(60)))
    label = archive.close(year)
    put_back_once = iter([put_back])

    def reopen_meanwhile() -> Stamp:
        for reopen in put_back_once:
            reopen(archive, label)
            archive.close(year)
        return STAMP

    with pytest.raises(ConflictError, match="closed again while it was exported"):
        export(replace(archive.archiving, stamp=reopen_meanwhile), label)
    assert export(archive.archiving, label).state is YearState.EXPORTED


def test_the_books_of_a_year_wait_for_files_that_do_not_know_yet_that_another_one_was_dropped(
    archive: Archive, year: int, tmp_path: Path
) -> None:
    load(archive, archive.places[0], lines(year, range(6)) + lines(year + 1, range(3)))
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    finish(archive.archiving, label)
    archive.archiving.decide(label, lambda _, year: year.authorize_drop(SECOND, ground=Ground.APPROVAL))
    with armed(tmp_path / "failpoints", "year_dropped"), pytest.raises(FailpointError):
        drop_if_due(archive.archiving, label, days=None)
    following = archive.close(year + 1)
    with pytest.raises(ConflictError, match=f"rows in {label}"):
        export(archive.archiving, following)
    drop_if_due(archive.archiving, label, days=None)
    assert export(archive.archiving, following).state is YearState.EXPORTED


def test_a_table_that_was_made_again_after_somebody_dropped_it_can_be_reopened(archive: Archive, year: int) -> None:
    place = archive.places[0]
    load(archive, place, lines(year, range(6)))
    label = archive.close(year)
    with archive.ledger.transaction() as session:
        session.execute(text(f"DROP TABLE data.{place.dataset}"))
    Yard(place).rebuild()
    put_back(archive, label)
    load(archive, place, lines(year, range(6, 8)), may_adjust=True)
    assert rows_of(archive, place, label) == 8
