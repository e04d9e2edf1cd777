"""Exchanging the partitions of a dataset's live table for others, in one transaction.

Rules:
1. The table itself stays: what others have made of it, views and grants, goes on to hold. Its partitions move, with
   their indexes: those that go to schema `superseded`, those that come to schema `data`. Indexes that others have made
   are made on these as well (`copy_indexes`); what would be lost, or break, is told before (`check_dependents`).
2. Readers are held up for as long as the exchange takes, which does not depend on the number of rows: what a partition
   may hold is checked before, by a constraint of its own. A reader is waited for only briefly; if he takes longer, the
   transaction ends without an exchange, and somebody tries again.
3. Whoever exchanges holds the table alone (`hold_table`), so that no row changes meanwhile.
4. One generation is kept. The one before it moves to schema `discarded` and is dropped when the exchange is committed.
5. What guards a partition stays: its triggers are made again on the one that takes its place, in force or not. One that
   is guarded and that nothing takes the place of stays itself. A partition of a fiscal year that is closed is fenced
   even if the table that it comes into has no such guard any more, because somebody has dropped it.
6. Rows of a fiscal year that is in cold storage, and no longer here, do not come back by an exchange.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger.domain.fiscal_calendar import Year
from ledger.errors import ConflictError, PartUnavailableError
from ledger.fiscal_years import closed_to, dropped_years
from ledger.year_fence import ARCHIVED, CLOSED, put_fence
from projections.data_tables import LIVE, DataTable, create, exists

SUPERSEDED, DISCARDED = "superseded", "discarded"
BOUNDS_CHECK = "rows_are_within_bounds"
SHAPE = (
    "SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull FROM pg_attribute"
    " WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
)
# Views of the live table's partitions, or of what is kept of those before, and foreign keys to these or to the table.
DEPENDENTS = """
WITH own AS (
    SELECT inhrelid AS id FROM pg_inherits WHERE inhparent = to_regclass(:table)
    UNION SELECT oid FROM pg_class JOIN (
        SELECT jsonb_array_elements(superseded) ->> 'name' AS name FROM views.data_tables WHERE dataset = :dataset
    ) AS kept ON relname = name AND relnamespace = 'superseded'::regnamespace
)
SELECT DISTINCT 'the view ' || ev_class::regclass AS what, own.id::regclass::text AS refers_to
    FROM own JOIN pg_depend ON refobjid = own.id AND refclassid = 'pg_class'::regclass
    JOIN pg_rewrite r ON classid = 'pg_rewrite'::regclass AND objid = r.oid
UNION SELECT format('the foreign key %I of %s', conname, conrelid::regclass), confrelid::regclass::text
    FROM pg_constraint
    WHERE contype = 'f' AND conparentid = 0 AND (confrelid IN (SELECT id FROM own) OR confrelid = to_regclass(:table))
ORDER BY 1, 2
"""
INDEXES = """
SELECT indexrelid::regclass::text AS name, CASE WHEN indisunique THEN 'unique' ELSE 'any' END
    || substring(pg_get_indexdef(indexrelid) FROM ' USING .*') AS kind
FROM pg_index WHERE indrelid = to_regclass(:name) ORDER BY 1
"""
# When a trigger fires that does so otherwise than it is made, as `pg_trigger.tgenabled` says it.
ENABLED = {"A": "ENABLE ALWAYS", "D": "DISABLE", "R": "ENABLE REPLICA"}
TYPE_NAMES = {"timestamp with time zone": "timestamptz", "timestamp without time zone": "timestamp"}


class TableInUseError(PartUnavailableError):
    """Somebody reads a table for longer than an exchange waits."""

    code = "table_in_use"


@dataclass(frozen=True)
class Partition:
    """A partition: its name, which values it is for, and the same as a condition, both as PostgreSQL says them."""

    name: str
    bounds: str
    condition: str


@dataclass(frozen=True)
class Kept:
    """What is known of a table that was switched: `superseded` is None if nothing is kept of the generation before."""

    generation: int
    switched_at_position: int
    superseded_generation: int | None
    superseded: list[Partition] | None


def kept(session: Session, dataset: str) -> Kept:
    """What is kept of a dataset's table."""
    found = session.execute(
        text("SELECT * FROM views.data_tables WHERE dataset = :dataset"), {"dataset": dataset}
    ).first()
    if found is None:
        return Kept(1, 0, None, None)
    superseded = None if found.superseded is None else [Partition(**partition) for partition in found.superseded]
    return Kept(found.generation, found.switched_at_position, found.superseded_generation, superseded)


