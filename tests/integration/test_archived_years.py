"""An exported year is signed, locked and verified, and its rows go only then, with the event that says so."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import zstandard
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import text

from archive import dropping
from archive.dropping import drop_if_due
from archive.exporting import export
from archive.fence import ContentChangedError
from archive.finishing import finish
from archive.manifest import open_manifest
from archive.stores import Lock, LockMode, ObjectDamagedError
from archive.volume import prefix_of
from ledger import telemetry
from ledger.application import Ledger
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.words import Stage, Status
from ledger.domain.year_states import Ground, YearState
from ledger.errors import ConflictError, NotFoundError, PartUnavailableError
from ledger.failpoints import FailpointError
from ledger.manifests import archive_export_id, keep_manifest, sign_manifests
from tests.integration.archiving import ORIGIN, SIGNER, Archive, armed, new_archive
from tests.integration.place import STAMP, unguard
from tests.integration.test_table_rebuild import Yard
from tests.integration.years import SECOND
from workers.archiving import archive_fiscal_year
from workers.operations import operate
from workers.years import look_after_years

YEARS = iter(range(1980, 2024, 2))


@pytest.fixture
def year() -> int:
    return next(YEARS)


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Archive:
    return new_archive(ledger, tmp_path)


def exported(archive: Archive, year: int) -> str:
    archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    return label


@pytest.fixture(scope="module")
def exported_once(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A year that is exported, and what is signed of its manifest."""
    archive = new_archive(ledger, tmp_path_factory.mktemp("once"))
    label = exported(archive, next(YEARS))
    [(note,)] = archive.query("SELECT text FROM audit.manifests WHERE export_id = :id", id=archive_export_id(label, 1))
    return label, note


def verified(archive: Archive, year: int) -> str:
    label = exported(archive, year)
    finish(archive.archiving, label)
    return label


def allow(archive: Archive, label: str) -> None:
    """A second person's word."""
    archive.archiving.decide(label, lambda _, year: year.authorize_drop(SECOND, ground=Ground.APPROVAL))


def change(archive: Archive, label: str, how: str, number: int = 1) -> None:
    """What somebody does who owns the database and has taken the fence away."""
    with archive.ledger.transaction() as session:
        unguard(session)
        session.execute(text(f"ALTER TABLE {archive.table(label, number)} DISABLE TRIGGER ALL"))
        session.execute(text(how.format(table=archive.table(label, number))))


def test_an_archive_is_signed_locked_until_its_end_and_verified(archive: Archive, year: int) -> None:
    label = exported(archive, year)
    assert finish(archive.archiving, label).state is YearState.VERIFIED
    store, prefix = archive.archiving.store, prefix_of(ORIGIN, label, 1)
    there = {each.key.removeprefix(f"{prefix}/"): each for each in store.versions(prefix)}
    manifest, note = (
        b"".join(store.read(there[name].key, there[name].version)) for name in ("MANIFEST.json", "MANIFEST.note")
    )
    opened = open_manifest(manifest, note, [SIGNER.public])
    until = datetime.fromisoformat(opened.policy.retain_until)
    assert until == STAMP.at.replace(year=STAMP.at.year + 10)
    assert {"README.txt", "verify.sh"} <= there.keys()
    assert {store.head(each.key, each.version).lock for each in there.values()} == {Lock(LockMode.COMPLIANCE, until)}
    events = [each.event for each in archive.ledger.events_of(archive.year(label).id)]
    assert isinstance(events[-1], FiscalYear.Verified)
    assert events[-1].evidence["objects"] == len(list(opened.objects()))


def test_a_manifest_that_is_not_signed_is_waited_for(archive: Archive, year: int) -> None:
    archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    with pytest.raises(PartUnavailableError, match="not signed yet"):
        finish(replace(archive.archiving, wait_seconds=0), label)
    archive.seal()
    assert finish(archive.archiving, label).state is YearState.VERIFIED


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        ("generation 1", "generation 2"),
        (f"{ORIGIN} FY", "payroll FY"),
        ("sha256 ", f"sha256 {'0' * 64}\nsha256 "),
        ("bytes ", "bytes 1\n\nbytes "),
        ("ledger archive, form 1", "ledger archive, form 2"),
    ],
)
def test_nothing_is_signed_of_an_archive_but_what_the_log_says(
    archive: Archive, exported_once: tuple[str, str], said: str, instead: str
) -> None:
    _, told = exported_once
    changed = told.replace(said, instead, 1)
    assert changed != told
    with archive.ledger.transaction() as session:
        for text_kept, signed in ((changed, 0), (told, 1)):
            keep_manifest(session, uuid4(), text_kept)
            assert sign_manifests(session, SIGNER, set()) == signed
        session.rollback()


