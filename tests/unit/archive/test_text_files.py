"""Text that is compressed comes back as it was, or is told to be damaged."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive.text_files import SpoolError, TextDamagedError, TextFacts, TextWriter, check_text, file_blocks, raw_blocks

LINES = b"".join(b"%d\tsome text\t\\N\n" % number for number in range(20))


def written(target: Path, *pieces: bytes) -> TextFacts:
    with TextWriter(target) as writer:
        for piece in pieces:
            writer.write(piece)
    return writer.facts()


@given(st.lists(st.binary(max_size=200)))
def test_text_comes_back_as_it_was_however_it_was_cut(pieces: list[bytes]) -> None:
    with TemporaryDirectory() as folder:
        target = Path(folder) / "text"
        facts = written(target, *pieces)
        whole = b"".join(pieces)
        assert b"".join(raw_blocks(file_blocks(target), "text")) == whole
        assert (facts.raw_bytes, facts.raw_sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
        assert (facts.bytes, facts.lines) == (target.stat().st_size, whole.count(b"\n"))
        assert facts.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
        check_text(target, facts)
        assert written(target, whole) == facts


def test_every_flipped_bit_and_every_cut_is_told(tmp_path: Path) -> None:
    target = tmp_path / "text"
    facts = written(target, LINES)
    good = target.read_bytes()
    flipped = [good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :] for at in range(len(good)) for bit in range(8)]
    cut = [good[:size] for size in range(len(good))]
    for changed in [*flipped, *cut, good + good, good + b"x"]:
        target.write_bytes(changed)
        with pytest.raises(SpoolError, match="does not hold"):
            check_text(target, facts)


@pytest.mark.parametrize("blocks", [[b"x"], [], [b""]], ids=["no text", "nothing", "an empty block"])
def test_what_is_no_compressed_text_is_told(blocks: list[bytes]) -> None:
    with pytest.raises(TextDamagedError, match="the part"):
        list(raw_blocks(blocks, "the part"))


def test_what_was_cut_says_so_whatever_the_blocks(tmp_path: Path) -> None:
    written(tmp_path / "text", LINES)
    good = (tmp_path / "text").read_bytes()
    for size in (1, 7, len(good)):
        blocks = [good[at : at + size] for at in range(0, len(good), size)]
        assert b"".join(raw_blocks(blocks, "the part")) == LINES
        with pytest.raises(TextDamagedError):
            list(raw_blocks([*blocks, b"\0"], "the part"))


def test_a_writer_that_fails_tells_nothing(tmp_path: Path) -> None:
    writer = TextWriter(tmp_path / "text")
    with pytest.raises(RuntimeError), writer:
        writer.write(b"half")
        raise RuntimeError
    with pytest.raises(TextDamagedError):
        list(raw_blocks(file_blocks(tmp_path / "text"), "text"))


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["at the end", "while it is written"])
def test_a_full_disk_is_told(tmp_path: Path, size: int) -> None:
    (tmp_path / "text").symlink_to("/dev/full")
    with pytest.raises(SpoolError, match="No space left"):
        written(tmp_path / "text", random.Random(7).randbytes(size))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match="No such file"):
        written(tmp_path / "nowhere" / "text", LINES)


def test_text_that_repeats_itself_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    written(tmp_path / "text", LINES * 100_000)
    sizes = [len(block) for block in raw_blocks(file_blocks(tmp_path / "text"), "text")]
    assert sum(sizes) == len(LINES) * 100_000
    assert max(sizes) < sum(sizes) / 10
