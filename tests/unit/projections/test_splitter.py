"""The splitter against the csv module, and against a reading of the bytes one by one."""

from __future__ import annotations

import csv
import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import FileRefusedError, PartUnavailableError
from projections.formats.dialect import LINE_DELIMITER, LINE_QUOTE, Dialect
from projections.formats.splitter import Plan, cut_blank_lines, split

LF = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\n")
CRLF = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\r\n")
LINES = Dialect("lines", LINE_DELIMITER, False, False, "\n", LINE_QUOTE)

FIELDS = st.text(st.sampled_from('ab,"\n\r1ü€𝄞 '), max_size=6)
RECORDS = st.lists(st.lists(FIELDS, min_size=2, max_size=3), max_size=12)
SIZES = {"block_bytes": st.integers(4, 40), "chunk_bytes": st.integers(1, 40)}


def plan_of(data: bytes, dialect: Dialect = LF, **options) -> Plan:
    options = {"chunk_bytes": 1 << 20, "record_bytes_max": 1 << 20, **options}
    return split(lambda start, length: data[start : start + length], len(data), dialect, **options)


def refusal_of(data: bytes, dialect: Dialect = LF, **options) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        plan_of(data, dialect, **options)
    return caught.value


def place_of(refusal: FileRefusedError) -> tuple:
    return refusal.code, refusal.record, refusal.line, refusal.byte_offset


def written(records: list[list[str]], line_end: str, blank_before: set[int], final_line_end: bool) -> bytes:
    pieces = []
    for number, record in enumerate(records):
        fields = ['"' + text.replace('"', '""') + '"' if set(text) & set('",\r\n') else text for text in record]
        pieces.append(line_end * (number in blank_before) + ",".join(fields) + line_end)
    text = "".join(pieces)
    return (text if final_line_end else text.removesuffix(line_end)).encode()


def read_by_csv(data: bytes) -> list[list[str]]:
    return [record for record in csv.reader(io.StringIO(data.decode(), newline="")) if record]


@given(
    records=RECORDS,
    line_end=st.sampled_from(["\n", "\r\n"]),
    blank_before=st.sets(st.integers(0, 12)),
    final_line_end=st.booleans(),
    header=st.booleans(),
    byte_order_mark=st.booleans(),
    **SIZES,
)
def test_chunks_hold_the_same_records_as_the_whole_file(
    records, line_end, blank_before, final_line_end, header, byte_order_mark, block_bytes, chunk_bytes
):
    mark, head = b"\xef\xbb\xbf" * byte_order_mark, f'"na{line_end}me",b{line_end}'.encode() * header
    body = written(records, line_end, blank_before, final_line_end)
    dialect = Dialect("delimited", ",", header, byte_order_mark, line_end)
    data = mark + head + body
    plan = plan_of(data, dialect, block_bytes=block_bytes, chunk_bytes=chunk_bytes)

    assert plan.header == ([f"na{line_end}me", "b"] if header else None)
    assert plan.data_start == len(mark + head)
    assert plan.size == len(data)
    assert plan.records == len(records)
    position, record, blank_lines = plan.data_start, 1, 0
    for number, chunk in enumerate(plan.chunks):
        piece = data[chunk.start : chunk.end]
        whole = b"".join(cut_blank_lines(piece, dialect))
        assert (chunk.number, chunk.start, chunk.first_record) == (number, position, record)
        assert chunk.first_line == data.count(b"\n", 0, chunk.start) + 1
        assert read_by_csv(piece) == records[record - 1 : record - 1 + chunk.records]
        assert len(piece) - len(whole) == chunk.blank_lines * len(line_end)
        assert read_by_csv(whole) == read_by_csv(piece)
        assert [] not in csv.reader(io.StringIO(whole.decode(), newline=""))
        position, record, blank_lines = chunk.end, record + chunk.records, blank_lines + chunk.blank_lines
    assert (position, record, blank_lines) == (len(data), len(records) + 1, plan.blank_lines)


def read_byte_by_byte(data: bytes) -> tuple[list[int], list[int]] | None:
    """The ends of records and of blank lines by PostgreSQL's rule; None if a quote stays open."""
    ends, blanks, in_quotes, start = [], [], False, 0
    for position, byte in enumerate(data):
        if byte == ord('"'):
            in_quotes = not in_quotes
        elif byte == ord("\n") and not in_quotes:
            (blanks if position == start else ends).append(position + 1)
            start = position + 1
    if in_quotes:
        return None
    return ends + [len(data)] * (start < len(data)), blanks


