"""From a manifest that was put to an archive that was verified: its signature, what explains it, locks, a verifier.

Rules:
1. All of it is in the store already and named by the manifest. Each step adds what is missing, so it can be done again
   from any point.
2. Locks are raised last, when nothing can go wrong any more that would leave objects behind which nobody can delete.
3. What verifies is `archive.verifier`, which shares nothing with what has written the archive but the reading of notes,
   manifests and stores. Only what it has found as signed counts as verified.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Any

from archive.export_run import Archiving, Run, run_of, step
from archive.manifest import Manifest, open_manifest, parse_manifest
from archive.retention import raise_locks, set_holds
from archive.stores import StorageClass
from archive.verifier import NOTE, verify_archive
from archive.volume import prefix_of
from archive.waiting import wait_for
from ledger import telemetry
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import YearState
from ledger.errors import LedgerError, PartUnavailableError
from ledger.failpoints import failpoint
from ledger.manifests import archive_export_id, signed_manifest

README = """\
The archive of fiscal year {fiscal_year}, generation {generation}, of the ledger {origin}.

MANIFEST.json says what belongs to it, to the last byte; MANIFEST.note is its signature. Whoever has the ledger's public
key, from somebody he trusts, verifies all of it with verify.sh, without the ledger: the script says how.

data/            the rows of each dataset as PostgreSQL's COPY writes them, compressed with zstd: the copy of record
access/          the same as Parquet, easier to read and no evidence
events/          the log of events since the archive before this one, a line each, with its place in the Merkle tree
snapshots/       where the datasets, the year and its files stood when it was closed
files/           what was sent, in tar files, and an index that finds each of them
definitions      the statements that make the tables again, the contracts of the datasets, and the fiscal calendar
reconciliation   a line for each file: how many of its rows are here, and what they come to
"""


class ArchiveDiffersError(LedgerError):
    """What lies in the cold store is not what was signed."""

    code = "archive_differs"


def finish(archiving: Archiving, label: str) -> FiscalYear:
    """Sign, explain, lock and verify the archive of a year that is exported. What is verified stays as it is.

    Raises:
        ArchiveDiffersError: the store does not hold what was signed. Nothing is dropped.
        PartUnavailableError: the manifest is not signed yet, or the store is away.
    """
    year = archiving.ledger.fiscal_year(label)
    assert year is not None, "it was exported"
    if year.state is not YearState.EXPORTED:
        return year
    with run_of(archiving, label) as run:
        with step(telemetry.SPAN_ARCHIVE_SIGN, label):
            manifest = _put_signed(run)
        with step(telemetry.SPAN_ARCHIVE_LOCK, label):
            raise_locks(archiving.store, run.prefix, manifest, manifest.policy)
            if run.year.holds:  # as it was before there were objects
                set_holds(archiving.store, run.prefix, manifest, is_on_hold=True)
        with step(telemetry.SPAN_ARCHIVE_VERIFY, label):
            return _verify(run)


def stored_manifest(archiving: Archiving, year: FiscalYear) -> tuple[Manifest, bytes]:
    """The manifest that the log names, read from the store.

    Raises:
        ArchiveDiffersError: the store has another one.
        PartUnavailableError, NotFoundError: it cannot be read.
    """
    events: list[Any] = [each.event for each in archiving.ledger.events_of(year.id)]
    exported = next(each for each in reversed(events) if isinstance(each, FiscalYear.Exported))
    data = b"".join(archiving.store.read(exported.manifest_key, exported.manifest_version))
    if hashlib.sha256(data).hexdigest() != exported.manifest_sha256:
        raise ArchiveDiffersError(
            f"{exported.manifest_key} is not the manifest that the log names.", "Find out who put it there."
        )
    return parse_manifest(data), data


def _put_signed(run: Run) -> Manifest:
    archiving, year = run.archiving, run.year
    manifest, data = stored_manifest(archiving, year)
    note = wait_for(
        lambda: _note(archiving, year), archiving.wait_seconds, f"The manifest of {year.label} is not signed yet."
    )
    open_manifest(data, note, archiving.keys)
    told = README.format(fiscal_year=year.label, generation=year.generation, origin=archiving.origin)
    contents = {
        NOTE: note,
        "README.txt": told.encode(),
        "verify.sh": files("archive").joinpath("verify.sh").read_bytes(),
    }
    there = {each.key for each in archiving.store.versions(f"{run.prefix}/")}
    for name, content in contents.items():
        if name != NOTE and f"{run.prefix}/{name}" in there:
            continue  # what helps to read an archive may have been put by another version of the program
        path = run.spool / name
        path.write_bytes(content)
        run.volume.keep(name, path, StorageClass.STANDARD)
        failpoint("note_put")
    return manifest


def _note(archiving: Archiving, year: FiscalYear) -> bytes | None:
    try:
        with archiving.ledger.transaction() as session:
            return signed_manifest(session, archive_export_id(year.label, year.generation))
    except PartUnavailableError:
        return None


def verified_now(archiving: Archiving, year: FiscalYear) -> dict[str, Any]:
    """What the verifier finds of the archive of a year, by what the store says of each object, as evidence.

    Raises:
        ArchiveDiffersError: the store does not hold what was signed.
        PartUnavailableError: the store is away.
    """
    store, prefix = archiving.verifying or archiving.store, prefix_of(archiving.origin, year.label, year.generation)
    found = verify_archive(store, prefix, archiving.keys, content=False, manifest_sha256=year.manifest_sha256)
    if not found.holds:
        told = " ".join([*(finding.message for finding in found.findings), *found.not_compared][:10])
        raise ArchiveDiffersError(
            f"The archive of {year.label} is not as it was signed. {told}",
            "Nothing is dropped. Find out who changed the store, and mend it; it goes on from there.",
        )
    return found.evidence


def _verify(run: Run) -> FiscalYear:
    archiving = run.archiving
    evidence, stamp = verified_now(archiving, run.year), archiving.stamp()
    run.year = archiving.decide(run.year.label, lambda _, each: each.verify(stamp, evidence=evidence))
    failpoint("year_verified")
    return run.year
