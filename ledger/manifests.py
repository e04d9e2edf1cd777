"""Manifests of exports: signed notes that say what a file with entries of the audit trail holds, to the last byte.

Rules:
1. A manifest's text is the name of its form, then JSON with sorted names. It is signed as a note (`ledger.notes`); its
   first line is no origin of a log, so that nobody can take it for a checkpoint.
2. The door that hands out a file writes the manifest's text down with the event that has its digest, in one
   transaction. Who has the key signs it afterwards, and signs nothing of which the log does not say the same. Whoever
   gets at the database can put a text there, so nothing is signed that is not of the form of a manifest; it is logged,
   and what waits behind it is signed all the same.
3. Whoever checks a file believes nothing but the public keys that he is given.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.errors import LedgerError, NotFoundError, PartUnavailableError
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.notes import PublicKey, Signer, open_note

log = logging.getLogger(__name__)

FORM = "ledger audit export, form 1"
READ_BYTES = 1 << 20
SIGNED_AT_ONCE = 100


class ExportRefusedError(LedgerError):
    """A file is not what its manifest says."""

    code = "export_refused"


def manifest_text(values: dict[str, Any]) -> str:
    """What is signed: JSON values, among them the file's `size` in bytes and its `sha256`."""
    return f"{FORM}\n{json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)}\n"


def digest_of(manifest: str) -> str:
    """What an event says of a manifest: the SHA-256 of its text."""
    return hashlib.sha256(manifest.encode()).hexdigest()


def keep_manifest(session: Session, export_id: UUID, manifest: str) -> None:
    """Keep the text of a manifest until somebody signs it."""
    session.execute(
        text("INSERT INTO audit.manifests (export_id, text) VALUES (:export_id, :text)"),
        {"export_id": export_id, "text": manifest},
    )


def signed_manifest(session: Session, export_id: UUID) -> bytes:
    """The manifest of an export, as a note.

    Raises:
        NotFoundError: there is no such export, or it did not come to its end.
        PartUnavailableError: it is not signed yet.
    """
    found = rows(session, "SELECT note FROM audit.manifests WHERE export_id = :export_id", export_id=export_id)
    if not found:
        raise NotFoundError(
            f"There is no export {export_id}, or it was not handed out to its end.",
            "Take it again: ledger audit export",
        )
    if found[0].note is None:
        raise PartUnavailableError(
            f"The manifest of export {export_id} is not signed yet.",
            "Ask again in a moment; if that does not help, see whether the sealer runs: ledger doctor",
        )
    return bytes(found[0].note)


def sign_manifests(session: Session, signer: Signer, refused: set[UUID]) -> int:
    """Sign what waits for it; how many manifests were signed.

    Args:
        refused: the exports whose manifest is not signed. Those that are found now are added, and none is read again.
    """
    waiting = rows(
        session,
        f"SELECT m.export_id, m.text, e.state FROM audit.manifests m LEFT JOIN {EVENTS_TABLE} e"
        " ON e.originator_id = m.export_id AND e.originator_version = 1 AND e.topic = 'audit.exported'"
        " WHERE m.note IS NULL AND m.export_id <> ALL (:refused) LIMIT :limit FOR UPDATE OF m SKIP LOCKED",
        refused=list(refused),
        limit=SIGNED_AT_ONCE,
    )
    signed = 0
    for row in waiting:
        event = None if row.state is None else content_of(bytes(row.state))
        if event is None or event.get("manifest_sha256") != digest_of(row.text) or not _is_manifest(row.text):
            refused.add(row.export_id)
            log.error(
                "the manifest of export %s is not what the log says of it, and is not signed: verify the record",
                row.export_id,
                extra={"action": "manifest_refused", "export_id": str(row.export_id)},
            )
            continue
        session.execute(
            text("UPDATE audit.manifests SET note = :note WHERE export_id = :export_id"),
            {"note": signer.sign(row.text), "export_id": row.export_id},
        )
        signed += 1
    return signed


def _is_manifest(manifest: str) -> bool:
    """Whether a text has the form of a manifest (rule 1), so that its note is read as that and as nothing else."""
    form, _, body = manifest.partition("\n")
    # A note's text ends where its last blank line is.
    return form == FORM and body.endswith("\n") and "\n\n" not in manifest and content_of(body.encode()) is not None


def check_export(file: Path, manifest: bytes, known: Iterable[PublicKey]) -> dict[str, Any]:
    """Check a file against its manifest; what the manifest says of it.

    Raises:
        NoteRefusedError: the manifest was changed, or is signed by nobody who is known.
        ExportRefusedError: the file is not the one that the manifest is about; it says how.
    """
    signed, _ = open_note(manifest, known)
    form, _, body = signed.partition("\n")
    if form != FORM:
        raise ExportRefusedError(f"The note is signed, but it is no manifest of an export: {form[:80]!r}.")
    values: dict[str, Any] = json.loads(body)
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as source:
        while block := source.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    remedy = "Do not rely on it. Take the export again from the ledger."
    if size != values["size"]:
        what = "was cut" if size < values["size"] else "was added to"
        raise ExportRefusedError(
            f"{file.name} has {size:,} bytes, and the manifest was made of {values['size']:,}: it {what}.", remedy
        )
    if digest.hexdigest() != values["sha256"]:
        raise ExportRefusedError(
            f"{file.name} was changed: it has as many bytes as the manifest says, but other ones.", remedy
        )
    return values
