"""Which encodings are found, and that text becomes UTF-8 whole or not at all."""

from __future__ import annotations

import io
import random

import pytest

from ledger.errors import FileRefusedError
from projections.formats import encodings
from projections.formats.encodings import ENCODINGS, encoding_of, transcode
from projections.formats.rows import Limits

LIMITS = Limits()
WESTERN = "Straße;Größe;café\nZürich;5,50;naïve\n"
TEXTS = {
    "cp1250": "žluťoučký kůň\n",
    "cp1251": "счёт;сумма\n",
    "cp1253": "τιμή;ποσό\n",
    "iso8859-15": "10 €\n",
    "koi8-r": "счёт;сумма\n",
    "shift_jis": "請求書;金額\n",
    "gb18030": "发票;金额;€\n",
    "big5": "發票;金額\n",
    "euc-kr": "송장;금액\n",
    "euc-jp": "請求書;金額\n",
}


class ShortReads(io.BytesIO):
    """Gives at most three bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 3) if size and size > 0 else size)


def transcoded(data: bytes, encoding: str, limits: Limits = LIMITS, file_kind=io.BytesIO) -> bytes:
    pieces: list[bytes] = []
    assert transcode(file_kind(data), encoding, pieces.append, limits) == sum(map(len, pieces))
    return b"".join(pieces)


def refused(data: bytes, encoding: str, limits: Limits = LIMITS) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        transcoded(data, encoding, limits)
    assert caught.value.message and caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("sample", "encoding"),
    [
        (b"", "utf-8"),
        (b"plain\n", "utf-8"),
        (WESTERN.encode(), "utf-8"),
        (WESTERN.encode("utf-8-sig"), "utf-8"),
        ("ü".encode()[:1], "utf-8"),
        (WESTERN.encode("utf-16"), "utf-16-le"),
        (b"\xfe\xff" + WESTERN.encode("utf-16-be"), "utf-16-be"),
        (WESTERN.encode("utf-32"), "utf-32-le"),
        (b"\0\0\xfe\xff" + WESTERN.encode("utf-32-be"), "utf-32-be"),
        (WESTERN.encode("utf-16-le"), "utf-16-le"),
        (WESTERN.encode("utf-16-be"), "utf-16-be"),
        (WESTERN.encode("utf-16-be")[:-1], "utf-16-be"),
    ],
)
def test_what_the_bytes_prove_is_found(sample, encoding):
    assert encoding_of(sample) == encoding


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "mac_roman", "iso8859-15"])
def test_a_code_page_is_never_guessed(encoding):
    assert encoding_of(WESTERN.encode(encoding)) is None


def test_text_with_nul_bytes_is_not_taken_for_utf_16():
    assert encoding_of(b"a,b\0\0,c,d\n1,2\0\0,3,4\n") == "utf-8"  # which is refused for its NUL bytes later
    assert encoding_of(b"\0\0\0\0\0\0\0\0") == "utf-8"
    assert encoding_of(b"\xff\0\x80\0\0") is None
    assert encoding_of(b"\1\0\2\0\3\0\4\0") == "utf-8"


@pytest.mark.parametrize("encoding", TEXTS)
def test_a_named_encoding_is_read(encoding):
    data = TEXTS[encoding].encode(encoding)
    assert transcoded(data, encoding) == TEXTS[encoding].encode()
    assert transcoded(data, encoding.upper().replace("-", "_")) == TEXTS[encoding].encode()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_reads_what_it_writes(encoding):
    assert transcoded("a;b\n1;2\n".encode(encoding), encoding) == b"a;b\n1;2\n"


def test_a_byte_order_mark_does_not_come_out():
    for mark, encoding in encodings.BYTE_ORDER_MARKS:
        data = mark + "a,é\n".encode(encoding)
        assert transcoded(data, encoding) == "a,é\n".encode()
        assert transcoded(data, encoding_of(data) or "") == "a,é\n".encode()
    assert transcoded("é".encode("utf-16"), "utf-16") == "é".encode()
    assert transcoded(b"\xfe\xff\0a", "utf-16") == b"a"
    assert transcoded("é".encode("utf-32"), "UTF-32") == "é".encode()


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-be", "shift_jis", "utf-8"])
def test_a_byte_order_mark_of_another_encoding_is_refused(encoding):
    assert refused(b"\xff\xfea\0", encoding).code == "encoding_contradicted"


def test_an_encoding_that_is_not_in_the_list_is_refused_with_the_list():
    for name in ("utf-7", "idna", "rot13", "base64", "cp1026", "no such", "a\0b", "é", ""):
        error = refused(b"a", name)
        assert error.code == "encoding_unknown"
        assert "cp1252" in error.remedy


@pytest.mark.parametrize(
    ("data", "encoding", "offset", "line"),
    [
        (b"a\nb\x81c", "cp1252", 3, 2),
        (b"a\nb\nc\xff", "utf-8", 5, 3),
        (b"\xef\xbb\xbfa\n\xff", "utf-8", 5, 2),
        (b"ok\n\xc3", "utf-8", 3, 2),
        (b"a\n\xd2", "iso8859-7", 2, 2),
        ("請\n".encode("shift_jis") + b"\x85\x40"[:1], "shift_jis", 3, 2),
        (b"a\n\x80", "shift_jis", 2, 2),
        ("a\n".encode("utf-16-le") + b"\x00\xd8a\0", "utf-16-le", 4, 2),
        (b"\xff\xfe" + "a\n".encode("utf-16-le") + b"a", "utf-16", 6, 2),
        ("a\n".encode("utf-32-le") + b"\0\0\x11\0", "utf-32-le", 8, 2),
        ("发\n".encode("gb18030") + b"\xff", "gb18030", 3, 2),
    ],
)
def test_a_byte_without_a_meaning_is_refused_at_its_place(data, encoding, offset, line, monkeypatch):
    for piece_bytes in (encodings.PIECE_BYTES, 4, 5):
        monkeypatch.setattr(encodings, "PIECE_BYTES", piece_bytes)
        error = refused(data, encoding)
        assert (error.code, error.byte_offset, error.line) == ("encoding_invalid", offset, line)


def test_short_reads_and_small_pieces_change_nothing(monkeypatch):
    for encoding, text in TEXTS.items():
        data = (text * 50).encode(encoding)
        assert transcoded(data, encoding, file_kind=ShortReads) == (text * 50).encode()
        monkeypatch.setattr(encodings, "PIECE_BYTES", 5)
        assert transcoded(data, encoding) == (text * 50).encode()
        monkeypatch.undo()


def test_what_comes_out_is_bounded():
    data = "é" * 10
    assert transcoded(data.encode("latin-1"), "latin-1", Limits(text_bytes_max=20)) == data.encode()
    assert refused(data.encode("latin-1"), "latin-1", Limits(text_bytes_max=19)).code == "text_too_large"


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes_become_utf_8_or_are_refused(seed):
    chance = random.Random(seed)
    for encoding in ENCODINGS:
        for _ in range(20):
            data = chance.randbytes(chance.randrange(60))
            found = encoding_of(data)
            assert found is None or found in ENCODINGS
            try:
                transcoded(data, encoding).decode()
            except FileRefusedError as error:
                assert error.code.startswith("encoding_")
                assert 0 <= (error.byte_offset or 0) <= len(data)
