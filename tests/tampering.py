"""`python -m tests.tampering` writes docs/tampering.md: what is done to the record, and the least level that finds it.

Each is done to a sealed log of `EVENTS` events by somebody who owns the database and has taken its guards away, and the
tests find it at its level and at every deeper one (`tests/integration/test_seal.py`, `test_view_checks.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ledger.findings import Level

BATCHES = (1, 255, 2, 300, 142)  # each sealed by itself
EVENTS = sum(BATCHES)
PAGE = Path(__file__).parents[1] / "docs" / "tampering.md"
EVENT = "(SELECT position FROM ledger.leaves WHERE index = 400)"
OTHER = "(SELECT position FROM ledger.leaves WHERE index = 300)"
GAP = "ledger.stored_events e WHERE NOT EXISTS (SELECT FROM ledger.stored_events WHERE id = e.id + 1)"


class Tampering(NamedTuple):
    """What is done, in words and in SQL, and some of the codes that a full verification tells it by."""

    what: str
    statement: str
    codes: tuple[str, ...]


OF_EVENTS = [
    Tampering(
        "an event's position",
        f"UPDATE ledger.stored_events SET id = 100000 WHERE id = {EVENT}",
        ("event_missing",),
    ),
    Tampering(
        "an event's position, within a gap",
        f"UPDATE ledger.stored_events SET id = (SELECT min(id) + 1 FROM {GAP}) WHERE id = {EVENT}",
        ("event_missing", "event_not_sealed"),
    ),
    Tampering(
        "an event's stream",
        f"UPDATE ledger.stored_events SET originator_id = gen_random_uuid() WHERE id = {EVENT}",
        ("event_changed",),
    ),
    Tampering(
        "an event's version",
        f"UPDATE ledger.stored_events SET originator_version = originator_version + 100 WHERE id = {EVENT}",
        ("event_changed",),
    ),
    Tampering(
        "an event's version, to one before the first",
        f"UPDATE ledger.stored_events SET originator_version = -1 WHERE id = {EVENT}",
        ("event_changed",),
    ),
    Tampering(
        "an event's topic",
        f"UPDATE ledger.stored_events SET topic = topic || '2' WHERE id = {EVENT}",
        ("event_changed",),
    ),
    Tampering(
        "one bit of an event's content",
        f"UPDATE ledger.stored_events SET state = set_bit(state, 5, 1 - get_bit(state, 5)) WHERE id = {EVENT}",
        ("event_changed",),
    ),
    Tampering(
        "two events' contents are swapped",
        "UPDATE ledger.stored_events a SET state = b.state FROM ledger.stored_events b "
        f"WHERE (a.id, b.id) IN (({EVENT}, {OTHER}), ({OTHER}, {EVENT}))",
        ("event_changed",),
    ),
    Tampering(
        "an event is deleted",
        f"DELETE FROM ledger.stored_events WHERE id = {EVENT}",
        ("event_missing",),
    ),
    Tampering(
        "the last event is deleted",
        "DELETE FROM ledger.stored_events WHERE id = (SELECT max(id) FROM ledger.stored_events)",
        ("event_missing",),
    ),
    Tampering("all events are deleted", "TRUNCATE ledger.stored_events", ("event_missing",)),
    Tampering(
        "an event is put between others",
        f"INSERT INTO ledger.stored_events SELECT min(id) + 1, gen_random_uuid(), 1, 'some.topic', 'x' FROM {GAP}",
        ("event_not_sealed",),
    ),
    Tampering(
        "an event is put before all others",
        "INSERT INTO ledger.stored_events VALUES (-1, gen_random_uuid(), 1, 'some.topic', 'x')",
        ("event_not_sealed",),
    ),
    Tampering(
        "an event is put before all positions",
        "INSERT INTO ledger.stored_events VALUES (-9223372036854775808, gen_random_uuid(), 1, 'some.topic', 'x')",
        ("events_hidden",),
    ),
    Tampering(
        "an event loses its content",
        "ALTER TABLE ledger.stored_events ALTER COLUMN state DROP NOT NULL; "
        f"UPDATE ledger.stored_events SET state = NULL WHERE id = {EVENT}",
        ("event_changed",),
    ),
    Tampering(
        "a leaf's fields",
        "UPDATE ledger.leaves SET fields = 'x' WHERE index = 400",
        ("event_changed",),
    ),
    Tampering(
        "a leaf's position",
        "UPDATE ledger.leaves SET position = 100000 WHERE index = 400",
        ("leaf_missing", "event_not_sealed"),
    ),
]
OF_THE_TREE = [
    Tampering("a node is added", "INSERT INTO ledger.nodes VALUES (8, 2, sha256('x'))", ("node_unknown",)),
]
OF_SIGNATURES = [
    Tampering(
        "an event and a leaf that is gone, and another event behind it",
        f"DELETE FROM ledger.leaves WHERE index = 300; UPDATE ledger.stored_events SET topic = 'x' WHERE id = {EVENT}",
        ("leaf_missing", "event_changed"),
    ),
    Tampering("a leaf's hash", "UPDATE ledger.leaves SET hash = sha256('x') WHERE index = 400", ("event_changed",)),
    Tampering("a leaf's index", "UPDATE ledger.leaves SET index = 100000 WHERE index = 400", ("leaf_missing",)),
    Tampering("a leaf is deleted", "DELETE FROM ledger.leaves WHERE index = 400", ("leaf_missing",)),
    Tampering("the last leaf is deleted", "DELETE FROM ledger.leaves WHERE index = 699", ("leaves_missing",)),
    Tampering("all leaves are deleted", "TRUNCATE ledger.leaves", ("leaves_missing", "node_unknown")),
    Tampering(
        "a leaf is added",
        "INSERT INTO ledger.leaves VALUES (700, 100000, sha256('x'), 'x')",
        ("event_missing", "leaves_unsigned"),
    ),
    Tampering("a node's hash", "UPDATE ledger.nodes SET hash = sha256('x') WHERE index = 1", ("node_differs",)),
    Tampering("a node's level", "UPDATE ledger.nodes SET level = 16 WHERE index = 1", ("node_differs", "node_unknown")),
    Tampering("a node's index", "UPDATE ledger.nodes SET index = 9 WHERE index = 1", ("node_differs", "node_unknown")),
    Tampering("a node is deleted", "DELETE FROM ledger.nodes WHERE index = 1", ("node_differs",)),
    Tampering("all nodes are deleted", "TRUNCATE ledger.nodes", ("node_differs",)),
    Tampering(
        "a checkpoint's size",
        "UPDATE ledger.checkpoints SET size = 257 WHERE size = 258",
        ("checkpoint_of_another",),
    ),
    Tampering(
        "one bit of a checkpoint's note",
        "UPDATE ledger.checkpoints SET note = set_bit(note, 9, 1 - get_bit(note, 9)) WHERE size = 258",
        ("note_refused",),
    ),
    Tampering(
        "a checkpoint is deleted",
        "DELETE FROM ledger.checkpoints WHERE size = 258",
        ("checkpoint_of_another",),
    ),
    Tampering(
        "the last checkpoint is deleted",
        "DELETE FROM ledger.checkpoints WHERE size = 700",
        ("leaves_unsigned",),
    ),
    Tampering("all checkpoints are deleted", "TRUNCATE ledger.checkpoints", ("leaves_unsigned",)),
    Tampering(
        "two checkpoints' notes are swapped",
        "UPDATE ledger.checkpoints a SET note = b.note FROM ledger.checkpoints b "
        "WHERE (a.size, b.size) IN ((256, 258), (258, 256))",
        ("checkpoint_of_another",),
    ),
]
# LEAST LEVEL -> what it finds.
FOUND_AT: dict[Level, list[Tampering]] = {
    Level.SIGNATURES: OF_SIGNATURES,
    Level.TREE: OF_THE_TREE,
    Level.EVENTS: OF_EVENTS,
}

ROWS, TRAIL, REJECTS, ARRIVALS, KEYS, YEARS = (
    "data.payments", "trail.entries", "rejects.records", "ledger.arrivals", "ledger.api_keys", "ledger.fiscal_years"
)  # fmt: skip
SWAPPED = "a SET number = b.number FROM data.payments b WHERE (a._record, b._record) IN ((7, 8), (8, 7))"
# What is done, to which table, by which SQL -> what it is told as (`tests/integration/test_view_checks.py`).
OF_VIEWS: dict[str, tuple[str, str, str]] = {
    "a value of a row": (ROWS, "UPDATE {} SET number = number + 1 WHERE _record = 7", "view_differs"),
    "a row's lineage": (ROWS, "UPDATE {} SET _record = 99 WHERE _record = 7", "view_differs"),
    "a row is deleted": (ROWS, "DELETE FROM {} WHERE _record = 7", "view_differs"),
    "a row is inserted": (ROWS, "INSERT INTO {} VALUES (7, '2026-04-01', 1, 77)", "view_differs"),
    "two rows are swapped": (ROWS, "UPDATE {} " + SWAPPED, "view_differs"),
    "all rows are deleted": (ROWS, "TRUNCATE {}", "view_differs"),
    "an entry of the trail": (TRAIL, "UPDATE {} SET actor = 'x' WHERE position = 1", "view_differs"),
    "an entry of the trail is deleted": (TRAIL, "DELETE FROM {} WHERE position = 2", "view_differs"),
    "what a reject was sent as": (REJECTS, "UPDATE {} SET raw = 'x'", "file_differs"),
    "a reject is deleted": (REJECTS, "DELETE FROM {}", "file_differs"),
    "an arrival's digest": (ARRIVALS, "UPDATE {} SET sha256 = repeat('0', 64)", "arrival_differs"),
    "an arrival's dataset": (ARRIVALS, "UPDATE {} SET dataset = 'x'", "arrival_differs"),
    "an arrival is deleted": (ARRIVALS, "DELETE FROM {}", "arrival_differs"),
    "a key's role": (KEYS, "UPDATE {} SET role = 'admin'", "access_differs"),
    "a key is deleted": (KEYS, "DELETE FROM {}", "access_differs"),
    "a fiscal year's state": (YEARS, "UPDATE {} SET state = 'open'", "fiscal_year_differs"),
    "a fiscal year's days": (YEARS, "UPDATE {} SET ends_before = ends_before + 1", "fiscal_year_differs"),
    "a fiscal year's generation": (YEARS, "UPDATE {} SET generation = generation + 1", "fiscal_year_differs"),
    "a fiscal year is deleted": (YEARS, "DELETE FROM {}", "fiscal_year_differs"),
    "a fiscal year is inserted": (
        YEARS,
        "INSERT INTO {} VALUES ('FY2026-27', '2026-04-01', '2027-04-01', 'UTC', 'closed', 1)",
        "fiscal_year_differs",
    ),
}
# What is done where checkpoints are kept elsewhere -> what it is told as (`tests/integration/test_sealer.py`).
OF_ANCHORS = {
    "all checkpoints that are kept elsewhere are deleted": "anchors_missing",
    "a checkpoint that is kept elsewhere is changed": "anchor_refused",
    "a checkpoint that is kept elsewhere gets the name of another": "anchor_refused",
    "a checkpoint of another log is put beside those that are kept elsewhere": "anchor_refused",
}
OF_DOCUMENTS = ("a document of the status view", "a document is inserted", "all documents are deleted")
OF_BLOBS = {"file": ("file_differs", "view_not_built"), "plan": ("file_differs",)}
BLOBS_ARE = ("changed", "cut", "deleted", "replaced by another")

INTRODUCTION = """\
# What is done to the record, and what finds it

