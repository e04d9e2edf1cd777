"""What a file is by its content, and what is not read."""

from __future__ import annotations

import gzip

import pytest

from ledger.errors import FileRefusedError
from projections.formats.recognise import FORMATS, recognise
from projections.transcribe import is_its_own_text

XML_IN_UTF_16 = '<?xml version="1.0" encoding="UTF-16"?><a><b>1</b><b>2</b></a>'.encode("utf-16")


@pytest.mark.parametrize(
    ("sample", "format"),
    [
        (b"a,b\n1,2\n", "text"),
        (b"", "text"),
        (b"plain words\n", "text"),
        (b"<b>,c\n1,2\n", "text"),
        (b"<3 hearts\n", "text"),
        (b"[2024-01-01 10:00:00] start\n", "text"),
        (b"[INFO] a\n", "text"),
        (b"{braces} b\n", "text"),
        (b"{}x\n", "text"),
        (b'{"a": 1}\n{"a": 2}\n', "json_lines"),
        (b'{"a": 1}\r\n\r\n {"a": 2}', "json_lines"),
        (b'{"a": {"b": [1, 2]}}\n', "json_lines"),
        (b'{"a": 1, broken}\n{"a": 2}\n', "json_lines"),
        (b'{"data": [{"a": 1}]}\n', "json"),
        (b'{"data": {"items": [{"a": 1}]}}', "json"),
        (b'{\n "data": [\n {"a": 1}]}\n', "json"),
        (b'\xef\xbb\xbf [\n {"a": 1}]', "json"),
        (b"[1, 2]", "json"),
        (b"\n<?xml version='1.0'?><a/>", "xml"),
        (b'<orders>\n <order id="1"/></orders>', "xml"),
        (b"<!-- orders --><orders/>", "xml"),
        (XML_IN_UTF_16, "xml"),
        (b"PAR1\x15\x04", "parquet"),
        (b"PK\x03\x04xl/", "workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "workbook"),
    ],
)
def test_the_content_says_what_a_file_is(sample: bytes, format: str) -> None:
    assert recognise(sample) == format
    assert is_its_own_text(sample) == (format == "text")


@pytest.mark.parametrize(
    ("sample", "name"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"\xfd7zXZ\x00", "xz"),
        (b"Rar!\x1a", "RAR"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n<HTML>", "HTML"),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(sample: bytes, name: str) -> None:
    with pytest.raises(FileRefusedError, match=name) as caught:
        recognise(sample)
    assert caught.value.code == "format_not_read"
    assert caught.value.remedy


@pytest.mark.parametrize(
    "sample", [gzip.compress(b"a,b", mtime=0), "a,b\n".encode("utf-16"), b"BZh91AY&SY", b"\x28\xb5\x2f\xfd"]
)
def test_what_is_packed_or_in_another_encoding_is_not_its_own_text(sample: bytes) -> None:
    assert not is_its_own_text(sample)


def test_text_in_no_encoding_that_it_proves_is_read_as_it_is_so_that_its_place_is_told() -> None:
    assert is_its_own_text("Zo\xeb\n".encode("latin-1"))


def test_every_format_has_a_version_and_a_name() -> None:
    assert all(found.version >= 1 and found.name_for_people for found in FORMATS.values())
