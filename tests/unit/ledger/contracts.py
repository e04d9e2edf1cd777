"""Contracts of all kinds, for tests of what is done with contracts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from ledger.domain.column import Column
from ledger.domain.contract import Contract, ExtraColumns, MissingColumns
from ledger.domain.trailer import Trailer
from ledger.domain.values import FISCAL_DATE_TYPES, NUMBER_TYPES, ORDERED_TYPES, ColumnType
from ledger.errors import InvalidRequestError
from projections.patterns import check_patterns


def _is_name(text: str) -> bool:
    with suppress(InvalidRequestError):
        return bool(Column(text, ColumnType.TEXT))
    return False


DATE_FORMATS = ("%d.%m.%Y", "%-d/%-m/%Y", "%Y%m%d", "%d-%b-%Y", "%Y'%m [%d]", "%d%%%m%%%Y", "%d of %m, %Y", "%Y-%m-%d")
TIME_FORMATS = (" %H:%M", "T%H:%M:%S", " %H.%M.%S.%f", " at %H%M")
FORMATS: dict[ColumnType, tuple[str, ...]] = {
    ColumnType.BIGINT: ("1.234", "1,234", "1 234", "1'234"),
    ColumnType.NUMERIC: ("1.234,56", "1,234.56", "1234,56", "1\u00a0234,56"),
    ColumnType.DATE: DATE_FORMATS,
    ColumnType.TIMESTAMP: tuple(day + time for day in DATE_FORMATS for time in TIME_FORMATS),
    ColumnType.TIMESTAMPTZ: tuple(day + time + "%z" for day in DATE_FORMATS for time in TIME_FORMATS),
    ColumnType.BOOLEAN: ("yes/no", "1/0", "J/N"),
    ColumnType.TEXT: (),
}
PATTERNS = st.sampled_from(
    ("[A-Z]{2}", "^[A-Z]+$", "a|b", "^a|b$", "(?i)abc", r"\d+\s\)", "[(]x", "", r"\p{Lu}", "(a)(b)", "x\\$", "[]()]")
)
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NAMES = WORDS.filter(_is_name)
TOKENS = st.sampled_from(("", "NA", "null", "-", "no", "1e5", "~", "#N/A", "ü", "2024-01-31"))


def numbers(kind: ColumnType) -> st.SearchStrategy[str]:
    """Numbers in the plain form, however long."""
    whole = st.integers(-(10**30), 10**30).map(str) | st.just("-0")
    if kind is ColumnType.BIGINT:
        return whole
    return whole | st.tuples(whole, st.from_regex(r"\A[0-9]{1,20}\Z")).map(".".join)


def values_of(kind: ColumnType) -> st.SearchStrategy[str]:
    """Values of a type in the plain form."""
    zones = st.sampled_from((UTC, timezone(timedelta(hours=-5, minutes=-30))))
    strategies: dict[ColumnType, st.SearchStrategy[str]] = {
        ColumnType.DATE: st.dates().map(lambda day: day.isoformat()),
        ColumnType.TIMESTAMP: st.datetimes().map(lambda moment: moment.isoformat(sep=" ")),
        ColumnType.TIMESTAMPTZ: st.datetimes(timezones=zones).map(lambda moment: moment.isoformat(sep=" ")),
        ColumnType.BOOLEAN: st.sampled_from(("true", "false")),
        ColumnType.TEXT: WORDS,
    }
    return strategies[kind] if kind in strategies else numbers(kind)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column:
    """A column of any type, with any rules that it can have."""
    kind = draw(st.sampled_from(ColumnType))
    rules: dict[str, Any] = {}
    if FORMATS[kind] and draw(st.booleans()):
        rules["format"] = draw(st.sampled_from(FORMATS[kind]))
    if kind in ORDERED_TYPES:
        for end in draw(st.sets(st.sampled_from(("minimum", "maximum")))):
            rules[end] = draw(values_of(kind))
    if kind is ColumnType.TEXT and draw(st.booleans()):
        rules["pattern"] = draw(PATTERNS)
    allowed = tuple(draw(st.lists(values_of(kind) | WORDS, max_size=3)))
    try:
        column = Column(name, kind, draw(st.booleans()), allowed=allowed, **rules)
    except InvalidRequestError:  # the range ends before it starts
        rules = {"minimum": rules["maximum"], "maximum": rules["minimum"]}
        column = Column(name, kind, allowed=allowed, **rules)
    check_patterns(Contract((column,)))
    return column


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    """A contract with anything that contracts can say."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    made = tuple(draw(columns(name)) for name in names)
    if draw(st.booleans()):
        made = tuple(replace(column, width=draw(st.integers(1, 99))) for column in made)
    required = [column.name for column in made if not column.nullable]
    days = [column.name for column in made if column.type in FISCAL_DATE_TYPES and not column.nullable]
    sums = [column.name for column in made if column.type in NUMBER_TYPES]
    trailer = None
    if draw(st.booleans()):
        of = draw(st.dictionaries(st.sampled_from(sums), st.integers(2, 9))) if sums else {}
        trailer = Trailer(draw(st.sampled_from(("T", "no", "99"))), draw(st.none() | st.integers(2, 9)), of)
    return Contract(
        made,
        tuple(draw(st.lists(TOKENS, min_size=1, max_size=3, unique=True))),
        draw(st.none() | st.sampled_from(days)) if days else None,
        draw(st.sampled_from(("10%", "0", "2.5%", "100"))),
        tuple(draw(st.permutations(required)))[: draw(st.integers(0, 4))],
        draw(st.sampled_from(ExtraColumns)),
        draw(st.sampled_from(MissingColumns)),
        trailer,
    )
