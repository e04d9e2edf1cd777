"""Values: the types that a column can have, and how its values are written where that is not the plain form.

Rules:
1. The plain form is what PostgreSQL itself writes: `1234.56`, `2024-05-31`, `2024-05-31 10:00:00`, `true`. A column
   without a format takes nothing else, and a column with a format takes nothing but that format.
2. A number's format is the number 1234.56 as the file would have it: `1.234,56`, `1,234.56`, `1 234,56`, `1234,56`.
   Where thousands may be set apart, they are so throughout or not at all.
3. A date's or time's format is written in the directives of strftime (C and Python) that `DIRECTIVES` has. What is left
   out of a time is zero; a day without its year, or a time without its day, is none. A year has four digits: which
   century two digits mean is nothing to guess.
4. A truth's format is its two words, true first: `yes/no`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum

from ledger.errors import InvalidRequestError


class ColumnType(StrEnum):
    """The types a column can have, by their PostgreSQL names."""

    BIGINT = "bigint"
    NUMERIC = "numeric"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    BOOLEAN = "boolean"
    TEXT = "text"


FISCAL_DATE_TYPES = frozenset({ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ})
NUMBER_TYPES = frozenset({ColumnType.BIGINT, ColumnType.NUMERIC})
ORDERED_TYPES = FISCAL_DATE_TYPES | NUMBER_TYPES

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# DIRECTIVE -> the part of a time, and how it is written (RE2). With "-" leading zeros may be left out.
DIRECTIVES = {
    "%Y": ("year", "[0-9]{4}"),
    "%m": ("month", "[0-9]{2}"),
    "%-m": ("month", "[0-9]{1,2}"),
    "%b": ("month", f"(?i:{'|'.join(MONTHS)})"),
    "%d": ("day", "[0-9]{2}"),
    "%-d": ("day", "[0-9]{1,2}"),
    "%H": ("hour", "[0-9]{2}"),
    "%M": ("minute", "[0-9]{2}"),
    "%S": ("second", "[0-9]{2}"),
    "%f": ("fraction", "[0-9]{1,6}"),
    "%z": ("offset", "(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"),
}
DIRECTIVE = re.compile(r"%-?[A-Za-z%]|[^%]+|%")
NEEDED = {
    ColumnType.DATE: ({"year", "month", "day"}, set()),
    ColumnType.TIMESTAMP: ({"year", "month", "day", "hour", "minute"}, {"second", "fraction"}),
    ColumnType.TIMESTAMPTZ: ({"year", "month", "day", "hour", "minute", "offset"}, {"second", "fraction"}),
}
NUMBER = re.compile("1(?P<group>[.,' \u00a0\u202f]?)234(?:(?P<point>[.,])56)?")
WORD_CHARACTERS_MAX = 20
PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class NumberFormat:
    """What stands between thousands and before the fraction; None for nothing."""

    group: str | None
    point: str | None


@dataclass(frozen=True)
class TimeFormat:
    """`pattern` matches a value (RE2) and has a group for each part; `plain` puts the parts in their plain order."""

    pattern: str
    plain: str
    month_by_name: bool
    short: bool  # whether there may be a zero too many before the month or the day
    offset: bool  # whether there may be no colon in the offset from UTC


@dataclass(frozen=True)
class TruthFormat:
    """The two words."""

    true: str
    false: str


ValueFormat = NumberFormat | TimeFormat | TruthFormat


def parse_format(kind: ColumnType, text: str) -> ValueFormat:
    """Read the format of a column of this type.

    Raises:
        InvalidRequestError: it is none, or none of this type.
    """
    if kind in NEEDED:
        return _time_format(kind, text)
    if kind in NUMBER_TYPES:
        return _number_format(kind, text)
    if kind is ColumnType.BOOLEAN:
        return _truth_format(text)
    raise InvalidRequestError(f"A column of type {kind} has no format.", "Leave the format away, or use a pattern.")


def in_order(kind: ColumnType, text: str) -> Decimal | date | datetime:
    """What a plain number, day or time is compared by.

    Raises:
        ValueError: it is none.
    """
    if kind in NUMBER_TYPES:
        if not PLAIN_NUMBER.fullmatch(text) or (kind is ColumnType.BIGINT and "." in text):
            raise ValueError(f"{text!r} is no {kind}")
        return Decimal(text)
    if kind is ColumnType.DATE:
        return date.fromisoformat(text)
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is None) is (kind is ColumnType.TIMESTAMPTZ):
        raise ValueError(f"{text!r} is no {kind}")
    return moment


def _number_format(kind: ColumnType, text: str) -> NumberFormat:
    found = NUMBER.fullmatch(text)
    if found is None or found["group"] == found["point"] or (kind is ColumnType.BIGINT and found["point"]):
        example = "1.234" if kind is ColumnType.BIGINT else "1.234,56"
        raise InvalidRequestError(
            f"{text[:80]!r} is no format of a {kind}.",
            f"Write the number {'1234' if kind is ColumnType.BIGINT else '1234.56'} as the file would: {example}",
        )
    return NumberFormat(found["group"] or None, found["point"])


def _truth_format(text: str) -> TruthFormat:
    true, slash, false = text.partition("/")
    words = (true, false)
    if not slash or true == false or not all(0 < len(word) <= WORD_CHARACTERS_MAX for word in words) or "/" in false:
        raise InvalidRequestError(
            f"{text[:80]!r} is no format of a boolean.", "Write the word for true, a slash, the word for false: yes/no"
        )
    return TruthFormat(true, false)


def _time_format(kind: ColumnType, text: str) -> TimeFormat:
    pattern, used = "", set()
    groups: dict[str, int] = {}
    for part in DIRECTIVE.findall(text):
        if not part.startswith("%") or part == "%%":
            pattern += re.escape(part.replace("%%", "%"))
            continue
        name, written = DIRECTIVES.get(part, ("", ""))
        if not name or name in groups:
            raise _no_time_format(kind, text, f"{part!r} is no directive, or a part stands there twice.")
        groups[name] = len(groups) + 1
        used.add(part)
        pattern += f"({written})"
    needed, possible = NEEDED[kind]
    if not needed <= set(groups) <= needed | possible or ("fraction" in groups and "second" not in groups):
        raise _no_time_format(kind, text, f"It needs {', '.join(sorted(needed))}.")
    pad = {name: "0" if directive in used else "" for name, directive in (("month", "%-m"), ("day", "%-d"))}
    plain = f"\\{groups['year']}-{pad['month']}\\{groups['month']}-{pad['day']}\\{groups['day']}"
    if kind is not ColumnType.DATE:
        second = f"\\{groups['second']}" if "second" in groups else "00"
        plain += f" \\{groups['hour']}:\\{groups['minute']}:{second}"
        plain += f".\\{groups['fraction']}" if "fraction" in groups else ""
        plain += f"\\{groups['offset']}" if "offset" in groups else ""
    return TimeFormat(f"^{pattern}$", plain, "%b" in used, bool(used & {"%-m", "%-d"}), "offset" in groups)


def _no_time_format(kind: ColumnType, text: str, why: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{text[:80]!r} is no format of a {kind}. {why}",
        f"Use {', '.join(DIRECTIVES)}, such as %d.%m.%Y for 31.05.2024.",
    )
