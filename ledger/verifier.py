"""The verifier: whether the log still is what was sealed, found out anew from what is stored.

Rules:
1. It believes nothing but the public keys that it is given, and the checkpoints that somebody kept elsewhere
   (`anchors`). Hashing and reading are all that it shares with whoever seals.
2. Its levels each include the one before. `signatures`: every checkpoint is signed, names the one before it, and
   continues it. `tree`: every node and every checkpoint's root follow from the leaves. `events`: every leaf follows
   from its event, read again. `views`: all that is derived from the log, and every file, is what the log says; that is
   not found out here but by `workers.view_checks`. A run goes on behind what it finds, so that it tells all of it.
3. An event that is not sealed yet is no finding; one that stands between sealed ones and is no leaf is.
4. A database that was restored from before an anchor is smaller than the anchor says: a rollback. One whose root at the
   anchor's size differs was written anew: a fork.
5. A key under which names are sealed is destroyed if, and only if, an event says so (`ledger.erasures`). This is not
   asked of a copy of the log without its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from ledger.database import rows, snapshot, unavailable_as_error
from ledger.erased_keys import findings_about_keys
from ledger.event_store import EVENTS_TABLE
from ledger.findings import Finding, Level, Verified
from ledger.merkle import (
    CompactRange,
    ProofRefusedError,
    check_consistency,
    consistency_proof,
    leaf_hash,
)
from ledger.notes import Checkpoint, NoteRefusedError, PublicKey
from ledger.seal import (
    FIELD_CHECK_BYTES,
    FIELDS,
    LEVELS_APART,
    StoredEvent,
    StoredNodes,
    TreeDamagedError,
    sealed,
)

PAGE = 5_000
BEFORE_ALL = -(1 << 63)


def verify(
    engine: Engine,
    keys: Sequence[PublicKey],
    origin: str,
    anchors: Sequence[Checkpoint] = (),
    level: Level = Level.EVENTS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Verify the log as it stands now, in one snapshot of the database, while events go on coming in.

    Args:
        on_progress: called with the position reached, and the position of the last sealed event.
    """
    with unavailable_as_error(), snapshot(engine) as session:
        return verify_in(session, keys, origin, anchors, level, on_progress)


