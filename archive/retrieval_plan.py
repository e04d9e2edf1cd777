"""What it takes to bring a year back from cold storage: bytes, requests, hours and money, before anything is asked for.

Rules:
1. Only what is read is restored: the parts of the tables. Access copies, events and files stay where they are.
2. Prices are those of the table below, and say from when and where they are. They are an estimate: other regions,
   agreements and taxes make others, and what leaves the region is charged as well.
3. Copies have to last at least as long as it takes to read them all, slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

from archive.manifest import Manifest, PartEntry
from archive.stores import StorageClass, Tier, refuse_restore
from ledger.errors import InvalidRequestError

PRICES_OF = "us-east-1, list prices of June 2026 from https://aws.amazon.com/s3/pricing/"
GIGABYTE = Decimal(1 << 30)
STANDARD_DOLLARS_PER_GIGABYTE_DAY = Decimal("0.023") / 30
READ_BYTES_PER_SECOND = 5 << 20
READ_MARGIN = timedelta(hours=1)


@dataclass(frozen=True)
class Offer:
    """What a tier of a class takes and costs; `hours_max` is what S3 gives as the usual longest time."""

    dollars_per_gigabyte: Decimal
    dollars_per_thousand_requests: Decimal
    hours_max: Decimal


# CLASS, TIER -> what S3 offers.
OFFERS = {
    (StorageClass.GLACIER, Tier.EXPEDITED): Offer(Decimal("0.03"), Decimal("10"), Decimal(5) / 60),
    (StorageClass.GLACIER, Tier.STANDARD): Offer(Decimal("0.01"), Decimal("0.05"), Decimal(5)),
    (StorageClass.GLACIER, Tier.BULK): Offer(Decimal(0), Decimal(0), Decimal(12)),
    (StorageClass.DEEP_ARCHIVE, Tier.STANDARD): Offer(Decimal("0.02"), Decimal("0.10"), Decimal(12)),
    (StorageClass.DEEP_ARCHIVE, Tier.BULK): Offer(Decimal("0.0025"), Decimal("0.025"), Decimal(48)),
}
# What is read at once is not restored, but some of it costs for being read.
READ_DOLLARS_PER_GIGABYTE = {StorageClass.GLACIER_IR: Decimal("0.03")}


def parts_to_read(manifest: Manifest) -> Iterator[PartEntry]:
    """The objects that the rows are made of."""
    for table in manifest.tables:
        yield from table.parts


def time_to_read(manifest: Manifest) -> timedelta:
    """How long copies have to last to be read to their end (rule 3)."""
    size_bytes = sum(part.bytes for part in parts_to_read(manifest))
    return timedelta(seconds=size_bytes / READ_BYTES_PER_SECOND) + READ_MARGIN


def plan(manifest: Manifest, tier: Tier, days: int) -> dict[str, Any]:
    """What bringing a year back takes, as JSON values; dollars and hours are texts of decimal numbers.

    Raises:
        InvalidRequestError: a class has no such tier, or copies would be gone before all were read.
    """
    shortest = time_to_read(manifest)
    if timedelta(days=days) < shortest:
        raise InvalidRequestError(
            f"Copies that last {days} days could be gone before all are read, which may take {shortest}.",
            f"Ask for {shortest // timedelta(days=1) + 1} days.",
        )
    parts = list(parts_to_read(manifest))
    classes = [
        _class_plan(storage_class, *_size_of(parts, storage_class), tier, days)
        for storage_class in StorageClass
        if any(part.storage_class == storage_class for part in parts)
    ]
    return {
        "fiscal_year": manifest.fiscal_year,
        "generation": manifest.generation,
        "tier": tier.value,
        "days": days,
        "rows": sum(table.rows for table in manifest.tables),
        "classes": [_answer(each) for each in classes],
        "objects": len(parts),
        "bytes": sum(part.bytes for part in parts),
        "hours_max": _decimal(max((each["hours_max"] for each in classes), default=Decimal(0))),
        "dollars": _decimal(sum((each["dollars"] for each in classes), Decimal(0))),
        "prices": PRICES_OF,
    }


def offers_of(storage_class: StorageClass, objects: int, size_bytes: int, days: int) -> list[dict[str, Any]]:
    """What bringing back so much takes and costs by each tier that a class has, as JSON values."""
    tiers = [tier for tier in Tier if (storage_class, tier) in OFFERS] if storage_class.is_cold else [Tier.STANDARD]
    planned = [(tier, _class_plan(storage_class, objects, size_bytes, tier, days)) for tier in tiers]
    return [{"tier": tier.value, "days": days, **_answer(each)} for tier, each in planned]


def _size_of(parts: list[PartEntry], storage_class: StorageClass) -> tuple[int, int]:
    """How many parts of a class there are, and their bytes."""
    found = [part.bytes for part in parts if part.storage_class == storage_class]
    return len(found), sum(found)


def _class_plan(storage_class: StorageClass, objects: int, size_bytes: int, tier: Tier, days: int) -> dict[str, Any]:
    refuse_restore(storage_class, tier, days)
    gigabytes = size_bytes / GIGABYTE
    if storage_class.is_cold:
        offer = OFFERS[storage_class, tier]
        dollars = gigabytes * offer.dollars_per_gigabyte
        dollars += objects * offer.dollars_per_thousand_requests / 1000
        dollars += gigabytes * days * STANDARD_DOLLARS_PER_GIGABYTE_DAY  # the copies, beside what stays
        hours = offer.hours_max
    else:
        dollars = gigabytes * READ_DOLLARS_PER_GIGABYTE.get(storage_class, Decimal(0))
        hours = Decimal(0)
    told = {"storage_class": storage_class.value, "objects": objects, "bytes": size_bytes}
    return {**told, "hours_max": hours, "dollars": dollars}


def _answer(planned: dict[str, Any]) -> dict[str, Any]:
    return {**planned, "hours_max": _decimal(planned["hours_max"]), "dollars": _decimal(planned["dollars"])}


def _decimal(number: Decimal) -> str:
    return f"{number:.2f}"
