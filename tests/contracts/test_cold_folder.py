"""A cold store in a folder: whole objects or none whenever its process dies, and no byte that is changed unseen."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archive.stores import AnotherKeptError, ObjectDamagedError, StorageClass, StoredObject
from ledger.errors import ConflictError, NotFoundError, PartUnavailableError
from tests.contracts.cold_places import COMPLIANT, DATA, GOVERNED, ColdPlace, folder_place, sha256_of
from tests.disks import small_disk

KEY = "fy=2025/gen=0001/data/00001.copy.zst"
# What changes a folder, as Python's audit events name it.
CHANGES = ("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.chmod")
IN_THE_STORE = re.compile(r"/cold store/(?!\.incoming/|\.lock$)")
MEBIBYTE = 1 << 20


@pytest.fixture
def place(tmp_path: Path) -> ColdPlace:
    """An empty folder."""
    return folder_place(tmp_path)


def life(place: ColdPlace) -> StoredObject:
    """All that changes an object."""
    found = place.put(KEY, storage_class=StorageClass.GLACIER, lock=GOVERNED)
    place.store.lock(KEY, found.version, COMPLIANT)
    place.store.hold(KEY, found.version, True)
    return place.store.head(KEY, found.version)


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do some work in a child that is killed before its change of that number; whether there were so many.

    Nothing may be written under its own name: half of it would be there when the child is killed in between.
    """
    child = os.fork()
    if child == 0:
        left = [number]

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR) and IN_THE_STORE.search(str(arguments[0])):
                os._exit(1)
            if event in CHANGES:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_process_that_is_killed_at_any_change_leaves_a_whole_object_or_none_and_the_next_goes_on(
    tmp_path: Path,
) -> None:
    number = 0
    while True:
        scratch = tmp_path / str(number)
        scratch.mkdir()
        place = folder_place(scratch)
        if not killed_at(number, lambda place=place: life(place)):
            break
        place.store.check()
        assert place.folder is not None
        assert not list((place.folder / ".incoming").iterdir())
        for key, version in place.versions():
            found = place.store.head(key, version)
            assert (found.sha256, found.lock is not None) == (sha256_of(DATA), True)
        told = life(place)
        assert (told.sha256, told.lock, told.is_on_hold) == (sha256_of(DATA), COMPLIANT, True)
        assert place.versions() == [(KEY, told.version)]
        number += 1
    assert number > 20


def test_a_byte_that_is_changed_or_cut_is_found_whoever_looks(place: ColdPlace) -> None:
    assert place.folder is not None
    found = place.put(KEY)
    path = place.folder / KEY
    path.chmod(0o644)
    for bad in (DATA[:-1] + b"x", DATA[:-1], DATA + b"x", b""):
        path.write_bytes(bad)
        assert place.store.head(KEY, found.version).sha256 == sha256_of(bad)
        assert [each.size_bytes for each in place.store.versions("")] == [len(bad)]
        with pytest.raises(ObjectDamagedError, match="does not hold what was put"):
            place.put(KEY)
        if bad[: len(DATA)] != DATA:
            with pytest.raises(ObjectDamagedError):
                place.read(found)


def test_bytes_that_are_exchanged_with_their_record_are_another_version(place: ColdPlace) -> None:
    assert place.folder is not None
    found = place.put(KEY)
    (place.folder / KEY).unlink()
    (place.folder / ".records" / f"{KEY}.json").unlink()
    place.put(KEY, b"other")
    with pytest.raises(NotFoundError, match=found.version):
        place.store.head(KEY, found.version)


def test_bytes_that_a_crash_left_without_a_record_are_in_the_way_of_others_as_an_object(place: ColdPlace) -> None:
    assert place.folder is not None
    found = place.put(KEY)
    (place.folder / ".records" / f"{KEY}.json").unlink()
    assert place.versions() == []
    with pytest.raises(AnotherKeptError):
        place.put(KEY, b"other")
    assert place.versions() == [(KEY, found.version)]
    assert place.read(found) == DATA
    assert place.put(KEY, lock=GOVERNED).lock == GOVERNED


def test_an_object_whose_file_is_gone_is_not_there(place: ColdPlace) -> None:
    assert place.folder is not None
    found = place.put(KEY)
    (place.folder / KEY).unlink()
    assert place.versions() == []
    with pytest.raises(NotFoundError):
        place.store.head(KEY, found.version)
    with pytest.raises(NotFoundError):
        place.read(found)


def test_a_file_that_somebody_else_put_there_is_not_written_over(place: ColdPlace) -> None:
    assert place.folder is not None
    path = place.folder / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not ours")
    with pytest.raises(ConflictError, match=KEY):
        place.put(KEY)
    assert path.read_bytes() == b"not ours"


def test_a_record_that_cannot_be_read_is_told(place: ColdPlace) -> None:
    assert place.folder is not None
    found = place.put(KEY)
    for text in ("", "{}", '{"sha256": "x"', "[]"):
        (place.folder / ".records" / f"{KEY}.json").write_text(text)
        with pytest.raises(ObjectDamagedError, match="unreadable record"):
            place.store.head(KEY, found.version)


def test_what_is_kept_is_read_only(place: ColdPlace) -> None:
    assert place.folder is not None
    place.put(KEY)
    assert (place.folder / KEY).stat().st_mode & 0o222 == 0


def test_a_sync_that_fails_fails_the_put_and_a_later_one_works(
    place: ColdPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync
    failing = 0
    while True:
        calls: list[int] = []

        def fails_once(descriptor: int, calls: list[int] = calls, failing: int = failing) -> None:
            calls.append(descriptor)
            if len(calls) == failing + 1:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fails_once)
        key = f"{failing}/{KEY}"
        try:
            place.put(key)
        except PartUnavailableError as error:
            assert "Input/output error" in error.message
        else:
            break
        monkeypatch.setattr(os, "fsync", sync)
        assert place.read(place.put(key)) == DATA
        failing += 1
    # The bytes and the five folders above them, the record and the six above it.
    assert failing == 13


def test_the_name_of_a_new_folder_is_made_durable(place: ColdPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync
    synced: set[int] = set()

    def noting(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    place.put(KEY)
    assert place.folder is not None
    assert place.folder.parent.stat().st_ino in synced


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
def test_a_full_disk_is_told_leaves_nothing_and_spoils_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        place = folder_place(disk)
        place.scratch = tmp_path
        kept = place.put("kept")
        with pytest.raises(PartUnavailableError, match="No space left on device"):
            place.put(KEY, bytes(2 * MEBIBYTE))
        assert place.versions() == [("kept", kept.version)]
        assert place.put(KEY, bytes(MEBIBYTE // 2)).size_bytes == MEBIBYTE // 2
        assert place.read(kept) == DATA