def partitions(session: Session, schema: str, dataset: str) -> list[Partition]:
    """The partitions of a table."""
    session.execute(text("SET LOCAL TimeZone = 'UTC'"))
    found = session.execute(
        text(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds, pg_get_partition_constraintdef(c.oid)"
            " AS condition FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = to_regclass(:name) ORDER BY 1"
        ),
        {"name": f'{schema}."{dataset}"'},
    )
    return [Partition(row.relname, row.bounds, row.condition) for row in found]


def check_bounds(session: Session, schema: str, names: Sequence[Partition]) -> None:
    """Have PostgreSQL see to it that partitions which nobody reads hold what they are for, and nothing else."""
    for partition in names:
        table = sql.Identifier(schema, partition.name)
        _execute(session, "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", table, sql.Identifier(BOUNDS_CHECK))
        condition = sql.SQL(partition.condition)
        _execute(session, "ALTER TABLE {} ADD CONSTRAINT {} CHECK ({})", table, sql.Identifier(BOUNDS_CHECK), condition)


def check_shape(session: Session, table: DataTable) -> None:
    """Raise ConflictError if columns of the live table are not its contract's: new partitions could not join it."""
    if not exists(session, LIVE, table.dataset):
        return
    wanted = {column.name: (column.type.value, not column.nullable) for column in table.contract.columns}
    there = {
        row.attname: (TYPE_NAMES.get(row.type, row.type), row.attnotnull)
        for row in session.execute(text(SHAPE), {"name": f'{LIVE}."{table.dataset}"'})
        if row.attname not in ("_job", "_record", "_received")
    }
    wrong = sorted(name for name, shape in there.items() if wanted.get(name) != shape)
    if wrong:
        raise ConflictError(
            f"Columns of the table data.{table.dataset} are not as its contract says: {', '.join(map(repr, wrong))}.",
            "Change them back, or drop the table: a rebuild makes it again from the files that were received.",
        )


def check_dependents(session: Session, dataset: str) -> None:
    """Raise ConflictError if others have made views or foreign keys that an exchange would break or be stopped by.

    Views of the table itself go on to hold. Those of a partition would go with it, and keep it from being dropped.
    """
    found = session.execute(text(DEPENDENTS), {"dataset": dataset, "table": f'{LIVE}."{dataset}"'}).all()
    if found:
        several = ", ".join(f"{row.what} on {row.refers_to}" for row in found)
        raise ConflictError(
            f"Partitions of data.{dataset} cannot be exchanged, because others refer to them: {several}.",
            f"Nothing was changed. Drop these, or have the views read data.{dataset} itself; then try again.",
        )


def check_there(session: Session, dataset: str, names: Sequence[Partition]) -> None:
    """Raise ConflictError if partitions that were kept of a dataset's table have been dropped."""
    gone = [f"superseded.{each.name}" for each in names if not exists(session, SUPERSEDED, each.name)]
    if gone:
        raise ConflictError(
            f"What was live of data.{dataset} before the switch is not there any more: somebody has dropped "
            f"{', '.join(gone)}.",
            "Nothing was changed. If something is wrong with the view, build it anew.",
        )


def copy_indexes(session: Session, dataset: str, schema: str) -> None:
    """Make the indexes that others have made on the live table, and on its partitions, on one that nobody reads.

    Raises:
        ConflictError: its rows do not allow one.
    """
    names = [dataset, *(partition.name for partition in partitions(session, schema, dataset))]
    for name in names:
        there = {row.kind for row in session.execute(text(INDEXES), {"name": f'{schema}."{name}"'})}
        for row in session.execute(text(INDEXES), {"name": f'{LIVE}."{name}"'}).all():
            if row.kind in there:
                continue
            unique, _, definition = row.kind.partition(" ")
            kind = sql.SQL("UNIQUE INDEX" if unique == "unique" else "INDEX")
            try:
                _execute(session, "CREATE {} ON {} {}", kind, sql.Identifier(schema, name), sql.SQL(definition))
            except errors.IntegrityError as error:
                raise ConflictError(
                    f"The index {row.name} of data.{name} does not allow the rows that the log tells of.",
                    "Nothing was switched. Drop the index, then try again.",
                ) from error


