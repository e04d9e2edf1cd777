"""The rows of a dataset as a view: the live table can be built anew from the log and the files, compared and switched.

Rules:
1. The table is built beside the live one (`projections.table_build`) while files come in and readers read. Nobody waits
   for that.
2. Both are compared twice: as a whole while loads go on, then, with loads held up, only the jobs that have changed rows
   since. Loads wait for the last chunks, that comparison and the switch; readers for the switch alone.
3. The switch (`projections.table_exchange`) is one transaction with the end of the operation in the log. Where readers
   or loads do not let go of the table in time it is undone as a whole and tried again.
4. One generation is kept for a roll-back, which is refused when rows have changed since: the old one lacks that.
5. A rebuild that cannot go on, whatever the reason, keeps what it has built only if it is tried again by itself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import is_unavailable, snapshot
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.errors import ConflictError, PartUnavailableError
from ledger.event_store import EVENTS_TABLE
from ledger.failpoints import failpoint
from projections.data_tables import LIVE, DataTable, exists, hold_table
from projections.replaying import is_withdrawal
from projections.table_build import BATCH_EVENTS, REBUILDING, TableBuild, TakenOverError, drop_build, forget_build
from projections.table_comparison import TableComparison
from projections.table_exchange import (
    DISCARDED,
    SUPERSEDED,
    Kept,
    Partition,
    TableInUseError,
    check_bounds,
    check_dependents,
    check_shape,
    check_there,
    copy_indexes,
    drop_discarded,
    exchange,
    keep,
    kept,
    move_all,
    partitions,
    set_free,
    table_in_use_as_error,
)
from projections.views import Order, Parts, Standing, alone

DATA = "data."
# How long loads that are under way are waited for, and those that come meanwhile wait.
LOADS_MILLISECONDS_MAX = 5_000
# How long readers are waited for: longer each time, up to more than it takes PostgreSQL to end a vacuum for somebody.
READERS_MILLISECONDS, READERS_MILLISECONDS_MAX = 300, 2_000
# Who holds the table and falls silent, because it was paused or cut off, is cut off by PostgreSQL.
SILENT_MILLISECONDS_MAX = 30_000
SWITCH_ATTEMPTS_MAX = 30
PAUSE_SECONDS_MAX = 5.0
REOPENED_SINCE = (
    f"SELECT FROM {EVENTS_TABLE} WHERE topic = 'fiscal_year.reopened' AND id >"
    f" (SELECT min(id) FROM {EVENTS_TABLE} WHERE originator_id = :operation_id) LIMIT 1"
)


class DataView:
    """The rows of one dataset."""

    def __init__(self, parts: Parts, dataset: str) -> None:
        self._parts = parts
        self._ledger = parts.ledger
        self._dataset = dataset
        self._view = DATA + dataset

    def rebuild(self, order: Order) -> dict[str, Any]:
        """Build the table anew, compare, and switch.

        Raises:
            ViewBusyError: it is being rebuilt already.
            ConflictError: its shape is not that of its contract, or others refer to parts of it.
            RebuildStoppedError: an event cannot be replayed.
            TableInUseError: readers or loads did not let go of it.
        """
        with alone(self._ledger, self._view):
            return self._build(order, switch=True)

    def check(self, order: Order) -> dict[str, Any]:
        """Build the table anew, compare, and drop what was built. Raises as `rebuild` does."""
        with alone(self._ledger, self._view):
            return self._build(order, switch=False)

    def roll_back(self, order: Order) -> dict[str, Any]:
        """Switch back to the partitions that were live before the last switch.

        Raises:
            ConflictError: nothing is kept of them, rows have changed since, or others refer to them.
            TableInUseError: readers or loads did not let go of the table.
        """
        with alone(self._ledger, self._view):
            with self._ledger.transaction() as session:
                drop_build(session, self._dataset)
                superseded = self._superseded(session)
                check_dependents(session, self._dataset)
                check_bounds(session, SUPERSEDED, superseded)
                position = kept(session, self._dataset).switched_at_position
            position = self._unchanged_from(position)
            return self._repeatedly(lambda session, wait: self._switch_back(session, order, superseded, position, wait))

    def standing(self) -> Standing:
        """Rows change in the transaction of their event, so a table that is there is never behind the log."""
        with self._ledger.transaction() as session:
            there = exists(session, LIVE, self._dataset)
            generation = kept(session, self._dataset).generation
        return Standing(self._view, self._ledger.position() if there else None, generation if there else None)

    def _table(self) -> DataTable:
        dataset = self._ledger.dataset(self._dataset)
        assert dataset is not None, "a view that does not exist is refused before"
        return DataTable(self._dataset, dataset.contract)

    def _build(self, order: Order, *, switch: bool) -> dict[str, Any]:
        with self._ledger.transaction() as session:
            check_shape(session, self._table())
            if switch:
                check_dependents(session, self._dataset)
        build = TableBuild(self._parts, self._dataset, order)
        try:
            build.begin()
            build.catch_up()
            build.settle()
            comparison = TableComparison()
            with snapshot(self._ledger.engine) as session:
                build.changed.clear()
                comparison.compare(session, self._table(), build.table)
                comparison.result(session)  # to look for the records that differ takes long: now, and not with the lock
            failpoint("rebuild_compared")
            build.catch_up()
            if switch:
                with self._ledger.transaction() as session:
                    copy_indexes(session, self._dataset, REBUILDING)
                    check_bounds(session, REBUILDING, partitions(session, REBUILDING, self._dataset))
            return self._repeatedly(
                lambda session, wait: self._end(session, order, build, comparison, wait if switch else None)
            )
        except Exception as error:
            if isinstance(error, PartUnavailableError | TakenOverError) or is_unavailable(error):
                raise  # another attempt goes on with it, this operation's or another's
            with self._ledger.transaction() as session:
                drop_build(session, self._dataset)
            raise

    def _end(
        self,
        session: Session,
        order: Order,
        build: TableBuild,
        comparison: TableComparison,
        wait_milliseconds: int | None,
    ) -> dict[str, Any]:
        """Load and compare the last chunks while nothing changes, and switch, unless there is no time to wait."""
        _hold(session, self._dataset)
        build.catch_up(lambda: session.execute(text("SELECT 1")))  # it is not silent as long as it works
        self._check_no_year_came_back(session, order)
        comparison.compare(session, self._table(), build.table, build.changed)
        found = comparison.result(session)
        state = kept(session, self._dataset)
        result = {
            "view": self._view,
            "switched": wait_milliseconds is not None,
            "generation": state.generation,
            "position": build.position,
            "events": build.events,
            "chunks": build.chunks,
            "rows": comparison.rows,
            **found.to_dict(),
        }
        if wait_milliseconds is None:
            drop_build(session, self._dataset)
        else:
            state = self._switch(session, build, state, wait_milliseconds)
            result["generation"] = state.generation
        order.finish(session, result)
        return result

    def _check_no_year_came_back(self, session: Session, order: Order) -> None:
        """A build leaves out the years that are in cold storage when it comes to their rows."""
        if session.execute(text(REOPENED_SINCE), {"operation_id": order.id}).first() is not None:
            raise ConflictError(
                f"A fiscal year was reopened while {self._view} was built, which may lack its rows.",
                "Nothing was switched. Ask for it again.",
            )

    def _switch(self, session: Session, build: TableBuild, state: Kept, wait_milliseconds: int) -> Kept:
        session.execute(text(f"SET LOCAL lock_timeout = {wait_milliseconds}"))
        drop_discarded(session, self._dataset)
        if state.superseded is not None:
            there = [each for each in state.superseded if exists(session, SUPERSEDED, each.name)]  # not dropped by hand
            move_all(session, there, SUPERSEDED, DISCARDED)
        incoming = set_free(session, REBUILDING, self._dataset)
        outgoing = exchange(session, self._table(), incoming, REBUILDING, wait_milliseconds=wait_milliseconds)
        forget_build(session, self._dataset)
        generation = max(state.generation, state.superseded_generation or 0) + 1
        new = Kept(generation, build.position, state.generation, outgoing)
        keep(session, self._dataset, new)
        failpoint("rebuild_exchanged")
        return new

    def _switch_back(
        self, session: Session, order: Order, superseded: list[Partition], position: int, wait_milliseconds: int
    ) -> dict[str, Any]:
        _hold(session, self._dataset)
        position = self._unchanged_from(position)
        state = kept(session, self._dataset)
        assert state.superseded_generation is not None, "what is kept has a generation"
        session.execute(text(f"SET LOCAL lock_timeout = {wait_milliseconds}"))
        move_all(session, superseded, SUPERSEDED, REBUILDING)
        outgoing = exchange(session, self._table(), superseded, REBUILDING, wait_milliseconds=wait_milliseconds)
        keep(session, self._dataset, Kept(state.superseded_generation, position, state.generation, outgoing))
        result = {
            "view": self._view,
            "switched": True,
            "generation": state.superseded_generation,
            "position": position,
        }
        order.finish(session, result)
        return result

    def _superseded(self, session: Session) -> list[Partition]:
        superseded = kept(session, self._dataset).superseded
        if superseded is None:
            raise ConflictError(
                f"Nothing is kept of {self._view} from before a switch.", "Only the last rebuild can be rolled back."
            )
        check_there(session, self._dataset, superseded)
        return superseded

    def _unchanged_from(self, position: int) -> int:
        """The end of the log, if no event after a position has changed rows of the dataset."""
        while events := self._ledger.events_after(position, BATCH_EVENTS):
            for logged in events:
                event: Any = logged.event
                if self._changes_rows(event):
                    raise ConflictError(
                        f"Rows of {self._view} have changed since the switch, at position {logged.position} of the "
                        "log, and what was live before lacks that.",
                        "If something is wrong with the view, build it anew.",
                    )
            position = events[-1].position
        return position

    def _changes_rows(self, event: Any) -> bool:
        """Whether an event has changed rows of the dataset, or those of a year of all datasets."""
        if isinstance(event, FiscalYear.Dropped | FiscalYear.Reopened):
            return True
        changes = isinstance(event, FileJob.ChunkLoaded) or (is_withdrawal(event) and event.rows_withdrawn)
        return bool(changes) and self._ledger.dataset_of_job(event.originator_id) == self._dataset

    def _repeatedly(self, attempt: Callable[[Session, int], dict[str, Any]]) -> dict[str, Any]:
        """Try a switch until nobody stands in its way, in a transaction each time."""
        for number in range(1, SWITCH_ATTEMPTS_MAX + 1):
            try:
                with self._ledger.transaction() as session, table_in_use_as_error():
                    wait = min(READERS_MILLISECONDS * number, READERS_MILLISECONDS_MAX)
                    result = attempt(session, wait)
                break
            except TableInUseError:
                if number == SWITCH_ATTEMPTS_MAX:
                    raise
                time.sleep(random.uniform(0.1, 1.0) * min(PAUSE_SECONDS_MAX, number / 2))  # noqa: S311 - no secret
        with self._ledger.transaction() as session:
            drop_discarded(session, self._dataset)
        return result


def _hold(session: Session, dataset: str) -> None:
    session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {SILENT_MILLISECONDS_MAX}"))
    session.execute(text(f"SET LOCAL lock_timeout = {LOADS_MILLISECONDS_MAX}"))
    hold_table(session, dataset)
