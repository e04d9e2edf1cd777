"""Doubts: what a person should look at before a contract that was inferred becomes a dataset's.

Rules:
1. A doubt is a sentence, and changes nothing: it says what else the values of a column could be, and what to write into
   the contract if they are.
2. Something else is proposed only if every value of the sample is written so, and what makes the difference occurs:
   who never sets thousands apart is not asked how. Where two readings fit all values, both are told: which is right is
   nothing that can be seen.
3. A format is proposed only where it would be in force: not for values that have types of their own
   (`projections.converting`).
4. Of values there is never more than the start of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

import pyarrow
import pyarrow.compute

from ledger.domain.column import Column, excerpt
from ledger.domain.contract import Contract
from ledger.domain.values import FISCAL_DATE_TYPES, NUMBER_TYPES, ColumnType, NumberFormat, TimeFormat, parse_format
from projections.columns import among
from projections.converting import convert, has_format
from projections.formats.rows import Writing
from projections.formats.values import common_type, value_type
from projections.inference import NULL_TOKENS

EXAMPLE_CHARACTERS_MAX = 24
NAMES_SHOWN = 3
FIRST_VALUES = 100  # looked at before all of them are
LONGEST_VALUE = 60
COMPACT_DAY = "%Y%m%d"
COMPACT_YEARS = ("1900", "2100")

DAYS = (
    *(day.replace("|", mark) for mark in "./-" for day in ("%d|%m|%Y", "%m|%d|%Y", "%-d|%-m|%Y", "%-m|%-d|%Y")),
    *("%Y/%m/%d", "%Y.%m.%d", "%Y-%-m-%-d", "%Y/%-m/%-d"),
    *("%d-%b-%Y", "%d %b %Y", "%d/%b/%Y", "%-d-%b-%Y", "%-d %b %Y", "%-d/%b/%Y", "%b %-d, %Y"),
)
TIMES = ("%H:%M", "%H:%M:%S")
FORMATS = (
    *((ColumnType.DATE, day) for day in DAYS),
    *((ColumnType.TIMESTAMP, f"{day} {time}") for day, time in product(("%Y-%m-%d", *DAYS), TIMES)),
)
GROUPS = (".", ",", " ", "'", "\u00a0", "\u202f")
NUMBERS = (
    *((ColumnType.BIGINT, f"1{group}234") for group in GROUPS),
    (ColumnType.NUMERIC, "1234,56"),
    *((ColumnType.NUMERIC, f"1{group}234,56") for group in GROUPS if group != ","),
    *((ColumnType.NUMERIC, f"1{group}234.56") for group in GROUPS if group != "."),
)
TRUTHS = (
    *(("yes", "no"), ("y", "n"), ("ja", "nein"), ("j", "n"), ("oui", "non"), ("o", "n"), ("si", "no"), ("s", "n")),
    *(("t", "f"), ("1", "0"), ("on", "off")),
)
CASES: tuple[Callable[[str], str], ...] = (str.lower, str.upper, str.title)
TRUTH_FORMATS = {frozenset(map(case, words)): "/".join(map(case, words)) for words in TRUTHS for case in CASES}
WORDS_FOR_NULL = ("", *NULL_TOKENS)
DIGITS = "^[0-9]+$"
LEADING_ZERO = "^0[0-9]"


@dataclass(frozen=True)
class _Seen:
    """A column of a proposed contract, with the different values that were seen in it."""

    column: Column
    values: pyarrow.ChunkedArray
    writing: Writing

    @property
    def name(self) -> str:
        return excerpt(self.column.name)

    @property
    def example(self) -> str:
        """The start of a value."""
        text = str(self.values[0].as_py())
        return repr(text[:EXAMPLE_CHARACTERS_MAX]) + ("..." if len(text) > EXAMPLE_CHARACTERS_MAX else "")

    def all_like(self, pattern: str) -> bool:
        """Whether all values match."""
        return _all(pyarrow.compute.match_substring_regex(self.values, pattern))

    def some_has(self, text: str | None) -> bool:
        """Whether a text stands in some value; that nothing does is true."""
        return text is None or _any(pyarrow.compute.match_substring(self.values, text))


def doubts(contract: Contract, values: pyarrow.Table, writing: Writing) -> list[str]:
    """What is doubtful about a contract that was inferred, one sentence each.

    Args:
        values: of the records of a sample, checked by this contract.
        writing: who decided how the values are written.
    """
    if not len(values):
        return []
    found = [*_fiscal_doubts(contract, values)]
    for column in contract.columns:
        seen = pyarrow.compute.drop_null(pyarrow.compute.unique(values[column.name]))
        if not len(seen):
            found.append(f"Column {excerpt(column.name)} has no value in the sample; it is {column.type}.")
            continue
        found.extend(_doubts_of(_Seen(column, seen, writing)))
    return found


def _fiscal_doubts(contract: Contract, values: pyarrow.Table) -> Iterator[str]:
    if contract.fiscal_date_column is not None:
        return
    fit = [column.name for column in contract.columns if column.type in FISCAL_DATE_TYPES]
    fit = [name for name in fit if not values[name].null_count]
    if fit:
        named = ", ".join(map(excerpt, fit[:NAMES_SHOWN]))
        named += f" and {len(fit) - NAMES_SHOWN} more" if len(fit) > NAMES_SHOWN else ""
        yield (
            f"The day of receipt decides the fiscal year. Every record has a value in {named}: if that should decide, "
            "name it as fiscal_date_column, with nullable false."
        )


def _doubts_of(seen: _Seen) -> Iterator[str]:
    if seen.column.type not in {*NUMBER_TYPES, ColumnType.TEXT}:
        return
    truth = TRUTH_FORMATS.get(frozenset(seen.values.to_pylist())) if len(seen.values) == 2 else None
    if truth is not None and has_format(Column(seen.column.name, ColumnType.BOOLEAN, format=truth), seen.writing):
        yield _proposal(seen, "has two words only", [(ColumnType.BOOLEAN, truth)])
    elif seen.column.type is ColumnType.TEXT:
        yield from _doubts_of_text(seen)
    else:
        yield from _doubts_of_numbers(seen)


def _doubts_of_numbers(seen: _Seen) -> Iterator[str]:
    compact, points = (ColumnType.DATE, COMPACT_DAY), (ColumnType.BIGINT, "1.234")
    if seen.column.type is ColumnType.BIGINT and _is_written(seen, *compact):
        years = pyarrow.compute.utf8_slice_codeunits(seen.values, 0, 4)
        if _all(pyarrow.compute.and_(_at_least(years, COMPACT_YEARS[0]), _at_least(COMPACT_YEARS[1], years))):
            yield _proposal(seen, "could be days", [compact])
    if seen.column.type is ColumnType.NUMERIC and _has_its_marks(seen, *points) and _is_written(seen, *points):
        yield _proposal(seen, "has three digits after each point, which could set thousands apart", [points])


def _doubts_of_text(seen: _Seen) -> Iterator[str]:
    fitting = _fitting(seen)
    if fitting:
        are_days = fitting[0][0] in FISCAL_DATE_TYPES
        yield _proposal(seen, f"is text, but all its values could be {'dates' if are_days else 'numbers'}", fitting)
    elif seen.all_like(DIGITS) and _any(pyarrow.compute.match_substring_regex(seen.values, LEADING_ZERO)):
        yield (
            f"Column {seen.name} has numbers with leading zeros, such as {seen.example}: it stays text, as an "
            "identifier, for a number would lose them."
        )
    else:
        yield from _doubts_of_words(seen)


def _doubts_of_words(seen: _Seen) -> Iterator[str]:
    """Customary words for no value: several, or what alone keeps a column from having a type."""
    is_word = among(seen.values, WORDS_FOR_NULL)
    words = sorted(seen.values.filter(is_word).to_pylist(), key=WORDS_FOR_NULL.index)
    rest = _Seen(seen.column, seen.values.filter(pyarrow.compute.invert(is_word)), seen.writing)
    if not words or not len(rest.values):
        return
    named = f"{', '.join(map(repr, words))} in null_tokens"
    kind, fitting = _plain_type(rest.values), _fitting(rest)
    if kind is not ColumnType.TEXT:
        yield f"Column {seen.name} would be {kind} but for words that could mean no value; if so, name {named}."
    elif fitting:
        yield f"Column {seen.name} has words that could mean no value; if so, name {named}."
        yield _proposal(rest, "is text, but its other values could be typed", fitting)
    elif len(words) > 1:
        yield f"Column {seen.name} has several words that could mean no value; if so, name {named}."


def _plain_type(values: pyarrow.ChunkedArray) -> ColumnType:
    """The type that all values have as they are written."""
    kinds: set[ColumnType] = set()
    for value in values.to_pylist():
        kinds.add(value_type(value))
        if ColumnType.TEXT in kinds:
            break
    return common_type(kinds)


def _fitting(seen: _Seen) -> list[tuple[ColumnType, str]]:
    """The formats in which all values are written: of days and times, else of numbers."""
    first = str(seen.values[0].as_py())
    times = [each for each in FORMATS if _pattern(*each).match(first) and _is_written(seen, *each)]
    if times:
        strict = {text for _, text in times if "%-" not in text}
        return [(kind, text) for kind, text in times if "%-" not in text or text.replace("%-", "%") not in strict]
    if not first.lstrip("-")[:1].isdigit():
        return []
    return [each for each in NUMBERS if _has_its_marks(seen, *each) and _is_written(seen, *each)]


@cache
def _pattern(kind: ColumnType, written: str) -> re.Pattern[str]:
    """What a value is like that is written in a format of days or times."""
    read = parse_format(kind, written)
    assert isinstance(read, TimeFormat)
    return re.compile(read.pattern)


def _has_its_marks(seen: _Seen, kind: ColumnType, written: str) -> bool:
    read = parse_format(kind, written)
    assert isinstance(read, NumberFormat)
    return seen.some_has(read.group) and seen.some_has(read.point)


def _is_written(seen: _Seen, kind: ColumnType, written: str) -> bool:
    """Whether a format would be in force, and all values are written in it and mean something: a few, then all."""
    column = Column(seen.column.name, kind, format=written)
    return has_format(column, seen.writing) and all(
        _means_something(column, values) for values in (seen.values.slice(0, FIRST_VALUES), seen.values)
    )


def _means_something(column: Column, values: pyarrow.ChunkedArray) -> bool:
    if _any(pyarrow.compute.greater(pyarrow.compute.binary_length(values), LONGEST_VALUE)):
        return False
    plain, unlike = convert(column, pyarrow.chunked_array([values]), Writing.FREE)
    if _any(unlike):
        return False
    if column.type in NUMBER_TYPES:
        return True
    try:
        plain.cast(pyarrow.date32() if column.type is ColumnType.DATE else pyarrow.timestamp("us"))
    except pyarrow.ArrowInvalid:
        return False
    return True


def _proposal(seen: _Seen, why: str, fitting: list[tuple[ColumnType, str]]) -> str:
    ways = " or ".join(f'"type": "{kind}", "format": "{written}"' for kind, written in fitting)
    told_apart = ""
    if len(fitting) > 1:
        days = {written for kind, written in fitting if kind in FISCAL_DATE_TYPES}
        told_apart = f" {'Day and month' if days else 'They'} cannot be told apart by these values: ask who wrote them."
    return f"Column {seen.name} {why}, such as {seen.example}; if so, write {ways}.{told_apart}"


def _at_least(values: pyarrow.ChunkedArray | str, others: pyarrow.ChunkedArray | str) -> pyarrow.ChunkedArray:
    return pyarrow.compute.greater_equal(values, others)


def _all(mask: pyarrow.ChunkedArray) -> bool:
    return pyarrow.compute.all(mask).as_py() is True


def _any(mask: pyarrow.ChunkedArray) -> bool:
    return pyarrow.compute.any(mask).as_py() is True
