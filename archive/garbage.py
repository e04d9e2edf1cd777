"""Garbage: what lies in the cold store under the ledger's prefix and belongs to no archive.

Rules:
1. An object belongs to an archive if a manifest that an event names has its version. Newer versions of the same key,
   and markers that hide it, do not.
2. What a run that is under way has put is no garbage yet: a year that is closed and not exported keeps its prefix.
3. Nothing is deleted here. Who archives has no permission to delete, and what is still locked nobody can: its lock ends
   some days after the run that was given up. The list is for who owns the bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import text

from archive.sealed import exports_of_all, read_archive, versions_of
from archive.stores import ColdStore, ListedVersion, ObjectDamagedError
from archive.volume import prefix_of
from ledger.application import Ledger
from ledger.domain.year_states import YearState

GARBAGE_TOLD = 1_000


def garbage(ledger: Ledger, store: ColdStore, origin: str) -> dict[str, Any]:
    """The versions that belong to no archive, as JSON values: each with its size and until when it is locked."""
    named = {
        (each.key, each.version)
        for archive in (read_archive(store, exported) for exported in exports_of_all(ledger))
        for each in versions_of(store, archive.prefix, archive.manifest)
    }
    busy = tuple(f"{prefix}/" for prefix in _under_way(ledger, origin))
    objects = size_bytes = 0
    told: list[dict[str, Any]] = []
    for each in store.versions(prefix_of_all(origin)):
        if (each.key, each.version) in named or each.key.startswith(busy):
            continue
        objects += 1
        size_bytes += each.size_bytes
        if len(told) < GARBAGE_TOLD:
            told.append(_told(store, each))
    return {"objects": told, "objects_total": objects, "size_bytes": size_bytes}


def prefix_of_all(origin: str) -> str:
    """What the keys of all archives of a ledger begin with."""
    return prefix_of(origin, "", 1).rsplit("/", 2)[0] + "/"


def _under_way(ledger: Ledger, origin: str) -> Iterator[str]:
    with ledger.transaction() as session:
        found = session.execute(
            text("SELECT label, generation FROM ledger.fiscal_years WHERE state = :closed"),
            {"closed": YearState.CLOSED.value},
        ).all()
    for label, generation in found:
        yield prefix_of(origin, label, generation)


def _told(store: ColdStore, each: ListedVersion) -> dict[str, Any]:
    lock, is_on_hold, problem = None, False, None
    if not each.is_delete_marker:
        try:
            found = store.head(each.key, each.version)
            lock, is_on_hold = found.lock, found.is_on_hold
        except ObjectDamagedError as error:  # put by somebody else, it may have no digest: garbage all the same
            problem = error.message
    return {
        "key": each.key,
        "version": each.version,
        "size_bytes": each.size_bytes,
        "is_delete_marker": each.is_delete_marker,
        "locked_until": None if lock is None else lock.until.isoformat(),
        "is_on_hold": is_on_hold,
        "problem": problem,
    }
