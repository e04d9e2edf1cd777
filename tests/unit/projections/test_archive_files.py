"""Which files of an archive are loaded, what each has to come to, and that the reader decides like the door."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import pytest

from ledger.blobs import open_blob_store, put
from ledger.domain.control_totals import SIDECAR_BYTES_MAX
from ledger.errors import FileRefusedError
from projections.formats.archive_files import ArchiveFile, files_of
from projections.formats.containers import open_container
from projections.formats.rows import Limits
from projections.transcribe import Transcription, transcribe
from tests.unit.projections.test_containers import a_zip

LIMITS = Limits()
TOTALS = {"records": 1, "columns": {}}
SIDECAR = json.dumps({"records": 1}).encode()
CSV = b"id,amount\n1,2\n"


def inside(data: bytes, wanted: str | None = None) -> list[ArchiveFile]:
    file = io.BytesIO(data)
    container = open_container(file, len(data), LIMITS)
    assert container is not None
    return list(files_of(file, container.members, wanted, LIMITS))


def read(folder: Path, data: bytes, wanted: str | None = None) -> Transcription:
    """What the worker's reader makes of a file."""
    blobs = open_blob_store(f"file://{folder}/blobs")
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    options = {} if wanted is None else {"member": wanted}
    return transcribe(blobs, put(blobs, data), len(data), "june.zip", folder=scratch, limits=LIMITS, options=options)


def test_every_file_is_one_to_load_but_those_that_hold_control_totals() -> None:
    data = a_zip({"b.csv": CSV, "a/b.csv.totals.json": SIDECAR, "a/b.csv": CSV, "a/": b"", "__MACOSX/b.csv": b""})
    assert [(file.member.name, file.control_totals) for file in inside(data)] == [("b.csv", {}), ("a/b.csv", TOTALS)]


def test_the_one_that_is_wanted_comes_with_its_control_totals() -> None:
    data = a_zip({"a.csv": CSV, "b.csv": CSV, "a.csv.totals.json": SIDECAR, "b.csv.totals.json": b"nonsense"})
    [file] = inside(data, "a.csv")
    assert (file.member.name, file.control_totals) == ("a.csv", TOTALS)


@pytest.mark.parametrize("wanted", ["c.csv", "a.csv.totals.json", "b.csv"])
def test_what_is_not_there_to_load_is_refused_with_the_names_that_are(wanted: str) -> None:
    with pytest.raises(FileRefusedError, match=rf"no file '{wanted}' to load.*'a\.csv'") as caught:
        inside(a_zip({"a.csv": CSV, "a.csv.totals.json": SIDECAR}), wanted)
    assert caught.value.code == "member_unknown"


# What an archive holds -> what is told of it.
REFUSED: dict[str, dict[str, bytes]] = {
    "no JSON": {"a.csv": CSV, "a.csv.totals.json": b"{"},
    "did not come with it": {"a.csv": CSV, "b.csv.totals.json": SIDECAR},
    "'a.totals.json' holds": {"a.totals.json": SIDECAR},
    "has 1,000,000 bytes": {"a.csv": CSV, "a.csv.totals.json": b" " * 1_000_000},
    "no text in UTF-8": {"a.csv": CSV, "a.csv.totals.json": b"\xff"},
}


@pytest.mark.parametrize(("told", "files"), REFUSED.items(), ids=list(REFUSED))
def test_control_totals_that_cannot_be_used_refuse_the_archive_at_the_door_and_at_the_reader(
    told: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    data = a_zip(files)
    with pytest.raises(FileRefusedError, match=told) as at_the_door:
        inside(data)
    with pytest.raises(FileRefusedError) as at_the_reader:
        read(tmp_path, data)
    assert at_the_door.value.arguments() == at_the_reader.value.arguments()
    assert at_the_door.value.code == "control_totals_invalid"


def test_control_totals_that_cannot_be_used_refuse_the_file_that_was_chosen(tmp_path: Path) -> None:
    data = a_zip({"a.csv": CSV, "a.csv.totals.json": b"{", "b.csv": CSV})
    with pytest.raises(FileRefusedError, match="no JSON"):
        read(tmp_path, data, "a.csv")
    assert read(tmp_path, data, "b.csv").filename == "b.csv"


def test_a_sidecar_is_not_read_if_its_compressed_bytes_are_many() -> None:
    """A deflate stream can be of any length and stand for nothing."""
    nothing = b"\0\0\0\xff\xff" * (SIDECAR_BYTES_MAX // 5 + 1) + b"\x03\0"
    data = a_zip({"a.csv": CSV, "a.csv.totals.json": nothing}, zipfile.ZIP_STORED)
    stored = len(nothing).to_bytes(4, "little")
    for signature, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
        at = data.rindex(signature)
        assert data[at + size : at + size + 4] == stored
        data = data[: at + method] + b"\x08\0" + data[at + method + 2 : at + size] + bytes(4) + data[at + size + 4 :]
    with pytest.raises(FileRefusedError, match=r"has 65,5\d\d bytes"):
        inside(data)


def test_an_archive_with_several_files_asks_which_is_meant(tmp_path: Path) -> None:
    data = a_zip({f"{name}.csv": CSV for name in "abcdefg"})
    with pytest.raises(FileRefusedError, match=r"7 files, .*'a\.csv', .*'e\.csv' and 2 more") as caught:
        read(tmp_path, data)
    assert caught.value.code == "archive_ambiguous"
    assert "--member" in caught.value.remedy
    assert read(tmp_path, data, "c.csv").filename == "c.csv"


def test_the_name_of_a_file_counts_in_the_archive_that_has_it_and_not_in_one_inside(tmp_path: Path) -> None:
    data = a_zip({"a.zip": a_zip({"x.csv": CSV}), "b.zip": a_zip({"y.csv": CSV})})
    assert read(tmp_path, data, "b.zip").filename == "y.csv"
    assert read(tmp_path, gzip.compress(a_zip({"a.csv": CSV, "b.csv": CSV})), "b.csv").filename == "b.csv"


def test_control_totals_that_no_door_has_seen_are_not_passed_over(tmp_path: Path) -> None:
    data = gzip.compress(a_zip({"a.csv": CSV, "a.csv.totals.json": SIDECAR, "b.csv": CSV}))
    with pytest.raises(FileRefusedError, match=r"control totals of 'a\.csv' is inside a gzip file"):
        read(tmp_path, data, "a.csv")
    assert read(tmp_path, data, "b.csv").filename == "b.csv"
