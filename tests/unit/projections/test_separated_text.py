"""Separated text is read as the csv module of Python reads it, but that nothing is lost and no value is made up."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import FileRefusedError
from projections.formats import separated_text
from projections.formats.rows import Limits
from tests.thorough import thorough

SEARCH = thorough(examples=150, steps=1)
LIMITS = Limits(record_bytes_max=1 << 10)


def read(content: bytes, **options: str) -> list[Any]:
    options = {"quote": '"', "delimiter": ",", "header": "no", **options} if "filename" not in options else options
    rows = list(separated_text.read_separated_text(io.BytesIO(content), LIMITS, options))
    for row in rows:
        assert 0 <= row.offset < row.offset + row.length <= len(content)
    return [row.flaw.code if row.flaw else list(row.values.values()) for row in rows]


VALUES = st.text(st.sampled_from("ab\"',;\\\r\n é"), max_size=6)
ENDS = st.lists(st.sampled_from(["\n", "\r\n"]), min_size=1, max_size=9)


@SEARCH
@given(
    records=st.lists(st.lists(VALUES, min_size=2, max_size=2), min_size=1, max_size=9),
    ends=ENDS,
    quote=st.sampled_from("\"'"),
    escape=st.sampled_from(["", "\\"]),
    block=st.integers(1, 7),
)
def test_what_is_written_with_any_quote_escape_and_line_ends_is_read_back(
    records: list[list[str]], ends: list[str], quote: str, escape: str, block: int
) -> None:
    def field(value: str) -> str:
        inner = value.replace(escape, escape * 2) if escape else value
        return quote + inner.replace(quote, (escape or quote) + quote) + quote

    text = "".join(",".join(map(field, record)) + ends[place % len(ends)] for place, record in enumerate(records))
    said = {"quote": quote, **({"escape": escape} if escape else {})}
    before, separated_text.READ_BYTES = separated_text.READ_BYTES, block
    try:
        assert read(text.encode(), **said) == records
        assert read(b"\xef\xbb\xbf" + text.rstrip("\r\n").encode() if not escape else text.encode(), **said)
    finally:
        separated_text.READ_BYTES = before


@SEARCH
@given(st.text(st.sampled_from('ab",\n'), max_size=30))
def test_what_it_takes_is_what_the_csv_module_makes_of_it(text: str) -> None:
    try:
        found = read(text.encode())
    except FileRefusedError as refused:
        assert refused.code in ("quote_unterminated", "file_empty")
        return
    expected = [record for record in csv.reader(io.StringIO(text, newline="")) if record]
    for mine, theirs in zip(found, expected, strict=False):
        if isinstance(mine, str):
            return  # a misplaced quote, of which the csv module makes something, or another number of fields
        assert [value or "" for value in mine] == theirs
    assert len(found) == len(expected)


@pytest.mark.parametrize(
    ("content", "options", "rows"),
    [
        (b'1,"a"b\n2,x\n', {}, ["quote_misplaced", ["2", "x"]]),
        (b"1,a,b\n2,x\n", {}, [["1", "a", "b"], "record_malformed"]),
        (b"\n\n1,a\n\n2,b", {}, [["1", "a"], ["2", "b"]]),
        (b'"",\n', {}, [["", None]]),
        (rb"C:\new,\N" + b"\n", {"escape": "\\"}, [[r"C:\new", None]]),
        (rb'\,,"\N"' + b"\n", {"escape": "\\"}, [[",", r"\N"]]),
        (rb'"\"",a\\b' + b"\n", {"escape": "\\"}, [['"', r"a\b"]]),
        (b"a\rb,c\n1,2\n", {}, [["a\rb", "c"], ["1", "2"]]),
        (b"a,b\n1,2\n", {"header": "yes"}, [["1", "2"]]),
    ],
)  # fmt: skip
def test_examples(content: bytes, options: dict[str, str], rows: list[Any]) -> None:
    assert read(content, **options) == rows


def test_what_has_no_delimiter_is_lines_in_which_nothing_means_anything() -> None:
    content = b'dear "reader",\r\n\n"this is not closed\nC:\\N\rx\r\nend'
    assert read(content, filename="notes.txt") == [
        ['dear "reader",'],
        [""],
        ['"this is not closed'],
        ["C:\\N\rx"],
        ["end"],
    ]
    assert read(b"a,b\r1,2\r3,4\r", filename="table.csv") == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("content", "code", "offset"),
    [
        (b'a,b\n1,"x\n', "quote_unterminated", 4),
        (b"a,b\n1,\xff\n", "encoding_invalid", 6),
        (b"a,b\n1,\0\n", "nul_byte", 6),
        (b"a,b\n" + b"x" * (2 << 20), "record_too_long", 4),
        (b'a,b\n1,"' + b"x\n" * 2_000, "quote_unterminated", 4),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(content: bytes, code: str, offset: int) -> None:
    with pytest.raises(FileRefusedError) as refused:
        read(content)
    assert (refused.value.code, refused.value.byte_offset) == (code, offset)
