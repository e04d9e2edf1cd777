"""What the routes work with, and how they find it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Body, Depends, Query, Request
from pymongo.database import Database

from api.access_record import AccessRecord
from api.identity import Identification
from ledger import telemetry
from ledger.application import Ledger
from ledger.blobs import BlobStore
from ledger.domain.access import Caller
from ledger.domain.base import Stamp
from ledger.domain.words import REASON_CHARACTERS_MAX
from ledger.errors import NotFoundError
from ledger.settings import Settings
from workers.results import Results

WAIT_SECONDS_MAX = 30.0
POSITION_MAX = (1 << 63) - 1  # the column's type

Reason = Annotated[str, Body(embed=True, max_length=REASON_CHARACTERS_MAX, description="Why, for the record.")]
WaitSeconds = Annotated[float, Query(ge=0, le=WAIT_SECONDS_MAX, description="Seconds to wait for its end.")]


@dataclass(frozen=True)
class State:
    """The parts of this process."""

    settings: Settings
    ledger: Ledger
    blobs: BlobStore
    views: Database[dict[str, Any]]
    results: Results
    access: AccessRecord
    identification: Identification


def state_of(request: Request) -> State:
    """The parts of the process that a request came to."""
    state = request.app.state.ledger
    assert isinstance(state, State)
    return state


async def _current_state(request: Request) -> State:  # or whoever needs it would wait for a thread to be free
    return state_of(request)


CurrentState = Annotated[State, Depends(_current_state)]


def caller(request: Request) -> Caller:
    """Who asks: the gate (`api.auth`) has found out."""
    found = request.state.caller
    assert isinstance(found, Caller)
    return found


def stamp(request: Request) -> Stamp:
    """Who asks for something, now, as one act: every event of a request carries the same correlation."""
    return Stamp(datetime.now(UTC), caller(request).actor, str(uuid4()), telemetry.current_traceparent())


def id_of(text: str, what: str = "job") -> UUID:
    """The id of a job, or of an operation, from a path.

    Raises:
        NotFoundError: the text is no id, so there can be no such thing.
    """
    try:
        return UUID(text)
    except ValueError:
        raise NotFoundError(
            f"There is no {what} {text[:80]!r}.", "Its id is a UUID, as the first answer about it said."
        ) from None
