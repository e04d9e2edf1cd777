"""Plans: what the chunks of a file are, read back from the blob that Queued names."""

from __future__ import annotations

import hashlib
from functools import partial

from ledger.blobs import BlobStore
from ledger.errors import LedgerError
from projections.formats.blocks import read_exactly
from projections.formats.splitter import Chunk, Plan
from projections.formats.transcript import PLACE_BYTES, Place, places

PLANS_KEPT = 16
PLAN_BYTES_MAX = 256 << 20

_plans: dict[str, Plan] = {}


class BlobDamagedError(LedgerError):
    """A blob is not what its name says."""

    code = "blob_damaged"


def read_plan(blobs: BlobStore, digest: str) -> Plan:
    """The plan of that digest; the last few are kept.

    Raises:
        BlobDamagedError: what is kept under the digest is not what was written.
    """
    if digest not in _plans:
        data = blobs.read(digest, 0, PLAN_BYTES_MAX)
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise BlobDamagedError(
                f"The blob {digest}, a plan, is not what was written: its SHA-256 is {found}.",
                "Bring it back from a backup, and find out who changed it.",
            )
        if len(_plans) >= PLANS_KEPT:
            _plans.clear()
        _plans[digest] = Plan.from_json(data)
    return _plans[digest]


def places_of(blobs: BlobStore, plan: Plan, chunk: Chunk) -> list[Place] | None:
    """Where the records of a chunk stand in the file; None if the chunk is a range of the file itself."""
    if plan.places is None:
        return None
    start = (chunk.first_record - 1) * PLACE_BYTES
    return list(places(read_exactly(partial(blobs.read, plan.places), start, chunk.records * PLACE_BYTES)))
