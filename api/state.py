"""What the routes work with, and how they find it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, Request
from pymongo.database import Database

from ledger import telemetry
from ledger.application import Ledger
from ledger.blobs import BlobStore
from ledger.domain.base import Stamp
from ledger.errors import NotFoundError
from ledger.settings import Settings


@dataclass(frozen=True)
class State:
    """The parts of this process."""

    settings: Settings
    ledger: Ledger
    blobs: BlobStore
    views: Database[dict[str, Any]]


def _state(request: Request) -> State:
    state = request.app.state.ledger
    assert isinstance(state, State)
    return state


CurrentState = Annotated[State, Depends(_state)]


def stamp(request: Request) -> Stamp:
    """Who asks for something, now, as one act: every event of a request carries the same correlation."""
    return Stamp(datetime.now(UTC), request.state.actor, str(uuid4()), telemetry.current_traceparent())


def job_id_of(text: str) -> UUID:
    """A job's id from a path.

    Raises:
        NotFoundError: the text is no id, so there can be no such job.
    """
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError(
            f"There is no job {text[:80]!r}.", "A job's id is a UUID, as the upload answered."
        ) from None
