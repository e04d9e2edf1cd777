"""Retention and legal holds: until when nobody can take an archive away, and whether what the log says of it is so.

Rules:
1. A lock is only made longer and stricter. Whoever is interrupted begins again: what is done already is left as it is.
2. The log says whether a year is held; the objects of all its generations follow. An object is held while any case
   holds the year, and let go when the last one is lifted.
3. What the log says and what the store says are compared, version by version. Each difference is a finding: somebody
   placed or lifted a hold by hand, or an order was not carried out to its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from archive.manifest import Manifest, PolicyEntry
from archive.sealed import NamedVersion, exports_of, read_archive, versions_of
from archive.stores import ColdStore, Lock, StoredObject
from ledger.application import Ledger
from ledger.domain.fiscal_year import FiscalYear
from ledger.errors import NotFoundError
from ledger.failpoints import failpoint

FINDINGS_TOLD = 100


@dataclass(frozen=True)
class Changed:
    """How many versions there are, and how many were not yet as they had to be."""

    objects: int
    changed: int


def raise_locks(store: ColdStore, prefix: str, manifest: Manifest, policy: PolicyEntry) -> Changed:
    """Lock every object of an archive as its policy says, or leave a lock that is longer and stricter.

    Raises:
        InvalidRequestError: the time of the policy is over.
        NotFoundError: an object is gone.
    """
    wanted = _lock_of(policy)
    objects = changed = 0
    for each in versions_of(store, prefix, manifest):
        objects += 1
        there = store.head(each.key, each.version).lock
        if there is not None and there.covers(wanted):
            continue
        until = wanted.until if there is None else max(wanted.until, there.until)
        store.lock(each.key, each.version, Lock(wanted.mode, until))
        changed += 1
        failpoint("lock_raised")
    return Changed(objects, changed)


def set_holds(store: ColdStore, prefix: str, manifest: Manifest, *, is_on_hold: bool) -> Changed:
    """Place a legal hold on every object of an archive, or lift it. Raises NotFoundError: an object is gone."""
    objects = changed = 0
    for each in versions_of(store, prefix, manifest):
        objects += 1
        if store.head(each.key, each.version).is_on_hold != is_on_hold:
            store.hold(each.key, each.version, is_on_hold)
            changed += 1
            failpoint("hold_changed")
    return Changed(objects, changed)


def carry_out_holds(ledger: Ledger, store: ColdStore, year: FiscalYear) -> Changed:
    """Have all objects of all generations of a year held as the log says of it now. Raises what `set_holds` does."""
    done = []
    for exported in exports_of(ledger, year):
        archive = read_archive(store, exported)
        done.append(set_holds(store, archive.prefix, archive.manifest, is_on_hold=bool(year.holds)))
    return Changed(sum(each.objects for each in done), sum(each.changed for each in done))


def report(ledger: Ledger, store: ColdStore, year: FiscalYear) -> dict[str, Any]:
    """What of a year's archives is locked and held, until when, and what is not as the log and the manifests say.

    Nothing is changed. It asks the store about every object.
    """
    generations: list[dict[str, Any]] = []
    findings: list[str] = []
    for exported in exports_of(ledger, year):
        archive = read_archive(store, exported)
        wanted = _lock_of(archive.manifest.policy)
        locks: Counter[Lock | None] = Counter()
        held = 0
        for each in versions_of(store, archive.prefix, archive.manifest):
            found = _head(store, each)
            findings += _differences(each, found, wanted, is_held=bool(year.holds))
            if found is not None:
                locks[found.lock] += 1
                held += found.is_on_hold
        generations.append(
            {
                "generation": exported.generation,
                "retain_until": wanted.until.isoformat(),
                "held": held,
                "locks": sorted(map(_lock_answer, locks.items()), key=lambda told: told["until"] or ""),
            }
        )
    return {
        "fiscal_year": year.label,
        "holds": sorted(year.holds),
        "generations": generations,
        "findings": findings[:FINDINGS_TOLD],
        "findings_total": len(findings),
    }


def _head(store: ColdStore, each: NamedVersion) -> StoredObject | None:
    try:
        return store.head(each.key, each.version)
    except NotFoundError:
        return None


def _differences(each: NamedVersion, found: StoredObject | None, wanted: Lock, *, is_held: bool) -> Iterator[str]:
    which = f"version {each.version} of {each.key}"
    if found is None:
        yield f"{which} is not there."
        return
    if found.is_on_hold != is_held:
        yield f"{which} is {'' if found.is_on_hold else 'not '}on hold, and by the log is{'' if is_held else ' not'}."
    if found.lock is None:
        yield f"{which} is not locked, and by its manifest it is until {wanted.until}."
    elif not found.lock.covers(wanted):
        yield (
            f"{which} is locked until {found.lock.until} in the mode {found.lock.mode}, and by its manifest until"
            f" {wanted.until} in the mode {wanted.mode}."
        )


def _lock_of(policy: PolicyEntry) -> Lock:
    return Lock(policy.mode, datetime.fromisoformat(policy.retain_until))


def _lock_answer(counted: tuple[Lock | None, int]) -> dict[str, Any]:
    lock, objects = counted
    return {
        "mode": None if lock is None else lock.mode.value,
        "until": None if lock is None else lock.until.isoformat(),
        "objects": objects,
    }
