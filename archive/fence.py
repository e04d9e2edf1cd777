"""The fence: how the rows of a fiscal year come to a rest, and how they go.

Rules:
1. A year is closed for all datasets at once, also those that have no rows of it: they get an empty partition. Triggers
   refuse every change from then on, whoever makes it and by whatever way. Those who own the database can take them
   away; what they change then is found by the fingerprint.
2. A fingerprint is the number of rows and the sum of a 64-bit hash of the text of each. It is worked out under the lock
   that makes the fence, and again under the one that drops the rows, so that between two equal ones nothing is lost:
   not by a pair of changes that leaves every total alone, nor by 1.1 for 1.10. It is no proof to others: that is the
   SHA-256 of the text.
3. While rows are counted readers are let in. Only for the drop itself they are held up, and each time for less than
   PostgreSQL takes to look for deadlocks, which it would end at the cost of a reader. Whoever reads for longer than the
   time that is given goes on, and nothing is dropped.
4. What was dropped leaves an empty partition with the same fence, so that late rows are told why they are refused.
5. Everything happens in the caller's transaction, with the event that tells of it, or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from psycopg2 import errors, sql
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from archive.copying import pin
from archive.partitions import (
    SCHEMA,
    Partition,
    TableColumn,
    bounds_of,
    column_list,
    cursor_of,
    name_of,
    partitions_of,
    tables_of_datasets,
)
from ledger.database import lock, lock_shared, rows
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.errors import ConflictError, PartUnavailableError

YEAR_CLOSED = "LG001"
FENCE = ("fiscal_year_fence_of_rows", "fiscal_year_fence_of_all")
CLOSED, ARCHIVED = "is closed", "is archived, and no longer here"
HELD_UP_SHARE = 0.25  # of the time after which PostgreSQL looks for deadlocks
ALGORITHM = "count(*), sum(hashtextextended(row::text, 0))"


@dataclass(frozen=True)
class Fingerprint:
    """The number of rows, and the sum of their hashes."""

    rows: int
    digest: int


@dataclass(frozen=True)
class ClosedPartition:
    """A partition as it was when its year was closed."""

    partition: Partition
    fingerprint: Fingerprint


class ContentChangedError(ConflictError):
    """Rows of a closed year are not what they were when it was closed."""

    code = "closed_year_changed"


class TableInUseError(PartUnavailableError):
    """Somebody uses a table for longer than is waited for him."""

    code = "table_in_use"


def close(session: Session, calendar: FiscalCalendar, year: Year, *, wait_seconds: float) -> list[ClosedPartition]:
    """Let no row of a year change any more, and say what there is. Closing again what is closed is harmless.

    Args:
        wait_seconds: how long those are waited for who change rows now.

    Raises:
        BoundsError: see `partitions.partitions_of`.
        TableInUseError: they took longer.
    """
    _check_isolation(session)
    with waiting(session, wait_seconds):
        tables = tables_of_datasets(session)
        for dataset, _ in tables:
            lock_shared(session, f"table {dataset}")  # nobody exchanges it meanwhile
        known = {partition.dataset for partition in partitions_of(session, calendar, year)}
        for dataset, kind in tables:
            if dataset not in known:
                _add_empty(session, dataset, year, bounds_of(calendar, year, kind))
        closed = []
        for partition in partitions_of(session, calendar, year):
            _execute(session, "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", partition.table)
            put_fence(session, partition.table, year, CLOSED)
            found = fingerprint(session, partition.table, partition.columns)
            closed.append(ClosedPartition(partition, found))
    return closed


def reopen(session: Session, calendar: FiscalCalendar, year: Year, *, wait_seconds: float) -> None:
    """Let rows of a closed year change again. Raises TableInUseError: somebody used one of its tables for longer.

    The triggers are switched off and stay, for to drop them readers would have to be held up.
    """
    with waiting(session, wait_seconds):
        for partition in partitions_of(session, calendar, year):
            for name in _fences_of(session, partition):
                _execute(session, "ALTER TABLE {} DISABLE TRIGGER {}", partition.table, sql.Identifier(name))


def drop(session: Session, year: Year, closed: Sequence[ClosedPartition], *, wait_seconds: float) -> None:
    """Take the rows of a closed year away, if they are what they were when it was closed.

    Args:
        wait_seconds: how long readers are waited for, and those who come meanwhile are held up.

    Raises:
        ContentChangedError: they are not; it names the tables.
        ConflictError: something else was made of a table, and would go with it.
        TableInUseError: a reader took longer. As after every error, nothing was changed once it is rolled back.
    """
    _check_isolation(session)
    with waiting(session, wait_seconds):
        # Readers lock a table first and its partitions after that. Who counted under a lock that keeps them from a
        # partition, and then asked for the table, would stop them for good: this lock only keeps out who writes.
        for each in closed:
            lock_shared(session, f"table {each.partition.dataset}")
            _hold(session, each.partition)
        changed = [problem for each in closed for problem in _changes(session, each)]
        if changed:
            raise ContentChangedError(
                f"Rows of {year.label} were changed since it was closed: {'; '.join(changed)}.",
                "Nothing was dropped. Find out who did it: the archive holds the rows as they were when it was closed,"
                " and `ledger rebuild TABLE --check` tells which of them differ from the log.",
            )
        tables = [table for each in closed for table in (each.partition.parent, each.partition.table)]
        hold_alone(session, tables, wait_seconds)
        for each in closed:
            _replace_by_tombstone(session, each.partition, year)


def fingerprint(session: Session, table: sql.Composable, columns: tuple[TableColumn, ...]) -> Fingerprint:
    """The fingerprint of the rows that the statement sees."""
    cursor = cursor_of(session)
    pin(cursor)
    cursor.execute(
        sql.SQL(
            'SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text COLLATE "C", 0)), 0)::text FROM {}'
        ).format(column_list(columns), table)
    )
    rows, digest = cursor.fetchone()
    return Fingerprint(int(rows), int(digest))


def put_fence(session: Session, table: sql.Composable, year: Year, what: str) -> None:
    """Have every change of a table refused, by whoever it is made. `what` says what has become of the year."""
    for name, event in zip(FENCE, ("INSERT OR UPDATE OR DELETE", "TRUNCATE"), strict=True):
        _execute(
            session,
            f"CREATE OR REPLACE TRIGGER {{}} BEFORE {event} ON {{}} FOR EACH "
            f"{'STATEMENT' if event == 'TRUNCATE' else 'ROW'} EXECUTE FUNCTION archive.refuse_change({{}}, {{}})",
            sql.Identifier(name), table, sql.Literal(year.label), sql.Literal(what),
        )  # fmt: skip
        _execute(session, "ALTER TABLE {} ENABLE ALWAYS TRIGGER {}", table, sql.Identifier(name))


@contextmanager
def waiting(session: Session, seconds_max: float) -> Iterator[None]:
    """Wait no longer than so many seconds for each lock. Raises what `drop` does, but for changed rows."""
    milliseconds = max(1, int(seconds_max * 1000))  # 0 would be no limit
    before = session.execute(text("SELECT current_setting('lock_timeout')")).scalar_one()
    _set_lock_timeout(session, f"{milliseconds}ms")
    try:
        yield
    except (DBAPIError, errors.LockNotAvailable, errors.DeadlockDetected) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, errors.LockNotAvailable | errors.DeadlockDetected):
            raise
        raise TableInUseError(
            f"Somebody uses a table of the year for longer than {seconds_max:g} s.",
            "Nothing was changed. It is tried again; end long queries, or do it when fewer people work.",
        ) from error
    except errors.DependentObjectsStillExist as error:
        raise ConflictError(
            f"Something else hangs on a table of the year: {error.diag.message_detail or error}.",
            "Nothing was changed. Drop it, or have it look at the dataset's table instead, and try again.",
        ) from error
    except errors.ForeignKeyViolation as error:
        raise ConflictError(
            f"Rows elsewhere refer to rows of the year: {error.diag.message_primary}.",
            f"Nothing was changed. Drop the foreign key of {error.diag.schema_name}.{error.diag.table_name} to the"
            " dataset's table, and try again.",
        ) from error
    except (errors.ObjectNotInPrerequisiteState, errors.UndefinedTable) as error:
        raise ConflictError(
            f"A table of the year is not a partition as it was: {error.diag.message_primary}."
            f" {error.diag.message_detail or ''}".rstrip(),
            "Nothing was changed. Finish a detach that was interrupted (`ALTER TABLE ... DETACH PARTITION ..."
            " FINALIZE`) and attach the table again with the bounds that it had, then try again.",
        ) from error
    _set_lock_timeout(session, before)


def hold_alone(session: Session, tables: Sequence[sql.Composable], seconds_max: float) -> None:
    """Have all tables alone, or none: who reads two of them may hold one that is waited for, and wait for another."""
    cursor = cursor_of(session)
    cursor.execute("SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'")
    attempt_seconds = cursor.fetchone()[0] / 1000 * HELD_UP_SHARE
    deadline = time.monotonic() + seconds_max
    while True:
        until = min(time.monotonic() + attempt_seconds, deadline)
        cursor.execute("SAVEPOINT readers_held_up")
        try:
            for table in tables:
                _set_lock_timeout(session, f"{max(1, int((until - time.monotonic()) * 1000))}ms")
                _execute(session, "LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", table)
            return
        except errors.LockNotAvailable:
            if time.monotonic() >= deadline:
                raise
            cursor.execute("ROLLBACK TO SAVEPOINT readers_held_up")
        time.sleep(attempt_seconds / 2)  # those who were held up go first


def _set_lock_timeout(session: Session, value: str) -> None:
    session.execute(text("SELECT set_config('lock_timeout', :value, true)"), {"value": value})


def _check_isolation(session: Session) -> None:
    """A transaction that sees what there was before its locks would not see what they waited for."""
    level = session.execute(text("SELECT current_setting('transaction_isolation')")).scalar_one()
    assert level == "read committed", level


def _hold(session: Session, partition: Partition) -> None:
    try:
        _execute(session, "LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", partition.table)
    except errors.UndefinedTable:
        raise ContentChangedError(
            f"The table {SCHEMA}.{partition.name} of a closed year is gone.",
            "Nothing was dropped. The archive holds its rows: find out who dropped it.",
        ) from None


def _changes(session: Session, closed: ClosedPartition) -> Iterator[str]:
    """What is not as it was, for people; nothing if all is."""
    partition, before = closed.partition, closed.fingerprint
    cursor = cursor_of(session)
    cursor.execute(
        "SELECT attname, attname = ANY(%s) FROM pg_attribute"
        " WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        ([column.name for column in partition.columns], f'{SCHEMA}."{partition.name}"'),
    )
    there = cursor.fetchall()
    if sum(is_known for _, is_known in there) < len(partition.columns):
        yield f"{SCHEMA}.{partition.name} lacks columns that it had"
        return
    found = fingerprint(session, partition.table, partition.columns)
    if found.rows != before.rows:
        yield f"{SCHEMA}.{partition.name} has {found.rows:,} rows, and had {before.rows:,}"
    elif found != before:
        yield f"{SCHEMA}.{partition.name} has as many rows as it had, and not the same ones"
    for added in (name for name, is_known in there if not is_known):
        cursor.execute(
            sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {} IS NOT NULL)").format(
                partition.table, sql.Identifier(added)
            )
        )
        if cursor.fetchone()[0]:
            yield f"{SCHEMA}.{partition.name} has values in a column {added!r} that it had not"


def _replace_by_tombstone(session: Session, partition: Partition, year: Year) -> None:
    keys = _keys_of(session, partition.dataset, partition.name)
    _execute(session, "ALTER TABLE {} DETACH PARTITION {}", partition.parent, partition.table)
    _execute(session, "DROP TABLE {}", partition.table)
    _attach_empty(session, partition.parent, partition.table, sql.SQL(partition.bounds), keys)
    put_fence(session, partition.table, year, ARCHIVED)


def _add_empty(session: Session, dataset: str, year: Year, bounds: tuple[object, object]) -> None:
    """Give a dataset the partition of a year, of which it has no rows, unless somebody has just done it."""
    name = name_of(dataset, year)
    lock(session, f"partition {SCHEMA}.{name}")  # as those do who load rows
    found = session.execute(text("SELECT to_regclass(:name)"), {"name": f'{SCHEMA}."{name}"'}).scalar()
    if found is None:
        start, end = (sql.Literal(bound) for bound in bounds)
        between = sql.SQL("FOR VALUES FROM ({}) TO ({})").format(start, end)
        keys = _keys_of(session, dataset)
        _attach_empty(session, sql.Identifier(SCHEMA, dataset), sql.Identifier(SCHEMA, name), between, keys)


def _attach_empty(
    session: Session, parent: sql.Composable, name: sql.Composable, bounds: sql.Composable, keys: Sequence[list[str]]
) -> None:
    """Make an empty partition, in which as in others no two rows have the same key, should it take rows again."""
    _execute(session, "CREATE TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING CONSTRAINTS)", name, parent)
    _execute(session, "ALTER TABLE {} ATTACH PARTITION {} {}", parent, name, bounds)
    for key in keys:
        columns = sql.SQL(", ").join(map(sql.Identifier, key))
        _execute(session, "CREATE UNIQUE INDEX ON {} ({})", name, columns)


def _keys_of(session: Session, dataset: str, partition: str | None = None) -> list[list[str]]:
    """The columns of each unique index of a partition, or of the dataset's newest one."""
    found = rows(
        session,
        "SELECT (SELECT array_agg(attname::text ORDER BY place) FROM unnest(indkey::int2[]) WITH ORDINALITY"
        " AS of_key (attnum, place) JOIN pg_attribute USING (attnum) WHERE attrelid = indrelid) AS columns"
        " FROM pg_index WHERE indisunique AND indrelid ="
        " (SELECT inhrelid FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = to_regclass(:parent)"
        " AND (CAST(:partition AS text) IS NULL OR relname = :partition) ORDER BY inhrelid DESC LIMIT 1)",
        parent=f'{SCHEMA}."{dataset}"',
        partition=partition,
    )
    return [list(row.columns) for row in found]


def _fences_of(session: Session, partition: Partition) -> list[str]:
    """Those triggers of the fence that are there: who makes a table again that was dropped by hand makes none."""
    found = rows(
        session,
        "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(:name) AND tgname = ANY(:fence)",
        name=f'{SCHEMA}."{partition.name}"',
        fence=list(FENCE),
    )
    return [str(row.tgname) for row in found]


def _execute(session: Session, statement: str, *parts: sql.Composable) -> None:
    cursor_of(session).execute(sql.SQL(statement).format(*parts))