def test_an_archive_that_lost_an_object_is_not_verified_and_nothing_is_dropped(
    archive: Archive, year: int, tmp_path: Path
) -> None:
    label = exported(archive, year)
    [gone] = (tmp_path / "cold").glob(f"v1/*/{label}/*/data/{archive.places[0].dataset}/00001-*")
    gone.unlink()
    with pytest.raises(NotFoundError, match=gone.name):  # it can be locked no longer
        finish(archive.archiving, label)
    drop_if_due(archive.archiving, label, days=0)
    assert (archive.year(label).state, archive.rows(label)) == (YearState.EXPORTED, 180)


def test_rows_are_dropped_when_a_second_person_approves_and_each_file_is_told(archive: Archive, year: int) -> None:
    jobs = archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    finish(archive.archiving, label)
    assert drop_if_due(archive.archiving, label, days=None).state is YearState.VERIFIED
    with pytest.raises(ConflictError, match="second person"):
        archive.archiving.decide(label, lambda _, year: year.authorize_drop(STAMP, ground=Ground.APPROVAL))
    allow(archive, label)
    assert drop_if_due(archive.archiving, label, days=None).state is YearState.DROPPED
    assert archive.rows(label) == 0
    told = [archive.ledger.job(job) for job in jobs]
    assert [job.status for job in told] == [Status.ARCHIVED, Status.ARCHIVED, Status.COMPLETED] * 2
    assert all(job.years_archived == {label} for job in told)
    with archive.ledger.transaction() as session, pytest.raises(Exception, match="is archived"):
        session.execute(text(f"INSERT INTO {archive.table(label)} VALUES (1, '{year}-06-01', 1, 'a', 1, 1)"))


def test_the_other_year_of_a_job_is_archived_with_what_is_gone_counted_in(archive: Archive, year: int) -> None:
    jobs = archive.fill(year)
    for label in (archive.close(year), archive.close(year + 1)):
        export(archive.archiving, label)
        archive.seal()
        finish(archive.archiving, label)
        allow(archive, label)
        drop_if_due(archive.archiving, label, days=None)
    assert {archive.ledger.job(job).status for job in jobs} == {Status.ARCHIVED}


def test_rows_are_dropped_by_themselves_after_so_many_days_and_not_before(archive: Archive, year: int) -> None:
    label = verified(archive, year)

    def in_days(days: int) -> FiscalYear:
        later = replace(STAMP, at=STAMP.at + timedelta(days=days))
        return drop_if_due(replace(archive.archiving, stamp=lambda: later), label, days=30)

    assert in_days(29).state is YearState.VERIFIED
    assert in_days(30).state is YearState.DROPPED


def asked_to_be_archived(archive: Archive, label: str) -> int:
    """Look after years as if nobody had for an hour: how often archiving was asked for."""
    settings = archive.places[0].workshop.settings.model_copy(update={"archive_drop_days": 0})
    before = archive.ledger.position()
    archive.places[0].query("DELETE FROM work.schedule WHERE name = 'close_year' RETURNING name")
    look_after_years(archive.ledger, settings)
    events = [logged.event for logged in archive.ledger.events_after(before, 100)]
    asked = [event.arguments for event in events if isinstance(event, Operation.Requested)]
    return asked.count({"fiscal_year": label})


def test_who_lets_time_drop_rows_need_not_ask_for_it(archive: Archive, year: int) -> None:
    label = verified(archive, year)
    archive.archiving.decide(label, lambda _, year: year.place_hold(STAMP, case="2026/17"))
    assert asked_to_be_archived(archive, label) == 0
    archive.archiving.decide(label, lambda _, year: year.lift_hold(SECOND, case="2026/17", reason="settled"))
    assert asked_to_be_archived(archive, label) == 1
    assert asked_to_be_archived(archive, label) == 0  # today
    archive.places[0].query("UPDATE work.schedule SET asked_at = '2000-01-01' RETURNING name")
    assert asked_to_be_archived(archive, label) == 1
    drop_if_due(archive.archiving, label, days=0)
    archive.places[0].query("UPDATE work.schedule SET asked_at = '2000-01-01' RETURNING name")
    assert asked_to_be_archived(archive, label) == 0


def test_nothing_is_dropped_while_a_hold_stands(archive: Archive, year: int) -> None:
    label = verified(archive, year)
    archive.archiving.decide(label, lambda _, year: year.place_hold(STAMP, case="2026/17"))
    assert drop_if_due(archive.archiving, label, days=0).state is YearState.VERIFIED
    assert archive.rows(label) == 180


CHANGES = {
    "one value": "UPDATE {table} SET amount = amount + 1 WHERE _record = 2",
    "a pair of values whose sum stays": "UPDATE {table} SET amount = amount + CASE number WHEN 1 THEN 1 ELSE -1 END"
    " WHERE number IN (1, 2)",
}


@pytest.mark.parametrize("how", CHANGES.values(), ids=CHANGES)
def test_a_change_between_export_and_drop_keeps_the_rows_and_names_the_table(
    archive: Archive, year: int, how: str
) -> None:
    label = verified(archive, year)
    allow(archive, label)
    change(archive, label, how)
    with pytest.raises(ContentChangedError, match=archive.table(label, 1)):
        drop_if_due(archive.archiving, label, days=None)
    assert (archive.year(label).state, archive.rows(label)) == (YearState.VERIFIED, 180)


