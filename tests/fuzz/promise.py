"""The promise that every file is read under, and one file held against it.

The promise, of whatever bytes arrive:
1. Nothing is raised but FileRefusedError, and it says what is wrong and what to do.
2. Counts close: the records of the text are the rows that the reader gave, there is one place for each, splitting the
   text gives as many however it is cut, and checking finds each of them good or flawed, and none twice, whether the
   contract was made for them or they hardly fit it.
3. A record that its reader could not read is flawed for the reason that the reader gave. Of a good record, each value
   is what the reader gave.
4. The same file makes the same text again.
5. A sound file is not refused, and has as many records as were written, all of them good.

What a file goes through is what the worker does with it, from the blob to the chunks; only PostgreSQL is left out.
"""

from __future__ import annotations

import hashlib
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ledger.blobs import put
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.values import FISCAL_DATE_TYPES, ColumnType
from ledger.errors import FileRefusedError
from projections.chunk import ChunkContent, read_chunk
from projections.formats.blocks import BLOCK_BYTES_MIN
from projections.formats.dialect import SAMPLE_BYTES, Dialect, sniff
from projections.formats.recognise import FORMATS, TEXT, is_separated_text
from projections.formats.rows import Limits, Row, Writing
from projections.formats.splitter import Plan, split
from projections.formats.transcript import PLACE_BYTES
from projections.inference import infer
from projections.loading import reading_of
from projections.plans import places_of
from projections.transcribe import Transcription, is_its_own_text, transcribe
from tests.fuzz.memory_blobs import MemoryBlobs
from tests.fuzz.watching import watched

LIMITS = Limits(
    record_bytes_max=1 << 20, columns_max=200, depth_max=16, cells_max=200_000, text_bytes_max=4 << 20, members_max=20
)
CHUNKS_MAX = 50  # about so many: each has its price
CALENDAR = FiscalCalendar.parse("04-01", "UTC")


class BrokenPromiseError(AssertionError):
    """What a file came to is not what is promised."""


@dataclass(frozen=True)
class Given:
    """One file to be read.

    `records` are those of a sound file, None if it was damaged. `chunk_bytes` and `block_bytes` say how its text is
    cut.
    """

    reader: str
    content: bytes
    filename: str
    options: Mapping[str, str] = field(default_factory=dict)
    records: int | None = None
    chunk_bytes: int = 1 << 20
    block_bytes: int = 1 << 20


@dataclass(frozen=True)
class Came:
    """What a file came to: why it was refused (a code), or its records and how many of them are flawed."""

    refused: str | None
    records: int = 0
    flawed: int = 0


def examine(given: Given, stage: Callable[[str], None] = lambda _: None) -> Came:
    """Read a file as the ledger does and hold what it came to against the promise.

    Args:
        stage: told "reading" before that starts which the ledger has done by a process of its own, and "checking"
            before that which a worker does itself.

    Raises:
        BrokenPromiseError: it is broken; so is it by any other exception.
    """
    blobs = MemoryBlobs()
    try:
        made, rows = _made(blobs, given, stage)
        stage("checking")
        dialect, plan = _planned(blobs, given, made)
        content = _contents(blobs, given, made, dialect, plan)
    except FileRefusedError as refused:
        _keep(bool(refused.code and refused.message and refused.remedy), f"a refusal says too little: {refused!r}")
        _keep(given.records is None, f"a sound file is refused: {refused.code}: {refused}")
        return Came(refused.code)
    if made.format != TEXT:
        _check_rows(rows, plan, content)
    if made.format == "json_lines" and not made.layers:
        lines = sum(1 for line in given.content.removeprefix(BOM_UTF8).split(b"\n") if line.strip(b" \t\r"))
        _keep(plan.records == lines, f"{lines} lines are not blank, and {plan.records} records read")
    _check_sound(given, plan, content)
    return Came(None, plan.records, sum(len(chunk.flaws) for chunk in content))


