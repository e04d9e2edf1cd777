"""Late records that are posted as adjustments, on a real PostgreSQL: all of them, once, and as they were.

Years are those of one ledger, so each test has some of its own: one that is closed, and the next, which is open.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.adjustment import adjustments_of
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.settlement import settled_as, settlement_id
from ledger.domain.trailer import Trailer
from ledger.domain.values import ColumnType
from ledger.domain.words import OnDuplicate, Stage, Status
from ledger.errors import ConflictError, InvalidRequestError, LedgerError, NotFoundError
from projections.formats.correction import ERROR_COLUMNS
from projections.views import Order
from tests.e2e.formats import as_csv, as_json, as_json_lines, as_parquet, as_xlsx, as_xml
from tests.integration.place import CONTRACT, STAMP, WAIT_SECONDS_MAX, Place, new_place
from tests.integration.test_table_rebuild import HEADER, KEYED, Yard
from tests.integration.views import new_order
from tests.integration.years import archive, close, decide, drop, reopen, soft_close
from workers import adjustments as adjustments_module
from workers import load as load_module
from workers.adjustments import adjustment_of, open_late_records, plan, post_late_records, request_adjustment
from workers.operations import operate
from workers.replay import replay_job

ASKED = replace(STAMP, actor="key:accountant")
years = count(1910, 3)


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


def day_of(year: int) -> date:
    """A day on which late records of a year are posted, in the year after it."""
    return date(year + 1, 6, 1)


def lines(year: int, numbers: range) -> str:
    return "".join(f"{number},{year}-05-{1 + number % 28:02}\n" for number in numbers)


def late_job(yard: Yard, year: int, text: str, contract: Contract = CONTRACT) -> UUID:
    """A job whose records of a year came after it was closed."""
    decide(yard.place, label_of(year), close)
    job_id = yard.load(text, contract)
    assert yard.status(job_id) is Status.COMPLETED
    return job_id


def ask(yard: Yard, year: int, job_id: UUID, day: date | None = None) -> Operation:
    place = yard.place
    label, day = label_of(year), day or day_of(year)
    return request_adjustment(place.ledger, place.workshop.calendar, label, job_id, day, ASKED, reason="as agreed")


def carry_out(place: Place, operation: Operation) -> Operation:
    """What a worker does about a request."""
    place.follow()
    ended = operate(
        place.workshop, post_late_records, operation.id, Stage.POST_ADJUSTMENT, time.time(), lambda progress: None
    )
    assert ended is not None
    place.follow()
    return ended


def received(yard: Yard, year: int, job_id: UUID, day: date | None = None) -> UUID:
    """The job of an adjustment that was asked for; nothing of it is loaded."""
    ended = carry_out(yard.place, ask(yard, year, job_id, day))
    assert ended.error is None, ended.error
    assert ended.result is not None
    return UUID(ended.result["by_job"])


def post(yard: Yard, year: int, job_id: UUID, day: date | None = None) -> UUID:
    """The job of an adjustment, when it is loaded as far as it can be."""
    by_job = received(yard, year, job_id, day)
    yard.work(by_job)
    return by_job


def posted(yard: Yard, columns: str = "fiscal_year, posted_on::text, number, paid_on::text") -> list[tuple[Any, ...]]:
    """The rows of the adjustments, with the partition that each stands in."""
    table = adjustments_of(yard.place.dataset)
    return yard.place.query(
        f"SELECT {columns}, right(tableoid::regclass::text, 8) FROM data.{table} ORDER BY posted_on, number"
    )


def told(yard: Yard, year: int) -> list[Any]:
    """What the story of a year says of adjustments."""
    known = yard.place.ledger.fiscal_year(label_of(year))
    assert known is not None
    events: list[Any] = [logged.event for logged in yard.place.ledger.events_of(known.id)]
    return [event for event in events if isinstance(event, FiscalYear.AdjustmentPosted)]


def settled(yard: Yard, job_id: UUID) -> dict[int, str]:
    """By which job each record of a job was corrected."""
    found = settled_as(logged.event for logged in yard.place.ledger.events_of(settlement_id(job_id)))
    return {record: each["settled_by_job"] for record, each in found.items()}


def error_of(yard: Yard, job_id: UUID) -> dict[str, Any]:
    failed: Any = yard.place.ledger.events_of(job_id)[-1].event
    assert isinstance(failed, FileJob.Failed)
    return failed.error


def test_late_records_are_rows_of_the_year_in_which_they_are_posted_and_settled_in_their_own(
    yard: Yard, year: int
) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(30)) + lines(year + 1, range(30, 33)))
    before = yard.content()
    by_job = post(yard, year, job_id)
    assert yard.place.ledger.job(by_job).chunks_total > 1
    day, partition = day_of(year).isoformat(), label_of(year + 1).lower().replace("-", "_")[2:]
    assert posted(yard) == [
        (label_of(year), day, number, f"{year}-05-{1 + number % 28:02}", f"fy{partition}"[-8:]) for number in range(30)
    ]
    assert yard.content() == before
    assert settled(yard, job_id) == {record: str(by_job) for record in range(1, 31)}
    [event] = told(yard, year)
    assert (event.job, event.dataset, event.records) == (str(job_id), yard.place.dataset, 30)
    assert (event.posted_in, event.by_job, event.reason) == (label_of(year + 1), str(by_job), "as agreed")
    assert open_late_records(yard.place.ledger, job_id, label_of(year)) == []
    first: Any = yard.place.ledger.events_of(by_job)[0].event
    assert (first.actor, first.corrects, first.door) == (ASKED.actor, str(job_id), "adjustment")
    assert first.adjustment == {"fiscal_year": label_of(year), "reason": "as agreed"}


def test_before_anything_is_written_it_is_told_what_would_be_posted_and_what_it_comes_to(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(1, 5)))
    place, before = yard.place, yard.place.ledger.position()
    calendar = place.workshop.calendar
    adjustment = adjustment_of(place.ledger, calendar, label_of(year), job_id, day_of(year), STAMP)
    planned = plan(place.ledger, place.workshop.blobs, calendar, adjustment)
    assert (planned["records"], planned["posted_in"]) == (4, label_of(year + 1))
    assert planned["columns"]["number"] == {"count": "4", "sum": "10", "min": "1", "max": "4"}
    assert (place.ledger.position(), place.ledger.dataset(planned["dataset"])) == (before, None)
    by_job = post(yard, year, job_id)
    assert place.ledger.job(by_job).control_totals == {"records": 4, "columns": planned["columns"]}


WRITTEN = Contract(
    (
        Column("number", ColumnType.BIGINT, nullable=False),
        Column("paid_on", ColumnType.DATE, nullable=False),
        Column("amount", ColumnType.NUMERIC),
        Column("at", ColumnType.TIMESTAMPTZ),
        Column("note", ColumnType.TEXT),
    ),
    fiscal_date_column="paid_on",
)
WAYS = {
    "number": None,
    "paid_on": "%d.%m.%Y",
    "amount": "1.234,56",
    "at": None,
    "note": None,
}
FORMATTED = replace(
    WRITTEN,
    columns=tuple(replace(column, format=WAYS[column.name]) for column in WRITTEN.columns),
    null_tokens=("", "NA"),
)
FIXED = replace(
    FORMATTED,
    columns=tuple(
        replace(column, width=width) for column, width in zip(FORMATTED.columns, (4, 10, 10, 25, 20), strict=True)
    ),
)
TRAILED = replace(WRITTEN, trailer=Trailer("T", records=2))


def payments(year: int) -> list[dict[str, Any]]:
    """Records whose values are easily changed by who writes them down once more."""
    notes = ['a "quoted", note', "two\nlines", "NULL", "+1", None, " blanks ", "ü𝄞", "\\N"]
    return [
        {
            "number": number,
            "paid_on": f"{year}-05-{number:02}",
            "amount": None if number == 3 else number * 1000 + 0.5,
            "at": f"{year}-05-{number:02}T10:00:00+02:00",
            "note": note,
        }
        for number, note in enumerate(notes, start=1)
    ]


def formatted(year: int) -> bytes:
    text = [f"1;02.05.{year};1.234,56;{year}-05-01T10:00:00Z;a", f"2;03.05.{year};NA;{year}-05-01T10:00:00Z;NA"]
    quoted = [f'3;04.05.{year};-0,50;{year}-05-01T10:00:00Z;"NA"', f'4;05.05.{year};1,5;{year}-05-01T10:00:00Z;""']
    return "\n".join(["number;paid_on;amount;at;note", *text, *quoted, ""]).encode()


def fixed(year: int) -> bytes:
    fields = [("1", "1.234,56", "a note"), ("2", "NA", "NA"), ("3", "-7", "ü, ü")]
    return "".join(
        f"{number:4}0{number}.05.{year}{amount:10}{f'{year}-05-01T10:00:00Z':25}{note:20}\n"
        for number, amount, note in fields
    ).encode()


def trailed(year: int) -> bytes:
    records = "".join(f"{number},{year}-05-01,1.50,{year}-05-01T10:00:00Z,a\n" for number in (1, 2))
    return f"number,paid_on,amount,at,note\n{records}T,2,,,\n".encode()


FORMATS: dict[str, tuple[Contract, Any]] = {
    "csv": (WRITTEN, lambda year: as_csv(payments(year))),
    "another order": (WRITTEN, lambda year: as_csv([dict(reversed(each.items())) for each in payments(year)])),
    "written in formats": (FORMATTED, formatted),
    "empty is a value": (replace(FORMATTED, null_tokens=("NA",)), formatted),
    "without delimiters": (FIXED, fixed),
    "with a trailer": (TRAILED, trailed),
    "json": (WRITTEN, lambda year: as_json(payments(year))),
    "json lines": (replace(WRITTEN, null_tokens=("", "NULL")), lambda year: as_json_lines(payments(year))),
    "xml": (WRITTEN, lambda year: as_xml(payments(year))),
    "parquet": (WRITTEN, lambda year: as_parquet(payments(year))),
    "workbook": (WRITTEN, lambda year: as_xlsx(payments(year))),
}


@pytest.mark.parametrize("name", FORMATS)
def test_of_each_format_what_is_posted_has_the_values_that_it_would_have_had_in_time(
    yard: Yard, year: int, name: str
) -> None:
    contract, written = FORMATS[name]
    data = written(year)
    in_time = yard.load_bytes(data, contract, f"payments.{name}")
    decide(yard.place, label_of(year), close)
    late = yard.load_bytes(data, contract, f"payments.{name}")
    rows = yard.place.query(f"SELECT number, paid_on, amount, at, note FROM data.{yard.place.dataset} ORDER BY number")
    assert rows
    assert yard.status(in_time) is yard.status(late) is Status.COMPLETED
    assert yard.place.ledger.job(late).late == {label_of(year): len(rows)}
    by_job = post(yard, year, late)
    assert yard.status(by_job) is Status.COMPLETED
    assert [row[:-1] for row in posted(yard, "number, paid_on, amount, at, note")] == rows


def test_without_a_fiscal_date_records_are_late_by_their_arrival_and_posted_all_the_same(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    place, data = yard.place, b"number\n1\n2\n"
    place.ledger.register_dataset(place.dataset, Contract((Column("number", ColumnType.BIGINT),)), STAMP)
    arrival = Arrival(uuid4(), put(place.workshop.blobs, data), len(data), "a.csv", "text/csv", place.dataset)
    arrived = replace(STAMP, at=datetime(year, 5, 1, tzinfo=UTC))
    place.ledger.receive([arrival], arrived, door="http", on_duplicate=OnDuplicate.ALLOW)
    place.follow()
    yard.work(arrival.job_id)
    post(yard, year, arrival.job_id)
    assert [row[:2] for row in posted(yard, "fiscal_year, number")] == [(label_of(year), 1), (label_of(year), 2)]


def test_of_a_job_that_is_late_for_two_years_each_is_posted_by_itself(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year - 1), close)
    job_id = late_job(yard, year, HEADER + lines(year - 1, range(2)) + lines(year, range(2, 5)))
    post(yard, year, job_id)
    assert [row[0] for row in posted(yard)] == [label_of(year)] * 3
    assert open_late_records(yard.place.ledger, job_id, label_of(year - 1)) == [1, 2]
    post(yard, year - 1, job_id, day_of(year))
    assert sorted(row[2] for row in posted(yard)) == [0, 1, 2, 3, 4]
    assert [event.records for event in (*told(yard, year - 1), *told(yard, year))] == [2, 3]


def test_what_was_waived_and_what_was_refused_for_something_else_is_not_posted(yard: Yard, year: int) -> None:
    text = HEADER + lines(year, range(3)) + "x,2020-05-01\n"
    job_id = late_job(yard, year, text, replace(CONTRACT, rejects_max="1"))
    ledger = yard.place.ledger
    with ledger.transaction() as session:
        settlement = ledger.settle(session, job_id, STAMP)
        settlement.waive(STAMP, reason="not wanted", records=[2])
        ledger.save(settlement, session=session)
    by_job = post(yard, year, job_id)
    assert [row[2] for row in posted(yard)] == [0, 2]
    assert settled(yard, job_id) == {1: str(by_job), 2: None, 3: str(by_job)}


def test_what_is_posted_is_not_posted_again(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    post(yard, year, job_id)
    for day in (day_of(year), day_of(year) + timedelta(days=1)):
        with pytest.raises(ConflictError, match="no late records"):
            ask(yard, year, job_id, day)
    assert (len(posted(yard)), len(told(yard, year))) == (3, 1)


def test_who_asks_twice_before_the_first_is_loaded_posts_once(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    first, again = received(yard, year, job_id), received(yard, year, job_id)
    other_day = received(yard, year, job_id, day_of(year) + timedelta(days=1))
    assert first == again != other_day
    for by_job in (other_day, first):
        yard.work(by_job)
    assert (yard.status(other_day), yard.status(first)) == (Status.COMPLETED, Status.FAILED)
    assert error_of(yard, first)["code"] == "records_settled"
    assert [row[2] for row in posted(yard)] == [0, 1, 2]
    assert [event.by_job for event in told(yard, year)] == [str(other_day)]
    yard.place.ledger.retry(first, STAMP, reason="once more")
    yard.place.follow()
    yard.work(first)
    assert (yard.status(first), len(posted(yard)), len(told(yard, year))) == (Status.FAILED, 3, 1)


def test_of_two_that_are_loaded_at_once_one_is_posted(yard: Yard, year: int, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    both = [received(yard, year, job_id, day_of(year) + timedelta(days=days)) for days in range(2)]
    for by_job in both:
        yard.place.perform(by_job, Stage.PLAN)
        yard.place.follow()
    together = threading.Barrier(len(both))

    def wait_for_the_other(name: str) -> None:
        if name == "chunk_copied":
            together.wait(timeout=WAIT_SECONDS_MAX)

    monkeypatch.setattr(load_module, "failpoint", wait_for_the_other)
    loading = [threading.Thread(target=yard.place.perform, args=(by_job, Stage.LOAD)) for by_job in both]
    for thread in loading:
        thread.start()
    for thread in loading:
        thread.join()
    assert {yard.status(by_job) for by_job in both} == {Status.COMPLETED, Status.FAILED}
    [second] = [by_job for by_job in both if yard.status(by_job) is Status.FAILED]
    assert error_of(yard, second)["code"] == "records_settled"  # it waited, and was told: there is nothing to try again
    assert ([row[2] for row in posted(yard)], len(told(yard, year))) == ([0, 1, 2], 1)


def correction(yard: Yard, job_id: UUID, text: str) -> UUID:
    """A file of one's own that corrects records of a job, which are named behind it."""
    sent = yard.place.send(text.encode(), corrects=job_id, may_adjust=True)
    yard.work(sent)
    return sent