Somebody owns the database, takes its guards away and changes something. This is the least level of
`ledger audit verify --level ...` that finds it; every deeper level finds it, too. Each line is a test.
Written by `python -m tests.tampering`; do not edit.

| what is done | least level | is told as |
|---|---|---|
"""
ELSEWHERE = """
Who has the sealing key as well can seal a history that was written anew, and an old backup is sound by itself. Both are
found, at every level, by the checkpoints that are kept elsewhere (`LEDGER_CHECKPOINTS_URL`, or a witness who runs
`ledger audit checkpoint --keep`): as `fork`, `checkpoint_inconsistent` or `rollback`. The sealer itself then ends
with `history_replaced`, and seals nothing more.
"""


def page() -> str:
    """The whole of docs/tampering.md."""
    lines = [
        f"| {each.what} | {level} | {', '.join(f'`{code}`' for code in each.codes)} |\n"
        for level, found in FOUND_AT.items()
        for each in found
    ]
    lines[:0] = [f"| {what} | {Level.SIGNATURES} | `{code}` |\n" for what, code in OF_ANCHORS.items()]
    lines += [_line(what, code) for what, (_, _, code) in OF_VIEWS.items()]
    lines += [_line(what, "view_differs") for what in OF_DOCUMENTS]
    for what, codes in OF_BLOBS.items():
        lines += [_line(f"the blob of a {what} is {how}", "`, `".join(codes)) for how in BLOBS_ARE]
    return INTRODUCTION + "".join(lines) + ELSEWHERE


def _line(what: str, code: str) -> str:
    return f"| {what} | {Level.VIEWS} | `{code}` |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
