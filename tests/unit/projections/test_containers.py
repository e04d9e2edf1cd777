"""What comes out of compressed files, and that no file takes more than its limits or ends in anything but a refusal."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import struct
import tracemalloc
import zipfile
import zlib

import pytest
import zstandard

from ledger.errors import FileRefusedError
from projections.formats.containers import container_of, decompress, open_container
from projections.formats.rows import Limits

TEXT = b"".join(b"%d,name %d,%d.50\n" % (n, n * 7919 % 1000, n) for n in range(3000))
COMPRESSED = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}
LIMITS = Limits()


class ShortReads(io.BytesIO):
    """Gives at most seven bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 7) if size and size > 0 else size)


def a_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return target.getvalue()


def unpacked(data: bytes, limits: Limits = LIMITS, file_kind=io.BytesIO) -> list[bytes]:
    """The content of every member."""
    file = file_kind(data)
    container = open_container(file, len(data), limits)
    assert container is not None
    contents = []
    for member in container.members or (None,):
        pieces: list[bytes] = []
        assert decompress(file, container.kind, member, pieces.append, limits) == sum(map(len, pieces))
        contents.append(b"".join(pieces))
    return contents


def refused(data: bytes, limits: Limits = LIMITS) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        unpacked(data, limits)
    assert caught.value.message and caught.value.remedy
    return caught.value


@pytest.mark.parametrize("kind", COMPRESSED)
def test_streams_that_follow_each_other_are_one_content(kind):
    compress = COMPRESSED[kind]
    data = compress(TEXT) + compress(b"") + compress(b"end\n")
    assert container_of(data[:10]) == kind
    assert unpacked(data) == [TEXT + b"end\n"]


def test_contents_of_many_pieces_are_whole():
    text = random.Random(1).randbytes(50_000) * 45
    for compress in COMPRESSED.values():
        assert unpacked(compress(text)) == [text]
    assert unpacked(a_zip({"a": text})) == [text]


@pytest.mark.parametrize("data", [*(c(TEXT) for c in COMPRESSED.values()), a_zip({"a.csv": TEXT, "b.csv": b""})])
def test_short_reads_change_nothing(data):
    assert unpacked(data, file_kind=ShortReads) == unpacked(data)


def test_a_zip_names_its_files_and_leaves_out_what_is_none():
    files = {"a.csv": b"1", "__MACOSX/._a.csv": b"x", "folder/": b"", "folder/.DS_Store": b"x", "folder/b.csv": b"22"}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = a_zip(files, method)
        container = open_container(io.BytesIO(data), len(data), LIMITS)
        assert container is not None and container.kind == "zip"
        assert [(member.name, member.size) for member in container.members] == [("a.csv", 1), ("folder/b.csv", 2)]
        assert unpacked(data) == [b"1", b"22"]


@pytest.mark.parametrize("names", [("xl/workbook.xml", "[Content_Types].xml"), ("mimetype", "content.xml")])
def test_a_workbook_is_no_container(names):
    data = a_zip(dict.fromkeys(names, b"x"))
    assert container_of(data[:10]) == "zip"
    assert open_container(io.BytesIO(data), len(data), LIMITS) is None


@pytest.mark.parametrize("data", [b"", b"a,b\n", b"BZh", b"BZhang,1\n", b"PAR1", b"\x1f", b"\xd0\xcf\x11\xe0"])
def test_other_files_are_no_containers(data):
    assert open_container(io.BytesIO(data), len(data), LIMITS) is None


