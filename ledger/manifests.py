"""Manifests of exports: signed notes that say what a file with entries of the audit trail holds, to the last byte.

Rules:
1. A manifest's text is the name of its form, then JSON with sorted names. It is signed as a note (`ledger.notes`); its
   first line is no origin of a log, so that nobody can take it for a checkpoint.
2. The door that hands out a file writes the manifest's text down with the event that has its digest, in one
   transaction. Who has the key signs it afterwards, and signs nothing of which the log does not say the same.
3. Whoever checks a file believes nothing but the public keys that he is given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.errors import LedgerError, NotFoundError, PartUnavailableError
from ledger.event_store import EVENTS_TABLE
from ledger.notes import PublicKey, Signer, open_note

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


def sign_manifests(session: Session, signer: Signer) -> int:
    """Sign what waits for it, and leave alone of what the log says something else; how many manifests were signed."""
    waiting = rows(
        session,
        "SELECT m.export_id, m.text FROM audit.manifests m WHERE note IS NULL AND EXISTS ("
        f" SELECT FROM {EVENTS_TABLE} e WHERE e.originator_id = m.export_id AND e.topic = 'audit.exported'"
        " AND convert_from(e.state, 'UTF8')::json ->> 'manifest_sha256' = encode(sha256(convert_to(m.text, 'UTF8')),"
        " 'hex')) LIMIT :limit FOR UPDATE SKIP LOCKED",
        limit=SIGNED_AT_ONCE,
    )
    for row in waiting:
        session.execute(
            text("UPDATE audit.manifests SET note = :note WHERE export_id = :export_id"),
            {"note": signer.sign(row.text), "export_id": row.export_id},
        )
    return len(waiting)


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
