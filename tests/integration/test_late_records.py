"""Records that come for a year that is closed, on a real PostgreSQL: refused and kept, told to the year, never lost.

Years are those of one ledger, so each test has some of its own.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.values import ColumnType
from ledger.domain.words import OnDuplicate, Stage, Status
from ledger.errors import NotFoundError
from ledger.fiscal_years import FISCAL_YEAR_CLOSED, CalendarChangedError, closed_years
from ledger.settings import Settings
from ledger.year_records import year_to_decide_about, years_that_differ
from tests.integration.place import CONTRACT, STAMP, new_place, wait_until
from tests.integration.test_table_rebuild import HEADER, KEYED, Yard
from tests.integration.views import new_order
from tests.integration.years import close, decide, reopen, soft_close
from workers import load as load_module
from workers.replay import replay_job

years = count(1902, 2)


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    return Yard(
        new_place(ledger, tmp_path, chunk_bytes=256, blobs_url=(tmp_path / "blobs").as_uri(), scratch_folder=tmp_path)
    )


@pytest.fixture
def year() -> int:
    """A calendar year of the test's own. The fiscal year that begins in it has nothing to do with other tests."""
    return next(years)


def label_of(year: int) -> str:
    return f"FY{year}-{(year + 1) % 100:02d}"


def lines(year: int, numbers: range) -> str:
    return "".join(f"{number},{year}-05-{1 + number % 28:02}\n" for number in numbers)


def found_late(yard: Yard, label: str) -> list[tuple[str, str, int]]:
    known = yard.place.ledger.fiscal_year(label)
    assert known is not None
    told: Any = [logged.event for logged in yard.place.ledger.events_of(known.id)]
    return [(e.job, e.dataset, e.records) for e in told if isinstance(e, FiscalYear.LateRecordsFound)]


def rejects(yard: Yard, job_id: UUID) -> list[tuple[Any, ...]]:
    return yard.place.query(
        "SELECT record, code, column_name, convert_from(raw, 'UTF8') FROM rejects.records WHERE job_id = :job_id"
        " ORDER BY record",
        job_id=job_id,
    )


def numbers(yard: Yard) -> list[int]:
    return [int(number) for number, *_ in yard.content()]