def test_one_container_inside_another_is_opened_but_not_a_third():
    data = gzip.compress(b"a,b\n")
    assert open_container(io.BytesIO(data), len(data), LIMITS, depth=2) is not None
    with pytest.raises(FileRefusedError) as caught:
        open_container(io.BytesIO(data), len(data), LIMITS, depth=3)
    assert caught.value.code == "archive_nested"
    workbook = a_zip({"[Content_Types].xml": b"x"})
    assert open_container(io.BytesIO(workbook), len(workbook), LIMITS, depth=3) is None


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_cut_stream_is_refused_where_it_ends(kind):
    data = COMPRESSED[kind](TEXT)
    for length in (len(data) - 1, len(data) // 2, 12):
        error = refused(data[:length])
        assert (error.code, error.byte_offset) == ("compressed_truncated", length)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_what_follows_the_last_stream_is_refused_at_its_place(kind):
    data = COMPRESSED[kind](TEXT)
    error = refused(data + b"garbage")
    assert (error.code, error.byte_offset) == ("compressed_invalid", len(data))


def test_zeros_may_follow_gzip_but_nothing_after_them():
    data = gzip.compress(TEXT)
    assert unpacked(data + b"\0" * 100_000) == [TEXT]
    error = refused(data + b"\0" * 100_000 + b"x")
    assert (error.code, error.byte_offset) == ("compressed_invalid", len(data) + 100_000)


@pytest.mark.parametrize("kind", COMPRESSED)
def test_a_wrong_check_sum_is_refused(kind):
    data = bytearray(COMPRESSED[kind](b"a,b\n1,2\n"))
    data[{"gzip": -8, "bzip2": 10, "zstd": -1}[kind]] ^= 1
    error = refused(bytes(data))
    assert error.code == "compressed_invalid"
    assert error.byte_offset is not None and error.byte_offset < len(data)


def test_a_file_of_a_zip_has_the_size_and_the_check_sum_that_the_directory_says():
    data = a_zip({"a.csv": TEXT})
    entry = data.rindex(b"PK\x01\x02")
    for place, words in ((entry + 16, "check sum"), (entry + 24, "bytes it should")):
        wrong = bytearray(data)
        wrong[place] ^= 1
        error = refused(bytes(wrong))
        assert error.code == "compressed_invalid"
        assert words in error.message
    stored = bytearray(a_zip({"a.csv": b"a,b\n"}, zipfile.ZIP_STORED))
    stored[stored.index(b"a,b\n")] ^= 1
    assert refused(bytes(stored)).code == "compressed_invalid"


def test_a_frame_that_wants_too_much_memory_is_refused():
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    error = refused(compressor.compress(TEXT) + compressor.flush())
    assert (error.code, error.byte_offset) == ("compressed_too_large", 0)
    assert "--long" in error.remedy


def test_frames_that_hold_no_data_are_left_out():
    skipped = b"\x51\x2a\x4d\x18" + struct.pack("<I", 5) + b"other"
    data = skipped + COMPRESSED["zstd"](TEXT) + skipped
    assert container_of(data[:10]) == "zstd"
    assert unpacked(data) == [TEXT]
    assert refused(data[:-1]).code == "compressed_truncated"


def test_an_archive_without_a_file_is_refused():
    assert refused(a_zip({})).code == "archive_empty"
    assert refused(a_zip({"folder/": b""})).code == "archive_empty"


def test_an_archive_of_too_many_files_is_refused_before_its_directory_is_read():
    data = a_zip({f"{number}.csv": b"" for number in range(12)})
    assert refused(data, Limits(members_max=11)).code == "archive_too_many_members"
    long_names = a_zip({f"{number:060000}": b"" for number in range(4)})
    assert refused(long_names, Limits(members_max=4)).code == "archive_too_many_members"


@pytest.mark.parametrize(
    "name", ["../a.csv", "b/../../a.csv", "/a.csv", "C:/a.csv", "..\\a.csv", "\\\\host\\a.csv", "a\0.csv"]
)
def test_a_name_that_leads_out_is_refused(name):
    placeholder = "x" * len(name)
    data = a_zip({placeholder: b"1"}).replace(placeholder.encode(), name.encode())
    assert refused(data).code == "archive_name_unsafe"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_files_of_one_name_are_refused():
    data = a_zip({"a.csv": b"1", "b.csv": b"2"}).replace(b"b.csv", b"a.csv")
    assert refused(data).code == "archive_name_repeated"


def test_a_file_with_a_password_is_refused():
    data = bytearray(a_zip({"a.csv": b"1"}))
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    error = refused(bytes(data))
    assert (error.code, error.byte_offset) == ("archive_encrypted", 0)
    assert "password" in error.remedy


def test_a_way_of_compression_that_is_not_read_is_refused():
    assert refused(a_zip({"a.csv": TEXT}, zipfile.ZIP_BZIP2)).code == "archive_method"


def test_a_header_that_calls_a_file_otherwise_is_refused():
    data = a_zip({"a.csv": b"1"})
    assert refused(data.replace(b"a.csv", b"z.csv", 1)).code == "archive_invalid"


def overlapping_zip(entries: int) -> bytes:
    """Many entries of the directory that share one file's bytes."""
    data = a_zip({"a": b"\0" * 1_000_000})
    start = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    directory = data[start:end] * entries
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, entries, entries, len(directory), start, 0)
    return data[:start] + directory + record


