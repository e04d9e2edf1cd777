"""Reconciliation: what the records of a file came to, chunk by chunk and as a whole.

Rules:
1. The numbers of a chunk close by themselves: records = loaded + rejected + skipped.
2. The chunks of a file cover its text from the first byte after the header to the last, with no gap or overlap, and
   their records add up to the plan's.
3. Totals of chunks add up to those of their file: counts and sums are added, the smallest is the smallest of all. So
   do their row-set digests, modulo 2**256.
4. A sum is kept as a decimal text: exact, and the same whoever reads it and whatever chunks it was added up from.
5. Of dates and instants there is no sum. They are kept in their canonical form, whose order as text, but for the `Z` of
   an instant, is that in time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Context, Decimal
from typing import Any

from ledger.errors import LedgerError

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


class CountsDoNotCloseError(LedgerError):
    """The chunks of a job do not account for every byte and every record of its file."""

    code = "counts_do_not_close"


@dataclass(frozen=True)
class LoadedChunk:
    """What one chunk of a job came to: the byte range [start, end), its numbers, and what its rows add up to.

    `totals` are those of `ColumnTotals.to_dict` by column; `row_set_digest` is 64 hexadecimal digits, or None for a
    chunk that was loaded before there were digests. `late` counts the rejected records that were refused because their
    fiscal year is closed, by its label.
    """

    number: int
    start: int
    end: int
    sha256: str
    first_record: int
    records: int
    rows_loaded: int
    rows_rejected: int
    rows_skipped: int
    fiscal_years: list[str]
    totals: dict[str, dict[str, Any]] = field(default_factory=dict)
    row_set_digest: str | None = None
    late: dict[str, int] = field(default_factory=dict)


def check_chunk(chunk: LoadedChunk) -> None:
    """Check that a chunk's own numbers add up.

    Raises:
        CountsDoNotCloseError: they do not.
    """
    accounted = chunk.rows_loaded + chunk.rows_rejected + chunk.rows_skipped
    if accounted != chunk.records:
        raise CountsDoNotCloseError(
            f"Chunk {chunk.number} (bytes {chunk.start} to {chunk.end}) holds {chunk.records} records, but "
            f"{chunk.rows_loaded} were loaded, {chunk.rows_rejected} rejected and {chunk.rows_skipped} skipped.",
            "Nothing of it was kept. Report this: the reader and the database disagree about the file.",
        )


def late_records(chunks: Iterable[LoadedChunk]) -> dict[str, int]:
    """How many records of chunks were refused because their fiscal year is closed, by its label."""
    found: Counter[str] = Counter()
    for chunk in chunks:
        found.update(chunk.late)
    return dict(sorted(found.items()))


def reconcile(
    chunks: list[LoadedChunk], *, filename: str, data_start: int, size: int, chunks_total: int, records: int
) -> dict[str, Any]:
    """What a file came to, as Completed tells it.

    Args:
        chunks: all that were loaded, by their numbers.
        size: of the text that they are ranges of, in bytes.

    Raises:
        CountsDoNotCloseError: a byte or a record of the file is not accounted for, or is twice.
    """
    _check_coverage(chunks, filename, data_start, size, chunks_total)
    counted = sum(chunk.records for chunk in chunks)
    if counted != records:
        raise CountsDoNotCloseError(
            f"The plan of {filename!r} counts {records} records, its chunks {counted}.",
            "The file does not complete. Report this: two readings of the same bytes disagree.",
        )
    digests = [chunk.row_set_digest for chunk in chunks]
    known = [digest for digest in digests if digest is not None]
    return {
        "records": counted,
        "rows_loaded": sum(chunk.rows_loaded for chunk in chunks),
        "rows_rejected": sum(chunk.rows_rejected for chunk in chunks),
        "rows_skipped": sum(chunk.rows_skipped for chunk in chunks),
        "bytes_covered": sum(chunk.end - chunk.start for chunk in chunks),
        "fiscal_years": sorted({year for chunk in chunks for year in chunk.fiscal_years}),
        "totals": add_totals(chunk.totals for chunk in chunks) if len(known) == len(digests) else {},
        "row_set_digest": add_digests(known) if len(known) == len(digests) else None,
    }


def check_control_totals(came_to: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """How a file differs from what its sender says it comes to, one readable sentence each.

    Args:
        came_to: what Completed would tell.
        expected: `records` (without those skipped by a rule), and `columns` with any of `ColumnTotals` by column, as
            texts or numbers.
    """
    found = []
    records = came_to["records"] - came_to["rows_skipped"]
    if "records" in expected and int(expected["records"]) != records:
        found.append(f"It has {records:,} records, its sender says {int(expected['records']):,}.")
    for column, totals in expected.get("columns", {}).items():
        there = came_to["totals"].get(column)
        for name, value in totals.items():
            have = None if there is None else there.get(name)
            if (
                have is None
                and name in ("count", "sum")
                and (not came_to["rows_loaded"] or (there and not there["count"]))
            ):
                have = "0"  # what nothing adds up to
            if have is None or not _same(str(have), str(value)):
                found.append(f"The {name} of {column!r} is {have}, its sender says {value}.")
    return found


def _same(one: str, other: str) -> bool:
    try:
        return Decimal(one) == Decimal(other)
    except ArithmeticError:
        return one == other


def _check_coverage(chunks: list[LoadedChunk], filename: str, data_start: int, size: int, chunks_total: int) -> None:
    expected = data_start
    for chunk in chunks:
        if chunk.start != expected:
            what = "gap" if chunk.start > expected else "overlap"
            raise CountsDoNotCloseError(
                f"There is a {what} in {filename!r} between bytes {expected} and {chunk.start}.",
                "The file does not complete. Report this: its plan is broken.",
            )
        expected = chunk.end
    if expected != size or len(chunks) != chunks_total:
        raise CountsDoNotCloseError(
            f"The chunks of {filename!r} end at byte {expected} of {size}, {len(chunks)} of {chunks_total} are loaded.",
            "The file does not complete before every chunk is loaded.",
        )


def add_totals(chunks: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The totals of a file from those of its chunks, by column."""
    found: dict[str, ColumnTotals] = {}
    for totals in chunks:
        for name, values in totals.items():
            more = ColumnTotals(**values)
            found[name] = _add(found[name], more) if name in found else more
    return {name: totals.to_dict() for name, totals in found.items()}


