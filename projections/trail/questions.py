"""Questions to the trail: what is asked for, as the condition of one statement, and the pages of the answer.

Rules:
1. What is asked for in several ways must all hold.
2. A page is told by the position that it begins behind. Entries are never changed and only come in at the end, so a
   page that was read stays what it was; and an answer says up to which position the trail told it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.orm import Session

from ledger.database import rows
from projections.trail.entries import Entry
from projections.trail.store import COLUMNS, LIVE, POSITION_MIN, position_of


@dataclass(frozen=True)
class Question:
    """What is asked for. None is not asked for.

    Attributes:
        job: what happened to a job, or to another because of it.
        topic: an event's kind (`filejob.received`), or all whose kinds begin with these words (`filejob`).
        since: from this instant on.
        until: before this instant.
        text: what stands somewhere in a reason, a message or a file's name, in letters of either case.
    """

    job: UUID | None = None
    sha256: str | None = None
    filename: str | None = None
    actor: str | None = None
    dataset: str | None = None
    fiscal_year: str | None = None
    topic: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None


CONDITIONS = {
    "job": "(job = :job OR related_job = :job)",
    "sha256": "sha256 = :sha256",
    "filename": "filename = :filename",
    "actor": "actor = :actor",
    "dataset": "dataset = :dataset",
    "fiscal_year": "fiscal_years @> ARRAY[:fiscal_year] AND fiscal_years <> '{}'",
    "topic": "(topic = :topic OR topic >= :topic || '.' AND topic < :topic || '/')",  # / is what follows . in ASCII
    "since": "at >= :since",
    "until": "at < :until",
    "text": "(text ILIKE :text OR filename ILIKE :text)",
}


class Page(NamedTuple):
    """Entries in the order of their page, whether there are more behind them, and the position of the trail."""

    entries: list[Entry]
    more: bool
    position: int


def newest_first(session: Session, question: Question, *, before: int | None, limit: int) -> Page:
    """The last entries before a position, or of all, the newest first."""
    position = position_of(session)
    end = position + 1 if before is None else min(before, position + 1)
    return _page(session, question, "position < :edge", end, "DESC", limit, position)


def oldest_first(
    session: Session,
    question: Question,
    *,
    after: int | None,
    limit: int,
    upto: int | None = None,
    generation: int | None = None,
) -> Page:
    """The first entries after a position, or of all, the oldest first; none behind `upto`.

    Args:
        generation: the one that is asked, whichever is live; None for that which is.
    """
    asked = LIVE if generation is None else str(int(generation))
    position = position_of(session, asked)
    end = position if upto is None else min(upto, position)
    edge = POSITION_MIN if after is None else after
    return _page(session, question, f"position > :edge AND position <= {end:d}", edge, "ASC", limit, position, asked)


def _page(
    session: Session,
    question: Question,
    cut: str,
    edge: int,
    order: str,
    limit: int,
    position: int,
    generation: str = LIVE,
) -> Page:
    conditions, values = condition_of(question)
    found: Sequence[Any] = rows(
        session,
        f"SELECT {COLUMNS} FROM trail.entries WHERE generation = {generation} AND {' AND '.join([cut, *conditions])}"
        f" ORDER BY position {order} LIMIT :limit",
        edge=edge,
        limit=limit + 1,
        **values,
    )
    return Page([Entry(*row) for row in found[:limit]], len(found) > limit, position)


def condition_of(question: Question) -> tuple[list[str], dict[str, Any]]:
    """The conditions of a question, and the values in them."""
    values = {name: value for name, value in vars(question).items() if value is not None}
    conditions = [CONDITIONS[name] for name in values]
    if "text" in values:
        escaped = values["text"].replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
        values["text"] = f"%{escaped}%"
    return conditions, values
