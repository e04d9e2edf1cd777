"""The verifier: whether the log still is what was sealed, found out anew from what is stored.

Rules:
1. It believes nothing but the public keys that it is given, and the checkpoints that somebody kept elsewhere
   (`anchors`). Hashing and reading are all that it shares with whoever seals.
2. Every event is read and hashed again, every node folded again, every checkpoint's root computed again from the leaves
   that come out of that, and compared. It goes on behind what it finds, so that one run tells all of it.
3. An event that is not sealed yet is no finding; one that stands between sealed ones and is no leaf is.
4. A database that was restored from before an anchor is smaller than the anchor says: a rollback. One whose root at the
   anchor's size differs was written anew: a fork.
5. A key under which names are sealed is destroyed if, and only if, an event says so (`ledger.erasures`). This is not
   asked of a copy of the log without its keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.event_store import EVENTS_TABLE
from ledger.merkle import EMPTY_ROOT, leaf_hash, node_hash
from ledger.notes import Checkpoint, NoteRefusedError, PublicKey, open_note
from ledger.seal import FIELD_CHECK_BYTES, FIELDS, LEVELS_APART, StoredEvent, told_of

PAGE = 5_000


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was sealed. What is not known, or does not apply, is None."""

    code: str
    message: str
    position: int | None = None
    stream: UUID | None = None
    version: int | None = None
    field: str | None = None


@dataclass
class Verified:
    """What a run came to: how many sealed events it read, the last checkpoint, how many events wait to be sealed."""

    events: int = 0
    checkpoint: Checkpoint | None = None
    unsealed: int = 0
    findings: list[Finding] = field(default_factory=list)


