"""Signed notes: short texts that say who signed them, and checkpoints, the notes that say what a log comes to.

Rules:
1. The form is C2SP's: a text that ends with a newline, a blank line, and a line for each signature: an em dash, the
   name of the key, and in base64 the key's id (4 bytes) and the signature (Ed25519, algorithm 1). Source:
   https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint.
2. What is signed is the text with its last newline. A signature by a key that is not known says nothing, and one by a
   known key that is wrong makes the note worthless.
3. A checkpoint's lines are the log's origin, the number of its leaves and the root in base64, then what else is said
   of it, a line each.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import LedgerError
from ledger.merkle import HASH_BYTES

ED25519 = b"\x01"
KEY_ID_BYTES = 4
PUBLIC_KEY_BYTES, SIGNATURE_BYTES = 32, 64
NOTE_BYTES_MAX = 64 << 10
SIGNATURES_MAX = 100
NAME = re.compile(r"[^\s+]+")
SIGNATURE = re.compile(r"\u2014 (?P<name>[^\s+]+) (?P<data>[A-Za-z0-9+/]+={0,2})")
SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class NoteRefusedError(LedgerError):
    """A note is none, was changed, or is signed by nobody who is known."""

    code = "note_refused"


@dataclass(frozen=True)
class PublicKey:
    """Whose signatures are believed."""

    name: str
    data: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes that stand before a signature of this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.data).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        """`name+id+key`, as C2SP writes verifier keys."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.data).decode()}"

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Read what `str` gave.

        Raises:
            NoteRefusedError: it is no such key, or its id is that of another one.
        """
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        data = _from_base64(encoded)
        if not NAME.fullmatch(name) or data is None or data[:1] != ED25519 or len(data) != 1 + PUBLIC_KEY_BYTES:
            raise NoteRefusedError(f"{text[:80]!r} is no verifier key.", "It reads name+id+key, on one line.")
        key = cls(name, data[1:])
        if key.key_id.hex() != key_id:
            raise NoteRefusedError(
                f"The id {key_id[:16]!r} is not that of the key of {name!r}.", "Ask for the key anew."
            )
        return key


@dataclass(frozen=True)
class Signer:
    """A key that signs. Its name is in every signature."""

    name: str
    private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        """What others need to check its signatures."""
        return PublicKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        """The text as a note with this key's signature."""
        assert text.endswith("\n") and "\n\n" not in text, text
        signature = base64.b64encode(self.public.key_id + self.private.sign(text.encode())).decode()
        return f"{text}\n\u2014 {self.name} {signature}\n".encode()


def open_note(note: bytes, known: Iterable[PublicKey]) -> tuple[str, list[str]]:
    """The text of a note, and the names of the known keys that signed it, at least one.

    Raises:
        NoteRefusedError: see rule 2; what is said names the keys.
    """
    text, signatures = _parts(note)
    keys = {(key.name, key.key_id): key for key in known}
    signed = []
    for name, key_id, signature in signatures:
        key = keys.get((name, key_id))
        if key is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(key.data).verify(signature, text.encode())
        except InvalidSignature:
            raise NoteRefusedError(
                f"The signature of {name!r} is not that of this text: the note was changed, or made up."
            ) from None
        signed.append(name)
    if not signed:
        there = ", ".join(f"{name}+{key_id.hex()}" for name, key_id, _ in signatures)
        raise NoteRefusedError(
            f"The note is signed by {there}, and no such key is known.", "Get the log's key from whom you trust."
        )
    return text, signed


@dataclass(frozen=True)
class Checkpoint:
    """What a log comes to: the root over its first `size` leaves. `more` are lines that say more about it."""

    origin: str
    size: int
    root: bytes
    more: tuple[str, ...] = ()

    def text(self) -> str:
        """The checkpoint as the text of a note."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.more)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def open(cls, note: bytes, known: Iterable[PublicKey]) -> Checkpoint:
        """The checkpoint that a note holds.

        Raises:
            NoteRefusedError: it is signed by nobody who is known, or it is no checkpoint.
        """
        return cls.parse(open_note(note, known)[0])

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read what `text` gave.

        Raises:
            NoteRefusedError: it is no checkpoint.
        """
        lines = text.split("\n")
        root = _from_base64(lines[2]) if len(lines) > 3 else None
        if root is None or len(root) != HASH_BYTES or not SIZE.fullmatch(lines[1]) or not lines[0]:
            raise NoteRefusedError("The note is signed, but it is no checkpoint of a log.")
        return cls(lines[0], int(lines[1]), root, tuple(lines[3:-1]))


def _parts(note: bytes) -> tuple[str, Sequence[tuple[str, bytes, bytes]]]:
    if len(note) > NOTE_BYTES_MAX:
        raise NoteRefusedError(f"The note has {len(note):,} bytes; it may have {NOTE_BYTES_MAX:,}.")
    try:
        body, separator, rest = note.decode().rpartition("\n\n")
    except UnicodeDecodeError:
        raise NoteRefusedError("The note is no text in UTF-8.") from None
    lines = rest.split("\n")
    if not separator or lines[-1] != "" or not 1 <= len(lines) - 1 <= SIGNATURES_MAX:
        raise NoteRefusedError("It is no signed note: a text, a blank line and a line for each signature.")
    signatures = []
    for line in lines[:-1]:
        found = SIGNATURE.fullmatch(line)
        data = _from_base64(found["data"]) if found else None
        if found is None or data is None or len(data) != KEY_ID_BYTES + SIGNATURE_BYTES:
            raise NoteRefusedError(f"{line[:80]!r} is no signature of a note.")
        signatures.append((found["name"], data[:KEY_ID_BYTES], data[KEY_ID_BYTES:]))
    return body + "\n", signatures


def _from_base64(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    # Bits that stand for nothing must be 0, or one note could be written in several ways.
    return data if base64.b64encode(data).decode() == text else None
