"""The log as lines of text: each event as it is stored, with its place in the tree.

A line is canonical JSON. Who has all lines of all years can come to the root of a checkpoint by himself, without the
ledger: `index` is the place of the leaf, and the other names are those of a proof (see `ledger.proofs`).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from archive.manifest import canonical
from ledger.database import rows
from ledger.errors import ConflictError
from ledger.event_store import EVENTS_TABLE

PAGE = 2_000


@dataclass(frozen=True)
class LogRange:
    """Positions of the log, the first and the last both in it."""

    first: int
    last: int


def log_lines(session: Session, log_range: LogRange) -> Iterator[tuple[int, bytes]]:
    """The position and the line of each event of a range, in their order.

    Raises:
        ConflictError: one of them is not sealed yet.
    """
    after = log_range.first - 1
    while True:
        page = rows(
            session,
            "SELECT e.*, l.index AS leaf_index"
            f" FROM {EVENTS_TABLE} e LEFT JOIN ledger.leaves l ON l.position = e.id"
            " WHERE e.id > :after AND e.id <= :last ORDER BY e.id LIMIT :page",
            after=after,
            last=log_range.last,
            page=PAGE,
        )
        for row in page:
            yield row.id, _line(row)
        if len(page) < PAGE:
            return
        after = page[-1].id


def _line(row: Any) -> bytes:
    if row.leaf_index is None:
        raise ConflictError(
            f"The event at position {row.id:,} is not sealed yet.",
            "Ask again in a moment; if that does not help, see whether the sealer runs: ledger doctor",
        )
    values = {
        "id": row.id,
        "index": row.leaf_index,
        "originator_id": str(row.originator_id),
        "originator_version": row.originator_version,
        "topic": row.topic,
        "state": base64.b64encode(bytes(row.state)).decode(),
    }
    return canonical(values) + b"\n"
