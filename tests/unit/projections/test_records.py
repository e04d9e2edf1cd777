"""The records of a chunk against a machine that reads it byte by byte."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projections.formats.dialect import LINE_DELIMITER, LINE_QUOTE, Dialect
from projections.formats.records import find_records, irregular_quotes
from tests.thorough import thorough

SEARCH = thorough(examples=150, steps=1)

LF = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\n")
CRLF = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\r\n")
LINES = Dialect("lines", LINE_DELIMITER, False, False, "\n", LINE_QUOTE)

FIELDS = st.text(st.sampled_from('ab,"\n\r1ü€𝄞 '), max_size=6)
WRITTEN = st.lists(st.lists(FIELDS, min_size=1, max_size=3), max_size=10)
# What the splitter lets through: a carriage return stands in quotes, or before the newline of a file that has CR LF.
PIECES = st.sampled_from(["a", ",", '"', "\n", "ü", '""', '"\r"', '"\n"', ' "', '" '])


@dataclass
class Seen:
    """A record as the machine saw it: where it stands, in which line, and whether all of its quotes are regular."""

    start: int
    end: int
    line: int
    regular: bool


def read_byte_by_byte(chunk: bytes, line_end: bytes) -> list[Seen]:
    """The records by the rules of `COPY ... (FORMAT csv)`, and their quotes by ours."""
    seen: list[Seen] = []
    start, line, start_line, in_quotes, regular = 0, 0, 0, False, True
    field_start, may_open = True, False
    for position, byte in enumerate(chunk):
        character = bytes([byte])
        following = chunk[position + 1 : position + 2]
        if character == b'"':
            if in_quotes:
                regular &= following in (b'"', b",", b"\n", b"\r", b"")
                may_open = following == b'"'  # then the quote after this one is doubled
            else:
                regular &= field_start or may_open
            in_quotes = not in_quotes
            field_start = False
            continue
        may_open = False
        line += character == b"\n"
        if character == b"\n" and not in_quotes:
            if chunk[start : position + 1] != line_end:
                seen.append(Seen(start, position + 1, start_line, regular))
            start, start_line, field_start, regular = position + 1, line, True, True
        else:
            field_start = character == b"," and not in_quotes
    if start < len(chunk):
        seen.append(Seen(start, len(chunk), start_line, regular))
    return seen


def quotes_are_even(text: str) -> bool:
    return text.count('"') % 2 == 0


def check_against_the_machine(chunk: bytes, dialect: Dialect) -> None:
    records = find_records(chunk, dialect)
    seen = read_byte_by_byte(chunk, dialect.line_end.encode())
    assert len(records) == len(seen)
    assert [records.bytes_of(index) for index in range(len(records))] == [chunk[r.start : r.end] for r in seen]
    assert records.starts.tolist() == [record.start for record in seen]
    assert [records.line_of(index) for index in range(len(records))] == [record.line for record in seen]
    assert irregular_quotes(records) == [index for index, record in enumerate(seen) if not record.regular]


@SEARCH
@given(st.lists(PIECES, max_size=25).map("".join).filter(quotes_are_even))
def test_records_lines_and_irregular_quotes_are_those_of_a_reading_byte_by_byte(text: str) -> None:
    check_against_the_machine(text.encode(), LF)


@SEARCH
@given(st.lists(PIECES, max_size=25).map("".join).filter(quotes_are_even))
def test_the_same_holds_where_lines_end_with_carriage_return_and_newline(text: str) -> None:
    parts = text.split('"')
    windows = '"'.join(part if number % 2 else part.replace("\n", "\r\n") for number, part in enumerate(parts))
    check_against_the_machine(windows.encode(), CRLF)


def written(records: list[list[str]], line_end: str, blank_before: set[int], final_line_end: bool) -> bytes:
    pieces = []
    for number, record in enumerate(records):
        fields = [
            '"' + text.replace('"', '""') + '"' if not text or set(text) & set('",\r\n') else text for text in record
        ]
        pieces.append(line_end * (number in blank_before) + ",".join(fields) + line_end)
    text = "".join(pieces)
    return (text if final_line_end else text.removesuffix(line_end)).encode()


@SEARCH
@given(
    written_records=WRITTEN,
    dialect=st.sampled_from([LF, CRLF]),
    blank_before=st.sets(st.integers(0, 10)),
    final_line_end=st.booleans(),
)
def test_what_a_csv_writer_writes_is_found_record_by_record_and_has_regular_quotes(
    written_records: list[list[str]], dialect: Dialect, blank_before: set[int], final_line_end: bool
) -> None:
    chunk = written(written_records, dialect.line_end, blank_before, final_line_end)
    records = find_records(chunk, dialect)
    found = [
        next(csv.reader(io.StringIO(records.bytes_of(index).decode(), newline=""))) for index in range(len(records))
    ]
    assert found == written_records
    assert irregular_quotes(records) == []


@SEARCH
@given(st.text(st.sampled_from('a"\nü,')).map(str.encode))
def test_in_plain_text_every_line_is_a_record_blank_or_not_and_no_quote_is_irregular(chunk: bytes) -> None:
    records = find_records(chunk, LINES)
    assert [records.bytes_of(index) for index in range(len(records))] == chunk.splitlines(keepends=True)
    assert [records.line_of(index) for index in range(len(records))] == list(range(len(records)))
    assert irregular_quotes(records) == []


@pytest.mark.parametrize("dialect", [LF, CRLF, LINES], ids=["LF", "CR LF", "lines"])
def test_a_last_line_of_one_byte_without_its_end_is_a_record(dialect: Dialect) -> None:
    records = find_records(b"ab" + dialect.line_end.encode() + b"c", dialect)
    assert [records.bytes_of(index) for index in range(len(records))] == [b"ab" + dialect.line_end.encode(), b"c"]


@pytest.mark.parametrize(
    "record",
    [
        b'a"b"',
        b' "a"',
        b'"a" ',
        b'"a"b',
        b'"a"b"c"',
        b'""a',
        b'a""',
        b'"a" "b"',
        b'x,y"z"',
        b'"x"y,z',
        b'x, "y"',
        b'"\n"a',
    ],
)
def test_a_quote_that_neither_opens_nor_closes_a_field_is_irregular_wherever_its_record_stands(record: bytes) -> None:
    for chunk, index in [
        (record, 0),
        (record + b"\n", 0),
        (b'"q"\n\n' + record, 1),
        (b'"\n"\n' + record + b'\n"q"\n', 1),
    ]:
        assert irregular_quotes(find_records(chunk, LF)) == [index]


@pytest.mark.parametrize(
    "record", [b'""', b'"a"', b'"a""b"', b'""""', b'"""",""""', b'"","",', b',""', b'"\n"', b'",",","', b'"a"",""b"']
)
def test_a_quote_that_opens_closes_or_is_doubled_is_regular_wherever_its_record_stands(record: bytes) -> None:
    for chunk in (record, record + b"\n", b'"q"\n\n' + record, b'"\n"\n' + record + b'\n"q"\n'):
        assert irregular_quotes(find_records(chunk, LF)) == []
    assert irregular_quotes(find_records(record + b"\r\n" + record, CRLF)) == []


