"""How a file's dialect is found, and what is refused at its first bytes."""

from __future__ import annotations

import json

import pytest

from ledger.errors import FileRefusedError
from projections.formats.dialect import LINE_DELIMITER, LINE_QUOTE, SAMPLE_BYTES, Dialect, sniff


def delimited(delimiter: str, *, header: bool = True, byte_order_mark: bool = False, line_end: str = "\n") -> Dialect:
    return Dialect("delimited", delimiter, header, byte_order_mark, line_end)


def lines(line_end: str = "\n") -> Dialect:
    return Dialect("lines", LINE_DELIMITER, False, False, line_end, LINE_QUOTE)


@pytest.mark.parametrize("delimiter", [",", "\t", "|", ";"])
@pytest.mark.parametrize("filename", ["a.csv", "a.tsv", "a.txt", "-", ""])
def test_the_content_decides_on_the_delimiter(delimiter, filename):
    text = "id,name,amount\n1,Ann,3.50\n2,Bob,4\n".replace(",", delimiter)
    assert sniff(text.encode(), filename) == delimited(delimiter)


def test_delimiters_and_newlines_inside_quotes_do_not_count():
    text = 'id;note\r\n1;"a,b,c\r\nd,e,f"\r\n2;"x;y;z"\r\n'
    assert sniff(text.encode(), "a.txt") == delimited(";", line_end="\r\n")


def test_decimal_commas_do_not_make_a_comma_the_delimiter():
    assert sniff(b"01.02.2024;12,50;EUR\n02.02.2024;1,00;EUR\n", "a.txt") == delimited(";", header=False)


def test_one_ragged_record_does_not_make_a_named_file_plain_text():
    text = b"id,amount\n1,2\n2,3,4\n"
    assert sniff(text, "a.csv") == delimited(",")
    assert sniff(text, "a.txt") == lines()


def test_prose_is_plain_text():
    assert sniff(b"Dear all,\nwe met, spoke, and left.\n\nYours\n", "a.txt") == lines()
    assert sniff(b"Hello, world\n", "a.txt") == lines()
    assert sniff(b'He said "so\r\nbe it\r\n', "a.log") == lines("\r\n")


def test_one_column_is_delimited_only_with_a_name_and_a_header_that_say_so():
    assert sniff(b"id\n1\n2\n", "A.CSV") == delimited(",")
    assert sniff(b"id\n1\n2\n", "a.tsv") == delimited("\t")
    assert sniff(b"id\n1\n2\n", "a.psv") == delimited("|")
    assert sniff(b"id\n1\n2\n", "a.txt") == lines()
    assert sniff(b"1\n2\n", "a.csv") == lines()


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("id,name\n1,Ann\n", True),
        ("id,name\n", True),
        ("Order date,Total (EUR)\n2024-01-01,5.00\n", True),
        ("code,city\nDE,Bonn\nFR,Lyon\n", True),
        ("straße,größe\na b,c\n", True),
        ("1,Ann\n2,Bob\n", False),
        ("2024-01-01,x\n2024-01-02,y\n", False),
        ("id,\n1,2\n", False),
        ("id,id\n1,2\n", False),
        ("true,x\nfalse,y\n", False),
        ("EUR,x1\nEUR,x2\n", False),
        ("New York,a b\nOld Town,c d\n", False),
    ],
)
def test_a_header_names_what_stands_below_it(text, header):
    assert sniff(text.encode(), "a.csv") == delimited(",", header=header)


def test_a_byte_order_mark_is_noted_and_is_not_part_of_a_name():
    assert sniff(b"\xef\xbb\xbfid,name\n1,Ann\n", "a.csv") == delimited(",", byte_order_mark=True)


def test_a_sample_that_ends_inside_a_record_is_cut_at_its_last_whole_one():
    record = 'x,"ü\n'.encode() + b"-" * 1000 + b'",1\n'
    sample = (b"a,b,c\n" + record * 2000)[:SAMPLE_BYTES]
    assert sniff(sample, "a.txt") == delimited(",")


def test_a_dialect_survives_its_dictionary():
    for dialect in (delimited("|", byte_order_mark=True), lines("\r\n")):
        assert Dialect.from_dict(json.loads(json.dumps(dialect.to_dict()))) == dialect


@pytest.mark.parametrize(
    ("sample", "code", "offset", "words"),
    [
        (b"", "file_empty", 0, "empty"),
        (b"\xef\xbb\xbf", "file_empty", 0, "empty"),
        (b"a,b\n1,\x002\n", "nul_byte", 6, "byte 6"),
        (b"\xef\xbb\xbfa,b\r1,2\r", "line_end_unknown", 6, "carriage return"),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(sample, code, offset, words):
    with pytest.raises(FileRefusedError, match=words) as caught:
        sniff(sample, "a.csv")
    assert (caught.value.code, caught.value.byte_offset) == (code, offset)
    assert caught.value.remedy
