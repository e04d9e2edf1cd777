"""What is written in a format means what its sender meant, and nothing else is taken for it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pyarrow
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ledger.domain.column import Column
from ledger.domain.values import DIRECTIVES, ColumnType, TimeFormat, parse_format
from ledger.errors import InvalidRequestError
from projections.columns import positions
from projections.converting import convert
from projections.formats.rows import Writing
from tests.thorough import thorough

SEARCH = thorough(examples=100, steps=1)
SEPARATORS = st.sampled_from(["", ".", "/", "-", " ", ":", "T", ", ", "%%", "(", "\\", "[", "|"])
MOMENTS = st.datetimes(datetime(1000, 1, 1), datetime(9998, 12, 31))
OFFSETS = st.integers(-15 * 60, 15 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def converted(kind: ColumnType, written: str, *texts: str | None) -> tuple[list[str | None], list[int]]:
    column = Column("a", kind, format=written)
    values, unlike = convert(column, pyarrow.chunked_array([texts], pyarrow.string()), Writing.FREE)
    return values.to_pylist(), positions(unlike)


@st.composite
def formats(draw: st.DrawFn, kind: ColumnType) -> str:
    month, day = draw(st.sampled_from(["%m", "%-m", "%b"])), draw(st.sampled_from(["%d", "%-d"]))
    parts = [*draw(st.permutations(["%Y", month, day]))]
    if kind is not ColumnType.DATE:
        parts += ["%H", "%M", "%S"] + (["%f"] if draw(st.booleans()) else [])
    if kind is ColumnType.TIMESTAMPTZ:
        parts.append("%z")
    separators = [draw(SEPARATORS) for _ in parts]
    # Two parts of any length side by side, or a sign that might be a separator, can be read in two ways.
    assume(all(separators[:-1]) or not {"%-m", "%-d", "%f", "%z"} & set(parts))
    assume("%z" not in parts or separators[-2] not in ("-", ""))
    return "".join(part + separator for part, separator in zip(parts, [*separators[:-1], ""], strict=True))


@pytest.mark.parametrize("kind", [ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ])
@SEARCH
@given(data=st.data())
def test_a_moment_that_is_written_in_a_format_is_read_as_that_moment(kind: ColumnType, data: st.DataObject) -> None:
    written = data.draw(formats(kind))
    moment = data.draw(MOMENTS)
    if kind is ColumnType.TIMESTAMPTZ:
        moment = moment.replace(tzinfo=data.draw(OFFSETS))
    if "%f" not in written:
        moment = moment.replace(microsecond=0)
    [value], unlike = converted(kind, written, moment.strftime(written))
    assert not unlike
    read = datetime.fromisoformat(str(value))
    assert read == (datetime(moment.year, moment.month, moment.day) if kind is ColumnType.DATE else moment)
    assert len(str(value)) >= len("YYYY-MM-DD")


@pytest.mark.parametrize("kind", [ColumnType.DATE, ColumnType.TIMESTAMP, ColumnType.TIMESTAMPTZ])
@SEARCH
@given(data=st.data())
def test_whatever_is_taken_for_a_format_is_what_strptime_makes_of_it(kind: ColumnType, data: st.DataObject) -> None:
    written = data.draw(formats(kind))
    alike = st.from_regex(parse_format(kind, written).pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))
    text = data.draw(alike | MOMENTS.map(str) | MOMENTS.map("{:%d.%m.%Y}".format))
    [value], unlike = converted(kind, written, text)
    if unlike:
        assert value == text
        return
    try:
        # strptime knows no offset without its minutes.
        whole = re.sub(r"[+-][0-9]{2}$", r"\g<0>00", text) if "%z" in written else text
        expected = datetime.strptime(whole, written.replace("%-", "%"))
    except ValueError:
        with pytest.raises(ValueError, match=r"."):  # a day or an offset that does not exist
            datetime.fromisoformat(str(value))
    else:
        assert datetime.fromisoformat(str(value)) == expected


NUMBER_FORMATS = [
    "1.234,56",
    "1,234.56",
    "1 234,56",
    "1'234.56",
    "1\u00a0234,56",
    "1234,56",
    "1234.56",
    "1,234",
    "1234",
]


@SEARCH
@given(number=st.decimals(allow_nan=False, allow_infinity=False, places=3), grouped=st.booleans())
def test_a_number_that_is_written_in_a_format_is_read_as_that_number(number: Decimal, grouped: bool) -> None:
    for written in NUMBER_FORMATS:
        found = parse_format(ColumnType.NUMERIC, written)
        value = number if found.point else number.to_integral_value()
        text = f"{value:,f}" if grouped else f"{value:f}"
        text = text.replace(",", "\0").replace(".", found.point or "").replace("\0", found.group or "")
        [read], unlike = converted(ColumnType.NUMERIC, written, text)
        assert not unlike, (written, text)
        assert Decimal(str(read)) == value


@pytest.mark.parametrize(
    ("written", "texts"),
    [
        ("1.234,56", ["1.23", "12.34,5", "1,5.000", ",5", "1.", "1,", "01,5", "1.234.56", "0.123", "+1", "1e5"]),
        ("1,234.56", ["1,23.5", "1.234,56", "0,123", "12,34", ",123", "1,234,", "1,234.", "1,2345"]),
        ("1234,56", ["1.5", "1.234,56", "1'234"]),
    ],
)  # fmt: skip
def test_a_number_that_is_written_otherwise_is_none(written: str, texts: list[str]) -> None:
    values, unlike = converted(ColumnType.NUMERIC, written, *texts)
    assert (unlike, values) == (list(range(len(texts))), texts)


def test_no_value_stays_none_and_words_mean_what_they_are_said_to() -> None:
    assert converted(ColumnType.BOOLEAN, "1/0", "1", None, "0", "2", "true") == (
        ["true", None, "false", "2", "true"],
        [3, 4],
    )
    assert converted(ColumnType.DATE, "%d.%m.%Y", None) == ([None], [])


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_a_directive_that_stands_twice_is_refused(directive: str) -> None:
    with pytest.raises(InvalidRequestError, match="no format"):
        parse_format(ColumnType.TIMESTAMPTZ, f"%Y %m %d %H %M %S %f %z {directive}")
    assert isinstance(parse_format(ColumnType.TIMESTAMPTZ, "%Y %m %d %H %M %S %f %z"), TimeFormat)