def exchange(
    session: Session, table: DataTable, incoming: Sequence[Partition], source: str, *, wait_milliseconds: int
) -> list[Partition]:
    """Give the live table other partitions, which belong to no table yet; those it had.

    Args:
        source: the schema in which they stand.
        wait_milliseconds: how long readers are waited for, and those who come meanwhile are held up.

    Raises:
        ConflictError: a table that is no partition has the name of one, rows would come back that are in cold storage,
            or others refer to partitions.
        psycopg2.Error: see `table_in_use_as_error`.
    """
    if exists(session, LIVE, table.dataset):
        _hold_readers_up(session, table, wait_milliseconds)
    check_dependents(session, table.dataset)
    _check_nothing_comes_back(session, table, incoming, source)
    guards = _guards(session, table)
    names = {partition.name for partition in incoming}
    outgoing = [
        each for each in partitions(session, LIVE, table.dataset) if each.name in names or each.name not in guards
    ]
    for partition in outgoing:
        _execute(session, "ALTER TABLE {} DETACH PARTITION {}", table.name, sql.Identifier(LIVE, partition.name))
        _move(session, partition, LIVE, SUPERSEDED)
    create(session, table)
    for partition in incoming:
        _bring_in(session, table, partition, source)
        for guard in guards.get(partition.name, []):
            cursor: Any = session.connection().connection.cursor()
            cursor.execute(guard)
    _put_fences(session, table, names)
    return outgoing


def set_free(session: Session, schema: str, dataset: str) -> list[Partition]:
    """Take the partitions of a table that nobody reads away from it, and drop the table."""
    found = partitions(session, schema, dataset)
    table = sql.Identifier(schema, dataset)
    for partition in found:
        _execute(session, "ALTER TABLE {} DETACH PARTITION {}", table, sql.Identifier(schema, partition.name))
    _execute(session, "DROP TABLE {}", table)
    return found


def move_all(session: Session, names: Sequence[Partition], source: str, target: str) -> None:
    """Move partitions that belong to no table to another schema."""
    for partition in names:
        _move(session, partition, source, target)


def keep(session: Session, dataset: str, state: Kept) -> None:
    """Write down what is kept of a dataset's table."""
    superseded = None if state.superseded is None else json.dumps([asdict(each) for each in state.superseded])
    session.execute(
        text(
            "INSERT INTO views.data_tables VALUES"
            " (:dataset, :generation, :position, :superseded_generation, CAST(:superseded AS jsonb))"
            " ON CONFLICT (dataset) DO UPDATE SET generation = excluded.generation,"
            " switched_at_position = excluded.switched_at_position,"
            " superseded_generation = excluded.superseded_generation, superseded = excluded.superseded"
        ),
        {
            "dataset": dataset,
            "generation": state.generation,
            "position": state.switched_at_position,
            "superseded_generation": state.superseded_generation,
            "superseded": superseded,
        },
    )


def drop_discarded(session: Session, dataset: str) -> None:
    """Drop what an exchange has put aside for that, now or before a crash."""
    found = session.execute(
        text("SELECT relname FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind = 'r'"),
        {"schema": DISCARDED},
    ).scalars()
    for name in found:
        if name.rpartition("__")[0] == dataset:
            _execute(session, "DROP TABLE {}", sql.Identifier(DISCARDED, name))


@contextmanager
def table_in_use_as_error() -> Iterator[None]:
    """Tell as a TableInUseError that a lock was not to be had in time."""
    try:
        yield
    except (DBAPIError, psycopg2.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, errors.LockNotAvailable | errors.QueryCanceled):
            raise
        raise TableInUseError(
            "Somebody uses the table for longer than a switch waits.", "It is tried again. End long queries."
        ) from error


