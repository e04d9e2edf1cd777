"""The keys of subjects: one random key for each, in a schema of its own, wrapped by the master key.

Rules:
1. A key is made in the transaction of the first event that needs it. Whoever stores another event of its subject shares
   the key's row until the commit, so no key is destroyed under an event that is being written with it.
2. A destroyed key leaves its row behind, without the key: erased and lost are two things. Also where there was no row:
   it was lost, and what brings it back later must not go unseen.
3. No process keeps a key. Each reading of events fetches the keys that it needs, in its own transaction, so nothing
   has to be told to other processes when a key is destroyed: nobody has it.
4. The master key is not in the database. Each row says which one wrapped it, so another one is told as such, and never
   taken for damage or for an erasure.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.envelope import NONCE_BYTES
from ledger.errors import LedgerError

KEY_BYTES = 32
MASTER_CHARACTERS_MIN = 32
MASTER_ID_BYTES = 8
THE_LEDGER = "ledger:names"


class MasterKeyError(LedgerError):
    """The master key is missing, too short, or not the one that wrapped the keys of this ledger."""

    code = "master_key"


class KeyDamagedError(LedgerError):
    """A wrapped key is not what was wrapped."""

    code = "key_damaged"


class SubjectKeys:
    """The keys in a ledger's database, under a master key."""

    def __init__(self, master: str | None) -> None:
        """Derive from the text of the master key what wraps the others (HKDF, RFC 5869), and the name of that.

        Raises:
            MasterKeyError: there is none, or it is too short.
        """
        if master is None or len(master) < MASTER_CHARACTERS_MIN:
            what = "is not set" if master is None else f"has fewer than {MASTER_CHARACTERS_MIN} characters"
            raise MasterKeyError(
                f"The master key, under which names are sealed, {what}.",
                "Write a random text into a file (openssl rand -base64 32), keep a copy of it apart from the database's"
                " backups, and name it in LEDGER_SUBJECT_KEY_FILE, or give LEDGER_SUBJECT_KEY.",
            )
        self._wrapping = AESGCM(_derived(master, b"wrapping", KEY_BYTES))
        self._id = _derived(master, b"id", MASTER_ID_BYTES).hex()

    def check(self, session: Session) -> None:
        """Make sure that the keys in the database are wrapped by this master key.

        Raises:
            MasterKeyError: they are not.
        """
        for row in rows(session, "SELECT master FROM subjects.keys WHERE wrapped IS NOT NULL LIMIT 1"):
            self._check_master(row.master)

    def for_writing(self, session: Session, subjects: Iterable[str]) -> dict[str, bytes | None]:
        """The keys of subjects, made where there are none; None for a destroyed one. Nobody destroys them meanwhile.

        Raises:
            MasterKeyError: another master key wrapped one of them.
            KeyDamagedError: one of them was changed.
        """
        keys: dict[str, bytes | None] = {subject: secrets.token_bytes(KEY_BYTES) for subject in sorted(set(subjects))}
        made = rows(
            session,
            "INSERT INTO subjects.keys (subject, wrapped, master)"
            " SELECT *, :master FROM unnest(CAST(:subjects AS text[]), CAST(:wrapped AS bytea[]))"
            " ON CONFLICT DO NOTHING RETURNING subject",
            subjects=list(keys),
            wrapped=[self._wrap(subject, key) for subject, key in keys.items() if key is not None],
            master=self._id,
        )
        known = sorted(keys.keys() - {row.subject for row in made})
        for row in self._rows(session, known, "ORDER BY subject FOR SHARE"):
            keys[row.subject] = self._unwrap(row)
        return keys

    def for_reading(self, session: Session, subjects: Iterable[str]) -> dict[str, bytes | None]:
        """The keys of subjects, None for a destroyed one; what has no key that can be used is left out.

        Raises:
            MasterKeyError: another master key wrapped one of them.
        """
        keys: dict[str, bytes | None] = {}
        for row in self._rows(session, sorted(set(subjects)), ""):
            with suppress(KeyDamagedError):  # told by whoever misses it, who knows for which event
                keys[row.subject] = self._unwrap(row)
        return keys

    def digests(self, session: Session, names: Iterable[str]) -> dict[str, str]:
        """By what names are told apart where they must not stand: HMAC-SHA256 under a key of the ledger's own.

        Raises:
            MasterKeyError: another master key wrapped that key.
        """
        wanted = set(names)
        if not wanted:
            return {}
        key = self.for_writing(session, [THE_LEDGER])[THE_LEDGER]
        assert key is not None, "nobody erases the ledger"
        return {name: hmac.digest(key, name.encode(), "sha256").hex() for name in wanted}

    def destroy(self, session: Session, subject: str) -> bool:
        """Destroy a key; whether there was one. Its row stays in any case. Waits for whoever is writing with it."""
        session.execute(
            text(
                "INSERT INTO subjects.keys (subject, wrapped, master) VALUES (:subject, NULL, :master)"
                " ON CONFLICT DO NOTHING"
            ),
            {"subject": subject, "master": self._id},
        )
        # A statement of its own: it sees the key of whoever was just making one, whom the first one has waited for.
        statement = (
            "UPDATE subjects.keys SET wrapped = NULL WHERE subject = :subject AND wrapped IS NOT NULL RETURNING 1"
        )
        return session.execute(text(statement), {"subject": subject}).first() is not None

    def _rows(self, session: Session, subjects: list[str], how: str) -> Sequence[Any]:
        statement = f"SELECT subject, wrapped, master FROM subjects.keys WHERE subject = ANY(:subjects) {how}"
        return rows(session, statement, subjects=subjects) if subjects else ()

    def _wrap(self, subject: str, key: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, key, subject.encode())

    def _unwrap(self, row: Any) -> bytes | None:
        if row.wrapped is None:
            return None
        self._check_master(row.master)
        wrapped = bytes(row.wrapped)
        try:
            return self._wrapping.decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], row.subject.encode())
        except (InvalidTag, ValueError):
            raise KeyDamagedError(
                f"The key of {row.subject} in the database is not the one that was made.",
                "See who changed the table subjects.keys, and restore it from a backup.",
            ) from None

    def _check_master(self, master: str) -> None:
        if master != self._id:
            raise MasterKeyError(
                f"The names in this ledger are sealed under another master key ({master}) than the one given "
                f"({self._id}). They are not erased.",
                "Give the master key that this ledger was used with in LEDGER_SUBJECT_KEY_FILE or LEDGER_SUBJECT_KEY.",
            )


def _derived(master: str, what: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=b"ledger master key, form 1: " + what).derive(master.encode())
