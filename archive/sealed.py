"""Sealed archives: those that an Exported event names, and the objects that each consists of.

Rules:
1. The event says which manifest counts: its key, its version and its SHA-256. Whatever else lies in the store is not
   believed.
2. What a manifest cannot name, since it was written before them, are the manifest itself and what is put beside it when
   it is sealed: `SEAL`. All versions of these count as objects of the archive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import text

from archive.manifest import Manifest, ManifestRefusedError, parse_manifest
from archive.stores import ColdStore, damaged
from archive.verifier import MANIFEST, NOTE
from ledger.application import Ledger
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.fiscal_year_events import Exported
from ledger.errors import ConflictError

SEAL = (MANIFEST, NOTE, "README.txt", "verify.sh")


@dataclass(frozen=True)
class SealedArchive:
    """An archive whose manifest was read. All its keys begin with `prefix` and a slash."""

    prefix: str
    manifest: Manifest
    manifest_sha256: str


@dataclass(frozen=True)
class NamedVersion:
    """A version of an object, by its whole key."""

    key: str
    version: str


def exports_of(ledger: Ledger, year: FiscalYear) -> list[Exported]:
    """The events that sealed an archive of a year, one for each generation, in their order."""
    events = (logged.event for logged in ledger.events_of(year.id))
    return [event for event in events if isinstance(event, Exported)]


def exports_of_all(ledger: Ledger) -> list[Exported]:
    """The events that sealed an archive of any year."""
    with ledger.transaction() as session:
        labels = list(session.execute(text("SELECT label FROM ledger.fiscal_years ORDER BY starts_on")).scalars())
    years = [ledger.fiscal_year(label) for label in labels]
    return [event for year in years if year is not None for event in exports_of(ledger, year)]


def newest_archive(ledger: Ledger, store: ColdStore, year: FiscalYear) -> SealedArchive:
    """The archive of a year's last generation that has one. Raises ConflictError: it was never exported."""
    exports = exports_of(ledger, year)
    if not exports:
        raise ConflictError(f"Fiscal year {year.label} has no archive.", "It has to be closed and exported first.")
    return read_archive(store, exports[-1])


def read_archive(store: ColdStore, exported: Exported) -> SealedArchive:
    """The archive that an event sealed.

    Raises:
        NotFoundError: its manifest is not in the store.
        ObjectDamagedError: it is another one than the event says.
        ManifestRefusedError: it is none, or one of another year.
    """
    key, version = exported.manifest_key, exported.manifest_version
    data = b"".join(store.read(key, version))
    if hashlib.sha256(data).hexdigest() != exported.manifest_sha256:
        raise damaged(key, version, "is not the manifest of which the log has the SHA-256")
    manifest = parse_manifest(data)
    if (manifest.fiscal_year, manifest.generation) != (exported.label, exported.generation):
        raise ManifestRefusedError(
            f"The manifest of generation {exported.generation} of {exported.label} is one of generation"
            f" {manifest.generation} of {manifest.fiscal_year}.",
            "Verify the record and the archive before anything is done with either.",
        )
    return SealedArchive(key.rpartition("/")[0], manifest, exported.manifest_sha256)


def versions_of(store: ColdStore, prefix: str, manifest: Manifest) -> Iterator[NamedVersion]:
    """All objects of an archive: those that its manifest names, and those that it cannot name (rule 2)."""
    for entry in manifest.objects():
        yield NamedVersion(f"{prefix}/{entry.key}", entry.version)
    for name in SEAL:
        key = f"{prefix}/{name}"
        for found in store.versions(key):
            if found.key == key and not found.is_delete_marker:
                yield NamedVersion(key, found.version)