def corrected(year: int, numbers: range) -> str:
    behind = [line + f",{number + 1},,,,\n" for number, line in zip(numbers, lines(year, numbers).split(), strict=True)]
    return f"number,paid_on,{','.join(ERROR_COLUMNS)}\n" + "".join(behind)


def test_what_was_posted_does_not_come_into_the_reopened_year_as_well(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    post(yard, year, job_id)
    decide(yard.place, label_of(year), reopen)
    again = correction(yard, job_id, corrected(year, range(3)))
    assert (yard.status(again), error_of(yard, again)["code"]) == (Status.FAILED, "records_settled")
    assert yard.place.rows()[0] == 0
    assert len(posted(yard)) == 3


def test_what_came_into_the_reopened_year_is_not_posted_as_well(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    by_job = received(yard, year, job_id)
    decide(yard.place, label_of(year), reopen)
    assert yard.status(correction(yard, job_id, corrected(year, range(2)))) is Status.COMPLETED
    yard.work(by_job)
    assert (yard.status(by_job), error_of(yard, by_job)["code"]) == (Status.FAILED, "records_settled")
    assert (posted(yard), told(yard, year)) == ([], [])
    post(yard, year, job_id)
    assert [row[2] for row in posted(yard)] == [2]


@pytest.mark.parametrize("step", ["adjustment_written", "received"])
def test_a_worker_that_is_killed_leaves_one_adjustment_when_another_goes_on(
    yard: Yard, year: int, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    operation = ask(yard, year, job_id)
    order = Order(operation.id, operation.arguments, lambda progress: None, lambda session, result: None)

    class KilledError(Exception):
        pass

    def die(*arguments: Any, **named: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        if step == "adjustment_written":
            patched.setattr(adjustments_module, "failpoint", die)
        else:
            patched.setattr(adjustments_module.log, "info", die)
        post_late_records(yard.place.workshop, order)
    if step == "received":  # and it is loaded before anybody goes on
        [(by_job,)] = yard.place.query(
            "SELECT job_id FROM ledger.arrivals WHERE dataset = :dataset", dataset=adjustments_of(yard.place.dataset)
        )
        yard.place.follow()
        yard.work(by_job)
    ended = carry_out(yard.place, operation)
    assert ended.error is None
    assert ended.result is not None
    yard.work(UUID(ended.result["by_job"]))
    assert ended.result["records"] == 3
    assert (len(posted(yard)), len(told(yard, year))) == (3, 1)


def test_an_adjustment_whose_year_is_closed_before_it_is_loaded_posts_nothing(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(30)))
    by_job = received(yard, year, job_id)
    yard.place.perform(by_job, Stage.PLAN)
    yard.place.follow()
    yard.place.perform(by_job, Stage.LOAD, 0)
    decide(yard.place, label_of(year + 1), close)
    for chunk in range(1, yard.place.ledger.job(by_job).chunks_total):
        yard.place.perform(by_job, Stage.LOAD, chunk)
    assert (yard.status(by_job), error_of(yard, by_job)["code"]) == (Status.FAILED, "control_totals_differ")
    assert (posted(yard), settled(yard, job_id), told(yard, year)) == ([], {}, [])
    post(yard, year, job_id, date(year + 2, 6, 1))
    assert len(posted(yard)) == 30


def test_an_adjustment_with_a_key_that_is_there_posts_nothing(yard: Yard, year: int) -> None:
    header, note = "number,paid_on,note\n", ",\n"
    first = late_job(yard, year, header + lines(year, range(3)).replace("\n", note), KEYED)
    second = yard.load(header + lines(year, range(2, 4)).replace("\n", note), KEYED)
    post(yard, year, first)
    by_job = post(yard, year, second)
    assert (yard.status(by_job), error_of(yard, by_job)["code"]) == (Status.FAILED, "rejects_too_many")
    assert [row[2] for row in posted(yard)] == [0, 1, 2]
    assert open_late_records(yard.place.ledger, second, label_of(year)) == [1, 2]


def test_adjustments_take_the_columns_that_their_dataset_has_got(yard: Yard, year: int) -> None:
    old = late_job(yard, year, HEADER + lines(year, range(1)))
    older = yard.load(HEADER + lines(year, range(1, 2)))
    post(yard, year, old)
    wider = replace(CONTRACT, columns=(*CONTRACT.columns, Column("memo", ColumnType.TEXT)))
    yard.place.ledger.register_dataset(yard.place.dataset, wider, STAMP)
    new = yard.load("number,paid_on,memo\n" + lines(year, range(2, 3)).replace("\n", ",a memo\n"))
    post(yard, year, new)
    post(yard, year, older)
    assert [row[:2] for row in posted(yard, "number, memo")] == [(0, None), (1, None), (2, "a memo")]


def test_a_dataset_that_only_has_the_name_of_adjustments_is_left_alone(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(1)))
    yard.place.ledger.register_dataset(adjustments_of(yard.place.dataset), CONTRACT, STAMP)
    ended = carry_out(yard.place, ask(yard, year, job_id))
    assert ended.error is not None
    assert (ended.error["code"], "cannot become" in ended.error["message"]) == ("conflict", True)
    assert open_late_records(yard.place.ledger, job_id, label_of(year)) == [1]


@pytest.mark.parametrize("acts", [(archive, drop), (reopen,), (reopen, close)], ids=["dropped", "reopened", "again"])
def test_wherever_the_year_stands_its_late_records_can_be_posted(yard: Yard, year: int, acts: Any) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(2)))
    if archive in acts:  # a closed year is archived: its own closing is done
        decide(yard.place, label_of(year), reopen)
    decide(yard.place, label_of(year), *acts)
    post(yard, year, job_id)
    assert len(posted(yard)) == 2