def _made(blobs: MemoryBlobs, given: Given, stage: Callable[[str], None]) -> tuple[Transcription, list[Row]]:
    """The file's text, and the rows that its reader gave, if it has one."""
    sha256 = put(blobs, given.content)
    as_it_is = "encoding" not in given.options and not is_separated_text(given.options)
    if as_it_is and is_its_own_text(given.content[:SAMPLE_BYTES]):
        return Transcription(TEXT, [], given.filename), []
    stage("reading")
    passes: list[list[Row]] = []
    found = []
    for _ in range(2):
        with TemporaryDirectory(prefix="ledger-fuzz-") as folder, watched(passes):
            found.append(
                transcribe(
                    blobs,
                    sha256,
                    len(given.content),
                    given.filename,
                    folder=Path(folder),
                    limits=LIMITS,
                    options=given.options,
                )
            )
    _keep(found[0] == found[1], "the same file makes another text the second time")
    made = found[0]
    if made.format == TEXT:
        return made, []
    rows = passes[-1]
    assert made.places is not None
    _keep(
        blobs.size(made.places) == len(rows) * PLACE_BYTES,
        f"{len(rows)} rows were given, and {blobs.size(made.places) / PLACE_BYTES:g} places written",
    )
    return made, rows


def _planned(blobs: MemoryBlobs, given: Given, made: Transcription) -> tuple[Dialect, Plan]:
    """The dialect and the plan of the text, which is cut in two ways that must agree."""
    text = made.transcript or hashlib.sha256(given.content).hexdigest()
    size = len(given.content) if made.text_size is None else made.text_size
    _keep(blobs.size(text) == size, f"the text has {blobs.size(text)} bytes, and is said to have {size}")
    chunk_bytes_min = size // CHUNKS_MAX + 1
    dialect = made.dialect or sniff(blobs.read(text, 0, SAMPLE_BYTES), made.filename)
    try:
        plan, fine = (
            split(
                partial(blobs.read, text),
                size,
                dialect,
                chunk_bytes=chunk_bytes,
                record_bytes_max=LIMITS.record_bytes_max,
                block_bytes=block_bytes,
            )
            for chunk_bytes, block_bytes in (
                (size + 1, size + BLOCK_BYTES_MIN),
                (max(given.chunk_bytes, chunk_bytes_min), max(given.block_bytes, chunk_bytes_min)),
            )
        )
    except FileRefusedError as refused:
        _keep(made.format == TEXT or refused.code == "record_too_long", f"the text of a reader is refused: {refused}")
        raise
    _keep(made.format == TEXT or plan.records > 0, "the text of a reader holds no record")
    _keep(
        (plan.records, plan.blank_lines, plan.header) == (fine.records, fine.blank_lines, fine.header),
        f"there are {plan.records} records, and {fine.records} if the text is cut otherwise",
    )
    starts, ends = [chunk.start for chunk in fine.chunks], [chunk.end for chunk in fine.chunks]
    _keep([*starts, fine.size] == [fine.data_start, *ends], "chunks leave a gap or overlap")
    return dialect, replace(
        fine,
        places=made.places,
        own_null=made.format != TEXT,
        writing=Writing.FREE if made.format == TEXT else FORMATS[made.format].writing,
    )


def _contents(
    blobs: MemoryBlobs, given: Given, made: Transcription, dialect: Dialect, plan: Plan
) -> list[ChunkContent]:
    """The chunks of the text, checked as before they are loaded."""
    read = partial(blobs.read, made.transcript or hashlib.sha256(given.content).hexdigest())
    if plan.records == 0:
        raise FileRefusedError("no_records", "There is no record.", "Send the file again with its records.")
    contract = infer(plan.header, (read(chunk.start, chunk.size) for chunk in plan.chunks), dialect)
    found = [_content(read, chunk, dialect, contract, plan) for chunk in plan.chunks]
    strict = _strict(contract, len(given.content))
    for content in (*found, *(_content(read, chunk, dialect, strict, plan) for chunk in plan.chunks)):
        _check_chunk(blobs, plan, content)
    return found


