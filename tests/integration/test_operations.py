"""Operations on real PostgreSQL: who may carry one through, how often it is tried, and that it ends once.

Workers are threads; what an operation does is a function of the test's own.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from ledger.application import Ledger
from ledger.blobs import FolderBlobStore
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.operation import Operation
from ledger.domain.words import OperationStatus, Stage
from ledger.errors import ConflictError, PartUnavailableError
from ledger.settings import Settings
from projections.views import Order
from tests.waiting import wait_until
from workers.dispatcher import Dispatcher
from workers.leases import Work, claim, is_leased
from workers.operations import Act, operate, rebuild_view
from workers.queues import OPERATOR
from workers.workshop import Workshop

WAIT_SECONDS_MAX = 60.0
LONG_LEASE_SECONDS = 300.0
SHORT_LEASE_SECONDS = 0.2
ATTEMPTS_MAX = 3
ARGUMENTS = {"view": "status"}
STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "admin", "request-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")


def does(workshop: Workshop, order: Order) -> dict[str, Any]:
    order.tell({"events": 1})
    return {"done": order.arguments["view"]}


def away(workshop: Workshop, order: Order) -> dict[str, Any]:
    raise PartUnavailableError("MongoDB is away.", "Bring it back.")


def conflicts(workshop: Workshop, order: Order) -> dict[str, Any]:
    raise ConflictError("The view is being rebuilt already.", "Wait until that is done.")


def broken(workshop: Workshop, order: Order) -> dict[str, Any]:
    raise ZeroDivisionError("told nowhere")


@dataclass
class Place:
    """What workers need, and a look at what they did."""

    workshop: Workshop

    @property
    def ledger(self) -> Ledger:
        return self.workshop.ledger

    def with_settings(self, **values: Any) -> Place:
        return Place(replace(self.workshop, settings=self.workshop.settings.model_copy(update=values)))

    def request(self) -> UUID:
        """An operation that was asked for, with its work written down."""
        operation = self.ledger.request(Stage.REBUILD, ARGUMENTS, STAMP)
        while Dispatcher(self.ledger, self.workshop.settings).follow().events:
            pass
        return operation.id

    def operate(self, operation_id: UUID, act: Act) -> Operation | None:
        """What a message makes a worker do."""
        return operate(self.workshop, act, operation_id, Stage.REBUILD, time.time(), lambda progress: None)

    def operate_until_forgotten(self, operation_id: UUID, act: Act) -> None:
        def forgotten() -> bool:
            self.operate(operation_id, act)
            return self.work(operation_id) == []

        wait_until(forgotten, "it is tried for ever")

    def claim_and_die(self, operation_id: UUID) -> Work:
        """A worker that takes the work, and is never heard of again."""
        work = wait_until(
            lambda: claim(
                self.ledger.engine,
                operation_id,
                Stage.REBUILD,
                0,
                worker="killed",
                lease_seconds=SHORT_LEASE_SECONDS,
            ),
            "the work does not become due",
        )
        assert isinstance(work, Work)
        return work

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.ledger.transaction() as session:
            return [tuple(row) for row in session.execute(text(statement), parameters).all()]

    def work(self, operation_id: UUID) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT stage, chunk, queue, traceparent, attempts, last_error FROM work.items WHERE job_id = :job_id",
            job_id=operation_id,
        )

    def story(self, operation_id: UUID) -> list[tuple[str, str]]:
        """What happened to an operation, and by whom."""
        found = self.ledger.events_of(operation_id)
        return [(logged.topic.removeprefix("operation."), logged.event.actor) for logged in found]


REQUESTED, COMPLETED, FAILED = ("requested", "admin"), ("completed", "worker"), ("failed", "worker")


@pytest.fixture
def place(ledger: Ledger, tmp_path: Any) -> Place:
    """Workers with long leases and short pauses."""
    settings = Settings(
        lease_seconds=LONG_LEASE_SECONDS,
        operator_attempts_max=ATTEMPTS_MAX,
        retry_seconds_min=0.05,
        retry_seconds_max=0.05,
    )
    return Place(Workshop(ledger, FolderBlobStore(tmp_path), settings, FiscalCalendar.parse("04-01", "UTC")))


def test_a_request_asks_for_one_piece_of_work_in_the_operators_queue(place: Place) -> None:
    operation_id = place.request()
    assert place.work(operation_id) == [("rebuild", 0, OPERATOR, STAMP.traceparent, 0, None)]
    assert place.story(operation_id) == [REQUESTED]


def test_what_is_done_is_on_record_and_its_work_forgotten(place: Place) -> None:
    operation_id = place.request()
    ended = place.operate(operation_id, does)
    assert ended is not None
    assert (ended.id, ended.result) == (operation_id, {"done": "status"})
    found = place.ledger.operation(operation_id)
    assert (found.status, found.result) == (OperationStatus.COMPLETED, {"done": "status"})
    assert place.story(operation_id) == [REQUESTED, COMPLETED]
    assert len({logged.event.correlation for logged in place.ledger.events_of(operation_id)}) == 1
    assert place.work(operation_id) == []


def test_a_duplicate_late_or_unknown_message_has_no_effect(place: Place) -> None:
    operation_id = place.request()
    place.operate(operation_id, does)
    before = place.ledger.position()
    for target in (operation_id, operation_id, uuid4()):
        assert place.operate(target, broken) is None
    assert place.ledger.position() == before


def test_of_eight_messages_at_once_one_is_acted_on(place: Place) -> None:
    operation_id = place.request()
    together = threading.Barrier(8)
    acted: list[int] = []

    def act(workshop: Workshop, order: Order) -> dict[str, Any]:
        acted.append(1)
        return {}

    def message(_: int) -> Operation | None:
        together.wait(WAIT_SECONDS_MAX)
        return place.operate(operation_id, act)

    with ThreadPoolExecutor(8) as threads:
        ended = [operation for operation in threads.map(message, range(8)) if operation is not None]
    assert (len(acted), len(ended)) == (1, 1)
    assert place.story(operation_id) == [REQUESTED, COMPLETED]


def test_somebody_is_at_it_as_long_as_the_lease_says_so(place: Place) -> None:
    operation_id = place.request()

    def leased() -> bool:
        with place.ledger.transaction() as session:
            return is_leased(session, operation_id)

    seen: list[bool] = [leased()]

    def act(workshop: Workshop, order: Order) -> dict[str, Any]:
        seen.append(leased())
        return away(workshop, order)

    place.operate(operation_id, act)
    seen.append(leased())
    place.claim_and_die(operation_id)
    wait_until(lambda: not leased(), "a lease lasts for ever")
    assert seen == [False, True, False]


def test_a_part_that_is_away_is_waited_for(place: Place) -> None:
    operation_id = place.request()
    [(before,)] = place.query("SELECT clock_timestamp()")
    slow = place.with_settings(retry_seconds_min=0.4, retry_seconds_max=0.4, retry_jitter_share=0)
    assert slow.operate(operation_id, away) is None
    [(due_at, leased_until, reason)] = place.query(
        "SELECT due_at, leased_until, last_error FROM work.items WHERE job_id = :job_id", job_id=operation_id
    )
    assert (due_at - before).total_seconds() >= 0.4
    assert (leased_until, reason) == (None, "MongoDB is away. Bring it back.")
    assert place.story(operation_id) == [REQUESTED]
    place.operate_until_forgotten(operation_id, does)
    assert place.story(operation_id) == [REQUESTED, COMPLETED]


def test_a_part_that_stays_away_fails_the_operation_with_its_last_reason(place: Place) -> None:
    operation_id = place.request()
    attempts: list[int] = []

    def act(workshop: Workshop, order: Order) -> dict[str, Any]:
        attempts.append(1)
        return away(workshop, order)

    place.operate_until_forgotten(operation_id, act)
    error = place.ledger.operation(operation_id).error
    assert error is not None
    assert error["code"] == "attempts_exhausted"
    assert "MongoDB is away." in error["message"]
    assert "died" not in error["message"]
    assert len(attempts) == ATTEMPTS_MAX
    assert place.story(operation_id) == [REQUESTED, FAILED]


def test_our_own_mistake_fails_the_operation_at_once_and_is_not_quoted(place: Place) -> None:
    operation_id = place.request()
    ended = place.operate(operation_id, broken)
    assert ended is not None
    assert ended.error is not None
    assert ended.error["code"] == "internal_error"
    assert "told nowhere" not in str(ended.error)
    assert place.story(operation_id) == [REQUESTED, FAILED]
    assert place.work(operation_id) == []


def test_a_view_that_does_not_exist_fails_the_operation(place: Place) -> None:
    operation_id = place.ledger.request(Stage.REBUILD, {"view": "nothing"}, STAMP).id
    while Dispatcher(place.ledger, place.workshop.settings).follow().events:
        pass
    ended = place.operate(operation_id, rebuild_view)
    assert ended is not None
    assert ended.error is not None
    assert (ended.error["code"], "nothing" in ended.error["message"]) == ("invalid_request", True)


def test_a_conflict_at_the_first_attempt_fails_the_operation(place: Place) -> None:
    operation_id = place.request()
    ended = place.operate(operation_id, conflicts)
    assert ended is not None
    assert ended.error is not None
    assert ended.error["code"] == "conflict"
    assert place.story(operation_id) == [REQUESTED, FAILED]


def test_a_conflict_after_an_attempt_of_its_own_was_overtaken_is_waited_for(place: Place) -> None:
    operation_id = place.request()
    place.claim_and_die(operation_id)

    def tried() -> bool:
        assert place.operate(operation_id, conflicts) is None
        return place.work(operation_id)[0][4] == 2

    wait_until(tried, "the work does not become due")
    assert place.story(operation_id) == [REQUESTED]
    place.operate_until_forgotten(operation_id, does)
    assert place.story(operation_id) == [REQUESTED, COMPLETED]


def test_an_operation_whose_worker_was_killed_is_done_by_another(place: Place) -> None:
    operation_id = place.request()
    assert place.claim_and_die(operation_id).attempt == 1
    place.operate_until_forgotten(operation_id, does)
    assert place.story(operation_id) == [REQUESTED, COMPLETED]


def test_an_operation_that_kills_its_workers_is_counted_and_fails(place: Place) -> None:
    operation_id = place.request()
    for attempt in range(1, ATTEMPTS_MAX + 1):
        assert place.claim_and_die(operation_id).attempt == attempt
    place.operate_until_forgotten(operation_id, does)
    error = place.ledger.operation(operation_id).error
    assert error is not None
    assert (error["code"], "died" in error["message"]) == ("attempts_exhausted", True)
    assert place.story(operation_id) == [REQUESTED, FAILED]


@pytest.mark.parametrize("late", [does, away, broken], ids=["done", "given back", "failed"])
def test_an_overtaken_worker_neither_ends_nor_gives_back_an_operation(place: Place, late: Act) -> None:
    operation_id = place.request()
    begun, go_on = threading.Event(), threading.Event()

    def slow(workshop: Workshop, order: Order) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(WAIT_SECONDS_MAX)
        return late(workshop, order)

    with ThreadPoolExecutor(1) as threads:
        overtaken = threads.submit(place.operate, operation_id, slow)
        assert begun.wait(WAIT_SECONDS_MAX)
        place.query(  # what the time does to the lease of a worker that stands still
            "UPDATE work.items SET leased_until = clock_timestamp() - interval '1 second'"
            " WHERE job_id = :job_id RETURNING 1",
            job_id=operation_id,
        )
        place.claim_and_die(operation_id)
        before = place.work(operation_id)
        go_on.set()
        assert overtaken.result(WAIT_SECONDS_MAX) is None
    assert place.work(operation_id) == before
    assert place.story(operation_id) == [REQUESTED]
    place.operate_until_forgotten(operation_id, does)
    assert place.story(operation_id) == [REQUESTED, COMPLETED]


def test_work_that_comes_back_after_the_operation_has_ended_is_forgotten(place: Place) -> None:
    operation_id = place.request()
    place.operate(operation_id, does)
    place.query(
        "INSERT INTO work.items (job_id, stage, chunk) VALUES (:job_id, 'rebuild', 0) RETURNING 1", job_id=operation_id
    )
    assert place.operate(operation_id, broken) is None
    assert place.work(operation_id) == []
    assert place.story(operation_id) == [REQUESTED, COMPLETED]
