"""Building a data table anew: following the log into a table of schema `rebuilding`.

Rules:
1. The log is read from its beginning, in its order. `RULES` says what each kind of event of a job does to the table; an
   event that cannot be read, has no rule, or cannot be replayed to what it says, stops the build and is told. None is
   ever skipped.
2. A chunk is loaded in one transaction with the position of its event in `views.builds`, by the code that loads chunks
   (`projections.loading`). So a build that was killed goes on behind the last chunk, for as long as it is the same
   operation that wants it.
3. Rows that are taken out again later are not loaded at all, as far as the log tells by then. Where it did not tell
   yet, they are taken out when it does. Rows of fiscal years that are in cold storage, and no longer here, are left
   out.
4. A transaction that moves a build on says from where: of two that take themselves for its builder only one can.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg2 import sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.errors import BlobCutError, LedgerError, PartUnavailableError
from ledger.event_log import LoggedEvent
from ledger.failpoints import failpoint
from ledger.fiscal_years import dropped_years
from projections.data_tables import (
    DataTable,
    PartitionMissingError,
    add_partition,
    create,
    exists,
    withdraw,
    year_of_value,
)
from projections.loading import LoadedFile, checked_content, chunk_bytes_of, copy_content, loaded_chunk
from projections.replaying import (
    Story,
    differences,
    file_of,
    is_withdrawal,
    read_story,
    take_out_what_the_ledger_refused,
)
from projections.views import Order, Parts, RebuildStoppedError, ViewBusyError

REBUILDING = "rebuilding"
BATCH_EVENTS = 500
STORIES_KEPT = 1_000
FOREIGN_JOBS_KEPT = 100_000


class TakenOverError(ViewBusyError):
    """Somebody else moves a build on."""


class TableBuild:
    """The build of one dataset's table for one operation. Who has it holds the lock of the view's rebuild.

    `changed` are the jobs of which rows were loaded or taken out, here or only in the live table, by the events that it
    has followed since somebody last emptied that; each by the position of its Received.
    """

    def __init__(self, parts: Parts, dataset: str, order: Order) -> None:
        self.changed: set[int] = set()
        self.position = self.events = self.chunks = 0
        self._parts = parts
        self._ledger = parts.ledger
        self._dataset = dataset
        self._order = order
        self._contracts: list[Contract] = []
        self._stories: OrderedDict[UUID, Story] = OrderedDict()
        self._foreign: OrderedDict[UUID, None] = OrderedDict()
        self._loaded: set[int] | None = set()  # the jobs with rows; None if some are from before this attempt

    @property
    def table(self) -> DataTable:
        """The table that is built, with the contract in force."""
        return DataTable(self._dataset, self._contract(0), REBUILDING)

    def begin(self) -> None:
        """Go on with what an attempt before this one has built for the operation, else begin anew."""
        with self._ledger.transaction() as session:
            found = session.execute(
                text(
                    "SELECT position, events, chunks FROM views.builds"
                    " WHERE dataset = :dataset AND operation_id = :operation_id"
                ),
                {"dataset": self._dataset, "operation_id": self._order.id},
            ).first()
            if found is not None and exists(session, REBUILDING, self._dataset):
                self.position, self.events, self.chunks = found
                self._loaded = None
                return
            drop_build(session, self._dataset)
            create(session, self.table)
            session.execute(
                text(
                    "INSERT INTO views.builds (dataset, operation_id, position, events, chunks)"
                    " VALUES (:dataset, :operation_id, 0, 0, 0)"
                ),
                {"dataset": self._dataset, "operation_id": self._order.id},
            )

    def catch_up(self, on_event: Callable[[], object] = lambda: None) -> None:
        """Follow the log to its end.

        Args:
            on_event: called after each event that changed the table, and each batch of others.

        Raises:
            RebuildStoppedError: an event cannot be replayed.
            UnreadableEventError: an event cannot be read.
            TakenOverError: another has taken the build over.
        """
        read = self.position
        while events := self._ledger.events_after(read, BATCH_EVENTS):
            for logged in events:
                self.events += 1
                if isinstance(logged.event, FileJob.Event) and self._apply(logged):
                    on_event()
                    self._tell()
            read = events[-1].position
            if self.position < read:
                with self._ledger.transaction() as session:
                    self._advance(session, read)
                self.position = read
            on_event()
            self._tell()

    def settle(self) -> None:
        """Give PostgreSQL the statistics and summaries that it has of a table that is used."""
        with self._ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            cursor: Any = connection.connection.cursor()
            cursor.execute(sql.SQL("VACUUM (ANALYZE) {}").format(self.table.name))

    def _tell(self) -> None:
        self._order.tell({"events": self.events, "position": self.position, "log_position": self._ledger.position()})

    def _apply(self, logged: LoggedEvent) -> bool:
        """Do what an event does to the table; whether that is anything."""
        event: Any = logged.event
        if isinstance(event, FileJob.Received) and event.dataset != self._dataset:
            _keep(self._foreign, event.originator_id, None, FOREIGN_JOBS_KEPT)
        if event.originator_id in self._foreign:
            return False
        story = self._story(event)
        if story.received.dataset != self._dataset:
            _keep(self._foreign, event.originator_id, None, FOREIGN_JOBS_KEPT)
            return False
        rule = RULES.get(type(event))
        if rule is None:
            raise _stopped(logged, "There is no rule for what it does to rows.")
        return rule(self, logged, story)

    def _load(self, logged: LoggedEvent, story: Story) -> bool:
        event: Any = logged.event
        if story.is_withdrawn(event):
            return False
        with self._ledger.transaction() as session:
            left_out = set(event.fiscal_years) & set(dropped_years(session))
        if left_out and left_out == set(event.fiscal_years):
            return False
        queued = story.plan_of(event)
        table = DataTable(self._dataset, self._contract(queued.contract_version), REBUILDING)
        with _stopping_at(logged):
            file = file_of(self._parts.blobs, story, queued, self._parts.calendar)
            data = chunk_bytes_of(self._parts.blobs, file, file.plan.chunks[event.chunk])
        found = hashlib.sha256(data).hexdigest()
        if found != event.sha256:
            raise _stopped(logged, f"The SHA-256 of its bytes is {found}, and was {event.sha256}.")
        self.chunks += 1
        while True:
            try:
                self._commit(logged, file, table, data, left_out)
                break
            except PartitionMissingError as missing:
                year = year_of_value(table, self._parts.calendar, missing.value)
                add_partition(self._ledger.engine, table, self._parts.calendar, year)
        self.position = logged.position
        self.changed.add(story.position)
        if self._loaded is not None:
            self._loaded.add(story.position)
        failpoint("rebuild_chunk_committed")
        return True

    def _commit(self, logged: LoggedEvent, file: LoadedFile, table: DataTable, data: bytes, left_out: set[str]) -> None:
        event: Any = logged.event
        content = checked_content(file, table.contract, file.plan.chunks[event.chunk], data)
        with self._ledger.transaction() as session:
            self._advance(session, logged.position)
            create(session, table)  # the contract may have got columns since the build began
            take_out_what_the_ledger_refused(session, file, content)
            found = loaded_chunk(file, content, data, copy_content(session, file, table, content))
            different = differences(event, found)
            if different:
                names = ", ".join(name for name, _, _ in different)
                raise _stopped(logged, f"It comes to something else now: {names}.")
            for label in left_out:
                self._leave_out(session, file, table.partition_name(label), event)
            failpoint("rebuild_chunk_loaded")

    def _leave_out(self, session: Session, file: LoadedFile, partition: str, event: FileJob.ChunkLoaded) -> None:
        """Take the rows of a chunk out of the partition of a year that is in cold storage."""
        cursor: Any = session.connection().connection.cursor()
        cursor.execute(
            sql.SQL("DELETE FROM {} WHERE _job = %s AND _record >= %s AND _record < %s").format(
                sql.Identifier(REBUILDING, partition)
            ),
            (file.job_position, event.first_record, event.first_record + event.records),
        )

    def _withdraw(self, logged: LoggedEvent, story: Story) -> bool:
        if not is_withdrawal(logged.event):
            return False
        self.changed.add(story.position)  # also if nothing was loaded here: in the live table it was
        if self._loaded is not None and story.position not in self._loaded:
            return False
        with self._ledger.transaction() as session:
            self._advance(session, logged.position)
            withdraw(session, self._dataset, story.position, REBUILDING)
        self.position = logged.position
        if self._loaded is not None:
            self._loaded.discard(story.position)
        return True

    def _nothing(self, logged: LoggedEvent, story: Story) -> bool:
        if isinstance(logged.event, FileJob.Completed) and self._loaded is not None:
            self._loaded.discard(story.position)  # its rows stay
        return False

    def _advance(self, session: Session, position: int) -> None:
        moved: Any = session.execute(
            text(
                "UPDATE views.builds SET position = :position, events = :events, chunks = :chunks"
                " WHERE dataset = :dataset AND operation_id = :operation_id AND position = :before"
            ),
            {
                "position": position,
                "events": self.events,
                "chunks": self.chunks,
                "dataset": self._dataset,
                "operation_id": self._order.id,
                "before": self.position,
            },
        )
        if moved.rowcount != 1:
            raise TakenOverError(
                f"The view 'data.{self._dataset}' is being rebuilt by somebody else.", "Wait until that is done."
            )

    def _story(self, event: FileJob.Event) -> Story:
        story = self._stories.get(event.originator_id)
        if story is None or story.version < event.originator_version:
            story = read_story(self._ledger, event.originator_id)
            _keep(self._stories, event.originator_id, story, STORIES_KEPT)
        return story

    def _contract(self, version: int) -> Contract:
        """A version of the dataset's contract; 0 is the one in force."""
        if not self._contracts or version > len(self._contracts) or version == 0:
            dataset = self._ledger.dataset(self._dataset)
            assert dataset is not None, "a dataset that was built once is there for ever"
            self._contracts = dataset.contracts
        return self._contracts[version - 1]


