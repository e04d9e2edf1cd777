"""The seal: the log as a Merkle tree, built by whoever follows it, never by whoever appends.

Rules:
1. A leaf is an event as it is stored, each field with its length before it, behind the name of this form. The form is
   fixed for ever; another one would have another name.
2. Leaves are counted without gaps in the order of positions, which have gaps. Only whoever holds the seal's lock adds
   some, with the nodes that become complete by them and the signed checkpoint, in one transaction.
3. Nothing of it is ever changed: leaves, nodes and checkpoints are only added.
4. Of the nodes, those of every eighth level are kept; what lies between is folded from at most 128 of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from psycopg2.extras import execute_values
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import driver_cursor, lock_at_once, rows
from ledger.errors import ConflictError
from ledger.event_store import EVENTS_TABLE
from ledger.merkle import leaf_hash, node_hash, root
from ledger.notes import Checkpoint, Signer

LEAF_FORM = b"ledger event, form 1\n"
FIELDS = ("id", "originator_id", "originator_version", "topic", "state")
FIELD_CHECK_BYTES = 4
LEVELS_APART = 8
SEAL_LOCK = "seal"
SEAL_EVENTS_MAX = 5_000


@dataclass(frozen=True)
class StoredEvent:
    """An event as its row has it."""

    id: int
    originator_id: UUID
    originator_version: int
    topic: str
    state: bytes

    def fields(self) -> list[bytes]:
        """The fields as bytes, in the order of `FIELDS`."""
        return [
            self.id.to_bytes(8, "big", signed=True),
            self.originator_id.bytes,
            self.originator_version.to_bytes(8, "big", signed=True),
            self.topic.encode(),
            self.state,
        ]

    def leaf_data(self) -> bytes:
        """What the leaf of the event is the hash of (rule 1). Lengths are four bytes, big-endian."""
        return LEAF_FORM + b"".join(len(field).to_bytes(4, "big") + field for field in self.fields())

    def field_checks(self) -> bytes:
        """The beginning of each field's own SHA-256: no proof, but it tells which field is another one."""
        return b"".join(hashlib.sha256(field).digest()[:FIELD_CHECK_BYTES] for field in self.fields())


def stored_events(session: Session, after: int, limit: int) -> list[StoredEvent]:
    """The events after a position, in the order of the log."""
    found = rows(
        session,
        f"SELECT {', '.join(FIELDS)} FROM {EVENTS_TABLE} WHERE id > :after ORDER BY id LIMIT :limit",
        after=after,
        limit=limit,
    )
    return [
        StoredEvent(row.id, row.originator_id, row.originator_version, row.topic, bytes(row.state)) for row in found
    ]


class StoredNodes:
    """The tree as it is kept."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[tuple[int, int], bytes] = {}

    def node(self, level: int, index: int) -> bytes:
        """See `ledger.merkle.Nodes`."""
        if (level, index) not in self._known:
            base = level - level % LEVELS_APART
            start, end = index << (level - base), (index + 1) << (level - base)
            self._known[level, index] = folded(self.kept(base, start, end))
        return self._known[level, index]

    def kept(self, level: int, start: int, end: int) -> list[bytes]:
        """The hashes of a level that is kept, from index `start` up to index `end`."""
        table = (
            "SELECT hash FROM ledger.leaves WHERE"
            if level == 0
            else f"SELECT hash FROM ledger.nodes WHERE level = {level:d} AND"
        )
        found = rows(self._session, f"{table} index >= :start AND index < :end ORDER BY index", start=start, end=end)
        hashes = [bytes(row.hash) for row in found]
        if len(hashes) != end - start:
            raise TreeDamagedError(level, start, end, len(hashes))
        return hashes


class TreeDamagedError(ConflictError):
    """Hashes of the tree are missing."""

    code = "tree_damaged"

    def __init__(self, level: int, start: int, end: int, found: int) -> None:
        super().__init__(
            f"The sealed log is damaged: of the hashes {start:,} to {end - 1:,} of level {level} there are {found:,}.",
            "Nothing more is sealed. See what else was changed with `ledger audit verify`, then restore the tables "
            "ledger.leaves and ledger.nodes from a backup.",
        )


class Sealed(NamedTuple):
    """What sealing came to: the new checkpoint, and how many events it takes in."""

    checkpoint: Checkpoint
    events: int


def folded(hashes: Sequence[bytes]) -> bytes:
    """The hash of the subtree over so many hashes, a power of two."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[place], hashes[place + 1]) for place in range(0, len(hashes), 2)]
    return hashes[0]


def seal(session: Session, signer: Signer, origin: str, now: datetime) -> Sealed | None:
    """Add the next events of the log to the tree and sign its root; None if there is none, or somebody else seals."""
    if not lock_at_once(session, SEAL_LOCK):
        return None
    size, position = sealed(session)
    events = stored_events(session, position, SEAL_EVENTS_MAX)
    if not events:
        return None
    _insert(
        session,
        "INSERT INTO ledger.leaves (index, position, hash, fields) VALUES %s",
        [
            (size + place, event.id, leaf_hash(event.leaf_data()), event.field_checks())
            for place, event in enumerate(events)
        ],
    )
    nodes, new_size = StoredNodes(session), size + len(events)
    _complete(session, nodes, size, new_size)
    checkpoint = Checkpoint(origin, new_size, root(nodes, new_size), told_of(size, now))
    session.execute(
        text("INSERT INTO ledger.checkpoints (size, note) VALUES (:size, :note)"),
        {"size": new_size, "note": signer.sign(checkpoint.text())},
    )
    return Sealed(checkpoint, len(events))


def newest_checkpoint(session: Session) -> tuple[int, bytes] | None:
    """The checkpoint over the most events, as it is kept: its size, and the note. None if nothing is sealed."""
    found = rows(session, "SELECT size, note FROM ledger.checkpoints ORDER BY size DESC LIMIT 1")
    return (found[0].size, bytes(found[0].note)) if found else None


def told_of(previous: int, sealed_at: datetime) -> tuple[str, ...]:
    """What a checkpoint says besides: the size of the one before it, 0 for none, and when it was signed, in UTC."""
    return (f"previous {previous}", f"sealed {sealed_at.astimezone(UTC).isoformat()}")


def sealed(session: Session) -> tuple[int, int]:
    """How many leaves there are, and the position of the last one's event; 0 and 0 for none."""
    found = rows(session, "SELECT index, position FROM ledger.leaves ORDER BY index DESC LIMIT 1")
    return (found[0].index + 1, found[0].position) if found else (0, 0)


def _complete(session: Session, nodes: StoredNodes, old_size: int, size: int) -> None:
    """Keep the nodes that became complete between two sizes."""
    level = LEVELS_APART
    while size >> level:
        first, last = old_size >> level, size >> level
        below = nodes.kept(level - LEVELS_APART, first << LEVELS_APART, last << LEVELS_APART) if last > first else []
        cuts = pairwise(range(0, len(below) + 1, 1 << LEVELS_APART))
        complete = [(level, first + place, folded(below[start:end])) for place, (start, end) in enumerate(cuts)]
        _insert(session, "INSERT INTO ledger.nodes (level, index, hash) VALUES %s", complete)
        level += LEVELS_APART


def _insert(session: Session, statement: str, values: Iterable[tuple[Any, ...]]) -> None:
    with driver_cursor(session) as cursor:
        execute_values(cursor, statement, list(values), page_size=1_000)