@given(data=st.text(st.sampled_from('a,"\nü')).map(str.encode), **SIZES)
def test_quotes_toggle_wherever_they_stand(data, block_bytes, chunk_bytes):
    expected = read_byte_by_byte(data)
    if expected is None:
        refusal = refusal_of(data, block_bytes=block_bytes, chunk_bytes=chunk_bytes)
        assert refusal.code == "quote_unterminated"
        assert refusal.byte_offset == data.rindex(b'"')
        assert refusal.line == data.count(b"\n", 0, refusal.byte_offset) + 1
        return
    ends, blanks = expected
    plan = plan_of(data, block_bytes=block_bytes, chunk_bytes=chunk_bytes)
    assert (plan.records, plan.blank_lines) == (len(ends), len(blanks))
    assert b"".join(data[chunk.start : chunk.end] for chunk in plan.chunks) == data
    for chunk in plan.chunks:
        assert chunk.end in ends + blanks
        assert chunk.records == sum(chunk.start < end <= chunk.end for end in ends)
        assert chunk.blank_lines == sum(chunk.start < end <= chunk.end for end in blanks)


@given(data=st.text(st.sampled_from('a,"\nü')).map(str.encode), **SIZES)
def test_in_plain_text_every_line_is_a_record_and_quotes_mean_nothing(data, block_bytes, chunk_bytes):
    plan = plan_of(data, LINES, block_bytes=block_bytes, chunk_bytes=chunk_bytes)
    assert plan.records == len(data.splitlines())
    assert plan.blank_lines == 0
    assert b"".join(data[chunk.start : chunk.end] for chunk in plan.chunks) == data
    assert all(chunk.first_record == chunk.first_line for chunk in plan.chunks)


def test_a_chunk_is_longer_than_it_aims_to_be_by_at_most_one_record():
    data = b"".join(b"%07d,x\n" % number for number in range(1000))
    plan = plan_of(data, chunk_bytes=105, block_bytes=64)
    assert {chunk.end - chunk.start for chunk in plan.chunks[:-1]} == {110}


def test_a_file_with_a_header_alone_has_no_chunks():
    dialect = Dialect("delimited", ",", True, False, "\n")
    for data in (b"id,name\n", b"id,name"):
        plan = plan_of(data, dialect)
        assert (plan.chunks, plan.header, plan.records, plan.data_start) == ((), ["id", "name"], 0, len(data))


def test_blank_lines_before_the_header_are_passed_over():
    plan = plan_of(b"\n\nid,name\n1,a\n", Dialect("delimited", ",", True, False, "\n"))
    assert plan.header == ["id", "name"]
    assert (plan.chunks[0].first_line, plan.chunks[0].first_record, plan.chunks[0].records) == (4, 1, 1)


def test_a_header_longer_than_the_first_read_is_read_whole():
    names = [f"column_{number:05}" for number in range(9000)]
    plan = plan_of(",".join(names).encode() + b"\n", Dialect("delimited", ",", True, False, "\n"))
    assert plan.header == names


def test_a_plan_survives_its_json_and_its_digest_is_of_that_json():
    plan = plan_of('näme,b\n1,"x\ny"\n\n2,z'.encode(), Dialect("delimited", ",", True, False, "\n"), chunk_bytes=4)
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.digest() == hashlib.sha256(plan.to_json()).hexdigest()
    assert plan.to_json().startswith(b'{"blank_lines":1,"chunks":[{"blank_lines":0,"end":16,"first_line":2,')


def test_progress_is_told_after_each_block():
    told = []
    plan_of(b"ab\ncd\nef\n", block_bytes=4, on_block=told.append)
    assert told == [4, 8, 9]


def test_short_reads_are_continued_and_a_missing_end_is_told():
    data = b"ab\ncd\nef\n"
    plan = split(lambda start, length: data[start : start + min(length, 2)], 9, LF, chunk_bytes=4, record_bytes_max=9)
    assert plan == plan_of(data, chunk_bytes=4)
    with pytest.raises(PartUnavailableError, match="ends at byte 9"):
        split(lambda start, length: data[start : start + length], 10, LF, chunk_bytes=4, record_bytes_max=9)


