"""Fiscal years through the doors: over HTTP and by the command line, each person with a key of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner, Result

from api.cli.client import CommandError, ExitCode
from api.cli.main import cli
from ledger.application import Arrival
from ledger.blobs import put
from ledger.domain.access import Role
from ledger.domain.filejob import FileJob
from ledger.domain.words import OnDuplicate, Stage
from tests.integration.doors import ADMIN_KEY, CONTENT, Doors, running_doors
from tests.integration.place import STAMP
from tests.integration.years import archive, close, decide, reopen
from tests.s3_servers import s3_environment_of
from tests.strict_s3.faults import Fault
from tests.strict_s3.objects import Bucket
from tests.strict_s3.server import StrictS3
from workers.operations import operate
from workers.years import close_fiscal_year

YEARS = "/api/v1/archive/years"
BUCKET = "books"
FOR_LONG = 1_000


@pytest.fixture(scope="module")
def s3() -> Iterator[StrictS3]:
    """Where years would be archived."""
    with StrictS3() as double:
        double.operations.buckets[BUCKET] = Bucket(double.clock, is_locking=True)
        yield double


@pytest.fixture(scope="module")
def doors(s3: StrictS3) -> Iterator[Doors]:
    settings = {**s3_environment_of(s3.url), "LEDGER_ARCHIVE_URL": f"s3://{BUCKET}/years"}
    with running_doors(settings, datasets=("payments",)) as doors:
        yield doors


@pytest.fixture(scope="module")
def accountants(doors: Doors) -> tuple[str, str]:
    return doors.key(Role.ACCOUNTANT).text, doors.key(Role.ACCOUNTANT).text


def post(doors: Doors, key: str, path: str, **body: str) -> Any:
    with doors.http(key) as http:
        return http.post(f"{YEARS}/{path}", json=body or None)


def run(doors: Doors, key: str, *arguments: str) -> Result:
    environment = {"LEDGER_URL": doors.url, "LEDGER_API_KEY": key}
    return CliRunner().invoke(cli, ["archive", *arguments], env=environment)


@pytest.mark.parametrize(("role", "may"), [(Role.UPLOADER, False), (Role.OPERATOR, False), (Role.ACCOUNTANT, True)])
def test_whether_its_sender_may_adjust_is_pinned_when_a_file_comes(doors: Doors, role: Role, may: bool) -> None:
    with doors.http(doors.key(role).text) as http:
        sent = http.put(
            "/api/v1/files/some.csv", params={"dataset": "payments", "on_duplicate": "allow"}, content=CONTENT
        )
        [task] = sent.json()["tasks"]
    received = doors.ledger.events_of(UUID(task["task_id"]))[0].event
    assert isinstance(received, FileJob.Received)
    assert received.may_adjust is may


def test_a_year_is_closed_only_when_its_name_is_given_again(doors: Doors, accountants: tuple[str, str]) -> None:
    refused = post(doors, accountants[0], "FY2001-02/close", confirm="FY2002-03")
    assert (refused.status_code, doors.ledger.fiscal_year("FY2001-02")) == (422, None)
    asked = post(doors, accountants[0], "FY2001-02/close", confirm="FY2001-02").json()
    assert (asked["kind"], asked["arguments"], asked["status"]) == (
        "close_year",
        {"fiscal_year": "FY2001-02"},
        "Requested",
    )


def test_a_command_that_is_not_confirmed_closes_nothing(doors: Doors, accountants: tuple[str, str]) -> None:
    before = doors.ledger.position()
    for given in ([], ["--yes", "FY2001"]):
        ended = run(doors, accountants[0], "close", "FY2003-04", *given)
        assert isinstance(ended.exception, CommandError)
        assert ended.exception.exit_code == ExitCode.USAGE
    assert doors.ledger.position() == before


def test_what_is_in_the_way_is_told_before_anything_is_asked_of_a_worker(
    doors: Doors, accountants: tuple[str, str]
) -> None:
    current = doors.places["payments"].workshop.calendar.of_instant(doors.ledger.job(doors.jobs["payments"]).created_on)
    before = doors.ledger.position()
    refused = post(doors, accountants[0], f"{current.label}/close", confirm=current.label)
    assert refused.status_code == 409
    assert "ends before" in refused.json()["detail"]
    planned = run(doors, accountants[0], "close", current.label, "--dry-run", "--json")
    assert planned.exit_code == ExitCode.CONFLICT
    assert "not_ended" in [each["code"] for each in json.loads(planned.stdout)["in_the_way"]]
    assert doors.ledger.position() == before


@contextmanager
def unfit(s3: StrictS3, how: str) -> Iterator[None]:
    """Have a bucket in which no archive can be kept."""
    buckets = s3.operations.buckets
    kept = buckets.pop(BUCKET)
    if how == "Object Lock":
        buckets[BUCKET] = Bucket(s3.clock, is_locking=False)
    elif how == "versions":
        buckets[BUCKET] = Bucket(s3.clock, is_locking=True)
        buckets[BUCKET].is_versioned = False
    elif how == "AccessDenied":
        buckets[BUCKET] = kept
        s3.faults.arm(Fault.FORBIDDEN, "GetBucketVersioning", times=FOR_LONG)
    try:
        yield
    finally:
        buckets[BUCKET] = kept
        s3.faults.disarm()


@pytest.mark.parametrize("how", ["is not there", "Object Lock", "versions", "AccessDenied"])
def test_no_year_is_closed_or_archived_where_archives_cannot_be_kept(
    doors: Doors, s3: StrictS3, accountants: tuple[str, str], how: str
) -> None:
    if doors.ledger.fiscal_year("FY1999-00") is None:
        decide(doors.places["payments"], "FY1999-00", close)
    before = doors.ledger.position()
    with unfit(s3, how):
        for path, body in (("FY1998-99/close", {"confirm": "FY1998-99"}), ("FY1999-00/archive", {})):
            refused = post(doors, accountants[0], path, **body)
            assert (refused.status_code, refused.json()["code"]) == (409, "fiscal_year_not_ready")
            assert how in refused.json()["detail"] and BUCKET in refused.json()["detail"]
        for command in (["close", "FY1998-99", "--dry-run"], ["run", "FY1999-00", "--dry-run"], ["plan", "FY1998-99"]):
            planned = run(doors, accountants[0], *command, "--json")
            assert planned.exit_code == ExitCode.CONFLICT
            assert [each["code"] for each in json.loads(planned.stdout)["in_the_way"]] == ["cold_store_unfit"]
    assert doors.ledger.position() == before
    assert json.loads(run(doors, accountants[0], "run", "FY1999-00", "--dry-run", "--json").stdout)["in_the_way"] == []


def test_a_cold_store_that_is_away_is_no_reason_for_good_and_nothing_is_asked_of_a_worker(
    doors: Doors, s3: StrictS3, accountants: tuple[str, str]
) -> None:
    before = doors.ledger.position()
    s3.faults.arm(Fault.SLOW_DOWN, times=FOR_LONG)
    try:
        away = post(doors, accountants[0], "FY1998-99/close", confirm="FY1998-99")
    finally:
        s3.faults.disarm()
    assert (away.status_code, "Retry-After" in away.headers, BUCKET in away.json()["detail"]) == (503, True, True)
    assert doors.ledger.position() == before


def test_a_plan_tells_of_an_open_year_what_its_end_will_take_and_what_comes_next(
    doors: Doors, accountants: tuple[str, str]
) -> None:
    place, key = doors.places["payments"], accountants[0]
    label = place.workshop.calendar.of_instant(doors.ledger.job(doors.jobs["payments"]).created_on).label
    before = doors.ledger.position()
    planned = run(doors, key, "plan", label, "--json")
    found = json.loads(planned.stdout)
    assert (planned.exit_code, found["state"], found["store"]) == (ExitCode.CONFLICT, "open", f"s3://{BUCKET}/years")
    assert "not_ended" in [each["code"] for each in found["in_the_way"]]
    assert ("payments", 2) in [(each["dataset"], each["rows"]) for each in found["tables"] if each["bytes"] > 0]
    assert found["rows"] >= 2 and found["jobs"] >= found["files"] >= 1 and found["file_bytes"] >= len(CONTENT)
    assert {"DEEP_ARCHIVE", "GLACIER_IR"} == {each["storage_class"] for each in found["classes"]}
    assert all(each["dollars_to_put"] is not None for each in found["classes"])
    assert [(each["tier"], each["hours_max"]) for each in found["restore"]] == [
        ("Standard", "12.00"),
        ("Bulk", "48.00"),
    ]
    told = run(doors, key, "plan", label).stderr
    assert "In the way: Fiscal year" in told and f"Then: ledger archive close {label}" in told
    assert "can keep it" in told and "US dollars" in told
    assert doors.ledger.position() == before
    ended = run(doors, key, "plan", "FY1996-97")
    assert (ended.exit_code, "Next: ledger archive close FY1996-97" in ended.stderr) == (0, True)


def test_a_year_is_closed_by_a_worker_and_reopened_by_two_persons(doors: Doors, accountants: tuple[str, str]) -> None:
    first, second = accountants
    operation_id = UUID(post(doors, first, "FY2005-06/close", confirm="FY2005-06").json()["operation_id"])
    place = doors.places["payments"]
    place.follow()
    told = run(doors, first, "status", "FY2005-06").stderr
    assert f"under way: close year, requested: ledger operations show {operation_id}" in told
    doors.tell(operation_id, {"parts": 3, "parts_total": 12, "bytes": 14_966})
    told = run(doors, first, "status", "FY2005-06").stderr
    assert "close year, requested, 3 of 12 parts, 14,966 bytes: ledger operations show" in told
    doors.tell(operation_id, {"events": 7, "position": 70, "log_position": 1_000})
    assert "close year, requested, 70 of 1,000 read: ledger" in run(doors, first, "status", "FY2005-06").stderr
    ended = operate(place.workshop, close_fiscal_year, operation_id, Stage.CLOSE_YEAR, time.time(), lambda _: None)
    assert ended is not None
    told = run(doors, first, "status", "FY2005-06").stderr
    assert ("under way" in told, "next: ledger archive run FY2005-06" in told) == (False, True)
    assert ended.error is None
    shown = json.loads(run(doors, first, "status", "FY2005-06", "--json").stdout)
    assert (shown["state"], shown["generation"], shown["closed_by"]) == ("closed", 1, ended.requested_by)
    assert (
        post(doors, first, "FY2005-06/reopen", reason="a mistake").json()["reopen_requested_by"] == ended.requested_by
    )
    alone = post(doors, first, "FY2005-06/approve")
    assert (alone.status_code, alone.json()["detail"].partition(":")[0]) == (
        409,
        "Fiscal year FY2005-06 needs a second person",
    )
    assert json.loads(run(doors, second, "approve", "FY2005-06", "--json").stdout)["state"] == "reopened"


def test_a_hold_is_placed_shown_and_lifted_by_two_persons(doors: Doors, accountants: tuple[str, str]) -> None:
    first, second = accountants
    placed = json.loads(run(doors, first, "hold", "FY2007-08", "--case", "2026/17", "--json").stdout)
    assert placed["operation_id"] is None  # nothing of it is in cold storage
    assert "held for case 2026/17" in run(doors, first, "status", "FY2007-08").stderr
    alone = run(doors, first, "lift-hold", "FY2007-08", "--case", "2026/17", "--reason", "settled")
    assert isinstance(alone.exception, CommandError)
    assert alone.exception.exit_code == ExitCode.CONFLICT
    lifted = run(doors, second, "lift-hold", "FY2007-08", "--case", "2026/17", "--reason", "settled", "--json")
    assert json.loads(lifted.stdout)["holds"] == []


@pytest.mark.parametrize(("role", "status"), [(Role.UPLOADER, 403), (Role.OPERATOR, 403), (Role.ACCOUNTANT, 202)])
def test_late_records_are_posted_by_those_who_may_adjust(doors: Doors, role: Role, status: int) -> None:
    place, label, data = doors.places["payments"], "FY2013-14", b"id,memo\n4,rent\n"
    if doors.ledger.fiscal_year(label) is None:
        decide(place, label, close)
    late = uuid4()
    arrival = Arrival(late, put(place.workshop.blobs, data), len(data), "late.csv", "text/csv", "payments")
    arrived = replace(STAMP, at=datetime(2013, 5, 4, tzinfo=UTC))  # which decides the year, without a fiscal date
    doors.ledger.receive([arrival], arrived, door="http", on_duplicate=OnDuplicate.ALLOW)
    place.follow()
    place.perform(late, Stage.PLAN)
    place.follow()
    place.perform(late, Stage.LOAD)
    key, wanted = doors.key(role).text, {"job": str(late), "posted_on": "2011-05-04"}
    shown = json.loads(run(doors, key, "status", label, "--json").stdout)
    assert {"job": str(late), "records": 1} in shown["late_records"]
    before = doors.ledger.position()
    asked = post(doors, key, f"{label}/post", **wanted, reason="as agreed")
    assert asked.status_code == status
    if status == 202:
        told = asked.json()
        assert told["arguments"] == {"fiscal_year": label, **wanted, "reason": "as agreed"}
        assert told["requested_by"].startswith("key:")
    else:
        since = [logged.topic for logged in doors.ledger.events_after(before, 100)]
        assert set(since) <= {"access.denied"}, "nothing but that it was denied"
    for odd in ({"posted_on": "2011-02-30"}, {"reason": " "}, {"job": "no job"}):
        assert post(doors, key, f"{label}/post", **{**wanted, "reason": "x", **odd}).status_code in (403, 404, 422)


def test_who_let_the_rows_be_dropped_and_how_much_is_stored_is_said_of_a_year(
    doors: Doors, accountants: tuple[str, str]
) -> None:
    label, place = "FY2015-16", doors.places["payments"]
    decide(place, label, archive)
    shown = json.loads(run(doors, accountants[0], "status", label, "--json").stdout)
    assert (shown["drop_authorized_by"], shown["bytes_stored"]) == (STAMP.actor, 1_234)
    told = run(doors, accountants[0], "status", label).stderr
    assert f"that its rows are dropped was allowed by {STAMP.actor}" in told
    assert "in cold storage: 1 of 1 part, 1,234 bytes" in told
    decide(place, label, reopen)
    assert json.loads(run(doors, accountants[0], "status", label, "--json").stdout)["drop_authorized_by"] is None


def test_adjustments_are_neither_sent_nor_declared_by_hand(doors: Doors) -> None:
    before = doors.state()
    contract = {"columns": [{"name": "id", "type": "bigint"}]}
    with doors.http(ADMIN_KEY) as http:
        form = {"dataset": "payments_adjustments"}
        answers = [
            http.put("/api/v1/files/some.csv", params=form, content=CONTENT),
            http.put("/api/v1/files/payments_adjustments.csv", content=CONTENT),
            http.post("/uploadfiles/", data=form, files={"files": ("some.csv", CONTENT)}),
            http.put("/api/v1/datasets/payments_adjustments", json=contract),
        ]
    assert [(answer.status_code, "ledger archive post" in answer.json()["remedy"]) for answer in answers] == [
        (422, True)
    ] * 4
    kept = doors.state()
    assert (kept[0], kept[2:]) == (before[0], before[2:])  # the bytes may stay: they are nobody's


def test_the_list_has_years_with_rows_and_years_with_a_story(doors: Doors, accountants: tuple[str, str]) -> None:
    run(doors, accountants[0], "soft-close", "FY2009-10")
    found = {
        year["fiscal_year"]: year["state"] for year in json.loads(run(doors, accountants[0], "status", "--json").stdout)
    }
    received = doors.ledger.job(doors.jobs["payments"]).created_on
    assert found["FY2009-10"] == "soft_closed"
    assert found[doors.places["payments"].workshop.calendar.of_instant(received).label] == "open"


def test_a_preview_foresees_which_records_come_too_late_from_whom(doors: Doors, accountants: tuple[str, str]) -> None:
    columns = [{"name": "id", "type": "bigint"}, {"name": "paid_on", "type": "date", "nullable": False}]
    with doors.http(ADMIN_KEY) as http:
        contract = {"columns": columns, "fiscal_date_column": "paid_on"}
        assert http.put("/api/v1/datasets/dated", json=contract).is_success
    run(doors, accountants[0], "soft-close", "FY2011-12")
    content = b"id,paid_on\n1,2011-05-01\nseven,2011-05-01\n3,2012-05-01\n4,2012-03-31\n"
    found = []
    for key in (doors.key(Role.UPLOADER).text, accountants[0]):
        with doors.http(key) as http:
            shown = http.post("/api/v1/preview", params={"dataset": "dated"}, content=content).json()
        found.append((shown["late"], shown["rejected"], [reject["record"] for reject in shown["rejects"]]))
    assert found == [({"FY2011-12": 2}, 3, [1, 2, 4]), ({}, 1, [2])]
