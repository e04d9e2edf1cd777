"""Preview: what would become of a file, with nothing stored. `python -m workers.preview` tells it to a door.

Rules:
1. The file goes the same way as one that is loaded: the same process reads it, the same dialect, contract and checks.
   Only its blobs are in a folder that is thrown away.
2. What is shown comes from the first chunk; the numbers are those of that chunk.
3. It runs in a process of its own: what it needs to read and check takes more memory than a door may have.
4. A contract that is proposed comes with doubts about it (`projections.doubts`), which change nothing in it.
5. Which years are closed is what the door says that they are now, to who asks. It may be otherwise when the file comes.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow

from ledger.blobs import FolderBlobStore
from ledger.domain.contract import Contract
from ledger.domain.evolution import misfit
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.errors import FileRefusedError
from ledger.fiscal_years import ClosedYear
from ledger.settings import Settings
from projections.chunk import ChunkContent, read_chunk
from projections.doubts import doubts
from projections.formats.blocks import read_exactly
from projections.formats.header import column_names
from projections.formats.recognise import TEXT
from projections.formats.splitter import Plan
from projections.formats.transcript import Place
from projections.inference import infer
from projections.late_records import set_late_aside
from projections.loading import reading_of
from projections.plans import places_of
from workers.texts import text_of
from workers.trailers import with_trailer

ROWS_SHOWN = 10
REJECTS_SHOWN = 20
DOUBTS_SHOWN = 20
COPY_BYTES = 1 << 20
NOTHING_EXAMINED: dict[str, Any] = {
    "records_examined": 0,
    "rejected": 0,
    "late": {},
    "rows": [],
    "rejects": [],
    "doubts": [],
    "doubts_more": 0,
}


def preview(
    file: Path,
    filename: str,
    contract: Contract | None,
    reading: Mapping[str, str],
    folder: Path,
    settings: Settings,
    closed: Iterable[ClosedYear],
    now: datetime,
) -> dict[str, Any]:
    """What would become of a file.

    Args:
        contract: of its dataset, None to propose one.
        folder: an empty one, for what is kept meanwhile.
        closed: the fiscal years that nobody may add rows to, or the sender may not.
        now: when it would be received.

    Raises:
        FileRefusedError: the file cannot be read.
    """
    blobs = FolderBlobStore(folder)
    sha256, size = _put(blobs, file)
    there = settings.model_copy(update={"blobs_url": folder.as_uri()})
    found = text_of(blobs, sha256, size, filename, there, reading, contract)
    if contract is not None and found.plan.records and _has_its_columns(contract, found.plan):
        found = with_trailer(blobs, found, contract)
    made, dialect, plan, read = found.made, found.dialect, found.plan, partial(blobs.read, found.sha256)
    chunk = plan.chunks[0] if plan.chunks else None
    data = b"" if chunk is None else read_exactly(read, chunk.start, chunk.size)
    used = contract
    if used is None or not _has_its_columns(used, plan):
        used = infer(plan.header, [data], dialect, transcript=made.places is not None)
    answer = {
        "format": made.format if made.format != TEXT else dialect.format,
        "layers": made.layers,
        "dialect": dialect.to_dict(),
        "records": plan.records,
        "contract": used.to_dict(),
        "proposed": used is not contract,
        "differences": misfit(contract, column_names(plan.header))
        if contract is not None and plan.header is not None
        else [],
    }
    if chunk is None:
        return {**answer, **NOTHING_EXAMINED}
    calendar = FiscalCalendar.parse(settings.fiscal_calendar, settings.time_zone)
    content = read_chunk(plan.without_trailer(chunk, data), chunk, dialect, reading_of(used, plan, calendar))
    set_late_aside(content, now.astimezone(calendar.zone).date(), closed)
    return {
        **answer,
        **_shown(content, places_of(blobs, plan, chunk)),
        **_doubted(content, proposed=used is not contract),
    }


def _has_its_columns(contract: Contract, plan: Plan) -> bool:
    return plan.header is None or not misfit(contract, column_names(plan.header))


def _put(blobs: FolderBlobStore, file: Path) -> tuple[str, int]:
    writer, size = blobs.writer(), 0
    with file.open("rb") as source:
        while piece := source.read(COPY_BYTES):
            writer.write(piece)
            size += len(piece)
    return writer.finish(), size


def _doubted(content: ChunkContent, *, proposed: bool) -> dict[str, Any]:
    """The first doubts about a contract that is proposed, and how many more there are."""
    found: list[str] = []
    if proposed and content.pieces:
        values = pyarrow.concat_tables([checked.values for _, checked in content.pieces])
        found = doubts(content.reading.contract, values, content.reading.writing)
    return {"doubts": found[:DOUBTS_SHOWN], "doubts_more": max(0, len(found) - DOUBTS_SHOWN)}


def _shown(content: ChunkContent, places: Sequence[Place] | None) -> dict[str, Any]:
    rows = content.pieces[0][1].values.slice(0, ROWS_SHOWN).to_pylist() if content.pieces else []
    return {
        "records_examined": len(content.records),
        "rejected": len(content.flaws),
        "late": dict(sorted(Counter(content.late.values()).items())),
        "rows": rows,
        "rejects": [
            {
                "record": reject.record,
                "line": reject.line,
                "column": reject.column,
                "code": reject.code,
                "reason": reject.reason,
                "raw": reject.raw.decode("utf-8", "replace"),
            }
            for reject in content.rejects(places)[:REJECTS_SHOWN]
        ],
    }


def _closed_year(told: dict[str, Any]) -> ClosedYear:
    return ClosedYear(**{**told, **{name: date.fromisoformat(told[name]) for name in ("start", "end")}})


def main() -> None:
    """Read a request from standard input, and answer it on standard output."""
    request = json.load(sys.stdin)
    contract = None if request["contract"] is None else Contract.from_dict(request["contract"])
    try:
        found = preview(
            Path(request["file"]),
            request["filename"],
            contract,
            request["reading"],
            Path(request["folder"]),
            Settings(),
            map(_closed_year, request["closed"]),
            datetime.now(UTC),
        )
        told = {"preview": found}
    except FileRefusedError as refused:
        told = {"refused": refused.arguments()}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
