"""A year that goes into cold storage, comes back, is reopened and goes there again, with all that is done about it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from archive import closing, restoration, retrieval
from archive.dropping import drop_if_due, tell_files
from archive.exporting import export
from archive.fence import Fingerprint
from archive.finishing import finish
from archive.garbage import garbage
from archive.restoration import RestorationDiffersError
from archive.retention import report
from archive.sealed import newest_archive
from archive.stores import Tier
from ledger.application import Ledger
from ledger.domain.filejob import FileJob
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
    put_back(archive, label)
    assert {p.dataset: content(archive, p, "data", label) for p in archive.places} == before
    assert {archive.ledger.job(job).status for job in jobs} == {Status.COMPLETED}
    [place, other] = archive.places
    late = place.send((HEADER + lines(year, range(95, 97))).encode(), CONTRACT, may_adjust=True)
    place.perform(late, Stage.PLAN)
    place.follow()
    place.perform(late, Stage.LOAD)
    assert archive.ledger.job(late).status is Status.COMPLETED
    assert shelve(archive, year) == label
    assert {archive.ledger.job(job).status for job in (late, *jobs) if years_of(archive, job) == [label]} == {
        Status.ARCHIVED
    }
    result = bring_back(archive, label, tmp_path)
    rows = {table["dataset"]: table["rows"] for table in result["tables"]}
    assert (result["generation"], rows) == (2, {place.dataset: 92, other.dataset: 90})
    assert report(archive.ledger, archive.archiving.store, archive.year(label))["findings"] == []
    assert garbage(archive.ledger, archive.archiving.store, ORIGIN)["objects"] == []
    # Files with rows in both years: those that went twice count once.
    assert export(archive.archiving, archive.close(year + 1)).state is YearState.EXPORTED


def test_jobs_whose_rows_were_put_back_are_told_of_no_copy_of_an_archive_that_they_are_not_away_for(
    archive: Archive, tmp_path: Path
) -> None:
    year = next(YEARS)
    jobs = archive.fill(year)
    label = shelve(archive, year)
    bring_back(archive, label, tmp_path)
    put_back(archive, label)
    export(archive.archiving, archive.close(year))
    bring_back(archive, label, tmp_path)
    told = [logged.event for job in jobs for logged in archive.ledger.events_of(job)]
    is_put_back = [event.is_put_back for event in told if isinstance(event, FileJob.Restored)]
    assert (is_put_back.count(False), is_put_back.count(True)) == (len(jobs), len(jobs))
    assert not any(archive.ledger.job(job).years_archived for job in jobs)


def test_files_are_not_told_that_they_are_archived_once_their_year_is_reopened(
    archive: Archive, tmp_path: Path
) -> None:
    year = next(YEARS)
    jobs = archive.fill(year)
    label = shelve(archive, year)
    dropped = archive.year(label)
    bring_back(archive, label, tmp_path)
    put_back(archive, label)
    tell_files(archive.archiving, dropped)  # by whoever was stopped before, and knows the year as it was
    assert not any(archive.ledger.job(job).years_archived for job in jobs)


def test_an_archive_of_another_version_of_postgresql_is_shown_equal_by_its_text(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    year = next(YEARS)
    archive.fill(year)
    label = shelve(archive, year)
    store, calendar = archive.archiving.store, archive.archiving.calendar
    ours = newest_archive(archive.ledger, store, archive.year(label))
    software = ours.manifest.software.model_copy(update={"postgresql": 150_000})
    theirs = replace(ours, manifest=ours.manifest.model_copy(update={"software": software}))
    request_restore(closes(archive), store, label, STAMP, tier=Tier.STANDARD, days=1, reason="an audit")
    # As its hash functions would be other ones.
    monkeypatch.setattr(restoration, "fingerprint", lambda *_: Fingerprint(rows=90, digest=1))
    with pytest.raises(RestorationDiffersError, match="its fingerprint is another"):
        retrieval.bring_back(archive.ledger, calendar, store, ours, label, STAMP)
    tables = theirs.manifest.tables
    damaged = theirs.manifest.model_copy(
        update={"tables": tuple(t.model_copy(update={"text_sha256": "12" * 32}) for t in tables)}
    )
    with pytest.raises(RestorationDiffersError, match="another SHA-256"):
        retrieval.bring_back(archive.ledger, calendar, store, replace(ours, manifest=damaged), label, STAMP)
    retrieval.bring_back(archive.ledger, calendar, store, theirs, label, STAMP)
    put_back(archive, label)


def put_back(archive: Archive, label: str) -> None:
    """Reopen a dropped year from its copy, as two persons."""
    closing.decide(closes(archive), label, STAMP, lambda year: year.request_reopen(STAMP, reason="an invoice"))
    closing.reopen(closes(archive), label, SECOND)


def years_of(archive: Archive, job: UUID) -> list[str]:
    return sorted({label for chunk in archive.ledger.job(job).chunks.values() for label in chunk.fiscal_years})


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
