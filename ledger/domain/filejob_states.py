"""What may happen to a job, by where it stands."""

from __future__ import annotations

from ledger.domain.words import FINISHED, UNFINISHED, Status

ALLOWED: dict[str, frozenset[Status]] = {
    "Queued": frozenset({Status.RECEIVED, Status.RETRIED}),
    "ChunkLoaded": frozenset({Status.QUEUED, Status.PROCESSING, Status.RETRIED}),
    "Completed": frozenset({Status.QUEUED, Status.PROCESSING, Status.RETRIED}),
    "Failed": UNFINISHED,
    "Retried": frozenset({Status.FAILED}),
    "Cancelled": UNFINISHED | {Status.FAILED},
    "Archived": frozenset({Status.COMPLETED}),
    "Restored": frozenset({Status.COMPLETED, Status.ARCHIVED}),
    "NameErased": FINISHED,
}
WAITING_ALLOWS = frozenset({"ChunkLoaded", "Failed", "Retried", "Cancelled"})
