"""Health: whether this process is alive, and whether it can take files now."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.state import CurrentState, State
from ledger.errors import LedgerError, PartUnavailableError
from ledger.seal import sealed
from projections.runner import live_store

router = APIRouter(tags=["health"])

SEAL_SECONDS_MAX = 60


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers. It asks nobody else, nor waits for one of the threads that ask."""
    return {"status": "alive"}


@router.get("/readyz")
def readyz(state: CurrentState) -> JSONResponse:
    """Whether files can be taken: PostgreSQL and the blob store are needed for that, MongoDB and the sealer are not."""
    parts = {
        "postgresql": _checked(state.ledger.position, needed=True),
        "blobs": _checked(state.blobs.check, needed=True),
        "mongodb": _checked(lambda: live_store(state.views).position(), needed=False),
        "seal": _checked(lambda: _check_sealed(state), needed=False),
    }
    ready = all(part["ok"] or not part["needed"] for part in parts.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": parts}, status.value)


def _check_sealed(state: State) -> None:
    with state.ledger.transaction() as session:
        _, position = sealed(session)
    waiting = state.ledger.events_after(position, 1)
    if waiting and datetime.now(UTC) - waiting[0].event.timestamp > timedelta(seconds=SEAL_SECONDS_MAX):
        raise PartUnavailableError(
            f"The event at position {waiting[0].position:,} has not been sealed for more than {SEAL_SECONDS_MAX} s.",
            "See whether the sealer runs, and what its log says.",
        )


def _checked(check: Callable[[], object], *, needed: bool) -> dict[str, Any]:
    started = time.monotonic()
    try:
        check()
        error = None
    except LedgerError as unavailable:
        error = str(unavailable)
    return {
        "ok": error is None,
        "needed": needed,
        "milliseconds": round((time.monotonic() - started) * 1000, 1),
        "error": error,
    }
