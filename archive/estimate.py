"""What an archive of a closed year will take, and what that costs, before anything of it is made.

Sizes are guesses from what lies in the database, by shares that were measured. Prices are those of the list for
us-east-1 in June 2026, in dollars: an operator's contract or region may have others, so they are told as what they are.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from archive.export_run import Policy
from archive.stores import OBJECT_BYTES_MAX, StorageClass
from archive.year_jobs import jobs_of
from archive.year_story import story_of
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
    ledger: Ledger, session: Session, calendar: FiscalCalendar, year: FiscalYear, policy: Policy
) -> dict[str, Any]:
    """What archiving a year will take, as JSON values. It reads which files belong to the year.

    Raises:
        ConflictError: it is not closed, so nobody knows yet what there will be.
    """
    if year.state not in FENCED:
        raise ConflictError(
            f"Fiscal year {year.label} is {year.state.value}.", NEXT[year.state].format(label=year.label)
        )
    story = story_of(ledger, session, year)
    jobs = list(jobs_of(session, calendar, story))
    files = {(each.sha256, each.size_bytes) for each in jobs}
    files |= {(each.transcript, each.transcript_bytes or 0) for each in jobs if each.transcript is not None}
    text_bytes = sum(table["bytes_on_disk"] for table in year.tables if table["rows"])
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
        "fiscal_year": year.label,
        "generation": year.generation,
        "state": year.state.value,
        "rows": sum(table["rows"] for table in year.tables),
        "files": len(files),
        "retention_years": policy.retention_years,
        "classes": [_cost(each, sizes, policy.retention_years) for each in StorageClass if sizes.objects[each]],
    }


def _cost(storage_class: StorageClass, sizes: _Sizes, years: int) -> dict[str, Any]:
    price, objects, size = PRICES[storage_class], sizes.objects[storage_class], sizes.bytes[storage_class]
    month = size / GIGABYTE * price.gigabyte_month
    if storage_class.is_cold:
        month += objects * COLD_OVERHEAD_BYTES / GIGABYTE * price.gigabyte_month
        month += objects * STANDARD_OVERHEAD_BYTES / GIGABYTE * PRICES[StorageClass.STANDARD].gigabyte_month
    put = objects / 1000 * price.thousand_puts
    return {
        "storage_class": storage_class.value,
        "objects": objects,
        "bytes": size,
        "dollars_to_put": round(put, 4),
        "dollars_a_month": round(month, 4),
        "dollars_in_all": round(put + month * MONTHS * years, 2),
    }
