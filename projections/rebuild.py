"""Building a view anew from the log, beside the live one, and switching over when it has caught up.

Readers never miss the view: until the switch they see the old one. What is compared is the content of both at
the same position, so an old view that had drifted is found out and said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pymongo.database import Database

from ledger.application import Ledger
from ledger.database import lock_at_once
from ledger.errors import ConflictError, InvalidRequestError
from ledger.failpoints import failpoint
from projections.runner import STATUS, apply_batch, live_store
from projections.status import Document
from projections.view_store import ViewStore, generations, new_generation, switch

log = logging.getLogger(__name__)

VIEWS = (STATUS,)
COMPARE_ATTEMPTS = 10


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild came to. `equal` is None when events came in too fast to compare."""

    view: str
    generation: int
    position: int
    events: int
    digest: str
    digest_before: str
    equal: bool | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def check_view(view: str) -> None:
    """Raises InvalidRequestError if there is no view of that name."""
    if view not in VIEWS:
        raise InvalidRequestError(f"There is no view {view!r}.", f"The views are: {', '.join(VIEWS)}.")


def rebuild(
    ledger: Ledger, database: Database[Document], view: str, on_progress: Callable[[int, int], None] | None = None
) -> Rebuilt:
    """Build a view anew and switch to it.

    Args:
        on_progress: called with the events folded so far and the position reached.

    Raises:
        InvalidRequestError: there is no view of that name.
        ConflictError: it is being rebuilt already.
    """
    check_view(view)
    with ledger.transaction() as session:
        if not lock_at_once(session, f"rebuild {view}"):
            raise ConflictError(f"The view {view!r} is being rebuilt already.", "Wait until that is done.")
        return _rebuild(ledger, database, view, on_progress or (lambda events, position: None))


def _rebuild(
    ledger: Ledger, database: Database[Document], view: str, on_progress: Callable[[int, int], None]
) -> Rebuilt:
    old = live_store(database)
    for abandoned in generations(database, view) - {old.generation}:
        ViewStore(database, view, abandoned).drop()
    new = ViewStore(database, view, new_generation(database, view))
    new.prepare()
    events = 0
    equal: bool | None = None
    for _ in range(COMPARE_ATTEMPTS):
        while count := apply_batch(ledger, new):
            events += count
            on_progress(events, new.position())
        while apply_batch(ledger, old, until=new.position()):
            pass
        digest, digest_before = new.digest(), old.digest()
        if old.position() == new.position():  # still so after both digests: nothing moved meanwhile
            equal = digest == digest_before
            break
    failpoint("rebuild_compared")
    switch(database, view, new.generation)
    failpoint("rebuild_switched")
    old.drop()
    if equal is False:
        log.error("the view %s had drifted from the log", view, extra={"action": "view_drifted"})
    return Rebuilt(view, new.generation, new.position(), events, digest, digest_before, equal)