BEFORE = b'a,b\n\n"q\n",""\n'  # two records in four lines, one of them blank
BLOCKS = pytest.mark.parametrize("block_bytes", [4, 5, 7, 11, 1 << 20])


@BLOCKS
def test_a_nul_byte_is_refused_at_its_place(block_bytes):
    refusal = refusal_of(BEFORE + b"c,d\0\n", block_bytes=block_bytes)
    assert place_of(refusal) == ("nul_byte", 3, 5, len(BEFORE) + 3)


@BLOCKS
@pytest.mark.parametrize("flaw", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xe2\x82", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_what_is_not_utf_8_is_refused_at_its_place(block_bytes, flaw):
    for data in (BEFORE + "ü".encode() + flaw + b",d\n", BEFORE + "ü".encode() + flaw):
        refusal = refusal_of(data, block_bytes=block_bytes)
        assert place_of(refusal) == ("encoding_invalid", 3, 5, len(BEFORE) + 2)


@BLOCKS
def test_a_foreign_line_end_outside_quotes_is_refused_at_its_place(block_bytes):
    windows = BEFORE.replace(b"\n", b"\r\n")
    cases = [
        (LF, BEFORE + b'"\r"\nc,d\r\n', (4, 6, len(BEFORE) + 7)),
        (LF, BEFORE + b"c\rd\n", (3, 5, len(BEFORE) + 1)),
        (LF, BEFORE + b"c\r", (3, 5, len(BEFORE) + 1)),
        (CRLF, windows + b'"\r\n\r"\r\nc,d\ne\r\n', (4, 7, len(windows) + 10)),
        (CRLF, windows + b"c\rd\r\n", (3, 5, len(windows) + 1)),
        (CRLF, windows + b"c\r", (3, 5, len(windows) + 1)),
        (CRLF, b"\nc\r\n", (1, 1, 0)),
    ]
    for dialect, data, place in cases:
        assert place_of(refusal_of(data, dialect, block_bytes=block_bytes)) == ("line_end_mixed", *place)


@BLOCKS
def test_a_record_that_is_too_long_is_refused_at_its_start(block_bytes):
    for long in (b"123456789\n", b"1234567890", b'"34\n\n78901', b"123456789\nx\n"):
        refusal = refusal_of(BEFORE + long, block_bytes=block_bytes, record_bytes_max=9)
        assert place_of(refusal) == ("record_too_long", 3, 5, len(BEFORE))
    assert plan_of(BEFORE + b"12345678\n123456789", block_bytes=block_bytes, record_bytes_max=9).records == 4


@BLOCKS
def test_an_open_quote_is_refused_where_it_stands(block_bytes):
    data = BEFORE + b'c,d\n"x\ny""z\n'
    assert place_of(refusal_of(data, block_bytes=block_bytes)) == ("quote_unterminated", 4, 7, len(data) - 3)
    data = BEFORE + b'c,d\ne,f\ng,"x\ny\n\n'
    assert place_of(refusal_of(data, block_bytes=block_bytes)) == ("quote_unterminated", 5, 7, len(BEFORE) + 10)


@BLOCKS
@pytest.mark.parametrize("character", [b"\x01", b"\x02"])
def test_plain_text_with_the_characters_that_copying_it_needs_is_refused(block_bytes, character):
    refusal = refusal_of(b"one\n\nthree " + character + b"\n", LINES, block_bytes=block_bytes)
    assert place_of(refusal) == ("control_character", 3, 3, 11)
    assert plan_of(b"a," + character + b"\n").records == 1


@pytest.mark.parametrize(
    ("header", "code", "offset"),
    [
        (b"a\0,b\n", "nul_byte", 4),
        (b"a\xff,b\n", "encoding_invalid", 4),
        (b'a,"b\n', "quote_unterminated", 5),
        (b"a" * 70_000, "record_too_long", 3),
        (b'a"\n"b,c\n', "header_unreadable", 3),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(header, code, offset):
    dialect = Dialect("delimited", ",", True, True, "\n")
    refusal = refusal_of(b"\xef\xbb\xbf" + header + b"1,2\n", dialect, record_bytes_max=60_000)
    assert place_of(refusal) == (code, None, 1, offset)
    assert len(str(refusal)) < 250
