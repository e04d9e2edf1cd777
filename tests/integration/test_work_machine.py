"""Files, messages, workers and dispatchers in any order, on real PostgreSQL: every record once, or none of a file.

After each step the log, the rows and the work to be done must agree with a model that is told the log's events.
In the end everything is delivered and repeated until nothing is left to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from sqlalchemy import text

from ledger.application import Ledger
from ledger.domain.words import Stage
from ledger.errors import ConflictError
from projections.status import fold_all
from tests.filejob_model import JobModel
from tests.integration.chronicle import Chronicle, View
from tests.integration.place import STAMP, Place, new_place, running_ledger
from tests.integration.work_machine import (
    COMMITTED,
    DISPATCHERS_STEPS,
    EARLY,
    LATE,
    UNCOMMITTED,
    Clock,
    File,
    Message,
    Steps,
    Worker,
    Yard,
)
from tests.thorough import thorough
from workers.commands import cancel

LEASE_SECONDS = 3600.0
PAUSE_SECONDS = 600.0
RESEND_SECONDS = 60.0
ATTEMPTS_MAX = 3
FILES_MAX = 5
CHUNK_BYTES = 64  # three records
QUIET_ROUNDS_MAX = 40
STANDING_MAX = 3
ANY = st.integers(0, 99)
DISPATCHERS = st.sampled_from([0, 1, None])
DIES_AT = st.sampled_from([(), (), (), EARLY, LATE, UNCOMMITTED, COMMITTED])


class WorkMachine(RuleBasedStateMachine):
    """Whatever can happen to the work on a few files."""

    def __init__(self, new_yard: Callable[[], Yard]) -> None:
        super().__init__()
        self.yard = new_yard()
        self.place = self.yard.place
        self.chronicle = Chronicle(self.place.ledger)
        self.view = View(self.place.ledger)
        self.holders: dict[Message, Worker] = {}
        self.late: set[Message] = set()

    def model(self, file: File) -> JobModel:
        return self.chronicle.models[file.job_id]

    def file(self, number: int) -> File:
        return self.yard.files[number % len(self.yard.files)]

    def everything(self) -> tuple[Any, ...]:
        """All that work can change."""
        items = self.place.query("SELECT * FROM work.items ORDER BY job_id, stage, chunk")
        return self.place.ledger.position(), items, self.rows()

    def rows(self) -> dict[int, tuple[int, int]]:
        """How many rows and how many records of each job the table holds."""
        if not any(model.chunks_total for model in self.chronicle.models.values()):
            return {}  # the table is made with the first plan
        found = self.place.query(
            f"SELECT _job, count(*), count(DISTINCT _record) FROM data.{self.place.dataset} GROUP BY _job"
        )
        return {job: (count, records) for job, count, records in found}

    @initialize(files=st.lists(st.tuples(st.integers(4, 12), st.booleans()), min_size=1, max_size=3))
    def begin(self, files: list[tuple[int, bool]]) -> None:
        """With files whose chunks are due: what happens before that happens to those received later."""
        for records, refused in files:
            self.yard.receive(records, refused=refused)
        self.dispatch(0)
        for message in self.yard.due():
            self.yard.deliver(message)
        self.dispatch(0)

    @precondition(lambda self: len(self.yard.files) < FILES_MAX)
    @rule(records=st.integers(1, 12), refused=st.booleans())
    def a_file_is_received(self, records: int, refused: bool) -> None:
        self.yard.receive(records, refused=refused)

    @rule(dispatcher=DISPATCHERS, which=ANY, dies_at=DIES_AT)
    def a_message_about_due_work_is_delivered(
        self, dispatcher: int | None, which: int, dies_at: tuple[str, ...]
    ) -> None:
        self.dispatch(dispatcher)
        due = self.yard.due()
        if due:
            self.deliver(due[which % len(due)], dies_at=dies_at)

    @precondition(lambda self: self.yard.broker.messages)
    @rule(which=ANY, again=st.booleans())
    def a_message_comes_late(self, which: int, again: bool) -> None:
        messages = self.yard.broker.messages
        message = messages[which % len(messages)] if again else messages.pop(which % len(messages))
        self.deliver(message)

    @precondition(lambda self: len(self.yard.standing) < STANDING_MAX)
    @rule(which=ANY, stands_at=st.sampled_from([EARLY, LATE]))
    def a_worker_stands_still(self, which: int, stands_at: tuple[str, ...]) -> None:
        self.dispatch(0)
        due = self.yard.due() or [self.yard.message_of(self.yard.receive(4, refused=False))]
        self.deliver(due[which % len(due)], stands_at=stands_at)

    @precondition(lambda self: 0 < len(self.yard.standing) < STANDING_MAX)
    @rule(which=ANY, stands_at=st.sampled_from([(), EARLY, LATE]), dies_at=DIES_AT)
    def another_takes_over(self, which: int, stands_at: tuple[str, ...], dies_at: tuple[str, ...]) -> None:
        late = self.yard.standing[which % len(self.yard.standing)]
        self.yard.clock.pass_seconds(LEASE_SECONDS + 1)
        self.deliver(late.message, stands_at=stands_at, dies_at=dies_at)

    @precondition(lambda self: self.yard.standing)
    @rule(which=ANY)
    def a_worker_goes_on(self, which: int) -> None:
        self.go_on(self.yard.standing[which % len(self.yard.standing)])

    @rule(which=ANY, stage=st.sampled_from((Stage.PLAN, Stage.LOAD)), chunk=st.integers(0, 4))
    def a_message_is_delivered_that_was_not_sent(self, which: int, stage: Stage, chunk: int) -> None:
        self.deliver(Message(self.file(which).job_id, stage, chunk))

    @rule(number=st.integers(0, 1), takes=st.sampled_from([None, 0, 1]), dies_at=st.sampled_from(DISPATCHERS_STEPS))
    def a_dispatcher_dies_and_its_messages_are_lost(self, number: int, takes: int | None, dies_at: str) -> None:
        self.yard.follow(number, dies_at=(dies_at,))
        self.yard.publish(number, takes=takes, dies_at=(dies_at,))
        self.yard.broker.messages.clear()

    @rule(seconds=st.sampled_from([1.0, RESEND_SECONDS, PAUSE_SECONDS, LEASE_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.yard.clock.pass_seconds(seconds + 1)

    @rule(which=ANY)
    def a_blob_cannot_be_found_when_it_is_wanted(self, which: int) -> None:
        file = self.file(which)
        self.dispatch(0)
        self.yard.lose_blob(file)
        wanted = [message for message in self.yard.broker.messages if message.job_id == file.job_id]
        if wanted:
            self.deliver(wanted[which % len(wanted)])

    @rule()
    def blobs_are_found_again(self) -> None:
        self.yard.bring_blobs_back()

    @rule(which=ANY)
    def an_operator_retries(self, which: int) -> None:
        failed = [file for file in self.yard.files if self.model(file).status == "Failed"] or self.yard.files
        self.order("Retried", failed[which % len(failed)], self.retry)

    @rule(which=ANY, meant=st.booleans())
    def an_operator_cancels(self, which: int, meant: bool) -> None:
        """A job that has begun, or one that has ended; the others would hardly ever begin."""
        files = [file for file in self.yard.files if self.model(file).loaded or not self.model(file).is_open]
        if meant and files:
            self.order(
                "Cancelled",
                files[which % len(files)],
                lambda file: cancel(self.place.ledger, file.job_id, STAMP, reason="not wanted"),
            )

    @rule(size=st.integers(1, 5), forgotten=st.sampled_from([0, 0, 1, 5]))
    def a_view_follows(self, size: int, forgotten: int) -> None:
        self.view.forget(forgotten)
        self.view.apply_batch(size)

    def dispatch(self, number: int | None) -> None:
        """One of the dispatchers does all that it has to do; None is late."""
        if number is not None:
            self.yard.follow(number)
            self.yard.publish(number)

    def retry(self, file: File) -> object:
        return self.place.ledger.retry(file.job_id, STAMP, reason="asked for")

    def order(self, event: str, file: File, act: Callable[[File], object]) -> None:
        """An operator's order is carried out if the model allows it, else refused."""
        allowed, before = self.model(file).can(event), self.everything()
        try:
            act(file)
        except ConflictError:
            assert not allowed
            assert self.everything() == before
            return
        assert allowed

    def deliver(self, message: Message, **fate: tuple[str, ...]) -> None:
        """Work is claimed if it is due and nobody has it; that of a job which has ended is forgotten at once."""
        self.chronicle.read_on()
        due, wanted = message in self.yard.due(), self.chronicle.models[message.job_id].is_open
        worker = self.yard.deliver(message, **fate)
        assert worker.claimed == due
        if worker.claimed:
            self.holders[message] = worker
        self.forget_what_nobody_wants()
        assert wanted or not due or any(fate.values()) or message not in self.holders

    def go_on(self, worker: Worker) -> None:
        """A worker that was overtaken, or whose work is not wanted any more, changes nothing at all."""
        overtaken = self.holders.get(worker.message) is not worker
        before = self.everything()
        self.yard.go_on(worker)
        assert not overtaken or self.everything() == before

    def forget_what_nobody_wants(self) -> None:
        wanted = set(self.place.query("SELECT job_id, stage, chunk FROM work.items"))
        for message in list(self.holders):
            if (message.job_id, message.stage.value, message.chunk) not in wanted:
                del self.holders[message]

    @invariant()
    def the_log_the_rows_and_the_work_agree(self) -> None:
        self.forget_what_nobody_wants()
        self.chronicle.read_on()
        self.check_rows()
        self.check_work()

    def check_rows(self) -> None:
        """The table holds what the log says."""
        expected = {file.position: self.model(file).rows[0] for file in self.yard.files}
        assert self.rows() == {job: (count, count) for job, count in expected.items() if count}

    def check_work(self) -> None:
        """Whatever is missing is still to be done, unless the dispatcher has yet to hear of it."""
        followed = self.followed()
        items = self.place.query("SELECT job_id, stage, chunk, last_error FROM work.items")
        for file in self.yard.files:
            model = self.model(file)
            here = {(stage, chunk) for job_id, stage, chunk, _ in items if job_id == file.job_id}
            assert not here & {("load", chunk) for chunk in model.loaded}, "what is loaded is done"
            if model.is_open and self.chronicle.asked_at[file.job_id] <= followed:
                wanted = {("load", chunk) for chunk in model.missing} if model.planned else {("plan", 0)}
                assert wanted <= here
        reasons = {reason for *_, reason in items if reason is not None}
        assert all(reason.startswith("The blob store has no blob") for reason in reasons), reasons

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:  # it has failed already: only let nobody stand in the way of the next
            for worker in list(self.yard.standing):
                with suppress(Exception):
                    self.yard.go_on(worker)
            return
        self.yard.bring_blobs_back()
        for worker in self.yard.standing[::2]:
            self.go_on(worker)
        self.come_to_rest()
        for worker in list(self.yard.standing):  # whatever they wanted to do is done
            self.go_on(worker)
        self.check_ends()
        for file in self.yard.files:
            if self.model(file).status == "Failed":
                self.retry(file)
        self.come_to_rest()
        self.check_ends()
        for file in self.yard.files:
            assert self.model(file).status in (["Failed", "Cancelled"] if file.refused else ["Completed", "Cancelled"])
        self.check_that_nothing_more_happens()
        self.check_view()

    def come_to_rest(self) -> None:
        for _ in range(QUIET_ROUNDS_MAX):
            self.yard.clock.pass_seconds(LEASE_SECONDS + 1)
            self.dispatch(0)
            for message in reversed(self.yard.broker.messages):
                self.deliver(message)
            self.late.update(self.yard.broker.messages)
            self.yard.broker.messages.clear()
            if not self.place.query("SELECT 1 FROM work.items") and self.place.ledger.position() == self.followed():
                self.the_log_the_rows_and_the_work_agree()
                return
        raise AssertionError("it does not come to rest")

    def followed(self) -> int:
        [(position,)] = self.place.query("SELECT position FROM work.positions WHERE name = 'dispatcher'")
        return int(position)

    def check_ends(self) -> None:
        for file in self.yard.files:
            model = self.model(file)
            assert not model.is_open
            found = []
            if self.rows():
                found = self.place.query(
                    f"SELECT number, _record FROM data.{self.place.dataset} WHERE _job = :job ORDER BY _record",
                    job=file.position,
                )
            whole = [(number, record) for record, number in enumerate(file.numbers, start=1)]
            assert found == (whole if model.status == "Completed" else [])

    def check_that_nothing_more_happens(self) -> None:
        before = self.everything()
        for message in sorted(self.late, key=str):
            self.deliver(message)
        assert self.everything() == before

    def check_view(self) -> None:
        while self.view.apply_batch(3):
            pass
        for file in self.yard.files:
            assert self.view.documents[file.job_id] == fold_all(self.place.ledger.events_of(file.job_id))


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        # Nobody kills this server, so it need not wait for its disk.
        with ledger.transaction() as session:
            session.execute(text("SET LOCAL ROLE NONE"))
            session.execute(text("ALTER DATABASE ledger SET synchronous_commit = off"))
        ledger.engine.dispose()
        yield ledger


def test_whatever_happens_in_whatever_order_every_record_is_loaded_once_or_none_of_its_file(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)

    def new_yard() -> Yard:
        place: Place = new_place(
            ledger,
            tmp_path,
            chunk_bytes=CHUNK_BYTES,
            lease_seconds=LEASE_SECONDS,
            resend_seconds=RESEND_SECONDS,
            plan_attempts_max=ATTEMPTS_MAX,
            load_attempts_max=ATTEMPTS_MAX,
            retry_seconds_min=PAUSE_SECONDS,
            retry_seconds_max=PAUSE_SECONDS,
            retry_jitter_share=0,
            published_max=8,
        )
        return Yard(place, tmp_path / "blobs", steps, Clock(place, monkeypatch))

    settings = thorough(examples=20, steps=25, slow=True)
    run_machine(lambda: WorkMachine(new_yard), settings=settings)  # type: ignore[no-untyped-call,arg-type]
