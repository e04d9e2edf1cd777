"""Proofs: one file that shows, to whoever has the log's public key and nothing else, what happened to a job.

Rules:
1. A proof holds the events as they are stored, for each its place in the tree and the hashes that lead from there to the
   root, and the signed checkpoint that has this root. `ledger.verify_proof` reads it without the rest of the ledger.
2. It proves that these events were in the log when the checkpoint was signed, and that they are those of one stream
   without a gap from its first one on. That no later one was kept back, only a newer checkpoint can show.
3. Bytes are base64, hashes in hexadecimal. The file is canonical JSON: sorted names, no blanks, UTF-8.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.errors import ConflictError, NotFoundError
from ledger.event_store import EVENTS_TABLE
from ledger.merkle import inclusion_proof
from ledger.seal import FIELDS, StoredNodes

FORM = "ledger proof, form 1"


def prove_stream(session: Session, stream: UUID) -> bytes:
    """The proof of all sealed events of a stream.

    Raises:
        NotFoundError: there is no such stream.
        ConflictError: nothing of it is sealed yet.
    """
    found = rows(
        session,
        f"SELECT {', '.join(f'e.{name}' for name in FIELDS)}, l.index AS leaf_index FROM {EVENTS_TABLE} e "
        "LEFT JOIN ledger.leaves l ON l.position = e.id WHERE e.originator_id = :stream ORDER BY e.originator_version",
        stream=stream,
    )
    if not found:
        raise NotFoundError(f"There are no events of {stream}.", "`ledger jobs list` shows the jobs that there are.")
    sealed = [row for row in found if row.leaf_index is not None]
    checkpoint = rows(session, "SELECT size, note FROM ledger.checkpoints ORDER BY size DESC LIMIT 1")
    if not sealed or not checkpoint:
        raise ConflictError(f"The events of {stream} are not sealed yet.", "Ask again in a moment.")
    [(size, note)] = [(row.size, bytes(row.note)) for row in checkpoint]
    nodes = StoredNodes(session)
    proof = {
        "form": FORM,
        "checkpoint": note.decode(),
        "events": [_proven(nodes, row, size) for row in sealed],
        "events_not_sealed": len(found) - len(sealed),
    }
    return json.dumps(proof, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _proven(nodes: StoredNodes, row: Any, size: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "originator_id": str(row.originator_id),
        "originator_version": row.originator_version,
        "topic": row.topic,
        "state": base64.b64encode(bytes(row.state)).decode(),
        "index": row.leaf_index,
        "proof": [each.hex() for each in inclusion_proof(nodes, row.leaf_index, size)],
    }
