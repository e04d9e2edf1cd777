"""The tables of a year as parts of an export: the rows as text, and copies that are easier to read.

All parts of a table are made before one of them is put: only together they are restored on trial, in the very bytes
that the store then gets. So a table of which a part is missing is made anew as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow

from archive.access import AccessColumn, access_columns, take_over, write_access_copy, writer_of
from archive.closing import closed_partitions
from archive.definitions import archived_statements
from archive.export_run import Part, Run, step
from archive.fence import ClosedPartition
from archive.manifest import AccessEntry, PartEntry, TextEntry, entry_of
from archive.parts import Place, PlannedPart, write_part
from archive.restoration import ArchivedPart, ArchivedTable, try_restoring
from archive.stores import StorageClass
from archive.text_files import TextFacts, file_blocks, raw_blocks
from archive.types import base_of
from archive.volume import DIGITS
from ledger import telemetry
from ledger.failpoints import failpoint

ROWS, ACCESS = "data", "access"
TEXTS = frozenset({"text", "character varying", "character"})


def plan_table(dataset: str, planned: list[PlannedPart], *, with_access: bool) -> list[Part]:
    """The parts of a table, each with the copy that is made of it."""
    parts: list[Part] = []
    for each in planned:
        about = {"kind": "table", "dataset": dataset, "number": each.number}
        told = {"first": list(each.first), "last": list(each.last), "rows": each.rows}
        parts.append({"name": f"{ROWS}/{dataset}/{each.number:05}", **about, **told})
        if with_access:
            parts.append({"name": f"{ACCESS}/{dataset}/{each.number:05}", **about, "rows": each.rows})
    return parts


def make_table(run: Run, parts: list[Part]) -> None:
    """Write a table's rows, restore them on trial, and keep them and their copies."""
    [closed] = [each for each in closed_partitions(run.year) if each.partition.dataset == parts[0]["dataset"]]
    rows = [part for part in parts if part["name"].startswith(f"{ROWS}/")]
    written = [(part, *_written(run, closed, part)) for part in rows]
    text_sha256, text_bytes = _content(path for _, _, path in written)
    _try(run, closed, text_sha256, written)
    copies = {part["number"]: part for part in parts if part["name"].startswith(f"{ACCESS}/")}
    columns: list[AccessColumn] = []
    if copies:
        with run.ledger.transaction() as session:
            columns = access_columns(session, closed.partition)
    for part, made, path in written:
        _keep_rows(run, part, made, path, text_sha256, text_bytes)
        if part["number"] in copies:
            _keep_copy(run, copies[part["number"]], columns, made, path)
        path.unlink()


def _written(run: Run, closed: ClosedPartition, part: Part) -> tuple[TextFacts, Path]:
    planned = PlannedPart(part["number"], Place(*part["first"]), Place(*part["last"]), part["rows"])
    path = run.spool / f"{part['number']:05}.copy.zst"
    with step(telemetry.SPAN_ARCHIVE_WRITE, run.year.label, part) as span:
        written = write_part(run.ledger.engine, closed.partition, planned, path)
        span.set_attributes(
            {
                telemetry.PART_BYTES: written.bytes,
                telemetry.PART_TEXT_BYTES: written.raw_bytes,
                telemetry.PART_ROWS: planned.rows,
            }
        )
    failpoint("part_written")
    return written, path


def _content(paths: Iterator[Path]) -> tuple[str, int]:
    """The SHA-256 of the text of all parts, one after the other, and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    for path in paths:
        for block in raw_blocks(file_blocks(path), path.name):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def _try(run: Run, closed: ClosedPartition, text_sha256: str, written: list[tuple[Part, TextFacts, Path]]) -> None:
    partition = closed.partition
    definitions = entry_of(TextEntry, run.year.stored["definitions"])
    statement = archived_statements(run.volume, definitions, run.year)[partition.dataset]
    table = ArchivedTable(partition.dataset, statement, partition.columns, text_sha256, closed.fingerprint)
    parts = [
        ArchivedPart(part["name"], made.raw_bytes, made.raw_sha256, made.sha256, partial(file_blocks, path))
        for part, made, path in written
    ]
    with step(telemetry.SPAN_ARCHIVE_TRY, run.year.label) as span:
        span.set_attributes({telemetry.TABLE: partition.dataset, telemetry.TABLE_ROWS: closed.fingerprint.rows})
        try_restoring(run.ledger.engine, run.story.days, run.year.generation, [(table, parts)])
    failpoint("table_tried")


def _keep_rows(run: Run, part: Part, made: TextFacts, path: Path, text_sha256: str, text_bytes: int) -> None:
    if run.is_missing(part):
        places = {"first": tuple(part["first"]), "last": tuple(part["last"])}
        with step(telemetry.SPAN_ARCHIVE_PUT, run.year.label, part) as span:
            entry = run.volume.keep_text(part["name"], "copy.zst", path, made, run.storage_class, PartEntry, **places)
            span.set_attributes({telemetry.PART_BYTES: entry.bytes, telemetry.PART_ROWS: part["rows"]})
        run.keep(part, entry, text_sha256=text_sha256, text_bytes=text_bytes)


def _keep_copy(run: Run, part: Part, columns: list[AccessColumn], made: TextFacts, source: Path) -> None:
    if run.is_missing(part):
        path = source.with_suffix(".parquet")
        with step(telemetry.SPAN_ARCHIVE_WRITE, run.year.label, part) as span:
            write_access_copy(columns, source, path, part["name"].replace(ACCESS, ROWS, 1))
            span.set_attributes({telemetry.PART_BYTES: path.stat().st_size, telemetry.PART_ROWS: part["rows"]})
        with step(telemetry.SPAN_ARCHIVE_PUT, run.year.label, part) as span:
            storage_class = StorageClass(run.year.pinned["access_class"])
            name = f"{part['name']}-{made.raw_sha256[:DIGITS]}.parquet"
            kept = run.volume.keep(name, path, storage_class, holds_same=partial(take_over, path))
            span.set_attributes({telemetry.PART_BYTES: kept.bytes, telemetry.PART_ROWS: part["rows"]})
        writer = writer_of(path)
        path.unlink()
        as_text = [
            each.column.name
            for each in columns
            if pyarrow.types.is_string(each.type) and base_of(each.column.type) not in TEXTS
        ]
        told = {"dataset": part["dataset"], "rows": part["rows"], "writer": writer}
        run.keep(part, AccessEntry(**kept.model_dump(), **told, columns_as_text=tuple(as_text)))
