"""Preflight: what is in the way of archiving a fiscal year, found before anything is changed.

Everything is told at once, each with what to do about it, so that nobody mends one thing to be stopped by the next. It
is looked for where a year's end is asked for, when the year is closed, and once more before its archive is planned: in
between there may be weeks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from archive.partitions import SCHEMA, BoundsError, Partition, partitions_of
from archive.stores import ColdStore, StoreUnfitError
from archive.types import is_archived
from ledger.database import rows
from ledger.domain.fiscal_calendar import FiscalCalendar, Year
from ledger.errors import ConflictError

# Of the tables' bytes on the disk: what their compressed text takes at most, as a rule about a third.
SPOOLED_SHARE = 0.5
LINEAGE = {"_job": "bigint", "_record": "bigint"}
PENDING = (
    "SELECT parent.relname AS parent, leaf.relname AS leaf FROM pg_inherits JOIN pg_class leaf ON leaf.oid = inhrelid"
    " JOIN pg_class parent ON parent.oid = inhparent"
    " WHERE inhdetachpending AND parent.relnamespace = to_regnamespace(:schema) ORDER BY 2"
)
DEFAULTS = (
    "SELECT parent.relname AS parent, leaf.relname AS leaf FROM pg_partitioned_table"
    " JOIN pg_class leaf ON leaf.oid = partdefid JOIN pg_class parent ON parent.oid = partrelid"
    " WHERE parent.relnamespace = to_regnamespace(:schema) ORDER BY 2"
)
FOREIGN_KEYS = (
    "SELECT DISTINCT conname AS name, conrelid::regclass::text AS referrer, relname AS referred FROM pg_constraint"
    " JOIN pg_class ON pg_class.oid IN (confrelid, conrelid)"
    " WHERE contype = 'f' AND conparentid = 0 AND relnamespace = to_regnamespace(:schema)"
    " AND relname = ANY(:names) ORDER BY 1, 2, 3"
)
DEPENDENTS = (
    "SELECT DISTINCT ev_class::regclass::text AS name, table_.relname AS table FROM pg_depend"
    " JOIN pg_rewrite ON pg_rewrite.oid = objid AND classid = 'pg_rewrite'::regclass"
    " JOIN pg_class table_ ON table_.oid = refobjid AND refclassid = 'pg_class'::regclass"
    " WHERE table_.relnamespace = to_regnamespace(:schema) AND table_.relname = ANY(:names) ORDER BY 1, 2"
)
KINDS = (
    "SELECT relname AS name, relkind AS kind FROM pg_class"
    " WHERE relnamespace = to_regnamespace(:schema) AND relname = ANY(:names) AND relkind <> 'r' ORDER BY 1"
)


REFUSALS_TOLD = 10


class YearNotReadyError(ConflictError):
    """Something is in the way of what shall happen to a year."""

    code = "fiscal_year_not_ready"


@dataclass(frozen=True)
class Refusal:
    """Something that is in the way. `code` is for machines, the rest for people."""

    code: str
    message: str
    remedy: str


def refuse(found: Sequence[Refusal], what: str, remedy: str) -> None:
    """Raise YearNotReadyError if something is in the way, and tell what. `what` says what cannot be done."""
    if not found:
        return
    told = " ".join(f"{each.message} {each.remedy}" for each in found[:REFUSALS_TOLD])
    more = f" And {len(found) - REFUSALS_TOLD:,} more." if len(found) > REFUSALS_TOLD else ""
    raise YearNotReadyError(f"{what} {told}{more}", f"Nothing was changed. {remedy}")


def refusals_of_store(store: ColdStore) -> list[Refusal]:
    """What is in the way of keeping archives in a store. Raises PartUnavailableError: nobody can say now."""
    try:
        store.check()
    except StoreUnfitError as error:
        return [Refusal(error.code, error.message, error.remedy)]
    return []


def refusals(session: Session, calendar: FiscalCalendar, year: Year, spool: Path) -> list[Refusal]:
    """All that is in the way of archiving a year.

    Args:
        spool: the folder that what is exported lies in until it is kept.
    """
    found = [*_pending_detach(session), *_default_partitions(session)]
    try:
        partitions = partitions_of(session, calendar, year)
    except BoundsError as error:
        return [*found, Refusal(error.code, error.message, error.remedy)]
    return [
        *found,
        *_divided(session, partitions),
        *_foreign_keys(session, partitions),
        *_dependents(session, partitions),
        *_columns(partitions),
        *_space(partitions, spool),
    ]


def _pending_detach(session: Session) -> Iterator[Refusal]:
    for pending in rows(session, PENDING, schema=SCHEMA):
        table = f'{SCHEMA}."{pending.parent}" DETACH PARTITION {SCHEMA}."{pending.leaf}" FINALIZE'
        yield Refusal(
            "detach_pending",
            f"The partition {SCHEMA}.{pending.leaf} was being detached when somebody was interrupted: its rows are seen"
            " by some and not by others.",
            f"Finish it with `ALTER TABLE {table}`, attach it again if it is wanted, and try again.",
        )


def _default_partitions(session: Session) -> Iterator[Refusal]:
    for default in rows(session, DEFAULTS, schema=SCHEMA):
        yield Refusal(
            "default_partition",
            f"{SCHEMA}.{default.parent} has a DEFAULT partition, {SCHEMA}.{default.leaf}: rows of the year could stand"
            " there, and late ones would go there unseen.",
            "Move its rows to the partitions of their years, then detach and drop it.",
        )


def _divided(session: Session, partitions: list[Partition]) -> Iterator[Refusal]:
    for divided in rows(session, KINDS, schema=SCHEMA, names=[partition.name for partition in partitions]):
        what = "divided into partitions itself" if divided.kind == "p" else "no table that PostgreSQL keeps here"
        yield Refusal(
            "partition_divided",
            f"{SCHEMA}.{divided.name} is {what}: the year could not be locked, counted and dropped as one.",
            "Put its rows into one plain partition of the year.",
        )


def _foreign_keys(session: Session, partitions: list[Partition]) -> Iterator[Refusal]:
    names = [name for partition in partitions for name in (partition.name, partition.dataset)]
    for key in rows(session, FOREIGN_KEYS, schema=SCHEMA, names=names):
        yield Refusal(
            "foreign_key",
            f"The foreign key {key.name!r} of {key.referrer} is about {SCHEMA}.{key.referred}: rows that others refer"
            " to cannot go, and rows that refer to others do not come back alone.",
            f'Drop it with `ALTER TABLE {key.referrer} DROP CONSTRAINT "{key.name}"`.',
        )


def _dependents(session: Session, partitions: list[Partition]) -> Iterator[Refusal]:
    names = [partition.name for partition in partitions]
    for view in rows(session, DEPENDENTS, schema=SCHEMA, names=names):
        yield Refusal(
            "view_of_partition",
            f"The view {view.name} reads {SCHEMA}.{view.table} by its name, and could not be without it.",
            "Drop it, or have it read the dataset's table.",
        )


def _columns(partitions: list[Partition]) -> Iterator[Refusal]:
    for partition in partitions:
        types = {column.name: column.type for column in partition.columns}
        for name, kind in types.items():
            if not is_archived(kind):
                yield Refusal(
                    "type_not_archived",
                    f"Column {name!r} of {SCHEMA}.{partition.dataset} has the type {kind}, which is no part of"
                    " PostgreSQL itself, or whose text is not the value.",
                    f'Change it, to text say: `ALTER TABLE {SCHEMA}."{partition.dataset}" ALTER "{name}" TYPE text`.',
                )
        for column in partition.columns:
            if column.collation and not column.collation.startswith("pg_catalog."):
                yield Refusal(
                    "collation_not_archived",
                    f"Column {column.name!r} of {SCHEMA}.{partition.dataset} has the collation {column.collation},"
                    " which somebody made.",
                    "Give it one of PostgreSQL's own.",
                )
        if any(types.get(name) != kind for name, kind in LINEAGE.items()):
            yield Refusal(
                "lineage_missing",
                f"{SCHEMA}.{partition.dataset} lacks the columns _job and _record, which say where each row came from.",
                "Only tables that this ledger has made are archived: move it to another schema.",
            )


def _space(partitions: list[Partition], spool: Path) -> Iterator[Refusal]:
    needed = int(sum(partition.bytes_on_disk for partition in partitions) * SPOOLED_SHARE)
    try:
        free = shutil.disk_usage(spool).free
    except OSError as error:
        yield Refusal("spool_unusable", f"The spool folder {spool} cannot be used ({error.strerror}).", "Mend it.")
        return
    if free < needed:
        yield Refusal(
            "spool_full",
            f"The disk of the spool folder {spool} has {free:,} bytes free, and the year may need {needed:,}.",
            "Make room, or name a folder on another disk.",
        )
