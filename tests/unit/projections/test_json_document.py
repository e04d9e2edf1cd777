"""Which records a JSON document holds, where they stand, and where it breaks."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.formats.json_document import read_json_document
from projections.formats.json_scanner import NO_BYTE, ValueEnd
from projections.formats.rows import Limits
from tests.thorough import thorough
from tests.unit.projections.json_samples import BLANKS, NAMES, RECORDS, VALUES, expected, written
from tests.unit.projections.reading import InPieces, Repeated, damaged, facts, flaws_of, outcome, rows_of

SMALL = Limits(record_bytes_max=40, columns_max=4, depth_max=5)


def ids_of(text: str, **options: str) -> list[str | None]:
    return [row.values["id"] for row in rows_of(read_json_document, text.encode(), **options)]


def refusal_of(text: str | bytes, **options: str):
    data = text if isinstance(text, bytes) else text.encode()
    refusal = outcome(read_json_document, data, **options)[1]
    assert refusal is not None
    return refusal


def test_values_are_the_texts_that_stand_in_the_file():
    digits = "1234567890" * 4
    text = f'[{{"a":12.50,"b":1e5,"c":{digits},"d":true,"e":null,"f":"","g":{{"h":[1.0,"x"]}}}}]'
    (row,) = rows_of(read_json_document, text.encode())
    assert row.values == {
        "a": "12.50",
        "b": "1e5",
        "c": digits,
        "d": "true",
        "e": None,
        "f": "",
        "g_h": '[1.0,"x"]',
    }


def test_offsets_and_lengths_are_those_of_the_elements():
    data = '\ufeff \r\n[ {"a":"ü]}"} ,\n{ "a":\t[{}] },{}\n]\n'.encode()
    rows = rows_of(read_json_document, data)
    assert [data[row.offset : row.offset + row.length].decode() for row in rows] == [
        '{"a":"ü]}"}',
        '{ "a":\t[{}] }',
        "{}",
    ]


@pytest.mark.parametrize("text", ["[]", " [ ] ", '{"items":[]}', '{"a":1,"b":{"c":[],"d":[]},"e":[]}'])
def test_an_array_without_elements_has_no_records(text):
    assert rows_of(read_json_document, text.encode()) == []


def test_a_path_leads_to_the_array():
    text = '{"data":{"other":[{"id":9}],"items":[{"id":1},{"id":2}],"more":{"a":[[]]}},"items":[{"id":8}],"n":-1.5e3}'
    assert ids_of(text, record="data.items") == ["1", "2"]
    assert ids_of(text, record="items") == ["8"]
    assert ids_of(text.replace('"data"', '"d\\u0061ta"'), record="data.items") == ["1", "2"]


@pytest.mark.parametrize(
    "text",
    [
        '[{"id":1}]',
        '{"id":7,"items":[{"id":1}],"tags":["a"],"empty":[]}',
        '{"meta":{"links":[{"id":9}]},"items":[{"id":1}]}',
        '{"meta":{"pages":[1]},"data":{"items":[{"id":1}]},"more":{"items":[{"id":9}]}}',
        '{"a":{"b.c":[{"id":1}]}}',
    ],
)
@pytest.mark.parametrize("option", [{}, {"record": ""}])
def test_without_a_path_the_only_array_of_objects_is_found(text, option):
    assert ids_of(text, **option) == ["1"]


@pytest.mark.parametrize("text", ['{"a":[{}],"b":[{}]}', '{"a":[{}],"a":[{}]}', '{"a":[],"b":{"c":[{}]}}'])
def test_of_two_arrays_none_is_chosen(text):
    refusal = refusal_of(text)
    assert refusal.code == "record_ambiguous"
    assert "'a'" in str(refusal)


@pytest.mark.parametrize(
    ("text", "record", "words"),
    [
        ('{"id":1}', "", "no array of objects"),
        ('{"a":{"b":{"c":[{}]}}}', "", "no array of objects"),
        ('{"a":[1]}', "", "no array of objects"),
        ('"[{}]"', "", "no array of objects"),
        ("42", "", "no array of objects"),
        ('{"a":[{}]}', "b", "asks for 'b', which the object that ends there has not"),
        ('{"a":{"c":[{}]}}', "a.b", "asks for 'b', which"),
        ('{"a":[{}]}', "a.b", "asks for 'b' where no object stands"),
        ("[{}]", "a", "asks for 'a' where no object stands"),
        ('{"a":{}}', "a", "no array"),
        ('{"a":null}', "a", "no array"),
        ('{"a":[{}]}', "a." * 64 + "a", "64 names"),
    ],
)
def test_an_array_that_is_not_where_it_should_be_is_refused(text, record, words):
    refusal = refusal_of(text, record=record)
    assert refusal.code == "record_unknown"
    assert words in str(refusal)
    assert "`record`" in refusal.remedy


def test_the_array_may_not_stand_there_twice():
    rows, refusal = outcome(read_json_document, b'{"a":[{"id":1}],"a":[{"id":2}]}', record="a")
    assert [row.values for row in rows] == [{"id": "1"}]
    assert (refusal.code, refusal.byte_offset) == ("name_twice", 20)


@pytest.mark.parametrize(
    ("text", "code", "offset", "rows"),
    [
        ('[{"a":1} {"a":2}]', "json_invalid", 9, 1),
        ('[{"a":1},]', "json_invalid", 9, 1),
        ('[,{"a":1}]', "json_invalid", 1, 0),
        ('[{"a":1},{"a":02}]', "json_invalid", 15, 1),
        ('[{"ü":1},{"ü" 2}]', "json_invalid", 16, 1),
        ('[{"a":1},{"a":"x},{"a":"y"}]', "json_invalid", 20, 1),
        ('[{"a":1},{"a":[1}]', "json_invalid", 16, 1),
        ('[{"a":1},{"a":1]]', "json_invalid", 15, 1),
        ('[{"a":1}}', "json_invalid", 8, 1),
        ('[{"a":1}]x', "json_invalid", 9, 1),
        ('[{"a":1}]\n[]', "json_invalid", 10, 1),
        ("hello", "json_invalid", 0, 0),
        ('[{"a":1},nul]', "json_invalid", 9, 1),
        ('{"m":{"x" 1},"a":[{"a":1}]}', "json_invalid", 10, 0),
        ('{"a":[{"a":1}],"m":{"x":[1,]}}', "json_invalid", 27, 1),
        ('{"a":[{"a":1}],}', "json_invalid", 15, 1),
        ('{"a":[{"a":1}],m:1}', "json_invalid", 15, 1),
        ('{"a":[{"a":1}],"m" 1}', "json_invalid", 19, 1),
        ('{"a":[{"a":1}]', "json_truncated", 14, 1),
        ('{"a":[{"a":1}],"m', "json_truncated", 17, 1),
        ("", "json_truncated", 0, 0),
        ("\ufeff ", "json_truncated", 4, 0),
        ("[", "json_truncated", 1, 0),
        ('[{"a":1}', "json_truncated", 8, 1),
        ('[{"a":1},', "json_truncated", 9, 1),
        ('[{"a":1},{"a":tr', "json_truncated", 16, 1),
        ('[{"a":1},{"a":"\\u00', "json_truncated", 19, 1),
        ('[{"a":1},{"a":"x\\', "json_truncated", 17, 1),
        ('[{"a":1},{"a":-', "json_truncated", 15, 1),
        ("[" * 100_000, "json_truncated", 100_000, 0),
    ],
)
def test_broken_grammar_refuses_the_file_with_its_place_after_the_rows_before(text, code, offset, rows):
    given_rows, refusal = outcome(read_json_document, text.encode())
    assert (refusal.code, refusal.byte_offset, len(given_rows)) == (code, offset, rows)
    assert f"byte {offset:,}" in str(refusal)
    assert refusal.record in (None, rows + 1)


def test_an_element_with_a_flaw_is_a_record_among_others():
    elements = [
        ("1", "not_an_object"),
        ("null", "not_an_object"),
        ('"a,]"', "not_an_object"),
        ("[{}]", "not_an_object"),
        ('{"a":1,"a":2}', "name_twice"),
        ('{"a":[NaN]}', "number_invalid"),
        ('{"a":"\\u0000"}', "nul_character"),
        ('{"a":"\\ud800"}', "surrogate_alone"),
        ('{"a_b":1,"a":{"b":2}}', "column_twice"),
        ('{"a":[[[[[]]]]]}', "nested_too_deep"),
        ('{"a":1,"b":1,"c":1,"d":1,"e":1}', "columns_too_many"),
        ('{"a":"' + "]" * 40 + '"}', "record_too_long"),
        ("9" * 41, "record_too_long"),
    ]
    text = '[{"a":1},' + " ,\n".join(text for text, _ in elements) + ',{"a":2}]'
    codes = [None, *(code for _, code in elements), None]
    assert flaws_of(read_json_document, text.encode(), limits=SMALL) == codes
    rows = rows_of(read_json_document, text.encode(), limits=SMALL)
    assert [text[row.offset : row.offset + row.length] for row in rows][1:-1] == [text for text, _ in elements]


def test_bytes_that_are_not_utf_8_are_a_flaw_unless_the_grammar_is_broken_too():
    assert flaws_of(read_json_document, b'[{"a":"\xff"},{"a":1}]') == ["encoding_invalid", None]
    assert refusal_of(b'[{"a":"\xff\xff" 1}]').byte_offset == 11
    assert refusal_of(b'[{"a":\xff}]').code == "json_invalid"


def test_reading_again_gives_the_same_rows():
    file = InPieces(b'{"a":[{"a":1},{"a":2}]}', 3)
    assert list(read_json_document(file, Limits(), {})) == list(read_json_document(file, Limits(), {}))


@pytest.mark.parametrize(
    ("start", "middle", "end", "rows"),
    [
        (b'{"x":[[', b"[{}],", b'1]],"data":[{"a":"\\\\', 0),
        (b'{"n":1,"data":[{}', b',{"a":"' + b"x" * 40 + b'"}', b"]}", 50_001),
        (b"[1,", b'"' + b"\\\\" * 50 + b'",', b"1]", 50_002),
        (b'[{"a":"', b"\\\\" * 100, b'"}]', 1),
        (b"[", b"1" * 50, b"]", 1),
    ],
    ids=["skipped", "elements", "texts", "one element", "one number"],
)
def test_memory_does_not_grow_with_the_file(start, middle, end, rows):
    tracemalloc.start()
    count = 0
    try:
        for _ in read_json_document(Repeated(start, middle, 50_000, end), Limits(record_bytes_max=1 << 16), {}):
            count += 1
    except Exception as error:
        assert getattr(error, "code", "") == "json_truncated"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows
    assert peak < 5 << 20


@given(value=VALUES, blank=BLANKS, rest=st.sampled_from([",", "]", " ", "}{"]), cuts=st.lists(st.integers(1, 9)))
@thorough(examples=150, steps=1)
def test_the_end_of_a_value_is_found_in_whatever_blocks_it_comes(value, blank, rest, cuts):
    data = written(value, blank).strip().encode()
    whole = data + rest.encode()
    end, position = ValueEnd(), 0
    for cut in [*cuts, len(whole)]:
        found = end.find(whole[position : position + cut])
        if found != NO_BYTE:
            break
        position += cut
    assert position + found == len(data)


@given(
    records=st.lists(RECORDS, max_size=5),
    around=st.dictionaries(NAMES, VALUES, max_size=3),
    path=st.lists(st.sampled_from(["rows", "data"]), max_size=3),
    blank=BLANKS,
    ascii_only=st.booleans(),
    byte_order_mark=st.booleans(),
    piece=st.integers(1, 60),
)
@thorough(examples=100, steps=1)
def test_what_was_written_is_read(records, around, path, blank, ascii_only, byte_order_mark, piece):
    elements = [written(record, blank, ascii_only) for record in records]
    text = "[" + ",".join(elements) + "]"
    for name in reversed(path):
        members = [f"{written(other)}:{written(value)}" for other, value in around.items()]
        text = (
            "{"
            + ",".join([*members, f"{blank}{json.dumps(name)}{blank}:{text}", *(['"z":{"a":[0]}'] * blank.isspace())])
            + "}"
        )
    data = ("\ufeff" * byte_order_mark + blank + text + blank).encode()
    rows, refusal = outcome(read_json_document, data, piece=piece, record=".".join(path))
    assert refusal is None
    assert [row.values for row in rows] == [expected(record) for record in records]
    assert [data[row.offset : row.offset + row.length].decode() for row in rows] == [each.strip() for each in elements]


SAMPLES = [
    b'[{"a":1,"b":[1,{"c":null}]},\n{"a":"x\\u00fc\\\\\\"","d":{"e":2}} , {"a":2}]\n',
    '\ufeff{"meta":{"ä":"𝄞","b":[1,2]},"items":[{"a":-1.5e3},{"a":true},[1],"x",{"a":1,"a":2}],"n":null}'.encode(),
    b'{"data":{"items":[{"a":1},{"a":2}],"next":"abc"},"total":2}',
]


@given(data=damaged(SAMPLES), piece=st.integers(1, 9), record=st.sampled_from(["", "items", "data.items"]))
@thorough(examples=300, steps=1)
def test_damage_is_told_the_same_however_the_file_is_read(data, piece, record):
    rows, refusal = outcome(read_json_document, data, limits=SMALL, record=record)
    assert facts(*outcome(read_json_document, data, piece=piece, limits=SMALL, record=record)) == facts(rows, refusal)
    ends = [0, *(row.offset + row.length for row in rows)]
    assert all(end <= row.offset for end, row in zip(ends, rows, strict=False))
    for row in rows:
        if row.flaw is None:
            assert isinstance(json.loads(data[row.offset : row.offset + row.length]), dict)
    if refusal is None and not any(row.flaw for row in rows):
        json.loads(data.decode("utf-8-sig", "replace"))


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_cut_of_a_document_is_refused_as_cut(sample):
    body = sample.rstrip()
    for length in range(len(body)):
        rows, refusal = outcome(read_json_document, body[:length])
        cut_mark = body[:length] in b"\xef\xbb" and length > 0
        assert refusal.code == ("json_invalid" if cut_mark else "json_truncated"), refusal
        assert len(rows) <= 5
