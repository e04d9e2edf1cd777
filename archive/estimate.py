"""What an archive of a year will take, and what that costs, before anything of it is made.

Sizes are guesses from what lies in the database, by shares that were measured. Prices are those of the list for
us-east-1 in June 2026, in dollars: an operator's contract or region may have others, so they are told as what they are.
A folder has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from archive.export_run import Policy
from archive.stores import OBJECT_BYTES_MAX, StorageClass
from archive.year_jobs import jobs_of
from archive.year_story import YearStory, story_of
from ledger.application import Ledger
from ledger.database import rows
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import FENCED, NEXT
from ledger.errors import ConflictError
from ledger.event_store import EVENTS_TABLE

# Of the text of rows, which is about what they take on the disk: compressed, and as Parquet.
TEXT_SHARE, PARQUET_SHARE = 0.35, 0.25
# Of the events as they are stored: in base64 and compressed.
EVENTS_SHARE = 0.45
GIGABYTE = 1 << 30
MONTHS = 12
# What S3 keeps for each object that is cold, besides: under the class itself, and under STANDARD.
COLD_OVERHEAD_BYTES, STANDARD_OVERHEAD_BYTES = 32 << 10, 8 << 10


@dataclass(frozen=True)
class Price:
    """In dollars: of a gigabyte for a month, and of a thousand puts."""

    gigabyte_month: float
    thousand_puts: float


PRICES = {
    StorageClass.STANDARD: Price(0.023, 0.005),
    StorageClass.GLACIER_IR: Price(0.004, 0.02),
    StorageClass.GLACIER: Price(0.0036, 0.03),
    StorageClass.DEEP_ARCHIVE: Price(0.00099, 0.05),
}


NO_COST: dict[str, float | None] = {"dollars_to_put": None, "dollars_a_month": None, "dollars_in_all": None}


@dataclass(frozen=True)
class TableSize:
    """A table of a year: how many rows it has, and how many bytes on the disk."""

    dataset: str
    name: str
    rows: int
    bytes: int


class _Sizes:
    """Objects and bytes by class."""

    def __init__(self) -> None:
        self.objects: Counter[StorageClass] = Counter()
        self.bytes: Counter[StorageClass] = Counter()

    def add(self, storage_class: StorageClass, size: float, bytes_max: float) -> None:
        """Count what takes so many bytes, in objects of so many at most."""
        self.objects[storage_class] += math.ceil(size / bytes_max)
        self.bytes[storage_class] += math.ceil(size)


def estimate(
    ledger: Ledger, session: Session, calendar: FiscalCalendar, year: FiscalYear, policy: Policy, *, is_priced: bool
) -> dict[str, Any]:
    """What archiving a closed year will take, as JSON values. It reads which files belong to the year.

    Args:
        is_priced: whether it goes into a bucket.

    Raises:
        ConflictError: it is not closed, so nobody knows yet what there will be.
    """
    if year.state not in FENCED:
        raise ConflictError(
            f"Fiscal year {year.label} is {year.state.value}.", NEXT[year.state].format(label=year.label)
        )
    story, tables = story_of(ledger, session, year), tables_when_closed(year)
    return {"state": year.state.value, **estimate_of(session, calendar, story, tables, policy, is_priced=is_priced)}


def tables_when_closed(year: FiscalYear) -> list[TableSize]:
    """The tables of a year as they were when it was closed."""
    return [TableSize(each["dataset"], each["name"], each["rows"], each["bytes_on_disk"]) for each in year.tables]


def estimate_of(
    session: Session,
    calendar: FiscalCalendar,
    story: YearStory,
    tables: Sequence[TableSize],
    policy: Policy,
    *,
    is_priced: bool,
) -> dict[str, Any]:
    """What archiving a year of this story and these tables will take, as JSON values."""
    jobs = list(jobs_of(session, calendar, story))
    files = {(each.sha256, each.size_bytes) for each in jobs}
    files |= {(each.transcript, each.transcript_bytes or 0) for each in jobs if each.transcript is not None}
    text_bytes = sum(table.bytes for table in tables if table.rows)
    [(events_bytes,)] = rows(
        session,
        f"SELECT coalesce(sum(length(state)), 0) FROM {EVENTS_TABLE} WHERE id BETWEEN :first AND :last",
        first=story.log.first,
        last=story.log.last,
    )
    sizes = _Sizes()
    sizes.add(policy.storage_class, text_bytes * TEXT_SHARE, policy.part_bytes * TEXT_SHARE)
    if policy.access_class is not None:
        sizes.add(policy.access_class, text_bytes * PARQUET_SHARE, policy.part_bytes * PARQUET_SHARE)
    sizes.add(policy.storage_class, sum(size for _, size in files), OBJECT_BYTES_MAX)
    sizes.add(policy.storage_class, float(events_bytes) * EVENTS_SHARE, OBJECT_BYTES_MAX)
    return {
        "fiscal_year": story.days.label,
        "generation": story.generation,
        "rows": sum(table.rows for table in tables),
        "jobs": len(jobs),
        "files": len(files),
        "file_bytes": sum(size for _, size in files),
        "retention_years": policy.retention_years,
        "classes": [
            {
                "storage_class": each.value,
                "objects": sizes.objects[each],
                "bytes": sizes.bytes[each],
                **(_cost(each, sizes, policy.retention_years) if is_priced else NO_COST),
            }
            for each in StorageClass
            if sizes.objects[each]
        ],
    }


def rows_stored(tables: Sequence[TableSize], policy: Policy) -> tuple[int, int]:
    """About how many objects the rows of some tables become, and how many bytes."""
    sizes = _Sizes()
    size = sum(table.bytes for table in tables if table.rows) * TEXT_SHARE
    sizes.add(policy.storage_class, size, policy.part_bytes * TEXT_SHARE)
    return sizes.objects[policy.storage_class], sizes.bytes[policy.storage_class]


def _cost(storage_class: StorageClass, sizes: _Sizes, years: int) -> dict[str, float | None]:
    price, objects, size = PRICES[storage_class], sizes.objects[storage_class], sizes.bytes[storage_class]
    month = size / GIGABYTE * price.gigabyte_month
    if storage_class.is_cold:
        month += objects * COLD_OVERHEAD_BYTES / GIGABYTE * price.gigabyte_month
        month += objects * STANDARD_OVERHEAD_BYTES / GIGABYTE * PRICES[StorageClass.STANDARD].gigabyte_month
    put = objects / 1000 * price.thousand_puts
    return {
        "dollars_to_put": round(put, 4),
        "dollars_a_month": round(month, 4),
        "dollars_in_all": round(put + month * MONTHS * years, 2),
    }