class CompactRange:
    """The root of leaves that come one after the other, by the roots of the complete subtrees so far."""

    def __init__(self) -> None:
        self.size = 0
        self._complete: list[bytes] = []

    def add(self, leaf: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take in the next leaf; the nodes that are complete with it: level, index and hash."""
        self._complete.append(leaf)
        level, index = 0, self.size
        while index & 1:
            right, left = self._complete.pop(), self._complete.pop()
            self._complete.append(node_hash(left, right))
            level, index = level + 1, index >> 1
            yield level, index, self._complete[-1]
        self.size += 1

    def root(self) -> bytes:
        """The root of all leaves so far."""
        if not self._complete:
            return EMPTY_ROOT
        found = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            found = node_hash(left, found)
        return found


def verify(session: Session, keys: Sequence[PublicKey], origin: str, anchors: Sequence[Checkpoint] = ()) -> Verified:
    """Verify the whole log, in one snapshot of the database (the session's transaction)."""
    found = Verified()
    checkpoints = _checkpoints(session, keys, origin, found)
    wanted = {anchor.size: anchor for anchor in anchors}
    nodes = {(row.level, row.index): bytes(row.hash) for row in rows(session, "SELECT * FROM ledger.nodes")}
    tree = CompactRange()
    _check_root(tree, checkpoints, wanted, found)
    for event, leaf in _side_by_side(session):
        if leaf is None:
            assert event is not None, "a row of neither"
            found.findings.append(_about(event, "event_not_sealed", "stands among sealed events and is none of them"))
            continue
        if leaf.index != tree.size:
            found.findings.append(
                Finding("leaf_missing", f"Leaves {tree.size} to {leaf.index - 1} are missing.", leaf.position)
            )
            break  # no root behind it can be computed
        hashed = leaf.hash
        if event is None:
            found.findings.append(
                Finding("event_missing", f"The event at position {leaf.position} is gone.", leaf.position)
            )
        else:
            found.events += 1
            hashed = leaf_hash(event.leaf_data())
            if hashed != leaf.hash or event.field_checks() != leaf.fields:
                found.findings.append(_changed(event, leaf.fields))
        for level, index, node in tree.add(hashed):
            if level % LEVELS_APART == 0 and nodes.pop((level, index), None) != node:
                found.findings.append(
                    Finding("node_differs", f"Node {index} of level {level} is not what its leaves come to.")
                )
        _check_root(tree, checkpoints, wanted, found)
    for level, index in nodes:
        found.findings.append(Finding("node_unknown", f"There is no node {index} of level {level} in the tree."))
    _check_ends(session, tree, checkpoints, wanted, found)
    _check_keys(session, found)
    return found


def _checkpoints(session: Session, keys: Sequence[PublicKey], origin: str, found: Verified) -> dict[int, Checkpoint]:
    checkpoints: dict[int, Checkpoint] = {}
    previous = 0
    for row in rows(session, "SELECT size, note, sealed_at FROM ledger.checkpoints ORDER BY size"):
        try:
            checkpoint = Checkpoint.parse(open_note(bytes(row.note), keys)[0])
        except NoteRefusedError as refused:
            found.findings.append(Finding(refused.code, f"Checkpoint {row.size}: {refused.message}"))
            continue
        expected = Checkpoint(origin, row.size, checkpoint.root, told_of(previous, row.sealed_at))
        previous = row.size
        if checkpoint != expected:
            message = f"Checkpoint {row.size} is signed as {checkpoint.text()!r}, and should be {expected.text()!r}."
            found.findings.append(Finding("checkpoint_of_another", message))
            continue
        checkpoints[row.size] = found.checkpoint = checkpoint
    return checkpoints


def _check_root(
    tree: CompactRange, checkpoints: dict[int, Checkpoint], anchors: dict[int, Checkpoint], found: Verified
) -> None:
    for code, kept in (("checkpoint_differs", checkpoints), ("fork", anchors)):
        checkpoint = kept.pop(tree.size, None)
        if checkpoint is not None and checkpoint.root != tree.root():
            what = "checkpoint" if kept is checkpoints else "checkpoint that was kept elsewhere"
            found.findings.append(
                Finding(code, f"The log comes to another root than the {what} over its first {tree.size} events.")
            )


def _check_ends(
    session: Session,
    tree: CompactRange,
    checkpoints: dict[int, Checkpoint],
    anchors: dict[int, Checkpoint],
    found: Verified,
) -> None:
    """What is left when all leaves were read."""
    for size in checkpoints:
        found.findings.append(
            Finding("leaves_missing", f"A checkpoint was signed over {size} events, and {tree.size} are sealed.")
        )
    for size in anchors:
        found.findings.append(
            Finding("rollback", f"A checkpoint over {size} events was kept elsewhere, and {tree.size} are sealed.")
        )
    if found.checkpoint is None or found.checkpoint.size < tree.size:
        signed = 0 if found.checkpoint is None else found.checkpoint.size
        if tree.size > signed:
            message = f"{tree.size - signed} leaves stand behind the last checkpoint, which nobody signed."
            found.findings.append(Finding("leaves_unsigned", message))
    [(waiting,)] = rows(
        session,
        f"SELECT count(*) FROM {EVENTS_TABLE} WHERE id > (SELECT coalesce(max(position), 0) FROM ledger.leaves)",
    )
    found.unsealed = int(waiting)


def _check_keys(session: Session, found: Verified) -> None:
    [(table,)] = rows(session, "SELECT to_regclass('subjects.keys')")
    if table is None:
        return
    # In one statement, for an erasure may be committed at any time.
    told = rows(
        session,
        f"SELECT NULL AS destroyed, id, state FROM {EVENTS_TABLE} WHERE topic = 'erasure.carried_out'"
        " UNION ALL SELECT subject, NULL, NULL FROM subjects.keys WHERE wrapped IS NULL",
    )
    erased: dict[str, int] = {}
    for row in told:
        if row.destroyed is None:
            with suppress(ValueError, KeyError, TypeError):  # one that was changed is a finding already
                erased[str(json.loads(bytes(row.state))["subject"])] = row.id
    for subject in sorted(row.destroyed for row in told if row.destroyed is not None):
        if subject not in erased:
            found.findings.append(Finding("key_destroyed", f"The key of {subject} is destroyed, and no event says so."))
    for row in rows(
        session,
        "SELECT subject FROM subjects.keys WHERE wrapped IS NOT NULL AND subject = ANY(:erased) ORDER BY 1",
        erased=list(erased),
    ):
        message = f"The key of {row.subject} is there again, though it was destroyed. Erase it once more."
        found.findings.append(Finding("key_restored", message, erased[row.subject]))


@dataclass(frozen=True)
class _Leaf:
    index: int
    position: int
    hash: bytes
    fields: bytes


_PAGE = (
    f"SELECT coalesce(e.id, l.position) AS place, {', '.join(f'e.{name}' for name in FIELDS)}, "
    "l.index AS leaf_index, l.position AS leaf_position, l.hash AS leaf_hash, l.fields AS leaf_fields "
    f"FROM (SELECT * FROM {EVENTS_TABLE} WHERE id > :after ORDER BY id LIMIT :page) e "
    "FULL JOIN (SELECT * FROM ledger.leaves WHERE position > :after ORDER BY position LIMIT :page) l "
    "ON l.position = e.id ORDER BY 1 LIMIT :page"
)


def _side_by_side(session: Session) -> Iterator[tuple[StoredEvent | None, _Leaf | None]]:
    """Each event up to the last that is sealed, and its leaf; either can be None."""
    [(last,)] = rows(session, "SELECT coalesce(max(position), 0) FROM ledger.leaves")
    after = 0
    while after < last:
        found = rows(session, _PAGE, after=after, page=PAGE)
        for row in found:
            if row.place > last:
                return
            event = leaf = None
            if row.id is not None:
                event = StoredEvent(row.id, row.originator_id, row.originator_version, row.topic, bytes(row.state))
            if row.leaf_index is not None:
                leaf = _Leaf(row.leaf_index, row.leaf_position, bytes(row.leaf_hash), bytes(row.leaf_fields))
            yield event, leaf
        after = found[-1].place


def _changed(event: StoredEvent, sealed: bytes) -> Finding:
    """The finding about an event that is not the one that was sealed, with the fields that differ."""
    now = event.field_checks()
    places = range(0, len(now), FIELD_CHECK_BYTES)
    differing = [
        name
        for name, place in zip(FIELDS, places, strict=True)
        if now[place : place + FIELD_CHECK_BYTES] != sealed[place : place + FIELD_CHECK_BYTES]
    ]
    what = (
        f"has another {', '.join(differing)} than when it was sealed" if differing else "is not the one that was sealed"
    )
    return _about(event, "event_changed", what, ", ".join(differing) or None)


def _about(event: StoredEvent, code: str, what: str, field_name: str | None = None) -> Finding:
    place = f"The event at position {event.id} (stream {event.originator_id}, version {event.originator_version})"
    return Finding(code, f"{place} {what}.", event.id, event.originator_id, event.originator_version, field_name)