def _strict(contract: Contract, turn: int) -> Contract:
    """A contract of the same columns that the records hardly fit: any types, and every other one filled."""
    types = list(ColumnType)
    columns = tuple(
        Column(column.name, types[(turn + number) % len(types)], nullable=number % 2 == 0)
        for number, column in enumerate(contract.columns)
    )
    dated = [column.name for column in columns if column.type in FISCAL_DATE_TYPES and not column.nullable]
    return replace(contract, columns=columns, fiscal_date_column=dated[0] if dated else None)


def _content(
    read: Callable[[int, int], bytes], chunk: Any, dialect: Dialect, contract: Contract, plan: Plan
) -> ChunkContent:
    return read_chunk(read(chunk.start, chunk.size), chunk, dialect, reading_of(contract, plan, CALENDAR))


def _check_chunk(blobs: MemoryBlobs, plan: Plan, content: ChunkContent) -> None:
    chunk = content.chunk
    _keep(len(content.records) == chunk.records, f"chunk {chunk.number} holds {len(content.records)} records")
    good = sum(checked.values.num_rows for _, checked in content.pieces)
    _keep(
        good + len(content.flaws) == chunk.records,
        f"of {chunk.records} records {good} are good and {len(content.flaws)} flawed",
    )
    _keep(set(content.good.tolist()).isdisjoint(content.flaws), "a record is good and flawed")
    _keep(set(content.flaws) <= set(range(chunk.records)), "a record is flawed that there is not")
    rejects = content.rejects(places_of(blobs, plan, chunk))
    _keep(
        all(reject.record in chunk.record_numbers and reject.code and reject.reason for reject in rejects),
        "a reject has no record, code or reason",
    )
    content.came_to()
    content.whole()
    content.some(content.good)


def _check_rows(rows: list[Row], plan: Plan, contents: list[ChunkContent]) -> None:
    """Hold what the reader gave against what would be loaded."""
    _keep(len(rows) == plan.records, f"{len(rows)} rows were given, and the text has {plan.records} records")
    ends = [0, *(row.offset + row.length for row in rows)]
    _keep(all(end <= row.offset for end, row in zip(ends, rows, strict=False)), "places overlap, or go back")
    names = list(dict.fromkeys(name for row in rows if row.flaw is None for name in row.values))
    _keep(plan.header is not None and set(names) <= set(plan.header), "the text lacks a column")
    for content in contents:
        first = content.chunk.first_record - 1
        for index, flaw in content.flaws.items():
            wanted = rows[first + index].flaw
            if wanted is not None and (wanted.code, wanted.column, wanted.reason) != (
                flaw.code,
                flaw.column,
                flaw.reason,
            ):
                raise BrokenPromiseError(f"record {first + index + 1} is flawed by {flaw}, not by {wanted}")
        _keep(
            all(rows[first + index].flaw is None for index in content.good.tolist()),
            "a record that could not be read is good",
        )
        _check_values(rows[first:], plan.header or [], content)


def _check_values(rows: list[Row], header: list[str], content: ChunkContent) -> None:
    names = [column.name for column in content.reading.columns if column is not None]
    assert len(names) == len(header)
    for start, checked in content.pieces:
        columns = [checked.values[name].to_pylist() for name in names]
        for index, *values in zip((checked.good + start).tolist(), *columns, strict=True):
            wanted = [rows[index].values.get(name) for name in header]
            if values != wanted:
                raise BrokenPromiseError(f"{wanted} was given, and is {values} in the text")


def _check_sound(given: Given, plan: Plan, contents: list[ChunkContent]) -> None:
    if given.records is None:
        return
    _keep(plan.records == given.records, f"{given.records} records were written, and {plan.records} read")
    flaws = [flaw for content in contents for flaw in content.flaws.values()]
    _keep(not flaws, f"a sound file has flaws: {flaws[:1]}")


def _keep(kept: bool, else_what: str) -> None:
    if not kept:
        raise BrokenPromiseError(else_what)