def test_files_that_share_their_bytes_are_refused():
    assert refused(overlapping_zip(500)).code == "archive_overlap"
    data = bytearray(a_zip({"a": b"1" * 100, "b": b"2"}, zipfile.ZIP_STORED))
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<LL", 160, 160)
    assert refused(bytes(data)).code == "archive_overlap"


def gzip_bomb(size: int) -> bytes:
    """So many zeros, made of pieces whose deflate streams follow each other."""
    piece = 20_000_000
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = compressor.compress(b"\0" * piece) + compressor.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body * (size // piece)


def bombs() -> dict[str, bytes]:
    block = b"\x02\0\x10" + b"\0"  # an RLE block: 128 KiB of zeros in four bytes
    return {
        "gzip": gzip_bomb(10_000_000_000),
        "bzip2": bz2.compress(b"\0" * 9_000_000) * 1000,
        "zstd": b"\x28\xb5\x2f\xfd\0\x58" + block * 80_000,
        "zip": a_zip({"a.csv": b"\0" * 100_000_000}),
    }


def test_bombs_are_refused_in_little_memory():
    for kind, data in bombs().items():
        tracemalloc.start()
        error = refused(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert error.code == "compressed_too_large", kind
        assert peak < 300_000_000, kind


def test_what_comes_out_is_bounded_in_bytes():
    for compress in COMPRESSED.values():
        assert unpacked(compress(TEXT), Limits(text_bytes_max=len(TEXT))) == [TEXT]
        assert refused(compress(TEXT), Limits(text_bytes_max=len(TEXT) - 1)).code == "compressed_too_large"


def test_the_ratio_does_not_count_for_a_small_file():
    data = gzip.compress(b"same,record\n" * 100_000)
    assert unpacked(data, Limits(text_ratio_max=2))[0][:12] == b"same,record\n"


@pytest.mark.parametrize("seed", range(4))
def test_damaged_containers_end_in_a_refusal_or_in_the_content(seed):
    chance = random.Random(seed)
    text = TEXT[:2000]
    samples = [compress(text) + compress(text) for compress in COMPRESSED.values()]
    samples += [a_zip({"a.csv": text, "b/c.csv": text}), a_zip({"a.csv": text}, zipfile.ZIP_STORED)]
    for sample in samples:
        for _ in range(150):
            data = bytearray(sample[: chance.randrange(len(sample) + 1)] if chance.random() < 0.3 else sample)
            for _ in range(chance.randrange(4) if data else 0):
                data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
            try:
                container = open_container(io.BytesIO(data), len(data), LIMITS)
                if container is not None:
                    unpacked(bytes(data))
            except FileRefusedError as error:
                assert error.code.startswith(("compressed_", "archive_"))