def add_digests(digests: Iterable[str]) -> str:
    """The row-set digest of a file, in hexadecimal, from those of its chunks."""
    return digest_text(sum(int(digest, 16) for digest in digests))


def digest_text(digest: int) -> str:
    """A sum of digests as it is stored: 64 hexadecimal digits."""
    return f"{digest % (1 << DIGEST_BITS):064x}"


def plain_number(number: Decimal | int) -> str:
    """A number without an exponent and without zeros that say nothing."""
    text = format(number, "f") if isinstance(number, Decimal) else str(number)
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def order_in_time(text: str) -> str:
    """What puts dates and instants in their order in time: a `Z` would stand behind the digits of a fraction."""
    return text.removesuffix("Z")


def _add(one: ColumnTotals, other: ColumnTotals) -> ColumnTotals:
    if not one.count or not other.count:
        return one if one.count else other
    assert one.min is not None and other.min is not None and one.max is not None and other.max is not None
    if one.sum is None or other.sum is None:
        first, last = min(one.min, other.min, key=order_in_time), max(one.max, other.max, key=order_in_time)
        return ColumnTotals(one.count + other.count, None, first, last)
    return ColumnTotals(
        one.count + other.count,
        plain_number(EXACT.add(Decimal(one.sum), Decimal(other.sum))),
        min(one.min, other.min, key=Decimal),
        max(one.max, other.max, key=Decimal),
    )