def test_records_of_a_closed_year_are_kept_as_rejects_while_the_others_are_loaded(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    job_id = yard.load(HEADER + lines(year, range(2)) + lines(year + 1, range(2, 5)))
    assert (yard.status(job_id), numbers(yard)) == (Status.COMPLETED, [2, 3, 4])
    assert rejects(yard, job_id) == [
        (1, FISCAL_YEAR_CLOSED, "paid_on", f"0,{year}-05-01\n"),
        (2, FISCAL_YEAR_CLOSED, "paid_on", f"1,{year}-05-02\n"),
    ]
    assert yard.place.ledger.job(job_id).late == {label_of(year): 2}


def test_the_year_is_told_once_for_each_job_however_many_chunks_had_late_records(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    first = yard.load(HEADER + lines(year, range(60)))
    second = yard.load(HEADER + lines(year + 1, range(60)) + lines(year, range(3)))
    assert yard.place.ledger.job(first).chunks_total > 2
    dataset = yard.place.dataset
    assert found_late(yard, label_of(year)) == [(str(first), dataset, 60), (str(second), dataset, 3)]


def test_a_job_that_fails_tells_the_year_nothing(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    job_id = yard.load(HEADER + lines(year, range(3)) + "x,y\n")
    assert (yard.status(job_id), found_late(yard, label_of(year))) == (Status.FAILED, [])


def test_late_records_do_not_count_as_those_of_which_a_contract_allows_so_many(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    a_tenth = replace(CONTRACT, rejects_max="10%")
    late, bad = lines(year, range(9)), "x,2020-05-01\n"
    assert yard.status(yard.load(HEADER + late + bad, a_tenth)) is Status.COMPLETED
    failed = yard.load(HEADER + late + bad + bad, a_tenth)
    assert yard.status(failed) is Status.FAILED
    [error] = [e.event.error for e in yard.place.ledger.events_of(failed) if isinstance(e.event, FileJob.Failed)]
    assert (error["code"], error["record"]) == ("rejects_too_many", 10)
    assert error["message"].startswith("2 of the 11 records")


def test_while_a_year_is_closed_softly_only_those_who_may_adjust_add_to_it(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), soft_close)
    sent = {who: yard.place.send((HEADER + lines(year, range(2))).encode(), may_adjust=who) for who in (False, True)}
    for job_id in sent.values():
        yard.work(job_id)
    assert len(rejects(yard, sent[False])) == 2
    assert (rejects(yard, sent[True]), numbers(yard)) == ([], [0, 1])
    decide(yard.place, label_of(year), close)
    later = yard.place.send((HEADER + lines(year, range(2))).encode(), may_adjust=True)
    yard.work(later)
    assert (len(rejects(yard, later)), numbers(yard)) == (2, [0, 1])


def test_a_reopened_year_takes_adjustments_until_it_is_closed_again(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    decide(yard.place, label_of(year), reopen)
    for who in (False, True):
        yard.work(yard.place.send((HEADER + lines(year, range(1 + who))).encode(), may_adjust=who))
    assert numbers(yard) == [0, 1]
    decide(yard.place, label_of(year), close)
    yard.work(yard.place.send((HEADER + lines(year, range(5, 9))).encode(), may_adjust=True))
    assert numbers(yard) == [0, 1]


def test_without_a_fiscal_date_the_day_of_arrival_decides(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    contract = Contract((Column("number", ColumnType.BIGINT),), rejects_max="0")
    yard.place.ledger.register_dataset(yard.place.dataset, contract, STAMP)
    late = {}
    for arrived in (year, year + 1):
        data = b"number\n1\n2\n"
        arrival = Arrival(
            uuid4(), put(yard.place.workshop.blobs, data), len(data), "a.csv", "text/csv", yard.place.dataset
        )
        stamp = replace(STAMP, at=datetime(arrived, 5, 1, tzinfo=UTC))
        yard.place.ledger.receive([arrival], stamp, door="http", on_duplicate=OnDuplicate.ALLOW)
        yard.place.follow()
        yard.work(arrival.job_id)
        late[arrived] = [(record, code, column) for record, code, column, _ in rejects(yard, arrival.job_id)]
    assert late == {year: [(1, FISCAL_YEAR_CLOSED, None), (2, FISCAL_YEAR_CLOSED, None)], year + 1: []}


def test_who_closes_a_year_waits_for_the_chunk_that_is_being_loaded_and_the_next_is_late(
    yard: Yard, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = yard.place.send((HEADER + lines(year, range(30))).encode())
    closing = threading.Thread(target=decide, args=(yard.place, label_of(year), close))
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"

    def arrive(name: str) -> None:
        if name == "chunk_copied" and not closing.ident:
            closing.start()
            wait_until(lambda: yard.place.query(waiting) == [(1,)], "nobody waits for the chunk")

    monkeypatch.setattr(load_module, "failpoint", arrive)
    yard.place.perform(job_id, Stage.PLAN)
    yard.place.follow()
    yard.place.perform(job_id, Stage.LOAD, 0)
    closing.join()
    loaded = numbers(yard)
    assert 0 < len(loaded) < 30
    known = yard.place.ledger.fiscal_year(label_of(year))
    assert known is not None
    [closed] = [
        logged for logged in yard.place.ledger.events_of(known.id) if isinstance(logged.event, FiscalYear.Closed)
    ]
    [chunk] = [
        logged for logged in yard.place.ledger.events_of(job_id) if isinstance(logged.event, FileJob.ChunkLoaded)
    ]
    assert chunk.position < closed.position
    for number in range(1, yard.place.ledger.job(job_id).chunks_total):
        yard.place.perform(job_id, Stage.LOAD, number)
    assert (numbers(yard), yard.status(job_id)) == (loaded, Status.COMPLETED)
    assert yard.place.ledger.job(job_id).late == {label_of(year): 30 - len(loaded)}


@pytest.mark.parametrize("contract", [CONTRACT, KEYED], ids=["plain", "with a key"])
@pytest.mark.parametrize("afterwards", [close, reopen])
def test_a_replay_and_a_rebuild_keep_to_what_was_late_when_it_came(
    yard: Yard, year: int, contract: Contract, afterwards: Any
) -> None:
    decide(yard.place, label_of(year), close)
    header = ",".join(column.name for column in contract.columns) + "\n"
    note = "," * (len(contract.columns) - 2)
    text = (lines(year, range(30)) + lines(year + 1, range(30, 60))).replace("\n", f"{note}\n")
    job_id = yard.load(header + text, contract)
    assert numbers(yard) == list(range(30, 60))
    if afterwards is close:
        decide(yard.place, label_of(year + 1), close)  # what was loaded stays, though it would be late now
    else:
        decide(yard.place, label_of(year), reopen)  # what was late stays out, though it would be loaded now
    assert replay_job(yard.place.workshop, new_order(job_id=str(job_id)))["differences"] == []
    before = yard.content()
    assert (yard.check()["equal"], yard.rebuild()["equal"], yard.content()) == (True, True, before)


def test_a_row_of_the_years_that_says_something_else_than_the_log_is_found(yard: Yard, year: int) -> None:
    ledger = yard.place.ledger
    decide(yard.place, label_of(year), close)
    assert years_that_differ(ledger) == []
    yard.place.query(
        "UPDATE ledger.fiscal_years SET state = 'open' WHERE label = :label RETURNING label", label=label_of(year)
    )
    assert years_that_differ(ledger) == [label_of(year)]
    yard.place.query("DELETE FROM ledger.fiscal_years WHERE label = :label RETURNING label", label=label_of(year))
    assert years_that_differ(ledger) == [label_of(year)]
    decide(yard.place, label_of(year), lambda known: known.place_hold(STAMP, case="1"))
    assert years_that_differ(ledger) == []


@pytest.mark.parametrize("calendar", [{"fiscal_calendar": "07-01"}, {"time_zone": "Asia/Kolkata"}])
def test_a_ledger_does_not_open_with_a_calendar_by_which_a_known_year_has_other_days(
    yard: Yard, year: int, calendar: dict[str, str]
) -> None:
    decide(yard.place, label_of(year), soft_close)
    ledger = yard.place.ledger
    url = ledger.engine.url.render_as_string(hide_password=False)
    with pytest.raises(CalendarChangedError, match=r"has the days from .* LEDGER_FISCAL_CALENDAR"):
        Ledger(Settings(database_url=url, **calendar)).prepare()
    Ledger(Settings(database_url=url, fiscal_calendar="04-01, 01-01 from 2090-01-01")).prepare()


def test_a_year_that_the_calendar_does_not_have_is_not_found(yard: Yard) -> None:
    with (
        yard.place.ledger.transaction() as session,
        pytest.raises(NotFoundError, match="no fiscal year of the calendar"),
    ):
        year_to_decide_about(yard.place.ledger, session, "FY2025", STAMP, yard.place.workshop.calendar)


def test_a_year_of_which_only_a_hold_is_known_is_open(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), lambda known: known.place_hold(STAMP, case="1"))
    with yard.place.ledger.transaction() as session:
        assert label_of(year) not in [closed.label for closed in closed_years(session)]