def _hold_readers_up(session: Session, table: DataTable, wait_milliseconds: int) -> None:
    # The limit for one lock is not enough: each partition has its own.
    session.execute(text(f"SET LOCAL statement_timeout = {wait_milliseconds}"))
    _execute(session, "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", table.name)
    session.execute(text("SET LOCAL statement_timeout = 0"))


def _guards(session: Session, table: DataTable) -> dict[str, list[str]]:
    """What makes the triggers of each partition again, by its name."""
    found = session.execute(
        text(
            "SELECT c.relname, c.oid::regclass AS name, quote_ident(tgname) AS trigger, tgenabled AS enabled,"
            " pg_get_triggerdef(t.oid) AS definition FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " JOIN pg_trigger t ON t.tgrelid = c.oid"
            " WHERE i.inhparent = to_regclass(:name) AND NOT tgisinternal AND tgparentid = 0 ORDER BY 1, tgname"
        ),
        {"name": f'{LIVE}."{table.dataset}"'},
    )
    guards: dict[str, list[str]] = {}
    for row in found:
        made = [row.definition.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)]
        if row.enabled in ENABLED:
            made.append(f"ALTER TABLE {row.name} {ENABLED[row.enabled]} TRIGGER {row.trigger}")
        guards.setdefault(row.relname, []).extend(made)
    return guards


def _put_fences(session: Session, table: DataTable, names: set[str]) -> None:
    """Fence those partitions that have rows of a fiscal year which nobody may add to, unless they are fenced."""
    archived = dropped_years(session)
    for year in closed_to(session, may_adjust=True):
        name = table.partition_name(year.label)
        if name in names:
            what = ARCHIVED if year.label in archived else CLOSED
            put_fence(session, sql.Identifier(LIVE, name), Year(year.label, year.start, year.end), what)


def _check_nothing_comes_back(session: Session, table: DataTable, incoming: Sequence[Partition], source: str) -> None:
    dropped = {table.partition_name(label): label for label in dropped_years(session)}
    for partition in incoming:
        if partition.name in dropped and not _is_empty(session, source, partition):
            raise ConflictError(
                f"Rows of fiscal year {dropped[partition.name]} would come back, which are in cold storage now.",
                "Nothing was switched. Build the table anew: what is in cold storage is left out.",
            )


def _is_empty(session: Session, schema: str, partition: Partition) -> bool:
    cursor: Any = session.connection().connection.cursor()
    cursor.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(sql.Identifier(schema, partition.name)))
    return not cursor.fetchone()[0]


def _bring_in(session: Session, table: DataTable, partition: Partition, source: str) -> None:
    if exists(session, LIVE, partition.name):
        raise ConflictError(
            f"The table data.{partition.name} stands in the way: it has a partition's name, and is none.",
            "Find out what it is, and rename it.",
        )
    _move(session, partition, source, LIVE)
    name = sql.Identifier(LIVE, partition.name)
    _add_lacking_columns(session, table, partition)
    _execute(session, "ALTER TABLE {} ATTACH PARTITION {} {}", table.name, name, sql.SQL(partition.bounds))
    _execute(session, "ALTER TABLE {} DROP CONSTRAINT IF EXISTS {}", name, sql.Identifier(BOUNDS_CHECK))


def _add_lacking_columns(session: Session, table: DataTable, partition: Partition) -> None:
    """The contract may have got columns since the partition was put aside; they may be empty."""
    shapes = [
        {row.attname: row.type for row in session.execute(text(SHAPE), {"name": f'{LIVE}."{name}"'})}
        for name in (table.dataset, partition.name)
    ]
    for name, kind in shapes[0].items():
        if name not in shapes[1]:
            column = sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind))
            _execute(session, "ALTER TABLE {} ADD COLUMN {}", sql.Identifier(LIVE, partition.name), column)


def _move(session: Session, partition: Partition, source: str, target: str) -> None:
    _execute(session, "ALTER TABLE {} SET SCHEMA {}", sql.Identifier(source, partition.name), sql.Identifier(target))


def _execute(session: Session, statement: str, *names: sql.Composable) -> None:
    cursor: Any = session.connection().connection.cursor()
    cursor.execute(sql.SQL(statement).format(*names))