def verify_in(
    session: Session,
    keys: Sequence[PublicKey],
    origin: str,
    anchors: Sequence[Checkpoint] = (),
    level: Level = Level.EVENTS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """The same within a session, which has to see one state of the database throughout."""
    found = Verified()
    checkpoints = _checkpoints(session, keys, origin, found)
    found.checkpoints = len(checkpoints)
    kept_elsewhere = {anchor.size: anchor for anchor in anchors}
    if level is Level.SIGNATURES:
        _check_consistency(session, checkpoints, kept_elsewhere, found)
    else:
        _Walk(session, checkpoints, kept_elsewhere, found).run(level, on_progress or (lambda done, total: None))
    if level.reads_events:
        found.extend(findings_about_keys(session))
    [(waiting,)] = rows(
        session,
        f"SELECT count(*) FROM {EVENTS_TABLE} WHERE id > (SELECT coalesce(max(position), 0) FROM ledger.leaves)",
    )
    found.unsealed = int(waiting)
    return found


def _checkpoints(session: Session, keys: Sequence[PublicKey], origin: str, found: Verified) -> dict[int, Checkpoint]:
    checkpoints: dict[int, Checkpoint] = {}
    previous = 0
    for row in rows(session, "SELECT size, coalesce(note, '') AS note FROM ledger.checkpoints ORDER BY size"):
        names_before, previous = f"previous {previous}", row.size
        try:
            checkpoint = Checkpoint.open(bytes(row.note), keys)
        except NoteRefusedError as refused:
            found.add(Finding(refused.code, f"Checkpoint {row.size}: {refused.message}"))
            continue
        if (checkpoint.origin, checkpoint.size, checkpoint.more[:1]) != (origin, row.size, (names_before,)):
            message = f"Checkpoint {row.size} of {origin}, {names_before}, is signed as {checkpoint.text()!r}."
            found.add(Finding("checkpoint_of_another", message))
            continue
        checkpoints[row.size] = found.checkpoint = checkpoint
    return checkpoints


def _check_consistency(
    session: Session, checkpoints: dict[int, Checkpoint], anchors: dict[int, Checkpoint], found: Verified
) -> None:
    """Check that each checkpoint continues the one before, and the anchors, by the nodes that are kept."""
    nodes, (size, _) = StoredNodes(session), sealed(session)
    known = sorted([*checkpoints.values(), *anchors.values()], key=lambda each: each.size)
    for old, new in pairwise(each for each in known if each.size <= size):
        try:
            proof = consistency_proof(nodes, old.size, new.size)
            check_consistency(old.size, new.size, proof, old.root, new.root)
        except ProofRefusedError as refused:
            found.add(Finding("checkpoint_inconsistent", f"Checkpoint {new.size}: {refused.message}"))
        except TreeDamagedError as damaged:
            found.add(Finding("tree_damaged", f"Checkpoint {new.size} cannot be checked: {damaged.message}"))
    found.extend(_ends(size, [each for each in checkpoints if each > size], anchors.values(), found.checkpoint))


def _ends(
    size: int, checkpoints: Iterable[int], anchors: Iterable[Checkpoint], last: Checkpoint | None
) -> Iterator[Finding]:
    """What does not go with the number of leaves: signed sizes above it, and leaves that nobody signed."""
    for signed in checkpoints:
        yield Finding("leaves_missing", f"A checkpoint was signed over {signed} events, and {size} are sealed.")
    for anchor in anchors:
        if anchor.size > size:
            message = f"A checkpoint over {anchor.size} events was kept elsewhere, and {size} are sealed."
            yield Finding("rollback", message)
    signed = 0 if last is None else last.size
    if size > signed:
        yield Finding(
            "leaves_unsigned", f"{size - signed} leaves stand behind the last checkpoint, which nobody signed."
        )


class _Walk:
    """Reads the tree, and the events if they are asked for, from the first leaf to the last."""

    def __init__(
        self,
        session: Session,
        checkpoints: dict[int, Checkpoint],
        anchors: dict[int, Checkpoint],
        found: Verified,
    ) -> None:
        self._session = session
        self._checkpoints = dict(checkpoints)
        self._anchors = dict(anchors)
        self._found = found
        self._tree = CompactRange()
        self._nodes = {(row.level, row.index): bytes(row.hash) for row in rows(session, "SELECT * FROM ledger.nodes")}
        self._seen = 0  # events, among sealed ones
        self._next = 0  # the index of the leaf that comes next
        self._is_whole = True  # no leaf was missing so far: else no node and no root behind it can be computed
        self._told: set[str] = set()

    def run(self, level: Level, on_progress: Callable[[int, int], None]) -> None:
        """Add what is found to the findings."""
        self._check_root()
        [(last,)] = rows(self._session, "SELECT coalesce(max(position), 0) FROM ledger.leaves")
        walked = _side_by_side(self._session, last) if level.reads_events else _leaves(self._session)
        for event, leaf in walked:
            if level.reads_events:
                self._compare(event, leaf)
            if leaf is not None:
                self._add(leaf)
                if self._found.leaves % PAGE == 0:
                    on_progress(leaf.position, last)
        on_progress(last, last)
        if level.reads_events:
            self._check_count(last)
        if self._is_whole:
            for node_level, index in self._nodes:
                self._say(Finding("node_unknown", f"There is no node {index} of level {node_level} in the tree."))
            size = self._tree.size
            self._found.extend(_ends(size, self._checkpoints, self._anchors.values(), self._found.checkpoint))

    def _say(self, finding: Finding) -> None:
        self._found.add(finding)

    def _compare(self, event: StoredEvent | None, leaf: _Leaf | None) -> None:
        """Compare an event with its leaf."""
        if event is None:
            assert leaf is not None, "a row of neither"
            message = f"The event at position {leaf.position} is gone."
            self._say(Finding("event_missing", message, leaf.position))
            return
        self._seen += 1
        if leaf is None:
            self._say(_about(event, "event_not_sealed", "stands among sealed events and is none of them"))
            return
        self._found.events += 1
        if leaf_hash(event.leaf_data()) != leaf.hash or event.field_checks() != leaf.fields:
            self._say(_changed(event, leaf.fields))

    def _check_count(self, last: int) -> None:
        """Whoever reads a stream finds events by other ways than by their positions one after the other."""
        [(there,)] = rows(self._session, f"SELECT count(*) FROM {EVENTS_TABLE} WHERE id <= :last", last=last)
        if there != self._seen:
            message = (
                f"Up to position {last:,} there are {there:,} events, and {self._seen:,} come one after the other."
            )
            self._say(Finding("events_hidden", message))

    def _add(self, leaf: _Leaf) -> None:
        self._found.leaves += 1
        if leaf.index != self._next:
            self._is_whole = False
            message = f"The leaf at position {leaf.position} has the index {leaf.index}, where {self._next} comes next."
            self._say(Finding("leaf_missing", message, leaf.position))
        self._next = leaf.index + 1
        if not self._is_whole:
            return
        for level, index, node in self._tree.add(leaf.hash):
            if level % LEVELS_APART == 0 and self._nodes.pop((level, index), None) != node:
                self._say(Finding("node_differs", f"Node {index} of level {level} is not what its leaves come to."))
        self._check_root()

    def _check_root(self) -> None:
        size = self._tree.size
        for code, kept, what in (
            ("checkpoint_differs", self._checkpoints, "checkpoint"),
            ("fork", self._anchors, "checkpoint that was kept elsewhere"),
        ):
            checkpoint = kept.pop(size, None)
            if checkpoint is None or code in self._told or checkpoint.root == self._tree.root():
                continue
            self._told.add(code)  # from here on all of them differ
            self._say(Finding(code, f"The tree comes to another root than the {what} over its first {size} events."))


@dataclass(frozen=True)
class _Leaf:
    index: int
    position: int
    hash: bytes
    fields: bytes


# What is NULL, after somebody has taken the constraints away, reads as another value.
_PAGE = (
    "SELECT coalesce(e.id, l.position) AS place, e.id, coalesce(e.originator_id, gen_random_uuid()) AS originator_id,"
    " coalesce(e.originator_version, -1) AS originator_version, coalesce(e.topic, '') AS topic,"
    " coalesce(e.state, '') AS state, coalesce(l.index, -1) AS leaf_index, l.position AS leaf_position,"
    " coalesce(l.hash, '') AS leaf_hash, coalesce(l.fields, '') AS leaf_fields"
    f" FROM (SELECT * FROM {EVENTS_TABLE} WHERE id > :after ORDER BY id LIMIT :page) e"
    " FULL JOIN (SELECT * FROM ledger.leaves WHERE position > :after ORDER BY position LIMIT :page) l"
    " ON l.position = e.id ORDER BY 1 LIMIT :page"
)


def _leaves(session: Session) -> Iterator[tuple[None, _Leaf]]:
    """Each leaf, without its event."""
    after = -1
    while found := rows(
        session, "SELECT * FROM ledger.leaves WHERE index > :after ORDER BY index LIMIT :page", after=after, page=PAGE
    ):
        for row in found:
            yield None, _Leaf(row.index, row.position, bytes(row.hash), bytes(row.fields))
        after = found[-1].index


def _side_by_side(session: Session, last: int) -> Iterator[tuple[StoredEvent | None, _Leaf | None]]:
    """Each event up to the last that is sealed, and its leaf; either can be None."""
    after = BEFORE_ALL  # an event that somebody puts before the first one is read with its stream, too
    while after < last and (found := rows(session, _PAGE, after=after, page=PAGE)):
        for row in found:
            if row.place > last:
                return
            event = leaf = None
            if row.id is not None:
                event = StoredEvent(row.id, row.originator_id, row.originator_version, row.topic, bytes(row.state))
            if row.leaf_position is not None:
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
