"""What becomes of each line of a file of JSON lines."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.formats.json_lines import read_json_lines
from projections.formats.rows import Limits
from tests.thorough import thorough
from tests.unit.projections.json_samples import BLANKS, RECORDS, expected, written
from tests.unit.projections.reading import InPieces, Repeated, damaged, facts, flaws_of, outcome, rows_of

SMALL = Limits(record_bytes_max=40, columns_max=4, depth_max=5)


def values_of(line: str) -> dict[str, str | None]:
    (row,) = rows_of(read_json_lines, line.encode())
    assert row.flaw is None, row.flaw
    return dict(row.values)


def flaw_of(line: bytes | str, limits: Limits | None = None):
    data = line if isinstance(line, bytes) else line.encode()
    first, row, last = rows_of(read_json_lines, b'{"a":1}\n' + data + b'\n{"a":2}\n', limits=limits)
    assert (first.values, last.values) == ({"a": "1"}, {"a": "2"})
    assert (row.offset, row.length) == (8, len(data))
    assert row.flaw is None or row.values == {}
    return row.flaw


def test_a_number_is_the_text_that_stands_in_the_file():
    digits = "1234567890" * 400
    assert values_of(f'{{"a":12.50,"b":1e5,"c":-0,"d":{digits},"e":1E-400}}') == {
        "a": "12.50",
        "b": "1e5",
        "c": "-0",
        "d": digits,
        "e": "1E-400",
    }


def test_words_become_texts_and_null_is_no_value():
    assert values_of('{"a":true,"b":false,"c":null,"d":"","e":"null"}') == {
        "a": "true",
        "b": "false",
        "c": None,
        "d": "",
        "e": "null",
    }


def test_nested_objects_become_columns_of_three_parts_at_most():
    line = '{"a":{"b":1,"c":{"d":"x","e":{"z":1.0,"f":null}}},"l":[1.50,"1.50",{"b":true,"a":[]}],"o":{},"p":{"q":[]}}'
    assert values_of(line) == {
        "a_b": "1",
        "a_c_d": "x",
        "a_c_e": '{"f":null,"z":1.0}',
        "l": '[1.50,"1.50",{"a":[],"b":true}]',
        "p_q": "[]",
    }


def test_an_object_without_members_is_a_record_without_columns():
    assert values_of("{}") == values_of(" { } ") == {}


def test_a_pair_of_surrogates_is_one_character():
    assert values_of('{"a":"\\ud834\\udd1e","b":"\\\\u0000 \\\\ud800"}') == {"a": "𝄞", "b": "\\u0000 \\ud800"}


def test_offsets_and_lengths_are_those_of_the_bytes_without_line_ends():
    data = '\ufeff{"a":"ü"}\r\n\r\n \t\n {"a":1} \n{"a":2}\r'.encode()
    rows = rows_of(read_json_lines, data)
    assert [data[row.offset : row.offset + row.length] for row in rows] == [
        '{"a":"ü"}'.encode(),
        b' {"a":1} ',
        b'{"a":2}\r',
    ]


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n\r\n \n"])
def test_a_file_of_blanks_has_no_records(data):
    assert rows_of(read_json_lines, data) == []


def test_reading_again_gives_the_same_rows():
    file = InPieces(b'{"a":1}\n{"a":2}', 3)
    assert list(read_json_lines(file, Limits(), {})) == list(read_json_lines(file, Limits(), {}))


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ('{"a":1', "json_invalid", "from byte 14 on: Expecting ',' delimiter"),
        ('{"ü":01}', "json_invalid", "from byte 15 on"),
        ('{"a":1} {"a":2}', "json_invalid", "from byte 16 on: Extra data"),
        ('{"a":"\t"}', "json_invalid", "Invalid control character"),
        ('{"a":"\0"}', "json_invalid", "Invalid control character"),
        ("{'a':1}", "json_invalid", "from byte 9 on"),
        ('{"a":"\\x"}', "json_invalid", "escape"),
        ('\ufeff{"a":1}', "json_invalid", "from byte 8 on"),
        ("[" * 100_000, "nested_too_deep", "64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested_too_deep", "64 levels"),
        ("[1]", "not_an_object", "object"),
        ("1", "not_an_object", "object"),
        ("null", "not_an_object", "object"),
        ('"a"', "not_an_object", "object"),
        ('{"a":1,"a":1}', "name_twice", "'a'"),
        ('{"a":[{"b":{"c\\u0000":1,"c\\u0000":2}}]}', "name_twice", r"'c\x00'"),
        ('{"a":NaN}', "number_invalid", "NaN"),
        ('{"a":[-Infinity]}', "number_invalid", "-Infinity"),
        (b'{"a":"\xfc"}', "encoding_invalid", "0xfc, which is not UTF-8, stands at byte 14"),
        (b'{"a":"\xed\xa0\x80"}', "encoding_invalid", "0xed"),
        ('{"a":"x\\u0000"}', "nul_character", "column 'a'"),
        ('{"a":{"b":["\\u0000"]}}', "nul_character", "column 'a_b'"),
        ('{"a\\u0000":1}', "nul_character", r"column 'a\x00'"),
        ('{"a":"\\ud800"}', "surrogate_alone", "column 'a'"),
        ('{"a":"\\udC00\\ud800"}', "surrogate_alone", "column 'a'"),
        ('{"a":[{"\\ud800":1}]}', "surrogate_alone", "column 'a'"),
        ('{"a_b":1,"a":{"b":2}}', "column_twice", "'a_b'"),
    ],
)
def test_a_line_that_is_no_record_has_a_flaw_and_the_next_is_read(line, code, words):
    flaw = flaw_of(line)
    assert flaw.code == code
    assert words in flaw.reason
    flaw.reason.encode()


def test_a_flaw_names_only_columns_that_can_be_kept():
    assert flaw_of('{"a":"\\u0000"}').column == "a"
    assert flaw_of('{"a\\u0000":1}').column is None


def test_a_record_is_bounded_in_columns_depth_and_bytes():
    assert flaw_of('{"a":1,"b":1,"c":1,"d":1}', SMALL) is None
    assert flaw_of('{"a":1,"b":1,"c":1,"d":1,"e":1}', SMALL).code == "columns_too_many"
    assert flaw_of('{"a":{"b":1,"c":1,"d":1,"e":1,"f":1}}', SMALL).code == "columns_too_many"
    assert flaw_of('{"a":[[[[1]]]],"b":"[[{{"}', SMALL) is None
    assert flaw_of('{"a":[[[[[1]]]]]}', SMALL).code == "nested_too_deep"
    assert flaw_of('{"a":"' + "x" * 32 + '"}', SMALL) is None
    assert flaw_of('{"a":"' + "x" * 33 + '"}', SMALL).code == "record_too_long"


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_line_that_is_too_long_is_skipped_to_its_end(piece, line_end):
    data = b'{"a":1}' + line_end + b"x" * 41 + line_end + b"[" * 5000 + line_end + b'{"a":2}'
    rows, refusal = outcome(read_json_lines, data, piece=piece, limits=SMALL)
    assert refusal is None
    assert [row.flaw and row.flaw.code for row in rows] == [None, "record_too_long", "record_too_long", None]
    ends = [data[row.offset + row.length :][: len(line_end)] for row in rows]
    assert ends == [line_end, line_end, line_end, b""]
    assert [row.length for row in rows] == [7, 41, 5000, 7]


def test_a_last_line_without_end_that_is_too_long_refuses_the_file():
    rows, refusal = outcome(read_json_lines, b'{"a":1}\n' + b"[" * 41, limits=SMALL)
    assert len(rows) == 1
    assert (refusal.code, refusal.byte_offset) == ("record_too_long", 8)


def test_the_deepest_limit_is_still_no_recursion_error():
    deep = '{"a":' + "[" * 199 + "]" * 199 + "}"
    limits = Limits(depth_max=1_000_000)
    assert flaws_of(read_json_lines, deep.encode(), limits=limits) == [None]
    assert flaws_of(read_json_lines, f"[{deep}]".encode(), limits=limits) == ["nested_too_deep"]


@pytest.mark.parametrize("middle", [b'{"a":"' + b"x" * 94 + b'"}\n', b"x" * 100], ids=["lines", "one line"])
def test_memory_does_not_grow_with_the_file(middle):
    file = Repeated(b"", middle, 100_000, b"\n")
    tracemalloc.start()
    count = sum(1 for _ in read_json_lines(file, Limits(record_bytes_max=1 << 20), {}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count in (100_000, 1)
    assert peak < 5 << 20


@given(
    records=st.lists(RECORDS, max_size=6),
    blank=BLANKS,
    ascii_only=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\r\n"]),
    final_line_end=st.booleans(),
    byte_order_mark=st.booleans(),
    piece=st.integers(1, 50),
)
@thorough(examples=100, steps=1)
def test_what_was_written_is_read(records, blank, ascii_only, line_end, final_line_end, byte_order_mark, piece):
    lines = [written(record, blank.rstrip("\r"), ascii_only) for record in records]
    data = ("\ufeff" * byte_order_mark + line_end.join(lines) + line_end * final_line_end).encode()
    rows, refusal = outcome(read_json_lines, data, piece=piece)
    assert refusal is None
    assert [row.values for row in rows] == [expected(record) for record in records]
    assert [data[row.offset : row.offset + row.length].decode() for row in rows] == lines
    assert not any(row.flaw for row in rows)


SAMPLES = [
    b'{"a":1,"b":[1,{"c":null}]}\n{"a":"x\\u00fc\\\\","d":{"e":2}}\r\n\n{"a":2}',
    b"\xef\xbb\xbf" + '{"ä":"𝄞"}\n[1]\n{"a":NaN}\n{"a":1,"a":2}\n'.encode(),
]


@given(data=damaged(SAMPLES), piece=st.integers(1, 9))
@thorough(examples=300, steps=1)
def test_damage_is_told_line_by_line_however_the_file_is_read(data, piece):
    whole = outcome(read_json_lines, data, limits=SMALL)
    assert facts(*outcome(read_json_lines, data, piece=piece, limits=SMALL)) == facts(*whole)
    body = data.removeprefix(b"\xef\xbb\xbf")
    lines = [line for line in body.split(b"\n") if line.strip(b" \t\r")]
    assert len(whole[0]) + (whole[1] is not None) == len(lines)
    for row in whole[0]:
        if row.flaw is None:
            assert isinstance(json.loads(data[row.offset : row.offset + row.length]), dict)
