"""Exchanging the partitions of a dataset's live table for others, in one transaction.

Rules:
1. The table itself stays: what others have made of it, views and grants, goes on to hold. Its partitions move, with
   their indexes: those that go to schema `superseded`, those that come to schema `data`.
2. Readers are held up for as long as the exchange takes, which does not depend on the number of rows: what a partition
   may hold is checked before, by a constraint of its own. A reader is waited for only briefly; if he takes longer, the
   transaction ends without an exchange, and somebody tries again.
3. Whoever exchanges holds the table alone (`hold_table`), so that no row changes meanwhile.
4. One generation is kept. The one before it moves to schema `discarded` and is dropped when the exchange is committed.
5. What guards a partition stays: its triggers are made again on the one that takes its place. One that is guarded and
   that nothing takes the place of stays itself, so that a fiscal year which is closed remains so.
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

from ledger.errors import ConflictError, PartUnavailableError
from ledger.fiscal_years import dropped_years
from projections.data_tables import LIVE, DataTable, create, exists

SUPERSEDED, DISCARDED = "superseded", "discarded"
BOUNDS_CHECK = "rows_are_within_bounds"
SHAPE = (
    "SELECT attname, format_type(atttypid, atttypmod) AS type, attnotnull FROM pg_attribute"
    " WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped"
)
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


def exchange(
    session: Session, table: DataTable, incoming: Sequence[Partition], source: str, *, wait_milliseconds: int
) -> list[Partition]:
    """Give the live table other partitions, which belong to no table yet; those it had.

    Args:
        source: the schema in which they stand.
        wait_milliseconds: how long readers are waited for, and those who come meanwhile are held up.

    Raises:
        ConflictError: a table that is no partition has the name of one, or rows would come back that are in cold
            storage.
        psycopg2.Error: see `table_in_use_as_error`.
    """
    if exists(session, LIVE, table.dataset):
        _hold_readers_up(session, table, wait_milliseconds)
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
            "SELECT c.relname, c.oid::regclass AS name, quote_ident(tgname) AS trigger, tgenabled = 'A' AS is_always,"
            " pg_get_triggerdef(t.oid) AS definition FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " JOIN pg_trigger t ON t.tgrelid = c.oid"
            " WHERE i.inhparent = to_regclass(:name) AND NOT tgisinternal AND tgparentid = 0 ORDER BY 1, tgname"
        ),
        {"name": f'{LIVE}."{table.dataset}"'},
    )
    guards: dict[str, list[str]] = {}
    for row in found:
        made = [row.definition.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)]
        if row.is_always:
            made.append(f"ALTER TABLE {row.name} ENABLE ALWAYS TRIGGER {row.trigger}")
        guards.setdefault(row.relname, []).extend(made)
    return guards


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