def test_a_record_with_many_irregular_quotes_is_named_once() -> None:
    assert irregular_quotes(find_records(b'a"b"c"d"e\nf\n' * 3, LF)) == [0, 2, 4]


CHUNK = b'\na,"\n"\n\nb,c\n\nd,e\n"f"\n\n'


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("end", range(1, 5))
def test_a_piece_holds_just_its_records_and_nothing_around_them(start: int, end: int) -> None:
    if start >= end:
        return
    records = find_records(CHUNK, LF)
    piece = records.piece(start, end)
    assert [piece.bytes_of(index) for index in range(len(piece))] == [
        records.bytes_of(index) for index in range(start, end)
    ]
    assert piece.chunk.startswith(records.bytes_of(start))
    assert piece.chunk.endswith(records.bytes_of(end - 1))


def test_all_but_some_records_are_the_others_in_their_order() -> None:
    records = find_records(CHUNK, LF)
    assert records.without([]).tolist() == [0, 1, 2, 3]
    assert records.without([2, 0]).tolist() == [1, 3]
    assert records.without(range(4)).tolist() == []


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_numbered_records_carry_their_number_in_the_file_and_each_has_its_line_end(line_end: str) -> None:
    dialect = Dialect("delimited", ";", False, False, line_end)
    chunk = f'a;"x{line_end}y"{line_end}{line_end}b;c{line_end}d;e'.encode()
    records = find_records(chunk, dialect)
    numbered = records.numbered(numpy.array([0, 2]), 1_000_000_000_000)
    assert numbered == (
        f'1000000000000;a;"x{line_end}y"{line_end}1000000000002;d;e{line_end}'.encode()
    )  # the last one had none
    assert records.numbered(numpy.array([1]), 1) == f"2;b;c{line_end}".encode()
    assert records.numbered(numpy.array([], numpy.int64), 1) == b""
