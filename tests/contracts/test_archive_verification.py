"""An archive is found as it was signed, or it is told which of its objects is not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from archive.fetched_objects import Counter, Fetcher, Place
from archive.stores import (
    OBJECT_BYTES_MAX,
    ColdStore,
    ListedVersion,
    StorageClass,
    StoreUnfitError,
    Tier,
    open_cold_store,
)
from archive.verified_content import check_some
from archive.verifier import verify_archive
from ledger.findings import Findings
from tests.archives import KINDS, SIGNER, Archiver
from tests.contracts.archive_script import SCRIPT, verify_by_script
from tests.contracts.cold_places import ColdPlace, bucket_place, folder_place
from tests.strict_s3.server import READER, StrictS3

KEYS = [SIGNER.public]
MEMORY_BYTES_MAX = 256 << 20
OTHER_CHECKPOINT = f"books\n18\n{'A' * 43}=\n"
SAID = [
    f"The manifest of FY2025-26, generation 1, is signed by books+{SIGNER.public.key_id.hex()}.",
    "13 objects were looked at.",
    "4 files came out of the packs as they were sent.",
]


def test_a_chain_of_archives_is_found_as_it_was_signed(place: ColdPlace) -> None:
    archiver = Archiver(place.store, place.scratch, StorageClass.GLACIER_IR)
    for archived in (archiver.archive("FY2024-25"), archiver.archive("FY2025-26")):
        found = verify_archive(place.store, archived.prefix, KEYS, content=True, manifest_sha256=archived.sha256)
        assert (found.findings, found.not_compared) == ([], [])
        assert found.holds


def test_the_script_finds_a_chain_of_archives_as_it_was_signed(place: ColdPlace) -> None:
    archiver = Archiver(place.store, place.scratch, StorageClass.GLACIER_IR)
    archiver.archive("FY2024-25")
    archived = archiver.archive("FY2025-26")
    assert verify_by_script(place, archived.prefix) == (0, [*SAID, "All of it is as it was signed."])


def first_part(values: Any) -> Any:
    return values["tables"][0]["parts"][0]


# What an archiver that lies signs -> the code by which the content tells it.
LIES: dict[str, tuple[Callable[[Any], object], str]] = {
    "another text of a part": (lambda values: first_part(values).update(raw_sha256="0" * 64), "text_differs"),
    "another number of lines": (lambda values: first_part(values).update(lines=7), "text_differs"),
    "another first row": (lambda values: first_part(values).update(first=[3, 2]), "part_differs"),
    "another last row": (lambda values: first_part(values).update(last=[3, 9]), "part_differs"),
    "another text of a table": (lambda values: values["tables"][0].update(text_sha256="0" * 64), "table_differs"),
    "another number of rows": (lambda values: values["tables"][0].update(rows=5), "table_differs"),
    "parts in another order": (lambda values: values["tables"][0]["parts"].reverse(), "table_differs"),
    "a part is left out": (lambda values: values["tables"][0]["parts"].pop(), "table_differs"),
    "another number of events": (lambda values: values["events"].update(count=5), "events_differ"),
    "a part of events is left out": (lambda values: values["events"]["parts"].pop(), "events_differ"),
    "events in another order": (lambda values: values["events"]["parts"].reverse(), "text_differs"),
    "another year was closed": (lambda values: values.update(fiscal_year="FY2020-21"), "events_differ"),
    "another log before": (lambda values: values["events"].update(before=["0" * 64] * 2), "root_differs"),
    "another log behind": (lambda values: values["events"]["after"].reverse(), "root_differs"),
    "another checkpoint": (lambda values: values.update(checkpoint=OTHER_CHECKPOINT), "root_differs"),
    "another number of files": (lambda values: values["files"].update(count=3), "files_differ"),
    "a pack is left out": (lambda values: values["files"]["packs"].pop(), "files_differ"),
    "the books of another year": (
        lambda values: values.update(reconciliation=values["snapshots"][0]),
        "text_differs",
    ),
    "a table that the books do not know": (
        lambda values: values["tables"][1].update(dataset="others"),
        "reconciliation_differs",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_was_signed_and_does_not_go_together_is_found(tmp_path: Path, lie: str) -> None:
    place = folder_place(tmp_path)
    archiver = Archiver(place.store, tmp_path)
    archiver.archive("FY2024-25")
    change, code = LIES[lie]
    archived = archiver.archive(change=change)
    found = verify_archive(place.store, archived.prefix, KEYS, content=True)
    assert code in {finding.code for finding in found.findings}


def test_a_file_that_was_packed_with_other_bytes_is_found_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder_place(tmp_path)
    archiver = Archiver(place.store, tmp_path)
    monkeypatch.setattr(archiver, "packed", lambda content: content[:-1] + b"!" if content else content)
    archived = archiver.archive()
    found = verify_archive(place.store, archived.prefix, KEYS, content=True)
    names = [f"files/{hashlib.sha256(content).hexdigest()}" for content in archiver.contents if content]
    assert [finding.object for finding in found.findings] == [f"{archived.prefix}/{name}" for name in names]
    ended, lines = verify_by_script(place, archived.prefix)
    assert (ended, {line.split()[1] for line in lines if line.startswith("WRONG")}) == (1, set(names))


@dataclass
class Exchanged:
    """A cold store with other bytes under one key. What versions there are is asked once."""

    store: ColdStore
    key: str
    data: bytes = b""
    listed: dict[str, list[ListedVersion]] = field(default_factory=dict)

    def read(self, key: str, version: str, start: int = 0, size: int | None = None) -> Iterator[bytes]:
        return iter([self.data]) if key == self.key else self.store.read(key, version, start, size)

    def versions(self, prefix: str) -> Iterator[ListedVersion]:
        if prefix not in self.listed:
            self.listed[prefix] = list(self.store.versions(prefix))
        return iter(self.listed[prefix])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest.mark.parametrize("name", ["MANIFEST.json", "MANIFEST.note"])
def test_every_changed_byte_of_a_manifest_or_its_note_is_found(tmp_path: Path, name: str) -> None:
    place = folder_place(tmp_path)
    archived = Archiver(place.store, tmp_path).archive()
    key = f"{archived.prefix}/{name}"
    data = archived.data if name == "MANIFEST.json" else archived.note
    store: Any = Exchanged(place.store, key)
    for number in range(len(data)):
        store.data = data[:number] + bytes([data[number] ^ (1 << number % 8)]) + data[number + 1 :]
        found = verify_archive(store, archived.prefix, KEYS, content=False)
        assert found.findings and found.findings[0].object is not None, number
        assert found.findings[0].object.startswith(f"{archived.prefix}/MANIFEST."), number


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_byte_of_an_object_is_found(tmp_path: Path, kind: str) -> None:
    place = folder_place(tmp_path)
    archived = Archiver(place.store, tmp_path).archive()
    entry = next(entry for entry in archived.manifest.objects() if entry.key.startswith(kind))
    found = Findings()
    store: Any = Exchanged(place.store, f"{archived.prefix}/{entry.key}")
    fetcher = Fetcher(Place(store, archived.prefix, found), tmp_path, Counter(1, lambda told: None))
    data = b"".join(place.store.read(store.key, entry.version))
    for number in range(len(data)):
        store.data = data[:number] + bytes([data[number] ^ (1 << number % 8)]) + data[number + 1 :]
        check_some(fetcher, [entry])
        assert found.findings_total == number + 1
    store.data = data
    check_some(fetcher, [entry])
    assert found.findings_total == len(data)
    assert {finding.object for finding in found.findings} == {store.key}


def test_a_sample_is_read_and_named_and_nothing_else_is(tmp_path: Path) -> None:
    place = folder_place(tmp_path)
    archived = Archiver(place.store, tmp_path).archive()
    part, pack = archived.manifest.tables[0].parts[0], archived.manifest.files.packs[0]
    for damaged in (part, pack):
        key = f"{archived.prefix}/{damaged.key}"
        store: Any = Exchanged(place.store, key, b"other bytes")  # the store says of it what it said before
        for chosen, expected in (([part, pack], [key]), ([each for each in (part, pack) if each != damaged], [])):
            told: list[dict[str, int]] = []
            found = verify_archive(
                store, archived.prefix, KEYS, content=False, choose=lambda _, sample=chosen: sample, tell=told.append
            )
            assert [finding.object for finding in found.findings] == expected
            assert found.evidence["sample"] == [each.key for each in chosen]
            assert told[-1]["parts"] == told[-1]["parts_total"] == found.evidence["objects"] + len(chosen)


def test_a_text_of_a_sample_that_is_another_than_was_signed_is_found(tmp_path: Path) -> None:
    place = folder_place(tmp_path)
    archived = Archiver(place.store, tmp_path).archive(change=LIES["another text of a part"][0])
    found = verify_archive(place.store, archived.prefix, KEYS, content=False, choose=lambda objects: objects)
    assert [finding.code for finding in found.findings] == ["text_differs"]


def test_what_is_cold_is_verified_without_its_content_and_told_to_be_restored(
    s3_environment: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with StrictS3() as double:
        s3_environment(double.url)
        place = bucket_place("double", tmp_path, double)
        archived = Archiver(place.store, tmp_path).archive()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it was made with
        place.store = open_cold_store(f"s3://{place.bucket}/books")
        assert verify_archive(place.store, archived.prefix, KEYS, content=False).holds
        found = verify_archive(place.store, archived.prefix, KEYS, content=True)
        cold = [entry for entry in archived.manifest.objects() if entry.storage_class.is_cold]
        assert (found.holds, found.findings, len(found.not_compared)) == (None, [], len(cold))
        ended, lines = verify_by_script(place, archived.prefix)
        assert (ended, len([line for line in lines if line.startswith("COLD")])) == (2, len(cold)), lines
        sampled = verify_archive(place.store, archived.prefix, KEYS, content=False, choose=lambda objects: objects)
        others = [entry.key for entry in archived.manifest.objects() if entry not in cold]
        assert (sampled.holds, sampled.findings, sampled.evidence["sample"]) == (None, [], others)
        assert f"{len(cold)} of the {len(cold) + len(others)} objects" in sampled.not_compared[0]

        for entry in cold:
            place.store.restore(f"{archived.prefix}/{entry.key}", entry.version, Tier.BULK, 1)
        double.clock.advance(timedelta(hours=49))
        assert verify_archive(place.store, archived.prefix, KEYS, content=True).holds
        sampled = verify_archive(place.store, archived.prefix, KEYS, content=False, choose=lambda objects: objects)
        assert (sampled.holds, len(sampled.evidence["sample"])) == (True, len(cold) + len(others))
        assert verify_by_script(place, archived.prefix, shell="bash")[0] == 0

        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        assert verify_by_script(place, archived.prefix)[0] == 2
        place.store = open_cold_store(f"s3://{place.bucket}/books")
        with pytest.raises(StoreUnfitError):
            verify_archive(place.store, archived.prefix, KEYS, content=False)


def test_the_script_finds_what_is_done_to_a_folder(tmp_path: Path) -> None:
    place = folder_place(tmp_path)
    archived = Archiver(place.store, tmp_path).archive()
    assert place.folder is not None
    folder = place.folder / archived.prefix
    names = [entry.key for entry in archived.manifest.objects()]
    for name in names[1:5]:
        (folder / name).chmod(0o644)
    (folder / names[1]).write_bytes(b"x" + (folder / names[1]).read_bytes()[1:])
    (folder / names[2]).write_bytes((folder / names[2]).read_bytes()[:-1])
    (folder / names[3]).write_bytes((folder / names[4]).read_bytes())
    (folder / names[4]).unlink()
    (folder / "data/more").write_bytes(b"x")
    ended, lines = verify_by_script(place, archived.prefix)
    assert ended == 1
    for name in (*names[1:5], "data/more"):
        assert any(line.startswith(f"WRONG {name} ") for line in lines), (name, lines)
    found = verify_archive(place.store, archived.prefix, KEYS, content=False)
    assert {finding.object for finding in found.findings} == {f"{archived.prefix}/{name}" for name in names[1:5]}


CHILD = """
import sys
from archive.stores import open_cold_store
from archive.verified_content import check_some
from archive.verifier import verify_archive
from ledger.notes import PublicKey
url, prefix, key = sys.argv[1:]
found = verify_archive(open_cold_store(url), prefix, [PublicKey.parse(key)], content=True)
print(found.holds, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_an_archive(tmp_path: Path) -> None:
    """A table of more text, and files of more bytes, than the memory that all of it may take."""
    place = folder_place(tmp_path)
    archiver = Archiver(place.store, tmp_path)
    note = "a note " * 150_000
    archiver.rows = lambda generation: {"payments": [[f"{number}\t{note}\t3\t{number}" for number in range(1, 281)]]}
    archiver.contents, archiver.pack_bytes = [bytes(140 << 20), bytes(141 << 20)], OBJECT_BYTES_MAX
    archived = archiver.archive()
    [table] = archived.manifest.tables
    assert min(table.text_bytes, archived.manifest.files.bytes) > MEMORY_BYTES_MAX
    assert place.folder is not None
    command = [sys.executable, "-c", CHILD, place.folder.as_uri(), archived.prefix, str(SIGNER.public)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    holds, peak_kibibytes = ended.stdout.split()
    assert holds == "True"
    assert int(peak_kibibytes) << 10 < MEMORY_BYTES_MAX


def test_nothing_is_held_against_the_script() -> None:
    found = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