def test_a_replay_and_a_rebuild_find_an_adjustment_as_it_was_loaded(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(30)))
    by_job = post(yard, year, job_id)
    decide(yard.place, label_of(year), reopen)
    assert replay_job(yard.place.workshop, new_order(job_id=str(by_job)))["differences"] == []
    beside, before = Yard(Place(yard.place.workshop, adjustments_of(yard.place.dataset))), posted(yard)
    assert (beside.check()["equal"], beside.rebuild()["equal"], posted(yard)) == (True, True, before)


def refused(yard: Yard, year: int, job_id: UUID, day: date, kind: type[LedgerError]) -> str:
    before = yard.place.ledger.position()
    with pytest.raises(kind) as found:
        ask(yard, year, job_id, day)
    assert yard.place.ledger.position() == before
    return f"{found.value.message} {found.value.remedy}"


def test_what_cannot_be_posted_is_refused_before_anything_is_asked_of_a_worker(yard: Yard, year: int) -> None:
    open_job = yard.load(HEADER + lines(year, range(2)))
    day = day_of(year)
    assert "is open" in refused(yard, year, open_job, day, ConflictError)
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    assert "no late records" in refused(yard, year, open_job, day, ConflictError)
    refused(yard, year, uuid4(), day, NotFoundError)
    assert "a day to come" in refused(yard, year, job_id, STAMP.at.date() + timedelta(days=1), InvalidRequestError)
    assert "Nothing is posted on" in refused(yard, year, job_id, date(1800, 1, 1), InvalidRequestError)
    assert "which is closed" in refused(yard, year, job_id, date(year, 6, 1), ConflictError)
    decide(yard.place, label_of(year + 1), soft_close)
    assert "which is soft_closed" in refused(yard, year, job_id, day, ConflictError)
    calendar = yard.place.workshop.calendar
    with pytest.raises(InvalidRequestError, match="Nothing says why"):
        request_adjustment(yard.place.ledger, calendar, label_of(year), job_id, day, ASKED, reason=" ")
    with pytest.raises(NotFoundError, match="no fiscal year"):
        adjustment_of(yard.place.ledger, calendar, "FY1", job_id, day, STAMP)


def test_a_year_that_was_closed_since_somebody_asked_takes_nothing(yard: Yard, year: int) -> None:
    job_id = late_job(yard, year, HEADER + lines(year, range(3)))
    operation = ask(yard, year, job_id)
    decide(yard.place, label_of(year + 1), close)
    ended = carry_out(yard.place, operation)
    assert ended.error is not None
    assert ended.error["code"] == "conflict"
    assert yard.place.ledger.dataset(adjustments_of(yard.place.dataset)) is None


def test_the_same_records_of_another_file_are_posted_as_well(yard: Yard, year: int) -> None:
    decide(yard.place, label_of(year), close)
    first = yard.load("number,paid_on\n" + lines(year, range(1)))
    second = yard.load("number,paid_on\n" + lines(year, range(1)) + lines(year + 1, range(3)))
    post(yard, year, first)
    post(yard, year, second)
    assert [open_late_records(yard.place.ledger, job, label_of(year)) for job in (first, second)] == [[], []]
