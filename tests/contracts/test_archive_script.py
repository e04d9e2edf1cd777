"""Whichever byte of an archive is changed, the auditor's script finds it.

Its own functions are called for each changed form: to start it as often would take an hour. That it calls them of each
object, in this order, and names what is wrong is shown by `tests/contracts/test_archive_tampering.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archive.manifest import TextEntry
from tests.archives import KINDS, Archive, Archiver
from tests.contracts.archive_script import missed
from tests.contracts.cold_places import ColdPlace, folder_place

CHECK_NOTE = '{ check_note "$changed/$number" && check_manifest "$bucket/MANIFEST.json"; }'
CHECK_MANIFEST = 'check_manifest "$changed/$number"'


def every_change(data: bytes) -> Iterator[bytes]:
    """Some bytes with each of them changed in one bit, each left out, and one more at each end."""
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]
    yield from (data[:-1], data[1:], data + b"\n", data + data, b"\n" + data, b"")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[ColdPlace, Archive]:
    place = folder_place(tmp_path_factory.mktemp("archive"))
    archiver = Archiver(place.store, place.scratch)
    archiver.rows = lambda generation: {"payments": [["1\ta\t3\t1", "2\t\\N\t3\t2"]]}
    archiver.contents = [b"small"]
    return place, archiver.archive()


def folder_of(kept: tuple[ColdPlace, Archive]) -> Path:
    place, archive = kept
    assert place.folder is not None
    return place.folder / archive.prefix


def test_the_script_finds_every_changed_byte_of_a_manifest(kept: tuple[ColdPlace, Archive], tmp_path: Path) -> None:
    changed = list(every_change(kept[1].data))
    assert missed(folder_of(kept), [*changed, kept[1].data], CHECK_MANIFEST, tmp_path) == [str(len(changed))]


def test_the_script_finds_every_changed_byte_of_a_note(kept: tuple[ColdPlace, Archive], tmp_path: Path) -> None:
    note = kept[1].note
    last = note[-3]  # of base64, in front of `=`: two of its bits say nothing
    assert note.endswith(b"=\n") and last in b"AEIMQUYcgkosw048"
    same_signature = note[:-3] + bytes([last + 1]) + note[-2:]
    changed = [*every_change(note), same_signature, note + note.splitlines(keepends=True)[-1]]
    assert missed(folder_of(kept), [*changed, note], CHECK_NOTE, tmp_path) == [str(len(changed))]


@pytest.mark.parametrize("kind", KINDS)
def test_the_script_finds_every_changed_byte_of_an_object(
    kept: tuple[ColdPlace, Archive], tmp_path: Path, kind: str
) -> None:
    entry = next(entry for entry in kept[1].manifest.objects() if entry.key.startswith(kind))
    data = (folder_of(kept) / entry.key).read_bytes()
    text = [entry.raw_sha256, str(entry.lines)] if isinstance(entry, TextEntry) else ["-", "-"]
    told = ["-", str(entry.bytes), entry.sha256, entry.storage_class.value, *text]
    changed = list(every_change(data))
    check = f'bucket=$changed; read_content "$number" {" ".join(told)}'
    assert missed(folder_of(kept), [*changed, data], check, tmp_path) == [str(len(changed))]
