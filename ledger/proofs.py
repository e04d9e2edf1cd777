"""Proofs: one file that shows, to whoever has the log's public key and nothing else, what happened to a job.

Rules:
1. A proof holds the events as they are stored, for each its place in the tree and the hashes that lead from there to
   the root, and the signed checkpoint that has this root. `ledger.verify_proof` reads it without the rest of us.
2. It proves that these events were in the log when the checkpoint was signed, and that they are those of one stream
   without a gap from its first one on. That no later one was kept back, only a newer checkpoint can show.
3. A proof of a record holds its bytes besides, and where they stand; the events have the digests of its chunk and file.
4. Bytes are base64, hashes in hexadecimal. The file is canonical JSON: sorted names, no blanks, UTF-8.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.errors import ConflictError, NotFoundError, no_such_job
from ledger.event_store import EVENTS_TABLE
from ledger.merkle import inclusion_proof
from ledger.seal import FIELDS, StoredNodes, newest_checkpoint

FORM = "ledger proof, form 1"


@dataclass(frozen=True)
class Record:
    """A record of a job: its number, where its bytes begin in the text that was loaded, and its bytes."""

    number: int
    byte_offset: int
    data: bytes


def prove_stream(session: Session, stream: UUID, record: Record | None = None) -> bytes:
    """The proof of all sealed events of a stream, and of a record if one is given.

    Raises:
        NotFoundError: there is no such stream.
        ConflictError: nothing of it is sealed yet.
    """
    found = _rows(session, "e.originator_id = :stream", stream=stream)
    if not found:
        raise no_such_job(stream)
    if record is None:
        return _proof(session, "stream", found)
    stands = {"record": record.number, "byte_offset": record.byte_offset, "bytes": _text(record.data)}
    return _proof(session, "record", found, record=stands)


def prove_event(session: Session, position: int) -> bytes:
    """The proof of one event.

    Raises:
        NotFoundError: there is none at this position.
        ConflictError: it is not sealed yet.
    """
    found = _rows(session, "e.id = :position", position=position)
    if not found:
        raise NotFoundError(
            f"There is no event at position {position:,}.", "`ledger jobs events` shows those of a job."
        )
    return _proof(session, "event", found)


def _rows(session: Session, condition: str, **parameters: Any) -> list[Any]:
    found = rows(
        session,
        f"SELECT {', '.join(f'e.{name}' for name in FIELDS)}, l.index AS leaf_index FROM {EVENTS_TABLE} e "
        f"LEFT JOIN ledger.leaves l ON l.position = e.id WHERE {condition} ORDER BY e.originator_version",
        **parameters,
    )
    return list(found)


def _proof(session: Session, about: str, found: list[Any], **more: Any) -> bytes:
    size, note = newest_checkpoint(session) or (0, b"")
    sealed = [row for row in found if row.leaf_index is not None and row.leaf_index < size]
    if not sealed:
        raise ConflictError(
            f"The events of {found[0].originator_id} are not sealed yet.",
            "Ask again in a moment; if that does not help, see whether the sealer runs: ledger doctor",
        )
    nodes = StoredNodes(session)
    events = [_proven(nodes, row, size) for row in sealed]
    proof = {"form": FORM, "about": about, "checkpoint": note.decode(), "events": events, **more}
    return json.dumps(proof, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _proven(nodes: StoredNodes, row: Any, size: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "originator_id": str(row.originator_id),
        "originator_version": row.originator_version,
        "topic": row.topic,
        "state": _text(bytes(row.state)),
        "index": row.leaf_index,
        "proof": [each.hex() for each in inclusion_proof(nodes, row.leaf_index, size)],
    }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