def test_each_step_and_each_part_of_archiving_is_a_span_that_says_how_much_it_was(
    archive: Archive, year: int, spans: InMemorySpanExporter
) -> None:
    label = verified(archive, year)
    allow(archive, label)
    drop_if_due(archive.archiving, label, days=None)
    told = [(span.name, span.attributes) for span in spans.get_finished_spans() if span.name.startswith("archive.")]
    assert {about[telemetry.FISCAL_YEAR] for _, about in told if about} == {label}
    steps = Counter(name for name, about in told if about and telemetry.PART not in about)
    once = ("plan", "manifest", "sign", "lock", "verify", "drop", "tell_files")
    assert steps == {f"archive.{name}": 1 for name in once} | {"archive.balance": 2, "archive.try": 2}
    for name, attribute in (("balance", "table.rows"), ("try", "table.rows"), ("drop", "table.rows")):
        assert sum(about[f"archive.{attribute}"] for found, about in told if found == f"archive.{name}") == 180
    stored = archive.year(label).stored
    for name in ("write", "put"):
        parts = [about for found, about in told if found == f"archive.{name}"]
        assert sorted(about[telemetry.PART] for about in parts) == sorted(stored)
        assert {about[telemetry.PART]: about[telemetry.PART_BYTES] for about in parts} == {
            part: each["bytes"] for part, each in stored.items()
        }
        assert sum(about.get(telemetry.PART_ROWS, 0) for about in parts) == 2 * 180  # as text, and for access


def test_rows_that_a_rebuild_has_put_aside_go_with_their_year(archive: Archive, year: int) -> None:
    archive.fill(year)
    yard = Yard(archive.places[0])
    yard.rebuild()
    aside = yard.names_in("superseded")
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    finish(archive.archiving, label)
    assert yard.names_in("superseded") == aside
    allow(archive, label)
    drop_if_due(archive.archiving, label, days=None)
    assert set(aside) - set(yard.names_in("superseded")) == {archive.table(label).removeprefix("data.")}


def test_a_year_is_not_archived_while_the_log_is_not_as_it_was_sealed(archive: Archive, year: int) -> None:
    [job, *_] = archive.fill(year)
    label = archive.close(year)
    with archive.ledger.transaction() as session:
        unguard(session)
        change = "UPDATE ledger.stored_events SET state = {} WHERE originator_id = '{}' AND originator_version = 1"
        session.execute(text(change.format(r"state || '\x20'", job)))  # a blank behind the JSON: it reads as it did
    try:
        operation = archive_by_operation(archive, label)
    finally:
        with archive.ledger.transaction() as session:
            unguard(session)
            session.execute(text(change.format("substring(state for length(state) - 1)", job)))
    assert operation.error is not None
    assert (operation.error["code"], str(job) in operation.error["message"]) == ("record_differs", True)
    assert list(archive.archiving.store.versions(prefix_of(ORIGIN, label, 1))) == []
    assert (archive.year(label).state, archive.year(label).parts) == (YearState.CLOSED, {})


def archive_by_operation(archive: Archive, label: str) -> Operation:
    """What a worker makes of it when somebody has a year archived: the operation when it has ended."""
    place = archive.places[0].with_settings(seal_public_keys=str(SIGNER.public))
    operation = archive.ledger.request(Stage.ARCHIVE_YEAR, {"fiscal_year": label}, STAMP)
    place.follow()
    ended = operate(place.workshop, archive_fiscal_year, operation.id, Stage.ARCHIVE_YEAR, time.time(), lambda _: None)
    assert ended is not None
    return ended


def test_no_file_is_told_out_of_books_that_are_not_whole(
    archive: Archive, year: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    archive.seal()
    finish(archive.archiving, label)
    allow(archive, label)
    with armed(tmp_path / "failpoints", "year_dropped"), pytest.raises(FailpointError):
        drop_if_due(archive.archiving, label, days=None)
    [books] = (tmp_path / "cold").glob(f"v1/*/{label}/*/reconciliation-*")
    whole = books.read_bytes()
    first, *_ = zstandard.ZstdDecompressor().decompressobj().decompress(whole).splitlines(keepends=True)
    books.chmod(0o644)
    books.write_bytes(zstandard.compress(first.replace(b'"rows":60', b'"rows":61')))
    monkeypatch.setattr(dropping, "ARCHIVED_AT_ONCE", 1)
    with pytest.raises(ObjectDamagedError):
        drop_if_due(archive.archiving, label, days=None)
    assert {archive.ledger.job(job).status for job in jobs} == {Status.COMPLETED}
    books.write_bytes(whole)
    drop_if_due(archive.archiving, label, days=None)
    assert all(archive.ledger.job(job).years_archived == {label} for job in jobs)
