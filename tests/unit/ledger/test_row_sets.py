"""What rows come to: the same for the same rows, and another thing as soon as one value is another."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.column import Column
from ledger.domain.reconciliation import add_digests, add_totals, digest_text
from ledger.domain.values import ColumnType
from ledger.row_sets import canonical, control_totals, row_set_digest
from tests.thorough import thorough

SEARCH = thorough(examples=150, steps=1)

Rows = list[tuple[str | None, ...]]

FORMS = {
    "text": {"": "", " ": " ", "TRUE": "TRUE", "1.0": "1.0", "-0": "-0"},
    "boolean": {"true": "true", "TRUE": "true", "False": "false"},
    "bigint": {"0": "0", "-0": "0", "10": "10", "-10": "-10", "9223372036854775807": "9223372036854775807"},
    "numeric": {
        "0": "0", "-0": "0", "0.0": "0", "-0.000": "0", "1.50": "1.5", "100": "100", "100.00": "100", "-1.050": "-1.05",
        "0.10010": "0.1001", "9" * 1000 + "." + "9" * 999 + "0": "9" * 1000 + "." + "9" * 999,
    },
    "date": {"2024-01-10": "2024-01-10", "0001-01-01": "0001-01-01"},
    "timestamp": {
        "2024-01-10 00:00:00": "2024-01-10 00:00:00", "2024-01-10T10:20:30": "2024-01-10 10:20:30",
        "2024-01-10 00:00:00.000": "2024-01-10 00:00:00", "2024-01-10T00:00:00.120300": "2024-01-10 00:00:00.1203",
        "2024-01-10 00:00:10": "2024-01-10 00:00:10",
    },
    "timestamptz": {
        "2024-01-10T00:00:00Z": "2024-01-10 00:00:00Z", "2024-01-10 00:00:00+00": "2024-01-10 00:00:00Z",
        "2024-01-10 00:00:00-00:00": "2024-01-10 00:00:00Z", "2024-01-10 00:00:00.100+00": "2024-01-10 00:00:00.1Z",
        "2024-01-10 00:00:00.0Z": "2024-01-10 00:00:00Z", "2024-01-10 00:00:00.0+01": "2024-01-09 23:00:00Z",
        "2024-01-10 00:00:00+00:30": "2024-01-09 23:30:00Z", "2024-01-10 00:00:00-15:59": "2024-01-10 15:59:00Z",
        "2024-01-10 00:00:00.5+05:45": "2024-01-09 18:15:00.5Z", "0001-01-01 00:00:00-05": "0001-01-01 05:00:00Z",
        "0999-12-31 23:00:00.000001-02": "1000-01-01 01:00:00.000001Z",
    },
}  # fmt: skip


def array(values: list[str | None]) -> pyarrow.ChunkedArray:
    return pyarrow.chunked_array([pyarrow.array(values, pyarrow.string())], pyarrow.string())


def canonical_forms(kind: str, values: list[str | None]) -> list[str | None]:
    return canonical(Column("a", ColumnType(kind)), array(values)).to_pylist()


@pytest.mark.parametrize("kind", FORMS)
def test_the_same_value_has_the_same_canonical_form_however_it_is_written(kind: str) -> None:
    forms = FORMS[kind]
    assert set(FORMS) == set(ColumnType)
    assert canonical_forms(kind, [None, *forms, None]) == [None, *forms.values(), None]
    assert canonical_forms(kind, [*forms.values()]) == [*forms.values()], "a canonical form is its own"
    assert canonical_forms(kind, []) == []


@SEARCH
@given(
    st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29)),
    st.integers(-15 * 60 - 59, 15 * 60 + 59),
    st.booleans(),
)
def test_an_instant_has_one_form_whatever_its_offset(moment: datetime, minutes: int, letter_t: bool) -> None:
    instant = moment.replace(tzinfo=UTC)
    text = instant.astimezone(timezone(timedelta(minutes=minutes))).isoformat("T" if letter_t else " ")
    [form] = canonical_forms("timestamptz", [text])
    assert form is not None
    assert form[-1] == "Z"
    assert form[10] == " "
    assert datetime.fromisoformat(form) == instant
    assert "." not in form or form[-2] != "0"


@SEARCH
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4), st.integers(0, 5))
def test_a_decimal_has_one_form_whatever_zeros_follow_it(number: Decimal, zeros: int) -> None:
    text = format(number, "f") + "0" * zeros
    [form] = canonical_forms("numeric", [text])
    assert form is not None
    assert Fraction(form) == Fraction(number)
    assert form == "0" or form[-1] != "0" or "." not in form
    assert form != "-0"
    assert not form.endswith(".")


VALUES = st.none() | st.text(st.sampled_from("ab,\x01ü€𝄞 "), max_size=3)
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=8)


def digest_of(rows: Rows, columns: int = 3) -> int:
    return row_set_digest(array([row[place] for row in rows]) for place in range(columns))


def digest_by_definition(rows: Rows) -> int:
    total = 0
    for row in rows:
        fields = [b"\xff" if value is None else value.encode() for value in row]
        total += int.from_bytes(hashlib.sha256(b"\0".join(fields)).digest())
    return total % 2**256


@SEARCH
@given(ROWS)
def test_the_digest_of_rows_is_the_sum_of_the_digests_of_their_fields(rows: Rows) -> None:
    assert digest_of(rows) == digest_by_definition(rows)
    for columns in (1, 2):
        assert digest_of(rows, columns) == digest_by_definition([row[:columns] for row in rows])


@SEARCH
@given(ROWS, st.randoms(use_true_random=False), st.lists(st.integers(0, 8)))
def test_a_digest_depends_neither_on_the_order_of_rows_nor_on_their_chunks(rows: Rows, random, cuts: list[int]) -> None:
    shuffled = rows[:]
    random.shuffle(shuffled)
    places = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    chunks = [digest_text(digest_of(shuffled[start:end])) for start, end in pairwise(places)]
    assert add_digests(chunks) == digest_text(digest_of(rows))


@SEARCH
@given(ROWS.filter(bool), st.data())
def test_a_digest_changes_with_any_one_value(rows: Rows, data: st.DataObject) -> None:
    at, place = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 2))
    other = data.draw(VALUES.filter(lambda value: value != rows[at][place]))
    changed = list(rows[at])
    changed[place] = other
    assert digest_of([*rows[:at], tuple(changed), *rows[at + 1 :]]) != digest_of(rows)
    assert digest_of([*rows, rows[at]]) != digest_of(rows), "a row that is twice is not once"


def test_a_digest_tells_no_value_from_an_empty_text_and_one_column_from_the_next() -> None:
    rows: list[Rows] = [
        [(None, "", "")],
        [("", None, "")],
        [("", "", None)],
        [("", "", "")],
        [("a", "", "")],
        [("", "a", "")],
    ]
    assert len({digest_of(each) for each in rows}) == len(rows)
    assert digest_of([]) == 0
    assert digest_text(0) == "0" * 64


@SEARCH
@given(st.lists(st.lists(VALUES, max_size=3), max_size=4))
def test_a_column_in_several_arrays_has_the_digest_of_one(parts: list[list[str | None]]) -> None:
    column = pyarrow.chunked_array([pyarrow.array(part, pyarrow.string()) for part in parts], pyarrow.string())
    assert row_set_digest([column]) == digest_by_definition([(value,) for part in parts for value in part])
    assert row_set_digest([column.slice(1)]) == digest_by_definition([(value,) for part in parts for value in part][1:])


def test_a_digest_of_many_rows_loses_no_carry() -> None:
    one = digest_of([("a", None, "b")])
    assert digest_of([("a", None, "b")] * 10_000) == one * 10_000 % 2**256


COLUMNS = [
    Column("w", ColumnType.BIGINT),
    Column("n", ColumnType.NUMERIC),
    Column("z", ColumnType.TIMESTAMPTZ),
    Column("d", ColumnType.DATE),
    Column("t", ColumnType.TEXT),
    Column("b", ColumnType.BOOLEAN),
]


def totals_of(rows: Rows) -> dict:
    values = {
        column.name: canonical(column, array([row[place] for row in rows])) for place, column in enumerate(COLUMNS)
    }
    return {name: total.to_dict() for name, total in control_totals(COLUMNS, values).items()}


NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?", fullmatch=True, alphabet="0123456789-.")
FULL_ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1).map(str),
        st.none() | NUMBERS,
        st.none() | st.datetimes(datetime(1900, 1, 1), datetime(1900, 1, 1, 0, 0, 2)).map("{}Z".format),
        st.none() | st.dates().map(str),
        st.none() | st.text(max_size=2),
        st.none() | st.sampled_from(["true", "FALSE"]),
    ),
    max_size=8,
)


@SEARCH
@given(FULL_ROWS)
def test_control_totals_are_those_of_exact_arithmetic_and_of_time(rows: Rows) -> None:
    found = totals_of(rows)
    assert set(found) == {"w", "n", "z", "d"}, "a text and a truth are not added up"
    for place, name in enumerate("wn"):
        numbers = [Fraction(row[place]) for row in rows if row[place] is not None]
        assert found[name]["count"] == len(numbers)
        if numbers:
            told = [Fraction(found[name][each]) for each in ("sum", "min", "max")]
            assert told == [sum(numbers), min(numbers), max(numbers)]
    instants = [datetime.fromisoformat(row[2]) for row in rows if row[2] is not None]
    if instants:
        assert datetime.fromisoformat(found["z"]["min"]) == min(instants)
        assert datetime.fromisoformat(found["z"]["max"]) == max(instants)
    days = [row[3] for row in rows if row[3] is not None]
    assert (found["d"]["min"], found["d"]["max"]) == ((min(days), max(days)) if days else (None, None))
    assert found["z"]["sum"] is found["d"]["sum"] is None


@pytest.mark.parametrize("digits", [32, 33, 34, 38, 75, 76, 77, 1_000])
def test_sums_of_long_numbers_are_exact_beyond_what_arrow_holds(digits: int) -> None:
    values = ["9" * digits] * 1_000 + ["0." + "7" * digits, "-0." + "1" * digits]
    found = totals_of([(None, value, None, None, None, None) for value in values])["n"]
    assert Fraction(found["sum"]) == sum(map(Fraction, values))
    assert (found["min"], found["max"]) == (values[-1], values[0])


@SEARCH
@given(FULL_ROWS, st.lists(st.integers(0, 8)))
def test_totals_of_chunks_add_up_to_those_of_their_file_to_the_letter(rows: Rows, cuts: list[int]) -> None:
    places = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    chunks = [totals_of(rows[start:end]) for start, end in pairwise(places)]
    assert add_totals(chunks) == totals_of(rows)
    assert add_totals(reversed(chunks)) == totals_of(rows)


def test_a_sum_of_chunks_has_no_zeros_that_a_sum_of_rows_has_not() -> None:
    def chunk(number: str) -> dict:
        return totals_of([(None, number, None, None, None, None)])

    assert add_totals([chunk("1.5"), chunk("0.5")])["n"]["sum"] == "2"
    assert add_totals([chunk("1.5"), chunk("-1.5")])["n"]["sum"] == "0"
    assert add_totals([chunk("-0.5"), chunk("0.50")])["n"]["sum"] == "0"
    assert add_totals([chunk("99.5"), chunk("0.5")])["n"]["sum"] == "100"


def test_the_first_of_two_instants_is_the_one_without_a_fraction_wherever_it_stands() -> None:
    texts = ["1900-01-01 00:00:00.5Z", "1900-01-01 00:00:00Z", "1900-01-01 00:00:00.55Z"]
    rows: Rows = [(None, None, text, None, None, None) for text in texts]
    for found in (totals_of(rows), add_totals(totals_of([row]) for row in rows)):
        assert (found["z"]["min"], found["z"]["max"]) == (texts[1], texts[2])


def test_sums_of_decimals_of_a_thousand_digits_before_and_behind_the_point_are_exact() -> None:
    nines, small = "9" * 1000 + "." + "9" * 1000, "0." + "0" * 999 + "1"
    rows: Rows = [(None, number, None, None, None, None) for number in [nines] * 1000 + [small] * 7 + ["-" + small]]
    exact = Context(prec=5000)
    expected = exact.add(exact.multiply(Decimal(nines), Decimal(1000)), exact.multiply(Decimal(small), Decimal(6)))
    for found in (totals_of(rows), add_totals(totals_of([row]) for row in rows)):
        assert Decimal(found["n"]["sum"]).compare(expected, exact) == 0
        assert (found["n"]["min"], found["n"]["max"]) == ("-" + small, nines)
