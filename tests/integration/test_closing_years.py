"""Closing fiscal years on a real PostgreSQL: what is in the way, what comes to a rest, and who opens it again."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from archive import closing, fence
from archive.closing import Closing, closed_partitions
from archive.partitions import partitions_of
from archive.preflight import YearNotReadyError
from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.words import OnDuplicate, OperationStatus, Stage, Status
from ledger.domain.year_states import YearState
from ledger.errors import ConflictError, NotFoundError
from ledger.failpoints import FailpointError
from tests.integration.place import CONTRACT, STAMP, new_place, running_ledger, wait_until
from tests.integration.test_late_records import label_of, lines, numbers, rejects, years
from tests.integration.test_table_rebuild import HEADER, Yard
from tests.integration.views import new_order
from tests.integration.years import SECOND
from workers import load as load_module
from workers.commands import cancel
from workers.operations import operate
from workers.years import close_fiscal_year, closing_of, look_after_years


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    return Yard(
        new_place(ledger, tmp_path, chunk_bytes=256, blobs_url=(tmp_path / "blobs").as_uri(), scratch_folder=tmp_path)
    )


@pytest.fixture
def year() -> int:
    return next(years)


def closes(yard: Yard) -> Closing:
    return closing_of(yard.place.ledger, yard.place.workshop.settings)


def close(yard: Yard, year: int) -> None:
    closing.close(closes(yard), label_of(year), STAMP, requested_by=STAMP.actor, end=lambda session, closed: None)


def known(yard: Yard, year: int) -> FiscalYear:
    found = yard.place.ledger.fiscal_year(label_of(year))
    assert found is not None
    return found


def in_the_way(yard: Yard, year: int) -> list[str]:
    return [each["code"] for each in closing.plan(closes(yard), label_of(year), STAMP)["in_the_way"]]


def receive_in(yard: Yard, year: int, data: bytes) -> UUID:
    """A file that arrived in May of a year."""
    place = yard.place
    if place.ledger.dataset(place.dataset) is None:
        place.ledger.register_dataset(place.dataset, CONTRACT, STAMP)
    arrival = Arrival(uuid4(), put(place.workshop.blobs, data), len(data), "a.csv", "text/csv", place.dataset)
    stamp = replace(STAMP, at=datetime(year, 5, 1, tzinfo=UTC))
    place.ledger.receive([arrival], stamp, door="http", on_duplicate=OnDuplicate.ALLOW)
    place.follow()
    return arrival.job_id


def is_fenced(yard: Yard, year: int) -> bool:
    statement = f"INSERT INTO data.{yard.place.dataset} VALUES (1, '{year}-06-01', 1, 1)"
    try:
        with yard.place.ledger.transaction() as session:
            session.execute(text(statement))
            session.rollback()
    except DBAPIError as error:
        assert error.orig is not None
        assert getattr(error.orig, "pgcode", None) == fence.YEAR_CLOSED
        return True
    return False


def test_a_closed_year_takes_no_rows_and_its_event_says_what_there_is(yard: Yard, year: int) -> None:
    yard.load(HEADER + lines(year, range(30)) + lines(year + 1, range(30, 33)))
    before = yard.place.ledger.position()
    close(yard, year)
    closed = known(yard, year)
    assert (closed.state, closed.generation, closed.closed_at_position, closed.closed_by) == (
        YearState.CLOSED,
        1,
        before,
        STAMP.actor,
    )
    own = [table for table in closed.tables if table["dataset"] == yard.place.dataset]
    assert [(table["schema"], table["rows"], [c["name"] for c in table["columns"]]) for table in own] == [
        ("data", 30, ["number", "paid_on", "_job", "_record"])
    ]
    assert (is_fenced(yard, year), is_fenced(yard, year + 1)) == (True, False)
    late = yard.load(HEADER + lines(year, range(2)))
    assert (yard.status(late), len(rejects(yard, late)), len(numbers(yard))) == (Status.COMPLETED, 2, 33)


def test_what_is_known_of_closed_tables_is_enough_to_drop_them_or_to_find_a_change(yard: Yard, year: int) -> None:
    yard.load(HEADER + lines(year, range(30)))
    close(yard, year)
    closed = known(yard, year)
    with yard.place.ledger.transaction() as session:
        days = Year(closed.label, closed.start, closed.end)
        assert [each.partition for each in closed_partitions(closed)] == partitions_of(
            session, yard.place.workshop.calendar, days
        )
        fence.drop(session, days, closed_partitions(closed), wait_seconds=10)
    assert numbers(yard) == []


def test_a_reopened_year_is_not_fenced_and_is_closed_as_the_next_generation(yard: Yard, year: int) -> None:
    yard.load(HEADER + lines(year, range(3)))
    close(yard, year)
    with pytest.raises(ConflictError, match="is not asked"):
        closing.reopen(closes(yard), label_of(year), SECOND)
    closing.decide(closes(yard), label_of(year), STAMP, lambda found: found.request_reopen(STAMP, reason="a mistake"))
    with pytest.raises(ConflictError, match="second person"):
        closing.reopen(closes(yard), label_of(year), STAMP)
    assert is_fenced(yard, year)
    closing.reopen(closes(yard), label_of(year), SECOND)
    assert not is_fenced(yard, year)
    yard.work(yard.place.send((HEADER + lines(year, range(3, 5))).encode(), may_adjust=True))
    close(yard, year)
    closed = known(yard, year)
    own = [table["rows"] for table in closed.tables if table["dataset"] == yard.place.dataset]
    assert (closed.generation, own, is_fenced(yard, year)) == (2, [5], True)


def test_a_year_is_closed_softly_once_and_only_when_it_has_ended(yard: Yard, year: int) -> None:
    assert closing.soft_close(closes(yard), label_of(year), STAMP).state is YearState.SOFT_CLOSED
    with pytest.raises(ConflictError, match="is soft-closed"):
        closing.soft_close(closes(yard), label_of(year), STAMP)
    current = yard.place.workshop.calendar.of_day(date.today())
    for act in (
        lambda: closing.soft_close(closes(yard), current.label, STAMP),
        lambda: closing.close(closes(yard), current.label, STAMP, requested_by="a", end=lambda session, closed: None),
    ):
        with pytest.raises(YearNotReadyError, match="ends before"):
            act()
    assert yard.place.ledger.fiscal_year(current.label) is None


def test_a_year_that_is_unknown_is_not_found(yard: Yard) -> None:
    with pytest.raises(NotFoundError):
        closing.plan(closes(yard), "FY1970", STAMP)


def test_jobs_that_may_still_change_rows_of_the_year_are_in_the_way_until_they_are_settled(
    yard: Yard, year: int
) -> None:
    yard.load(HEADER + lines(year + 1, range(3)))
    assert in_the_way(yard, year) == []
    half = yard.place.send((HEADER + lines(year, range(40))).encode())
    yard.place.perform(half, Stage.PLAN)
    yard.place.follow()
    assert in_the_way(yard, year) == []  # nothing says that it is about the year: then its records will be late
    yard.place.perform(half, Stage.LOAD, 0)
    received = receive_in(yard, year, (HEADER + lines(year + 1, range(3))).encode())
    failed = receive_in(yard, year, (HEADER + "x,y\n").encode())
    yard.work(failed)
    assert yard.status(failed) is Status.FAILED
    with pytest.raises(YearNotReadyError) as refused:
        close(yard, year)
    assert all(str(job) in refused.value.message for job in (half, received, failed))
    assert f"`ledger jobs retry {failed}`" in refused.value.message
    assert (is_fenced(yard, year), yard.place.ledger.fiscal_year(label_of(year))) == (False, None)
    yard.work(received)
    cancel(yard.place.ledger, half, STAMP, reason="sent by mistake")
    assert in_the_way(yard, year) == ["job_failed"]
    cancel(yard.place.ledger, failed, STAMP, reason="sent by mistake")
    close(yard, year)
    assert in_the_way(yard, year) == ["closed_already"]


def test_a_failed_job_that_once_had_rows_of_the_year_is_in_the_way(yard: Yard, year: int) -> None:
    failed = yard.load(HEADER + lines(year, range(40)) + "x,y\n")
    assert (yard.status(failed), numbers(yard)) == (Status.FAILED, [])
    assert in_the_way(yard, year) == ["job_failed"]


def test_the_plan_of_a_closing_tells_tables_rows_and_files_and_changes_nothing(yard: Yard, year: int) -> None:
    yard.load(HEADER + lines(year, range(30)))
    yard.load(HEADER + lines(year, range(3)) + lines(year + 1, range(3)))
    yard.load(HEADER + lines(year + 1, range(3)))
    before = yard.place.ledger.position()
    plan = closing.plan(closes(yard), label_of(year), STAMP)
    assert (plan["rows"], plan["files"], plan["generation"], plan["in_the_way"]) == (33, 2, 1, [])
    assert [(table["dataset"], table["rows"]) for table in plan["tables"]] == [(yard.place.dataset, 33)]
    assert (yard.place.ledger.position(), yard.place.ledger.fiscal_year(label_of(year))) == (before, None)


def test_a_closing_that_ends_with_its_operation_has_changed_nothing_and_the_next_attempt_closes_the_year(
    yard: Yard, year: int
) -> None:
    place = yard.place.with_settings(retry_seconds_min=0.001, retry_seconds_max=0.001)
    yard.load(HEADER + lines(year, range(3)))
    operation = place.ledger.request(Stage.CLOSE_YEAR, {"fiscal_year": label_of(year)}, STAMP)
    place.follow()

    def fail(session: Session, result: dict[str, Any]) -> None:
        raise FailpointError

    with pytest.raises(FailpointError):
        order = replace(new_order(finish=fail, fiscal_year=label_of(year)), id=operation.id)
        close_fiscal_year(place.workshop, order)
    assert (is_fenced(yard, year), place.ledger.fiscal_year(label_of(year))) == (False, None)
    ended = operate(place.workshop, close_fiscal_year, operation.id, Stage.CLOSE_YEAR, time.time(), lambda _: None)
    assert ended is not None
    assert (ended.status, ended.error) == (OperationStatus.COMPLETED, None)
    assert ended.result is not None
    assert (ended.result["rows"], ended.result["generation"], is_fenced(yard, year)) == (3, 1, True)


def test_of_two_who_close_a_year_at_once_one_is_told_that_it_is_closed(yard: Yard, year: int) -> None:
    yard.load(HEADER + lines(year, range(3)))
    told: list[str] = []

    def attempt() -> None:
        try:
            close(yard, year)
            told.append("closed")
        except YearNotReadyError as refused:
            told.append("already" if "is closed already" in refused.message else refused.message)

    threads = [threading.Thread(target=attempt) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(told), known(yard, year).generation) == (["already", "closed"], 1)


def test_a_chunk_that_is_being_loaded_is_waited_for_and_its_job_is_in_the_way_then(
    yard: Yard, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = yard.place.send((HEADER + lines(year, range(30))).encode())
    yard.place.perform(job_id, Stage.PLAN)
    yard.place.follow()
    told: list[str] = []

    def attempt() -> None:
        with pytest.raises(YearNotReadyError) as refused:
            close(yard, year)
        told.append(refused.value.message)

    thread = threading.Thread(target=attempt)

    def arrive(name: str) -> None:
        if name == "chunk_copied":
            thread.start()
            waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
            wait_until(lambda: yard.place.query(waiting) == [(True,)], "nobody waits for the chunk")

    monkeypatch.setattr(load_module, "failpoint", arrive)
    yard.place.perform(job_id, Stage.LOAD, 0)
    thread.join()
    assert (len(told), is_fenced(yard, year), bool(numbers(yard))) == (1, False, True)
    assert str(job_id) in told[0]


def look(yard: Yard, **settings: Any) -> list[str]:
    """Look after years as if nobody had for long: those that are proposed by it."""
    ledger, before = yard.place.ledger, yard.place.ledger.position()
    yard.place.query("DELETE FROM work.schedule WHERE name = 'close_year' RETURNING name")
    look_after_years(ledger, yard.place.workshop.settings.model_copy(update=settings))
    events = [logged.event for logged in ledger.events_after(before, 100)]
    return [event.label for event in events if isinstance(event, FiscalYear.Proposed)]


def test_the_years_that_have_ended_are_proposed_once_after_their_time_of_grace(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_ledger() as ledger:
        yard = Yard(new_place(ledger, tmp_path))
        calendar, today = yard.place.workshop.calendar, datetime.now(UTC).date()
        ended = calendar.of_day(calendar.of_day(today).start - timedelta(days=1))
        older = calendar.of_day(ended.start - timedelta(days=1))
        assert look(yard, archive_grace_days=0) == []  # they have no rows
        yard.load(HEADER + f"1,{ended.start}\n2,{today}\n")
        assert look(yard, archive_grace_days=(today - ended.end).days + 1) == []
        before = ledger.position()
        assert look(yard, archive_grace_days=(today - ended.end).days) == [ended.label]
        assert [logged.topic for logged in ledger.events_after(before, 10)] == [
            "fiscal_year.opened",
            "fiscal_year.proposed",
        ]
        assert "year_proposed" in [getattr(record, "action", "") for record in caplog.records]
        assert look(yard, archive_grace_days=0) == []
        yard.load(HEADER + f"3,{older.start}\n4,{ended.start}\n")
        assert look(yard, archive_grace_days=0) == [older.label]


def test_years_are_looked_after_once_in_a_while_however_many_look(yard: Yard) -> None:
    calendar = yard.place.workshop.calendar
    ended = calendar.of_day(calendar.of_day(datetime.now(UTC).date()).start - timedelta(days=1))
    look(yard)
    yard.load(HEADER + f"1,{ended.start}\n")
    before = yard.place.ledger.position()
    settings = yard.place.workshop.settings.model_copy(update={"archive_grace_days": 0})
    look_after_years(yard.place.ledger, settings)
    assert yard.place.ledger.position() == before


def test_a_year_is_closed_by_itself_only_if_the_settings_say_so(tmp_path: Path) -> None:
    for by_itself in (False, True):
        with running_ledger() as ledger:
            yard = Yard(new_place(ledger, tmp_path / str(by_itself)))
            calendar = yard.place.workshop.calendar
            ended = calendar.of_day(calendar.of_day(datetime.now(UTC).date()).start - timedelta(days=1))
            yard.load(HEADER + f"1,{ended.start}\n")
            look(yard, archive_grace_days=0, archive_closes_by_itself=by_itself)
            last = ledger.events_after(ledger.position() - 1, 1)[0]
            if isinstance(last.event, Operation.Requested):
                yard.place.follow()
                asked = last.event.originator_id
                operate(yard.place.workshop, close_fiscal_year, asked, Stage.CLOSE_YEAR, time.time(), lambda _: None)
            year = ledger.fiscal_year(ended.label)
            assert year is not None
            assert year.state is (YearState.CLOSED if by_itself else YearState.OPEN)
