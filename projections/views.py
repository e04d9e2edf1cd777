"""Views: what all of them have in common, whatever they are kept in.

Rules:
1. A view is derived from the log and can be built anew from it. That is done beside the live one, which readers keep
   until both were compared; then they are switched in one step, and the old one is kept for a roll-back.
2. A check builds and compares in the same way, and changes nothing.
3. A switch, a roll-back and who ordered it are in the log, as an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from pymongo.database import Database
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.blobs import BlobStore
from ledger.database import lock_at_once
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.errors import ConflictError, LedgerError

DIFFERENCES_TOLD_MAX = 10
# What a server may end a long transaction by that waits for work outside of it.
TIMEOUTS = "idle_in_transaction_session_timeout", "transaction_timeout"


@dataclass(frozen=True)
class Parts:
    """What views are made of, and what they are kept in."""

    ledger: Ledger
    blobs: BlobStore
    database: Database[dict[str, Any]]
    calendar: FiscalCalendar


@dataclass(frozen=True)
class Order:
    """What an operator ordered, and how whoever carries it out tells of it.

    `tell` says how far it is: `events` read so far and the `position` reached. `finish` writes the end of the operation
    down in a session's transaction, for those whose work is committed there; the others return their result.
    """

    id: UUID
    arguments: dict[str, Any]
    tell: Callable[[dict[str, Any]], None]
    finish: Callable[[Session, dict[str, Any]], None]


@dataclass(frozen=True)
class Live:
    """The generation of a view that readers see, that before it, and who switched. 0 and None where there is none."""

    generation: int = 0
    previous: int = 0
    switched_by: str | None = None


@dataclass(frozen=True)
class Standing:
    """Where a view stands: the position that it reflects and its generation, None while that cannot be said."""

    view: str
    position: int | None
    generation: int | None


@dataclass
class Comparison:
    """What the comparison of a live view with one that was built from the log came to.

    Of what differs the first are told: by ids and numbers of records, never by values.
    """

    equal: bool
    digest: str
    digest_before: str
    differences: list[dict[str, Any]] = field(default_factory=list)
    differences_total: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "equal": self.equal,
            "digest": self.digest,
            "digest_before": self.digest_before,
            "differences": self.differences[:DIFFERENCES_TOLD_MAX],
            "differences_total": self.differences_total,
        }


class View(Protocol):
    """One view. Its methods carry an order out, and give what that came to as JSON values."""

    def rebuild(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and switch."""

    def check(self, order: Order) -> dict[str, Any]:
        """Build it anew, compare, and drop what was built."""

    def roll_back(self, order: Order) -> dict[str, Any]:
        """Switch back to what was live before the last switch."""

    def standing(self) -> Standing:
        """Where it stands."""


class ViewBusyError(ConflictError):
    """Somebody else builds the view anew just now."""


class RebuildStoppedError(LedgerError):
    """An event of the log cannot be replayed, so a view cannot be built from it. It is never skipped."""

    code = "rebuild_stopped"


@contextmanager
def alone(ledger: Ledger, view: str) -> Iterator[None]:
    """Be the only one who builds a view anew, checks it or rolls it back.

    Raises:
        ViewBusyError: somebody else does.
    """
    with ledger.transaction() as session:
        session.execute(
            text("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY (:names)"),
            {"names": list(TIMEOUTS)},
        )
        if not lock_at_once(session, f"rebuild {view}"):
            raise ViewBusyError(f"The view {view!r} is being rebuilt already.", "Wait until that is done.")
        yield
