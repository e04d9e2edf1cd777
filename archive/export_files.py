"""The files of a year as parts of an export: what was sent, how it was read, and an index that finds them.

Of each job of the year its file is packed, the text that its chunks are ranges of, and the plan of these chunks. Each
is there once, whoever else sent the same bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby

from sqlalchemy.orm import Session

from archive.export_run import Archiving, Part, Run, step
from archive.manifest import TextEntry, canonical
from archive.packs import READ_BYTES, PackedFile, Piece, check_file, plan_packs, write_pack
from archive.stores import StorageClass
from archive.text_files import TextWriter, check_text
from archive.volume import DIGITS
from archive.year_jobs import YearJob, jobs_of
from archive.year_story import YearStory
from ledger import telemetry
from ledger.blobs import BlobStore
from ledger.failpoints import failpoint

INDEX = "files/index"


def plan_files(archiving: Archiving, session: Session, story: YearStory) -> list[Part]:
    """The packs that the files of a year make, and their index."""
    packs = {piece.pack for piece in plan_packs(files_of(archiving, jobs_of(session, archiving.calendar, story)))}
    named = [{"name": f"files/pack-{pack + 1:05}", "kind": "files", "pack": pack} for pack in sorted(packs)]
    return [*named, {"name": INDEX, "kind": "files"}]


def files_of(archiving: Archiving, jobs: Iterable[YearJob]) -> Iterator[PackedFile]:
    """What is packed of some jobs. A file may come more than once."""
    for job in jobs:
        yield PackedFile(job.sha256, job.size_bytes)
        if job.transcript is not None:
            assert job.transcript_bytes is not None, "its size stands beside it"
            yield PackedFile(job.transcript, job.transcript_bytes)
        if job.plan is not None:
            yield PackedFile(job.plan, _size_of(archiving.blobs, job.plan))


def make_files(run: Run, parts: list[Part]) -> None:
    """Check and pack the files, and keep their index."""
    by_pack = {part["pack"]: part for part in parts if "pack" in part}
    index = parts[-1]
    path = run.spool / "files-index"
    count = size = 0
    with run.ledger.transaction() as session, TextWriter(path) as text:
        files = _checked(run, files_of(run.archiving, jobs_of(session, run.archiving.calendar, run.story)))
        for pack, found in groupby(plan_packs(files), key=lambda piece: piece.pack):
            pieces = list(found)
            for piece in pieces:
                text.write(_line(piece))
                count += piece.number == 0
                size += piece.size_bytes
            if run.is_missing(by_pack[pack]):
                _keep_pack(run, by_pack[pack], pieces)
    if run.is_missing(index):
        facts = text.facts()
        with step(telemetry.SPAN_ARCHIVE_WRITE, run.year.label, index) as span:
            check_text(path, facts)
            span.set_attribute(telemetry.PART_BYTES, facts.bytes)
        with step(telemetry.SPAN_ARCHIVE_PUT, run.year.label, index) as span:
            entry = run.volume.keep_text(INDEX, "jsonl.zst", path, facts, StorageClass.STANDARD, TextEntry)
            span.set_attribute(telemetry.PART_BYTES, entry.bytes)
        run.keep(index, entry, files=count, files_bytes=size)
    path.unlink()


def _keep_pack(run: Run, part: Part, pieces: list[Piece]) -> None:
    path = run.spool / "pack.tar"
    with step(telemetry.SPAN_ARCHIVE_WRITE, run.year.label, part) as span:
        write_pack(run.archiving.blobs.read, pieces, path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        span.set_attribute(telemetry.PART_BYTES, path.stat().st_size)
    failpoint("part_written")
    with step(telemetry.SPAN_ARCHIVE_PUT, run.year.label, part) as span:
        entry = run.volume.keep(f"{part['name']}-{digest[:DIGITS]}.tar", path, run.storage_class, digest)
        span.set_attribute(telemetry.PART_BYTES, entry.bytes)
    path.unlink()
    run.keep(part, entry)


def _checked(run: Run, files: Iterable[PackedFile]) -> Iterator[PackedFile]:
    """The files, each once and found to have the bytes of its name."""
    seen: set[str] = set()
    for file in files:
        if file.sha256 not in seen:
            seen.add(file.sha256)
            check_file(run.archiving.blobs.read, file)
            yield file


def _size_of(blobs: BlobStore, sha256: str) -> int:
    size = 0
    while block := blobs.read(sha256, size, READ_BYTES):
        size += len(block)
    return size


def _line(piece: Piece) -> bytes:
    values = {
        "sha256": piece.sha256,
        "number": piece.number,
        "start": piece.start,
        "size": piece.size_bytes,
        "pack": f"files/pack-{piece.pack + 1:05}",
        "offset": piece.offset,
    }
    return canonical(values) + b"\n"
