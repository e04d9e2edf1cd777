"""What is refused, for which flaw, in which column, and what is left alone."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from functools import wraps
from typing import Any

import pyarrow.compute
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.values import ColumnType
from projections.checking import GRAMMAR, PLAIN, _is_plainly_right, check
from projections.fields import Reading
from projections.formats.dialect import LINE_DELIMITER, LINE_QUOTE, Dialect
from projections.formats.records import find_records
from projections.formats.rows import Flaw
from projections.formats.transcript import MARK
from tests.thorough import thorough
from tests.unit.projections.checks import APRIL, LF, checked, contract_of, flaws_in

SEARCH = thorough(examples=150, steps=1)

LINES = Dialect("lines", LINE_DELIMITER, False, False, "\n", LINE_QUOTE)

WRONG = {
    "bigint": ["", "x", "1.0", "1.", "+1", " 1", "1 ", "007", "00", "--1", "-", "1_000", "1e5", "0x1F", "0b1", "0o7",
               "infinity", "NaN", "1\n", "\n1", "٣", "\uff11", "1,5", "1;", "\ufeff1", "\u22121", "true", "'1'"],
    "numeric": ["", "x", "1.", ".5", "-.5", "+1.5", " 1.5", "1.5 ", "01.5", "1_0.5", "1e5", "1E-5", "0x1F", "Infinity",
                "-Infinity", "inf", "nan", "NaN", "1.5\n", "1.5.5", "٣.٣", "1,5", "$1", "-", "."],
    "boolean": ["", "t", "f", "yes", "no", "on", "off", "1", "0", "y", " true", "true ", "tru", "true\n", "fal\u017fe"],
    "date": ["", "today", "now", "epoch", "infinity", "-infinity", "yesterday", "2024-1-1", "2024-01-1", "24-01-01",
             "01/02/2024", "20240102", "2024.01.02", "2024-Jan-02", "2024-01-02 ", " 2024-01-02", "2024-01-02\n",
             "2024-01-02 BC", "2024-01-02 00:00:00", "10000-01-01", "-0001-01-01", "J2451187", "2024-W01-1", "2024-001",
             "\u0662\u0660\u0662\u0664-\u0660\u0661-\u0660\u0662", "2024\u201001\u201002"],
    "timestamp": ["", "now", "2024-01-02", "2024-01-02 03:04", "2024-01-02 3:04:05", "2024-01-02 24:00:00",
                  "2024-01-02 23:59:60", "2024-01-02 03:60:00", "2024-01-02 03:04:05.", "2024-01-02 03:04:05.1234567",
                  "2024-01-02 03:04:05Z", "2024-01-02 03:04:05+00", "2024-01-02  03:04:05", "2024-01-02t03:04:05",
                  "2024-01-02 03:04:05 PM", "2024-01-02 03:04:05\n", "2024-01-02 03:04:05,5", "allballs"],
    "timestamptz": ["", "now", "2024-01-02", "2024-01-02 03:04:05", "2024-01-02 03:04:05 Z", "2024-01-02 03:04:05z",
                    "2024-01-02 03:04:05 +00", "2024-01-02 03:04:05+16", "2024-01-02 03:04:05+0530",
                    "2024-01-02 03:04:05+5", "2024-01-02 03:04:05+05:60", "2024-01-02 03:04:05+05:30:10",
                    "2024-01-02 03:04:05 UTC", "2024-01-02 03:04:05 Europe/Berlin", "2024-01-02 24:00:00Z",
                    "2024-01-02 23:59:60Z", "2024-01-02 03:04:05\u221205"],
}  # fmt: skip
CODES = {"bigint": "value_invalid", "numeric": "value_invalid", "boolean": "value_invalid"}
RIGHT = {
    "bigint": ["0", "-0", "1", "-1", "999999999999999999", "9223372036854775807", "-9223372036854775808"],
    "numeric": ["0", "-0", "0.0", "-0.00", "1.50", "0." + "9" * 1000, "-" + "9" * 1000 + "." + "1" * 1000],
    "boolean": ["true", "false", "TRUE", "False", "tRuE"],
    "date": ["0001-01-01", "2024-02-29", "1900-01-01", "9999-12-31"],
    "timestamp": ["0001-01-01 00:00:00", "2024-02-29T23:59:59.999999", "9999-12-31 23:59:59.9"],
    "timestamptz": ["0001-01-01 00:00:00Z", "0001-01-01 00:00:00-15:59", "9999-12-31 23:59:59+15",
                    "2024-02-29T23:59:59.9-00:30"],
    "text": ["", " ", "\x18", "NULL", "\\N", "\\.", "\ufeff", "a\r\nb", "ü𝄞", '""', ","],
}  # fmt: skip


def quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


@pytest.mark.parametrize("kind", WRONG)
def test_what_postgresql_would_change_interpret_or_refuse_is_refused_for_its_record_and_column(kind: str) -> None:
    text = "".join(f"x,{quoted(value)}\nx,\n" for value in WRONG[kind])
    assert flaws_in(text, ["text", kind]) == {
        2 * number: (CODES.get(kind, "date_invalid"), "b") for number in range(len(WRONG[kind]))
    }


@pytest.mark.parametrize("kind", RIGHT)
def test_what_is_written_as_its_type_wants_it_is_accepted_and_given_as_it_stands(kind: str) -> None:
    found = checked("".join(f"x,{quoted(value)}\n" for value in RIGHT[kind]), contract_of(["text", kind]))
    assert found.flaws == {}
    assert found.values["b"].to_pylist() == RIGHT[kind]
    assert found.good.tolist() == list(range(len(RIGHT[kind])))


@pytest.mark.parametrize(
    ("kind", "value", "code"),
    [
        ("bigint", "9223372036854775808", "value_out_of_range"),
        ("bigint", "-9223372036854775809", "value_out_of_range"),
        ("bigint", "9" * 19, "value_out_of_range"),
        ("bigint", "9" * 5000, "value_out_of_range"),
        ("bigint", "٣" * 20, "value_invalid"),
        ("bigint", "1_" * 10 + "1", "value_invalid"),
        ("numeric", "1" * 1001, "value_out_of_range"),
        ("numeric", "-" + "1" * 1001 + ".5", "value_out_of_range"),
        ("numeric", "0." + "1" * 1001, "value_out_of_range"),
        ("numeric", "x" * 1001, "value_invalid"),
        ("date", "2023-02-29", "date_invalid"),
        ("date", "1900-02-29", "date_invalid"),
        ("date", "2024-04-31", "date_invalid"),
        ("date", "2024-13-01", "date_invalid"),
        ("date", "2024-00-01", "date_invalid"),
        ("date", "2024-01-00", "date_invalid"),
        ("date", "0000-01-01", "date_invalid"),
        ("timestamp", "2023-02-29 00:00:00", "date_invalid"),
        ("timestamptz", "2023-02-29 00:00:00Z", "date_invalid"),
        ("timestamptz", "0001-01-01 00:00:00+00:01", "value_out_of_range"),
        ("timestamptz", "9999-12-31 23:59:59.999999-00:01", "value_out_of_range"),
    ],
)
def test_what_is_written_well_but_does_not_exist_or_fit_is_refused(kind: str, value: str, code: str) -> None:
    assert flaws_in(f",x\n{value},x\n,x\n", [kind, "text"]) == {1: (code, "a")}


DIGITS_AND_MARKS = st.text("0123456789-:. TZ+_", min_size=8, max_size=27)
NEARLY_TIMES = st.from_regex(r"[0-9]{3,4}-?[0-9]{2}-?[0-9]{2}([ T][0-9]{2}:?[0-9]{2}(:?[0-9]{2})?([.,][0-9]{0,7})?Z?)?")


@pytest.mark.parametrize("kind", PLAIN)
@thorough(examples=500, steps=1)
@given(text=DIGITS_AND_MARKS | NEARLY_TIMES)
def test_what_needs_no_further_look_is_within_the_grammar(kind: ColumnType, text: str) -> None:
    if _is_plainly_right(kind, pyarrow.chunked_array([[text]], pyarrow.string())):
        assert re.fullmatch(GRAMMAR[kind][0], text)
        datetime.fromisoformat(text)


@pytest.mark.parametrize("kind", ["bigint", "text", "date"])
def test_a_missing_value_is_refused_only_where_the_contract_wants_one_and_an_empty_text_is_a_value(kind: str) -> None:
    text = ",,\n" + ('"","",""\n' if kind == "text" else "")
    assert flaws_in(text, [kind] * 3, required="bc") == {0: ("value_missing", "b")}
    assert flaws_in(text, [kind] * 3) == {}


def test_a_null_token_means_no_value_only_where_it_stands_unquoted_and_whole() -> None:
    found = checked('NA,"NA"\n,\n NA,NAN\n"",na\n', contract_of(["text", "text"], null_token="NA"))
    assert found.values.to_pylist() == [
        {"a": None, "b": "NA"},
        {"a": "", "b": ""},
        {"a": " NA", "b": "NAN"},
        {"a": "", "b": "na"},
    ]
    assert flaws_in('"NA",1\nNA,1\n', ["bigint", "bigint"], null_token="NA") == {0: ("value_invalid", "a")}


def test_the_first_flaw_from_the_left_is_the_one_that_is_told() -> None:
    kinds = ["date", "bigint", "numeric", "boolean", "timestamptz"]
    wrong = ["1800-01-01", "x", "y", "z", "2024-01-01 00:00:00"]
    right = ["2024-01-01", "1", "1.5", "true", "2024-01-01 00:00:00Z"]
    for first in range(5):
        line = ",".join(right[:first] + wrong[first:]) + "\n"
        [(code, column)] = flaws_in(line, kinds, fiscal="a").values()
        assert column == "abcde"[first]
        assert code == ("fiscal_date_invalid" if first == 0 else CODES.get(kinds[first], "date_invalid"))


def test_the_left_is_that_of_the_file_not_that_of_the_contract() -> None:
    contract = contract_of(["bigint", "date"])
    found = check(find_records(b"x,y\n", LF), Reading(contract, tuple(reversed(contract.columns)), APRIL))
    assert found.flaws == {0: Flaw("date_invalid", "the value is no date as YYYY-MM-DD", "b")}


def test_a_record_with_more_or_fewer_fields_is_refused_whatever_stands_around_it() -> None:
    text = '\n\n1\n1,2\n\n"1,2"\n1,2,3\n"\n","\n"\n""\n,\n\n1,2,3\n'
    assert flaws_in(text, ["text", "text"]) == dict.fromkeys((0, 2, 3, 5, 7), ("record_malformed", None))
    reasons = {flaw.reason for flaw in checked(text, contract_of(["text", "text"])).flaws.values()}
    assert reasons == {
        "it has 1 field, and the file has 2 columns",
        "it has 3 fields, and the file has 2 columns",
    }
    assert flaws_in("1,2\n3\n", ["bigint"]) == {0: ("record_malformed", None)}


def test_a_misplaced_quote_is_told_before_anything_else_and_does_not_move_the_other_records() -> None:
    text = 'a"b"\n1,2\n\nx,"y" \n1\n"3",4\n'
    found = checked(text, contract_of(["bigint", "bigint"]))
    assert {index: flaw.code for index, flaw in sorted(found.flaws.items())} == {
        0: "quote_misplaced",
        2: "quote_misplaced",
        3: "record_malformed",
    }
    assert found.good.tolist() == [1, 4]
    assert found.values.to_pylist() == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


@pytest.mark.parametrize("text", ['a"b"\n', "x\n", "1,2,3\n1\n", "\n\n"])
def test_a_chunk_without_any_good_record_has_no_values(text: str) -> None:
    found = checked(text, contract_of(["bigint", "bigint"]))
    assert (found.values.num_rows, found.good.tolist()) == (0, [])
    assert found.values.column_names == ["a", "b"]


def test_a_byte_order_mark_at_the_start_of_a_piece_belongs_to_the_value() -> None:
    assert checked("\ufeffa,b\n", contract_of(["text", "text"])).values.to_pylist() == [{"a": "\ufeffa", "b": "b"}]
    assert flaws_in("\ufeff1,2\n", ["bigint", "bigint"]) == {0: ("value_invalid", "a")}


def test_an_empty_last_field_is_no_value_whether_or_not_the_line_ends() -> None:
    for text in ('"",', '"",\n'):
        assert checked(text, contract_of(["text", "text"])).values.to_pylist() == [{"a": "", "b": None}]


def test_a_line_of_plain_text_is_its_value_whatever_it_holds() -> None:
    lines = ["", '"', 'a,"b', ",", " ", "\\.", MARK, f"{MARK}[]", "NA", "ü"]
    contract = contract_of(["text"], required="a", null_token="NA")
    found = checked("\n".join(lines) + "\n", contract, dialect=LINES)
    assert (found.values["a"].to_pylist(), found.flaws) == (lines, {})


# Lines of a file with the columns a (bigint), b (date, fiscal) and c (text): good ones, and one for each kind of flaw.
LINES_OF_A_FILE = st.sampled_from(
    ["1,2024-01-01,x", '2,2024-12-31,"a\nb"', "", ",2024-01-01,", "x,2024-01-01,x", "1,x,y", "1,1800-01-01,", "1,2",
     '1",2,3"', "9223372036854775808,2024-01-01,x", "1,2023-02-29,x", "1,,x", '"\ufeff1",2024-01-01,x',
     "\ufeff,2024-01-01,x", "z"]
)  # fmt: skip


@SEARCH
@given(lines=st.lists(LINES_OF_A_FILE, max_size=14), size=st.integers(1, 14))
def test_pieces_of_any_size_give_what_the_whole_gives(lines: list[str], size: int) -> None:
    contract = contract_of(["bigint", "date", "text"], fiscal="b")
    records = find_records(("\n".join(lines) + "\n" * bool(lines)).encode(), LF)
    if not len(records):
        return
    whole = check(records, Reading(contract, contract.columns, APRIL))
    values: list[dict[str, str | None]] = []
    good: list[int] = []
    flaws: dict[int, Flaw] = {}
    for start in range(0, len(records), size):
        piece = records.piece(start, min(start + size, len(records)))
        found = check(piece, Reading(contract, contract.columns, APRIL))
        values += found.values.to_pylist()
        good += [start + index for index in found.good.tolist()]
        flaws |= {start + index: flaw for index, flaw in found.flaws.items()}
    assert (values, good, flaws) == (whole.values.to_pylist(), whole.good.tolist(), whole.flaws)
    assert sorted([*good, *flaws]) == list(range(len(records)))


@SEARCH
@given(
    lines=st.lists(LINES_OF_A_FILE.filter(bool), min_size=1, max_size=10), more=st.sampled_from(["q,w,e", "1", 'a"b"'])
)
def test_a_bad_record_changes_nothing_for_the_others(lines: list[str], more: str) -> None:
    contract = contract_of(["bigint", "date", "text"], fiscal="b")
    alone, beside = checked("\n".join(lines) + "\n", contract), checked("\n".join([more, *lines, more]), contract)
    assert beside.values.to_pylist() == alone.values.to_pylist()
    assert (beside.good - 1).tolist() == alone.good.tolist()
    assert {index - 1: flaw for index, flaw in beside.flaws.items() if 0 < index <= len(lines)} == alone.flaws


def mark(reason: str) -> str:
    return quoted(f'{MARK}["json_invalid", null, "{reason}", "eyI="]') + "\n"


MARKED = Flaw("json_invalid", "it is broken", None, b'{"')


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_a_mark_of_a_transcript_is_the_flaw_that_it_stands_for(columns: int) -> None:
    row = ",".join(['"1"'] * columns) + "\n"
    contract = contract_of(["bigint"] * columns)
    found = checked(mark("it is broken") + row + mark("it is broken"), contract, transcript=True)
    assert found.flaws == {0: MARKED, 2: MARKED}
    assert found.good.tolist() == [1]


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("field", [f"{MARK}", f"{MARK}x", f'{MARK}["a", null, "b", "eyI="]', f"{MARK}[]"])
def test_what_looks_like_a_mark_in_a_file_of_its_sender_is_a_value(columns: int, field: str) -> None:
    found = checked(quoted(field) + "\n", contract_of(["text"] * columns))
    if columns == 1:
        assert found.values.to_pylist() == [{"a": field}]
    else:
        assert [flaw.code for flaw in found.flaws.values()] == ["record_malformed"]


FISCAL_EDGES = [
    ("04-01", "UTC", "date", "1900-03-31", False),
    ("04-01", "UTC", "date", "1900-04-01", True),
    ("04-01", "UTC", "date", "2200-03-31", True),
    ("04-01", "UTC", "date", "2200-04-01", False),
    ("01-01", "UTC", "date", "1899-12-31", False),
    ("01-01", "UTC", "date", "1900-01-01", True),
    ("01-01", "UTC", "date", "2199-12-31", True),
    ("01-01", "UTC", "date", "2200-01-01", False),
    ("12-31", "UTC", "date", "1901-12-30", True),
    ("12-31", "UTC", "date", "1900-12-30", False),
    ("04-01", "UTC", "date", "0001-01-01", False),
    ("04-01", "UTC", "date", "9999-12-31", False),
    ("04-01", "UTC", "timestamp", "1900-03-31 23:59:59.999999", False),
    ("04-01", "UTC", "timestamp", "2200-03-31T23:59:59.999999", True),
    ("04-01", "UTC", "timestamptz", "1900-04-01 00:00:00+00:01", False),
    ("04-01", "UTC", "timestamptz", "1900-03-31 23:59:59-00:01", True),
    ("04-01", "Asia/Tokyo", "timestamptz", "2200-03-31 15:00:00Z", False),
    ("04-01", "Asia/Tokyo", "timestamptz", "2200-03-31 14:59:59.999999Z", True),
    ("12-31", "Pacific/Honolulu", "timestamptz", "1901-01-01 00:00:00+15:59", False),
]  # fmt: skip


@pytest.mark.parametrize(("start", "zone", "kind", "value", "known"), FISCAL_EDGES)
def test_a_fiscal_date_is_accepted_if_and_only_if_the_calendar_has_its_year(
    start: str, zone: str, kind: str, value: str, known: bool
) -> None:
    calendar = FiscalCalendar.parse(start, zone)
    found = checked(f"{value}\n", contract_of([kind], fiscal="a"), calendar=calendar)
    assert [flaw.code for flaw in found.flaws.values()] == ([] if known else ["fiscal_date_invalid"])
    assert flaws_in(f"{value}\n", [kind]) == {}, "only the fiscal date has years"


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamptz"])
def test_a_fiscal_date_that_is_no_date_is_refused_for_that(kind: str) -> None:
    text = "x,1\n1800-13-01 00:00:00,1\n1800-01-01 00:00,1\n,1\n1800-01-01 24:00:00Z,1\n"
    assert {code for code, _ in flaws_in(text, [kind, "text"], fiscal="a").values()} == {
        "date_invalid",
        "value_missing",
    }


BAD = {
    "bigint": lambda number: str(10**18 * 9_300 + number)[:19].replace("93", "99", 1),
    "numeric": lambda number: "1" * 1001 + str(number),
    "date": lambda number: f"{number:04}-02-30",
    "timestamp": lambda number: f"2023-02-30 00:00:00.{number}",
    "timestamptz": lambda number: f"0001-01-01 00:00:00.{number}+15",
    "text": lambda number: f"{number:04}",
}


@pytest.mark.parametrize("kind", BAD)
def test_how_often_a_column_is_gone_through_does_not_depend_on_how_much_of_it_is_wrong(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        @wraps(function)
        def count(*arguments: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*arguments, **options)

        return count

    for name, function in list(vars(pyarrow.compute).items()):
        if callable(function) and name.islower() and not name.startswith("_"):
            monkeypatch.setattr(pyarrow.compute, name, counted(name, function))
    fiscal = "a" if kind in ("date", "timestamp", "timestamptz") else None
    columns = (Column("a", ColumnType(kind), nullable=fiscal is None), Column("b", ColumnType.BIGINT))
    contract = Contract(columns, fiscal_date_column=fiscal)
    found = []
    for count in (1, 300):
        calls.clear()
        flaws = checked("".join(f"{BAD[kind](number)},x\n" for number in range(count)), contract).flaws
        assert len(flaws) == count
        found.append(dict(calls))
    assert found[0] == found[1]
    assert found[0]
