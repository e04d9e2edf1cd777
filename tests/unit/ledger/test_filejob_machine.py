"""Any commands in any order, against a model: what happens, what is refused, and what the events tell afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger.domain.filejob import FileJob
from ledger.domain.personal import ERASED
from ledger.domain.reconciliation import CountsDoNotCloseError
from ledger.domain.words import Stage
from ledger.errors import ConflictError
from ledger.event_log import LoggedEvent
from projections.status import fold
from tests.filejob_model import ChunkModel, JobModel
from tests.thorough import thorough
from tests.unit.ledger.test_filejob import ERROR, STAMP, archive, chunk, received

DATA_START, SIZE = 10, 110
# The chunks of the one plan there is: bytes from, bytes to, records.
PLAN = ((10, 40, 3), (40, 80, 4), (80, 110, 3))
POSITIONS_BETWEEN = 7
ERASURE = UUID(int=1)
RESTORED: dict[str, Any] = {"fiscal_years": ["FY2025-26"], "manifest": "99" * 32}
EVENT_OF = {
    "queue": "Queued",
    "complete": "Completed",
    "fail": "Failed",
    "retry": "Retried",
    "cancel": "Cancelled",
    "archive": "Archived",
    "restore": "Restored",
    "erase_name": "NameErased",
}


def can(event: str) -> Callable[[Any], bool]:
    """A precondition of a rule: the model says that the event can be."""
    return lambda machine: machine.model.can(event)


class JobMachine(RuleBasedStateMachine):
    """One job, its model, the job that its events tell of, and the document that they are folded into."""

    def __init__(self) -> None:
        super().__init__()
        self.job = received(SIZE)
        self.model = JobModel()
        self.replayed: Any = None
        self.logged: list[LoggedEvent] = []
        self.documents: list[dict[str, Any]] = []
        self.follow()

    def follow(self) -> None:
        """Tell the new events to whoever follows the log."""
        for event in self.job.pending_events[len(self.logged) :]:
            assert isinstance(event, FileJob.Event)
            self.replayed = event.mutate(self.replayed)
            # Other jobs' events stand in between.
            self.logged.append(LoggedEvent(41 + POSITIONS_BETWEEN * len(self.logged), event, event.TOPIC))  # type: ignore[attr-defined]
            document = fold(self.documents[-1] if self.documents else None, self.logged[-1])
            assert document is not None
            self.documents.append(document)

    def command(self, event: str, do: Callable[[], None], *, allowed: bool, counts_close: bool = True) -> bool:
        """Do what the model says can be done; see the rest refused, with nothing changed."""
        before = copy.deepcopy(vars(self.job))
        refused: type[Exception] | None = None
        try:
            do()
        except (ConflictError, CountsDoNotCloseError) as error:
            refused = type(error)
        assert refused is (ConflictError if not allowed else None if counts_close else CountsDoNotCloseError)
        if refused is not None:
            assert vars(self.job) == before
            return False
        assert len(self.job.pending_events) == len(before["_pending_events"]) + 1
        assert type(self.job.pending_events[-1]).__name__ == event
        self.follow()
        return True

    @initialize(planned=st.sampled_from([True, True, True, False]))
    def begin(self, planned: bool) -> None:
        if planned:
            self.queue()

    @rule(ask=st.sampled_from(["queue", "complete", "fail", "retry", "cancel", "archive", "restore", "erase_name"]))
    def ask_for_what_cannot_be(self, ask: str) -> None:
        """What can be is left to the other rules: most of what can be asked for at random ends the job."""
        if not self.model.can(EVENT_OF[ask]):
            getattr(self, ask)(*[False, Stage.LOAD] if ask == "fail" else [])

    @precondition(can("Queued"))
    @rule()
    def queue(self) -> None:
        def do() -> None:
            self.job.queue(
                STAMP,
                format="delimited",
                dialect={"format": "delimited", "encoding": "utf-8"},
                parser_version="delimited-1",
                contract_version=1,
                contract_digest="cd" * 32,
                plan="ef" * 32,
                data_start=DATA_START,
                chunks_total=len(PLAN),
                records=sum(records for *_, records in PLAN),
            )

        if self.command("Queued", do, allowed=self.model.can("Queued")):
            self.model.plan(len(PLAN))

    @rule(
        number=st.integers(-1, len(PLAN)),
        flaw=st.sampled_from([None, None, None, "starts late", "a record short", "does not add up"]),
        rows_rejected=st.integers(0, 2),
    )
    def load_chunk(self, number: int, flaw: str | None, rows_rejected: int) -> None:
        start, end, records = PLAN[number % len(PLAN)]
        start += flaw == "starts late"
        records -= flaw == "a record short"
        rows_loaded = records - rows_rejected
        adds_up = flaw != "does not add up"
        loaded = chunk(
            number, start, end, records, rows_loaded=rows_loaded + (not adds_up), rows_rejected=rows_rejected
        )
        if self.command(
            "ChunkLoaded",
            lambda: self.job.load_chunk(STAMP, loaded, attempt=self.job.attempt),
            allowed=self.model.can("ChunkLoaded", number),
            counts_close=adds_up,
        ):
            self.model.load(number, ChunkModel(rows_loaded, rows_rejected, as_planned=flaw is None))

    @precondition(lambda self: self.model.missing)
    @rule(rows_rejected=st.integers(0, 2))
    def load_what_is_missing_and_complete(self, rows_rejected: int) -> None:
        for number in sorted(self.model.missing):
            self.load_chunk(number, None, rows_rejected)
        self.complete()

    @precondition(can("Completed"))
    @rule()
    def complete(self) -> None:
        allowed, counts_close = self.model.can("Completed"), self.model.counts_close()
        if self.command("Completed", lambda: self.job.complete(STAMP), allowed=allowed, counts_close=counts_close):
            self.model.end("Completed")

    @precondition(can("Failed"))
    @rule(will_be_retried=st.sampled_from([True, True, True, False]), stage=st.sampled_from(Stage))
    def fail(self, will_be_retried: bool, stage: Stage) -> None:
        def do() -> None:
            self.job.fail(
                STAMP,
                stage=stage,
                chunk=None,
                attempt=self.job.attempt,
                error=ERROR,
                retry_at=datetime(2026, 4, 2, tzinfo=UTC) if will_be_retried else None,
            )

        if self.command("Failed", do, allowed=self.model.can("Failed")):
            self.model.fail(will_be_retried=will_be_retried)

    @precondition(can("Retried"))
    @rule()
    def retry(self) -> None:
        planned = self.model.planned
        if self.command("Retried", lambda: self.job.retry(STAMP, reason="due"), allowed=self.model.can("Retried")):
            self.model.retry()
            retried = self.job.pending_events[-1]
            assert isinstance(retried, FileJob.Retried)
            assert retried.stage == ("load" if planned else "plan")

    @rule(meant=st.sampled_from([True, False, False, False]))
    def cancel_now_and_then(self, meant: bool) -> None:
        if meant:
            self.cancel()

    def cancel(self) -> None:
        def do() -> None:
            self.job.cancel(STAMP, reason="not wanted", rows_withdrawn=0)

        if self.command("Cancelled", do, allowed=self.model.can("Cancelled")):
            self.model.cancel()

    @precondition(can("Archived"))
    @rule()
    def archive(self) -> None:
        if self.command("Archived", lambda: archive(self.job, "FY2025-26"), allowed=self.model.can("Archived")):
            self.model.end("Archived")

    @precondition(can("Restored"))
    @rule()
    def restore(self) -> None:
        self.command("Restored", lambda: self.job.restore(STAMP, **RESTORED), allowed=self.model.can("Restored"))

    @precondition(can("NameErased"))
    @rule()
    def erase_name(self) -> None:
        if self.command(
            "NameErased", lambda: self.job.erase_name(STAMP, erasure=ERASURE), allowed=self.model.can("NameErased")
        ):
            self.model.erase_name()

    @rule(known=st.integers(0, 99), again_from=st.integers(0, 99))
    def follow_again_from_an_older_position(self, known: int, again_from: int) -> None:
        known %= len(self.logged)
        document: dict[str, Any] | None = self.documents[known]
        for place in range(again_from % (known + 1), len(self.logged)):
            before, document = document, fold(document, self.logged[place])
            assert place > known or document is before
        assert document == self.documents[-1]

    @invariant()
    def the_job_stands_where_the_model_does(self) -> None:
        job, model = self.job, self.model
        assert (job.status.value, job.waiting, job.is_open) == (model.status, model.waiting, model.is_open)
        assert (set(job.chunks), job.plan is not None, job.attempt) == (
            set(model.loaded),
            model.planned,
            model.attempt,
        )
        assert job.all_chunks_loaded == (model.planned and not model.missing)

    @invariant()
    def its_events_tell_of_the_same_job(self) -> None:
        assert [logged.event.originator_version for logged in self.logged] == list(range(1, len(self.logged) + 1))
        told, known = vars(self.replayed), vars(self.job)
        assert {**told, "_pending_events": None} == {**known, "_pending_events": None}

    @invariant()
    def the_document_shows_what_the_model_knows(self) -> None:
        document, model = self.documents[-1], self.model
        assert document["status"] == model.status
        assert (document["rows_loaded"], document["rows_rejected"]) == model.rows
        assert document["chunks_loaded"] == len(model.loaded)
        assert document["chunks_total"] == (model.chunks_total or None)
        assert document["attempt"] == model.attempt
        assert (document["finished_at"] is not None) == model.has_finished
        assert (document["error"] is not None) == model.blamed
        assert (document["filename"] == ERASED) == model.nameless
        assert document["error"] is None or (document["error"]["message"] == ERASED) == model.nameless
        assert (document["version"], document["position"]) == (len(self.logged), self.logged[-1].position)


def test_whatever_is_commanded_the_job_its_events_and_its_document_tell_what_the_rules_say() -> None:
    run_state_machine_as_test(JobMachine, settings=thorough(examples=150, steps=40))  # type: ignore[no-untyped-call]