# EVENT -> what it does to the table. What is not here stops the build.
RULES: dict[type[FileJob.Event], Callable[[TableBuild, LoggedEvent, Story], bool]] = {
    FileJob.Received: TableBuild._nothing,
    FileJob.Queued: TableBuild._nothing,
    FileJob.ChunkLoaded: TableBuild._load,
    FileJob.Completed: TableBuild._nothing,
    FileJob.Failed: TableBuild._withdraw,
    FileJob.Retried: TableBuild._nothing,
    FileJob.Cancelled: TableBuild._withdraw,
    FileJob.NameErased: TableBuild._nothing,
    FileJob.Archived: TableBuild._nothing,  # what is here is told by the year: it may be reopened
    FileJob.Restored: TableBuild._nothing,
}


def drop_build(session: Session, dataset: str) -> None:
    """Forget what was built of a table, with the transaction."""
    cursor: Any = session.connection().connection.cursor()
    cursor.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(REBUILDING, dataset)))
    forget_build(session, dataset)


def forget_build(session: Session, dataset: str) -> None:
    """Forget how far a build has come, with the transaction."""
    session.execute(text("DELETE FROM views.builds WHERE dataset = :dataset"), {"dataset": dataset})


@contextmanager
def _stopping_at(logged: LoggedEvent) -> Iterator[None]:
    """Say at which event the build stops, if its file cannot be read."""
    try:
        yield
    except BlobCutError as error:  # the store answers: what it has is no file that a rebuild could wait for
        raise _stopped(logged, error.message) from error
    except PartUnavailableError:
        raise
    except LedgerError as error:
        raise _stopped(logged, error.message) from error


def _stopped(logged: LoggedEvent, why: str) -> RebuildStoppedError:
    event: Any = logged.event
    chunk = f", chunk {event.chunk}" if isinstance(event, FileJob.ChunkLoaded) else ""
    return RebuildStoppedError(
        f"The event at position {logged.position} of the log ({logged.topic}{chunk}, job {event.originator_id}) cannot "
        f"be replayed. {why}",
        f"Nothing was switched. `ledger replay {event.originator_id}` tells all that differs.",
    )


def _keep(kept: OrderedDict[UUID, Any], key: UUID, value: Any, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)
