"""Whoever goes on with an export may compress otherwise than whoever was killed: what was put already is taken over.

Each kind of part is left by a run that ends between its put and its note, and found by a run that would put other bytes
of the same content. There is one object of each name then, in one version, and the archive is verified.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import zstandard

from archive import text_files
from archive.export_run import Run
from archive.exporting import MAKERS, export
from archive.finishing import finish
from archive.stores import NotRestoredError, StorageClass, open_cold_store
from archive.verifier import verify_archive
from archive.volume import Volume, prefix_of
from ledger.application import Ledger
from ledger.domain.words import Stage
from ledger.domain.year_states import YearState
from tests.integration.archiving import HEADER, ORIGIN, POLICY, SIGNER, Archive, lines, new_archive
from tests.integration.place import STAMP
from tests.s3_servers import new_bucket, s3_environment_of
from tests.strict_s3.faults import Fault
from tests.strict_s3.server import StrictS3
from workers.archiving import archive_fiscal_year
from workers.operations import operate

YEARS = iter(range(1903, 1949, 3))


class KilledError(BaseException):
    """Stands for the end of a process."""


class Compression:
    """Which way of compressing is in use, of two that never come to the same bytes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.is_usual = True
        self.taken_over = list[str]()
        compressor, writer, first = zstandard.ZstdCompressor, pyarrow.parquet.ParquetWriter, Volume._first

        def compress(**options: Any) -> Any:
            return compressor(**options) if self.is_usual else compressor(level=19, write_checksum=False)

        def write(sink: Any, schema: Any, compression: str) -> Any:
            return writer(sink, schema, compression=compression if self.is_usual else "gzip")

        def noted(volume: Volume, key: str) -> Any:
            self.taken_over.append(key)
            return first(volume, key)

        patch.setattr(text_files.zstandard, "ZstdCompressor", compress)
        patch.setattr(pyarrow.parquet, "ParquetWriter", write)
        patch.setattr(Volume, "_first", noted)


@pytest.fixture
def compression(monkeypatch: pytest.MonkeyPatch) -> Compression:
    return Compression(monkeypatch)


@pytest.fixture
def s3() -> Iterator[StrictS3]:
    with StrictS3() as double, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment_of(double.url).items():
            patch.setenv(name, value)
        yield double


def closed(archive: Archive) -> str:
    year = next(YEARS)
    for numbers in (range(60), range(60, 90)):
        archive.load(archive.places[0], HEADER + lines(year, numbers))
    return archive.close(year)


def end_before_the_note(patch: pytest.MonkeyPatch, archive: Archive, label: str, kind: str) -> None:
    """Export until parts of a kind are in the store, and end there."""
    note = Run.note

    def killed(run: Run) -> None:
        if any(run.year.parts[each["name"]]["kind"] == kind for each in run._unnoted):
            raise KilledError
        note(run)

    with patch.context() as killing:
        killing.setattr(Run, "note", killed)
        with pytest.raises(KilledError):
            export(archive.archiving, label)


def given_back(archive: Archive, label: str) -> str:
    """Why a worker gives back the operation of archiving a year."""
    place = archive.places[0].with_settings(seal_public_keys=str(SIGNER.public))
    operation = archive.ledger.request(Stage.ARCHIVE_YEAR, {"fiscal_year": label}, STAMP)
    place.follow()
    ended = operate(place.workshop, archive_fiscal_year, operation.id, Stage.ARCHIVE_YEAR, time.time(), lambda _: None)
    assert ended is None
    [(reason,)] = archive.query("SELECT last_error FROM work.items WHERE job_id = :id", id=operation.id)
    return str(reason)


def check_archive(archive: Archive, label: str, taken_over: list[str]) -> None:
    """There is one version of each object, the archive is as it was signed, and parts of each kind were taken over."""
    archive.seal()
    finish(archive.archiving, label)
    assert archive.year(label).state is YearState.VERIFIED
    prefix = prefix_of(ORIGIN, label, 1)
    keys = [each.key for each in archive.archiving.store.versions(f"{prefix}/")]
    assert len(keys) == len(set(keys)) == len(archive.year(label).stored) + 4
    left = {key.removeprefix(f"{prefix}/").partition("/")[0].partition("-")[0] for key in taken_over}
    assert left == {"reconciliation", "definitions", "data", "access", "events", "snapshots", "files"}


def test_parts_that_were_compressed_by_another_version_are_taken_over_in_a_folder(
    ledger: Ledger, tmp_path: Path, compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = new_archive(ledger, tmp_path, datasets=1)
    label = closed(archive)
    for kind in MAKERS:
        compression.is_usual = not compression.is_usual
        end_before_the_note(monkeypatch, archive, label, kind)
    compression.is_usual = not compression.is_usual
    export(archive.archiving, label)
    check_archive(archive, label, compression.taken_over)
    found = verify_archive(archive.archiving.store, prefix_of(ORIGIN, label, 1), [SIGNER.public], content=True)
    assert found.holds, found.findings


def test_parts_that_are_cold_are_restored_before_they_are_taken_over_and_nothing_is_made_meanwhile(
    ledger: Ledger, tmp_path: Path, compression: Compression, s3: StrictS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = new_archive(ledger, tmp_path, f"s3://{new_bucket()}/books", datasets=1)
    archive.archiving = replace(archive.archiving, policy=replace(POLICY, access_class=StorageClass.DEEP_ARCHIVE))
    label = closed(archive)
    for kind in MAKERS:
        compression.is_usual = not compression.is_usual
        if kind == "files":  # its run finds snapshots
            assert "no copy of it is restored" in given_back(archive, label)
        with_restoring(archive, s3, lambda kind=kind: end_before_the_note(monkeypatch, archive, label, kind))
    compression.is_usual = not compression.is_usual
    with_restoring(archive, s3, lambda: export(archive.archiving, label))
    check_archive(archive, label, compression.taken_over)


def test_what_one_answer_says_wrongly_to_be_anothers_is_not_restored(s3: StrictS3, tmp_path: Path) -> None:
    volume = Volume(open_cold_store(f"s3://{new_bucket()}/books"), "v1", None)
    (tmp_path / "file").write_bytes(b"a line\n" * 100)
    put = volume.keep("a", tmp_path / "file", StorageClass.DEEP_ARCHIVE)
    s3.faults.arm(Fault.FLIPPED_ANSWER, "HeadObject")
    before = len(s3.faults.calls)
    assert volume.keep("a", tmp_path / "file", StorageClass.DEEP_ARCHIVE) == put
    assert not s3.faults.is_armed
    assert not {"GetObject", "RestoreObject"} & set(s3.faults.calls[before:])


def with_restoring(archive: Archive, s3: StrictS3, act: Callable[[], object]) -> None:
    """Do something, once more if it has to wait for cold storage, and see that one wait is enough for all."""
    try:
        act()
    except NotRestoredError:
        before = len(s3.faults.calls)
        with pytest.raises(NotRestoredError, match="not restored yet"):
            act()
        assert not {"PutObject", "GetObject"} & set(s3.faults.calls[before:])
        s3.clock.advance(timedelta(hours=12))
        act()
