"""Many files in few objects, each of them to be had again, byte for byte."""

from __future__ import annotations

import hashlib
import tarfile
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive.packs import BLOCK_BYTES, FileDamagedError, PackedFile, Piece, check_file, plan_packs, write_pack

PACK_BYTES = 8 * BLOCK_BYTES
FILES = st.lists(st.binary(max_size=3 * PACK_BYTES), max_size=12)


class Blobs:
    """Files by their SHA-256."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = {hashlib.sha256(content).hexdigest(): content for content in contents}

    def read(self, sha256: str, start: int, size: int) -> bytes:
        return self.contents[sha256][start : start + min(size, 700)]

    def files(self) -> list[PackedFile]:
        return [PackedFile(sha256, len(content)) for sha256, content in self.contents.items()]


def packs(blobs: Blobs, pieces: list[Piece], folder: Path) -> dict[int, Path]:
    written = {}
    for number, group in groupby(pieces, lambda piece: piece.pack):
        written[number] = folder / str(number)
        write_pack(blobs.read, list(group), written[number])
    return written


@given(FILES)
def test_every_file_comes_out_of_the_packs_as_it_was_sent(contents: list[bytes]) -> None:
    blobs = Blobs(*contents)
    pieces = list(plan_packs([*blobs.files(), *blobs.files()], PACK_BYTES))
    with TemporaryDirectory() as folder:
        written = packs(blobs, pieces, Path(folder))
        assert sorted(written) == list(range(len(written)))
        by_offset: dict[str, bytes] = {}
        by_tar: dict[str, bytes] = {}
        for piece in pieces:
            data = written[piece.pack].read_bytes()
            assert len(data) <= PACK_BYTES
            assert len(by_offset.get(piece.sha256, b"")) == piece.start
            by_offset[piece.sha256] = (
                by_offset.get(piece.sha256, b"") + data[piece.offset : piece.offset + piece.size_bytes]
            )
        for path in written.values():
            with tarfile.open(path) as opened:
                for member in opened:
                    _, sha256, _ = member.name.split("/")
                    file = opened.extractfile(member)
                    assert file is not None
                    by_tar[sha256] = by_tar.get(sha256, b"") + file.read()
        assert by_offset == by_tar == blobs.contents


@given(FILES)
def test_the_same_files_make_the_same_packs(contents: list[bytes]) -> None:
    blobs = Blobs(*contents)
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        first = packs(blobs, list(plan_packs(blobs.files(), PACK_BYTES)), Path(one))
        again = packs(blobs, list(plan_packs(iter(blobs.files()), PACK_BYTES)), Path(other))
        assert [path.read_bytes() for path in first.values()] == [path.read_bytes() for path in again.values()]


def test_small_files_share_an_object() -> None:
    blobs = Blobs(*(str(number).encode() for number in range(1_000)))
    assert {piece.pack for piece in plan_packs(blobs.files())} == {0}


def test_a_file_with_other_bytes_than_were_received_is_told() -> None:
    blobs = Blobs(b"received")
    [file] = blobs.files()
    check_file(blobs.read, file)
    blobs.contents[file.sha256] = b"receiveD"
    with pytest.raises(FileDamagedError, match="other bytes"):
        check_file(blobs.read, file)


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    blobs = Blobs(b"received")
    [file] = blobs.files()
    blobs.contents[file.sha256] = b"receive"
    with pytest.raises(FileDamagedError, match="ends at byte 7"):
        write_pack(blobs.read, plan_packs([file]), tmp_path / "pack")
