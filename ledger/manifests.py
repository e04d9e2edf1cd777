"""Manifests: signed notes that say what a file with entries of the audit trail, or the archive of a year, holds.

Rules:
1. The text of an export's manifest is the name of its form, then JSON with sorted names. That of an archive is four
   lines: the form, whose archive it is, and the SHA-256 and the size of the manifest, which lies beside it. Both are
   signed as notes (`ledger.notes`); their first line is no origin of a log: nobody can take one for a checkpoint.
2. Whoever hands out a file, or seals an archive, writes the text down with the event that has its digest, in one
   transaction. Who has the key signs it afterwards, and signs nothing of which the log does not say the same. Whoever
   gets at the database can put a text there, so nothing is signed that is not of one of these forms; it is logged, and
   what waits behind it is signed all the same.
3. Whoever checks a file believes nothing but the public keys that he is given.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.domain.fiscal_year import fiscal_year_id
from ledger.errors import LedgerError, NotFoundError, PartUnavailableError
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.notes import PublicKey, Signer, open_note

log = logging.getLogger(__name__)

FORM = "ledger audit export, form 1"
ARCHIVE_FORM = "ledger archive, form 1"
ARCHIVE = re.compile(
    ARCHIVE_FORM + r"\n(?P<origin>[^\s+]+) (?P<fiscal_year>FY[0-9A-Z-]+) generation (?P<generation>[1-9][0-9]{0,3})\n"
    r"sha256 (?P<sha256>[0-9a-f]{64})\nbytes [1-9][0-9]*\n"
)
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


def archive_export_id(fiscal_year: str, generation: int) -> UUID:
    """Under which id the manifest of an archive waits for its signature."""
    return uuid5(fiscal_year_id(fiscal_year), str(generation))


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


def sign_manifests(session: Session, signing: Signer, refused: set[UUID]) -> int:
    """Sign what waits for it; how many manifests were signed.

    Args:
        refused: the exports whose manifest is not signed. Those that are found now are added, and none is read again.
    """
    waiting = rows(
        session,
        "SELECT export_id, text FROM audit.manifests"
        " WHERE note IS NULL AND export_id <> ALL (:refused) LIMIT :limit FOR UPDATE SKIP LOCKED",
        refused=list(refused),
        limit=SIGNED_AT_ONCE,
    )
    signed = 0
    for row in waiting:
        is_told = FORMS.get(row.text.partition("\n")[0])
        if is_told is None or not is_told(session, signing, row.export_id, row.text):
            refused.add(row.export_id)
            log.error(
                "the manifest of export %s is not what the log says of it, and is not signed: verify the record",
                row.export_id,
                extra={"action": "manifest_refused", "export_id": str(row.export_id)},
            )
            continue
        session.execute(
            text("UPDATE audit.manifests SET note = :note WHERE export_id = :export_id"),
            {"note": signing.sign(row.text), "export_id": row.export_id},
        )
        signed += 1
    return signed


def _is_told_of_export(session: Session, _: Signer, export_id: UUID, manifest: str) -> bool:
    """Whether a text is the manifest of an export, and its note read as nothing else; and its event says so."""
    body = manifest.partition("\n")[2]
    # A note's text ends where its last blank line is.
    if not body.endswith("\n") or "\n\n" in manifest or content_of(body.encode()) is None:
        return False
    return any(
        event.get("manifest_sha256") == digest_of(manifest) for event in _events(session, export_id, "audit.exported")
    )


def _is_told_of_archive(session: Session, signer: Signer, _: UUID, manifest: str) -> bool:
    """Whether a text is that of an archive of this ledger, and an event says the same of its year and generation."""
    found = ARCHIVE.fullmatch(manifest)
    if found is None or found["origin"] != signer.name:
        return False
    told = {"manifest_sha256": found["sha256"], "generation": int(found["generation"])}
    events = _events(session, fiscal_year_id(found["fiscal_year"]), "fiscal_year.exported")
    return any(told.items() <= event.items() for event in events)


def _events(session: Session, originator_id: UUID, topic: str) -> list[dict[str, Any]]:
    found = rows(
        session,
        f"SELECT state FROM {EVENTS_TABLE} WHERE originator_id = :id AND topic = :topic",
        id=originator_id,
        topic=topic,
    )
    return [content_of(bytes(row.state)) or {} for row in found]


# THE FIRST LINE OF A TEXT -> whether the text has that form, and the log says the same.
FORMS: dict[str, Callable[[Session, Signer, UUID, str], bool]] = {
    FORM: _is_told_of_export,
    ARCHIVE_FORM: _is_told_of_archive,
}


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
