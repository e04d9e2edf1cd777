"""Reconciliation: what the records of a file came to, chunk by chunk and as a whole.

Rules:
1. Totals of chunks add up to those of their file: counts and sums are added, the smallest is the smallest of all.
2. A sum is kept as a decimal text: exact, and the same whoever reads it.
3. Of dates and instants there is no sum. They are kept in their canonical form, whose order as text is that in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Context, Decimal
from typing import Any

DIGEST_BITS = 256
EXACT = Context(prec=4_000)


@dataclass(frozen=True)
class ColumnTotals:
    """What the values of a column come to. `sum` is None for what is no number, all but `count` for no value."""

    count: int
    sum: str | None
    min: str | None
    max: str | None

    def to_dict(self) -> dict[str, Any]:
        """The totals as JSON values."""
        return asdict(self)


def add_totals(chunks: Iterable[Mapping[str, ColumnTotals]]) -> dict[str, ColumnTotals]:
    """The totals of a file from those of its chunks, by column."""
    found: dict[str, ColumnTotals] = {}
    for totals in chunks:
        for name, more in totals.items():
            found[name] = _add(found[name], more) if name in found else more
    return found


def add_digests(digests: Iterable[str]) -> str:
    """The row-set digest of a file, in hexadecimal, from those of its chunks."""
    total = sum(int(digest, 16) for digest in digests) % (1 << DIGEST_BITS)
    return digest_text(total)


def digest_text(digest: int) -> str:
    """A row-set digest as it is stored: 64 hexadecimal digits."""
    return f"{digest:064x}"


def _add(one: ColumnTotals, other: ColumnTotals) -> ColumnTotals:
    if not one.count or not other.count:
        return one if one.count else other
    assert one.min is not None and other.min is not None and one.max is not None and other.max is not None
    if one.sum is None or other.sum is None:
        return ColumnTotals(one.count + other.count, None, min(one.min, other.min), max(one.max, other.max))
    return ColumnTotals(
        one.count + other.count,
        format(EXACT.add(Decimal(one.sum), Decimal(other.sum)), "f"),
        min(one.min, other.min, key=Decimal),
        max(one.max, other.max, key=Decimal),
    )
