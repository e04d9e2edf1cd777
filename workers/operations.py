"""What operators ask for, carried through: claimed, done, and its end written down.

Rules:
1. An operation ends in the log: Completed or Failed is appended in the transaction that forgets its work, which is also
   that of the work itself where all of it is in PostgreSQL. What Celery's result backend says (see `workers.results`)
   is news for those who watch, and nothing waits for it.
2. A part that is away is worth another attempt after a pause, up to `operator_attempts_max`. Anything else ends the
   operation: the operator is there to read why, and to ask again.
3. Attempts are counted before the work. An operation whose worker was killed is claimed again, and starts anew.
4. A conflict at the first attempt is somebody else's operation, and ends this one. Later it may be an earlier attempt
   of our own that is overtaken but not yet dead, so it is waited for.
5. One that waits for somebody else, such as cold storage, is given back until it is time to look again (`NotYetError`).
   No worker sleeps meanwhile, and no attempt counts that came so far.
6. One that was asked for by itself, by the actor `SCHEDULE`, has nobody who waits for it: that it failed is an error in
   the log.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import psycopg2
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger.database import unavailable_as_error
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.errors import ConflictError, LedgerError, PartUnavailableError
from ledger.failpoints import failpoint
from projections.rebuild import carry_out
from projections.view_store import connect
from projections.views import Order, Parts
from workers.leases import LeaseLostError, Work, fence, finish, release
from workers.retry import RetryPolicy, error_fields
from workers.workshop import Workshop, attend, discard, vanished

log = logging.getLogger(__name__)

SCHEDULE = "schedule"

# Says how far an operation is, as JSON values.
Tell = Callable[[dict[str, Any]], None]
# Does what an order says; what it came to, as JSON values.
Act = Callable[[Workshop, Order], dict[str, Any]]


class NotYetError(Exception):
    """What an operation waits for is not there yet: it is looked for again after a pause."""

    def __init__(self, pause_seconds: float, reason: str) -> None:
        super().__init__(reason)
        self.pause_seconds = pause_seconds


def rebuild_view(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Build a view anew, check it or roll it back."""
    database = connect(workshop.settings.views_url.get_secret_value())
    try:
        return carry_out(Parts(workshop.ledger, workshop.blobs, database, workshop.calendar), order)
    finally:
        database.client.close()


def operate(
    workshop: Workshop, act: Act, operation_id: UUID, stage: Stage, published_at_seconds: float, tell: Tell
) -> Operation | None:
    """Carry an operation through if it is due; the operation, if this ended it."""
    attempt = Attempt(workshop, act, tell)
    attend(workshop, attempt.carry_through, operation_id, stage, 0, published_at_seconds)
    return attempt.ended


class Attempt:
    """One attempt at an operation. `ended` is the operation, once this attempt has ended it."""

    def __init__(self, workshop: Workshop, act: Act, tell: Tell) -> None:
        self.ended: Operation | None = None
        self._finished: Operation | None = None  # by the act itself, once its transaction is committed
        self._workshop = workshop
        self._act = act
        self._tell = tell

    def carry_through(self, work: Work) -> str:
        """Do it, or write down why not; what the attempt came to, in a word."""
        where = {"operation_id": str(work.job_id), "stage": work.stage.value, "attempt": work.attempt}
        try:
            return self._do(work, where)
        except LeaseLostError as lost:
            log.warning("%s", lost, extra={"action": "lease_lost", **where})
            return "lease_lost"
        except (LedgerError, DBAPIError, psycopg2.Error) as unavailable:
            # The lease runs out by itself; the work is then due again.
            log.warning("cannot write down an end: %s", unavailable, extra={"action": "work_abandoned", **where})
            return "abandoned"

    def _do(self, work: Work, where: dict[str, Any]) -> str:
        workshop = self._workshop
        policy = RetryPolicy.of(workshop.settings, work.stage)
        operation = workshop.ledger.operation(work.job_id)
        if not operation.is_open:
            discard(workshop, work)
            return "done"
        if work.attempt > policy.attempts_max:
            return self._fail(work, _exhausted(policy.attempts_max, vanished(workshop, work)), "exhausted")
        try:
            with unavailable_as_error():
                order = Order(operation.id, operation.arguments, self._tell, partial(self._finish, work))
                result = self._act(workshop, order)
        except LeaseLostError:
            raise
        except NotYetError as waiting:
            return self._wait(work, waiting)
        except Exception as error:  # the edge of a task: whatever went wrong must not stay untold
            log.warning("an operation failed", exc_info=error, extra={"action": "work_failed", **where})
            return self._record(work, policy, error)
        if self._finished is None:
            self._end(work, lambda ending: ending.complete(workshop.stamp(ending), result=result))
        else:
            failpoint("operation_end_committed")
            self.ended = self._finished
        return "done"

    def _wait(self, work: Work, waiting: NotYetError) -> str:
        with self._workshop.ledger.transaction() as session:
            fence(session, work)
            release(session, work, pause_seconds=waiting.pause_seconds, reason=str(waiting), is_going_well=True)
        return "waits"

    def _record(self, work: Work, policy: RetryPolicy, error: Exception) -> str:
        if not _is_worth_retrying(error, work.attempt):
            return self._fail(work, error_fields(error), "failed")
        if work.attempt >= policy.attempts_max:
            return self._fail(work, _exhausted(policy.attempts_max, error), "exhausted")
        pause_seconds = policy.pause_seconds(work.attempt, random.random())  # noqa: S311 - no secret
        with self._workshop.ledger.transaction() as session:
            fence(session, work)
            release(session, work, pause_seconds=pause_seconds, reason=str(error))
        return "given_back"

    def _fail(self, work: Work, error: dict[str, Any], outcome: str) -> str:
        self._end(work, lambda ending: ending.fail(self._workshop.stamp(ending), error=error))
        assert self.ended is not None, "it has just ended"
        if self.ended.requested_by == SCHEDULE:
            log.error(
                "the operation %s (%s), which is done by itself every so often, has failed with %s",
                self.ended.id,
                work.stage.value,
                error["code"],
                extra={"action": "scheduled_failed", "operation_id": str(self.ended.id), "code": error["code"]},
            )
        return outcome

    def _finish(self, work: Work, session: Session, result: dict[str, Any]) -> None:
        """Complete the operation in the transaction in which it does its work."""
        stamp = self._workshop.stamp
        self._finished = self._append(session, work, lambda ending: ending.complete(stamp(ending), result=result))

    def _end(self, work: Work, end: Callable[[Operation], None]) -> None:
        with self._workshop.ledger.transaction() as session:
            ended = self._append(session, work, end)
        failpoint("operation_end_committed")
        self.ended = ended

    def _append(self, session: Session, work: Work, end: Callable[[Operation], None]) -> Operation:
        ledger = self._workshop.ledger
        fence(session, work)
        operation = ledger.operation(work.job_id)
        end(operation)
        finish(session, work)
        ledger.save(operation, session=session)
        failpoint("operation_end_appended")
        return operation


def _is_worth_retrying(error: Exception, attempt: int) -> bool:
    return isinstance(error, PartUnavailableError) or (isinstance(error, ConflictError) and attempt > 1)


def _exhausted(attempts: int, error: Exception) -> dict[str, Any]:
    last = error_fields(error)["message"]
    return error_fields(
        LedgerError(
            f"No attempt came to an end, and there were {attempts}. The last one: {last}",
            "Repair what the message names, then ask again.",
        ),
        code="attempts_exhausted",
    )
