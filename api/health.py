"""Health: whether this process is alive, and whether it can take files now."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from api.state import CurrentState
from ledger.errors import PartUnavailableError
from projections.runner import live_store

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers. It asks nobody else, nor waits for one of the threads that ask."""
    return {"status": "alive"}


@router.get("/readyz")
def readyz(state: CurrentState) -> JSONResponse:
    """Whether files can be taken: PostgreSQL and the blob store are needed for that, MongoDB is not."""
    parts = {
        "postgresql": _checked(state.ledger.position, needed=True),
        "blobs": _checked(state.blobs.check, needed=True),
        "mongodb": _checked(lambda: live_store(state.views).position(), needed=False),
    }
    ready = all(part["ok"] or not part["needed"] for part in parts.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JSONResponse({"status": "ready" if ready else "not ready", "parts": parts}, status.value)


def _checked(check: Callable[[], object], *, needed: bool) -> dict[str, Any]:
    started = time.monotonic()
    try:
        check()
        error = None
    except PartUnavailableError as unavailable:
        error = str(unavailable)
    return {
        "ok": error is None,
        "needed": needed,
        "milliseconds": round((time.monotonic() - started) * 1000, 1),
        "error": error,
    }
