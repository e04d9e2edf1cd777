"""Asking what would become of a file, with nothing stored."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import APIRouter, Request

from api.choices import checked_choices
from api.errors import PayloadTooLargeError
from api.state import CurrentState, State, caller
from api.uploads import checked_filename
from ledger.domain.access import Permission
from ledger.errors import FileRefusedError
from ledger.fiscal_years import closed_to

router = APIRouter(tags=["files"])

PREVIEW_BYTES_MAX = 64 << 20


@router.post("/api/v1/preview")
async def preview_file(
    request: Request, state: CurrentState, filename: str = "file.csv", dataset: str | None = None
) -> dict[str, Any]:
    """What would become of the file in the request's body: its first rows, rejects, and how it fits the contract.

    Without a dataset, or with one that is not there yet, a contract is proposed, with `doubts` about it: sentences for
    whoever decides, the first of them, and `doubts_more` that are not shown. `late` are those of the rejects whose
    fiscal year is closed now, by year.
    """
    choices = checked_choices(dataset, "return", request.query_params)
    name = checked_filename(filename)
    with TemporaryDirectory(prefix="ledger-preview-", dir=state.settings.scratch_folder) as folder:
        file = Path(folder) / "file"
        with file.open("wb") as target:
            size = 0
            async for piece in request.stream():
                size += len(piece)
                if size > PREVIEW_BYTES_MAX:
                    raise PayloadTooLargeError(
                        f"The file is larger than {PREVIEW_BYTES_MAX >> 20} MiB, the most that is previewed.",
                        "Send a part of it that ends with a record, or load it: what does not fit becomes a reject.",
                    )
                await asyncio.to_thread(target.write, piece)
        about = {"file": str(file), "filename": name, "reading": choices.reading, "folder": str(Path(folder) / "blobs")}
        may_adjust = caller(request).may(Permission.ADJUST)
        told = await asyncio.to_thread(_preview, state, dataset, about, may_adjust=may_adjust)
    return {"filename": name, "dataset": dataset, **told}


def _preview(state: State, dataset: str | None, about: dict[str, Any], *, may_adjust: bool) -> dict[str, Any]:
    known = None if dataset is None else state.ledger.dataset(dataset)
    with state.ledger.transaction() as session:
        closed = closed_to(session, may_adjust=may_adjust)
    request = {
        **about,
        "contract": None if known is None else known.contract.to_dict(),
        "closed": [{**asdict(year), "start": str(year.start), "end": str(year.end)} for year in closed],
    }
    ended = subprocess.run(
        [sys.executable, "-m", "workers.preview"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
        timeout=state.settings.reader_seconds_max,
    )
    told = json.loads(ended.stdout)
    if "refused" in told:
        raise FileRefusedError(**told["refused"])
    preview: dict[str, Any] = told["preview"]
    return preview
