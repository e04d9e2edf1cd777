"""`python -m tests.archive_tampering` writes docs/archive-tampering.md: what is done to an archive, and how it is told.

Whoever does it owns the store: no lock stops him, and what the store says of an object is what he wants. Each is found
by `archive.verifier` and by `verify.sh`, which name the object (`tests/contracts/test_archive_tampering.py`).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from archive.manifest import signed_text
from tests.archives import ORIGIN, STRANGER, UNTIL, Archive
from tests.strict_s3.objects import Bucket, Version

PAGE = Path(__file__).parents[1] / "docs" / "archive-tampering.md"
MANIFEST, NOTE = "MANIFEST.json", "MANIFEST.note"
SHA256 = "x-amz-checksum-sha256"


@dataclass
class Owner:
    """Who owns the bucket of some archives, and does something to the newest of them."""

    bucket: Bucket
    base: str
    before: Archive
    archive: Archive
    other: Archive

    def version(self, name: str, archive: Archive | None = None) -> Version:
        """The only version of an object."""
        key = f"{self.base}/{(archive or self.archive).prefix}/{name}"
        [found] = [each for each in self.bucket.all(key) if each.key == key]
        return found

    def write(self, name: str, data: bytes, archive: Archive | None = None, *, is_told: bool = True) -> None:
        """Exchange the bytes of an object, and the digest that is told of it, or not."""
        version = self.version(name, archive)
        version.data = data
        if is_told:
            version.checksums = {SHA256: base64.b64encode(hashlib.sha256(data).digest()).decode()}

    def remove(self, name: str, archive: Archive | None = None) -> None:
        """Delete a version for good."""
        version = self.version(name, archive)
        version.lock_until = None
        self.bucket.delete(version.key, version.id, bypass=True)

    def put_again(self, name: str, data: bytes | None = None) -> None:
        """Put bytes under the same key once more: the same ones, or others."""
        version = self.version(name)
        self.bucket.put(replace(version), only_new=False)
        if data is not None:
            newest = self.bucket.all(version.key)[0]
            newest.data = data
            newest.checksums = {SHA256: base64.b64encode(hashlib.sha256(data).digest()).decode()}

    def put_instead(self, name: str) -> None:
        """Put other bytes under the same key, and delete those that were there."""
        old = self.version(name)
        self.put_again(name, flipped(old.data))
        old.lock_until = None
        self.bucket.delete(old.key, old.id, bypass=True)

    def put_beside(self, name: str) -> None:
        """Put something that is no part of the archive."""
        like = self.version(MANIFEST)
        self.bucket.put(replace(like, key=like.key.replace(MANIFEST, name)), only_new=False)


def flipped(data: bytes) -> bytes:
    """The bytes with one bit changed."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


Do = Callable[[Owner, str], object]


class OfObject(NamedTuple):
    """What is done to an object, by which code the verifier tells it, and what the script says of it."""

    what: str
    code: str
    said: str
    do: Do
    needs_content: bool = False


def _lock(owner: Owner, name: str, mode: str | None, days: int) -> None:
    version = owner.version(name)
    version.lock_mode, version.lock_until = mode, None if mode is None else UNTIL + timedelta(days=days)


def _class(owner: Owner, name: str) -> None:
    version = owner.version(name)
    version.storage_class = "STANDARD" if version.storage_class == "GLACIER_IR" else "GLACIER_IR"


def _exchange(owner: Owner, name: str) -> None:
    """Give it the bytes of the next object of the manifest, and that its own, unless it has other ones already."""
    entries = {entry.key: entry for entry in owner.archive.manifest.objects()}
    if hashlib.sha256(owner.version(name).data).hexdigest() != entries[name].sha256:
        return
    names = list(entries)
    other = names[(names.index(name) + 1) % len(names)]
    data, others = owner.version(name).data, owner.version(other).data
    owner.write(name, others)
    owner.write(other, data)


OF_OBJECTS = [
    OfObject(
        "one bit is flipped, and the store does not say so",
        "object_damaged",
        "reads with the SHA-256",
        lambda owner, name: owner.write(name, flipped(owner.version(name).data), is_told=False),
        needs_content=True,
    ),
    OfObject(
        "one bit is flipped",
        "object_differs",
        "has the SHA-256",
        lambda owner, name: owner.write(name, flipped(owner.version(name).data)),
    ),
    OfObject(
        "its last byte is cut off",
        "object_differs",
        "bytes, and had",
        lambda owner, name: owner.write(name, owner.version(name).data[:-1]),
    ),
    OfObject(
        "a byte is added to it",
        "object_differs",
        "bytes, and had",
        lambda owner, name: owner.write(name, owner.version(name).data + b"x"),
    ),
    OfObject("it is exchanged with another", "object_differs", "has the SHA-256", _exchange),
    OfObject("it is removed", "object_missing", "is not there", Owner.remove),
    OfObject("it is put once more", "version_unknown", "is no part of the archive", Owner.put_again),
    OfObject(
        "other bytes are put under its key",
        "version_unknown",
        "is no part of the archive",
        lambda owner, name: owner.put_again(name, flipped(owner.version(name).data)),
    ),
    OfObject("a version with other bytes takes its place", "object_missing", "is not there", Owner.put_instead),
    OfObject(
        "a delete marker hides it",
        "object_hidden",
        "has a delete marker",
        lambda owner, name: owner.bucket.delete(owner.version(name).key, None, bypass=False),
    ),
    OfObject("its lock is gone", "lock_short", "is locked in no mode", lambda owner, name: _lock(owner, name, None, 0)),
    OfObject(
        "its lock ends a day too early",
        "lock_short",
        "is locked until",
        lambda owner, name: _lock(owner, name, "COMPLIANCE", -1),
    ),
    OfObject(
        "its lock becomes one that some may lift",
        "lock_short",
        "is locked in GOVERNANCE mode",
        lambda owner, name: _lock(owner, name, "GOVERNANCE", 0),
    ),
    OfObject("its class becomes another", "class_differs", "is in the class", _class),
    OfObject(
        "the store has no digest of it",
        "object_damaged",
        "has the SHA-256 (none)",
        lambda owner, name: owner.version(name).checksums.clear(),
    ),
]


class OfManifest(NamedTuple):
    """What is done to a manifest or what belongs to it, which object is named, and how: as `OfObject`."""

    what: str
    name: str
    code: str
    said: str
    do: Callable[[Owner], object]


def _resigned(owner: Owner) -> None:
    """A manifest that says less, signed by somebody else under the ledger's name."""
    manifest = owner.archive.manifest.model_copy(update={"snapshots": ()})
    data = manifest.to_bytes()
    owner.write(MANIFEST, data)
    owner.write(NOTE, STRANGER.sign(signed_text(data, manifest.fiscal_year, manifest.generation, ORIGIN)))


def _of_another(owner: Owner) -> None:
    owner.write(MANIFEST, owner.other.data)
    owner.write(NOTE, owner.other.note)


BEFORE = "the archive before: "
OF_MANIFESTS = [
    OfManifest(
        "one bit of the manifest is flipped",
        MANIFEST,
        "manifest_refused",
        "is not the one that was signed",
        lambda owner: owner.write(MANIFEST, owner.archive.data.replace(b'"rows":6', b'"rows":7')),
    ),
    OfManifest(
        "one bit of the note's text is flipped",
        NOTE,
        "note_refused",
        "has a signature that is not of its text",
        lambda owner: owner.write(NOTE, owner.archive.note.replace(b"generation 1", b"generation 3")),
    ),
    OfManifest("the manifest is removed", MANIFEST, "object_missing", "is not there", lambda o: o.remove(MANIFEST)),
    OfManifest("the note is removed", NOTE, "object_missing", "is not there", lambda owner: owner.remove(NOTE)),
    OfManifest(
        "the note becomes that of another archive",
        MANIFEST,
        "manifest_refused",
        "is not the one that was signed",
        lambda owner: owner.write(NOTE, owner.before.note),
    ),
    OfManifest(
        "the note is signed with another key of the same name",
        NOTE,
        "note_refused",
        "is not signed by",
        lambda owner: owner.write(NOTE, STRANGER.sign(owner.archive.note.decode().rpartition("\n\n")[0] + "\n")),
    ),
    OfManifest(
        "the manifest is written anew, and signed with another key of the same name",
        NOTE,
        "note_refused",
        "is not signed by",
        _resigned,
    ),
    OfManifest(
        "manifest and note become those of another archive",
        MANIFEST,
        "manifest_of_another",
        "which is another place",
        _of_another,
    ),
    OfManifest(
        "the manifest is put once more", MANIFEST, "version_unknown", "is no part of", lambda o: o.put_again(MANIFEST)
    ),
    OfManifest(
        "a delete marker hides the manifest",
        MANIFEST,
        "object_hidden",
        "has a delete marker",
        lambda owner: owner.bucket.delete(owner.version(MANIFEST).key, None, bypass=False),
    ),
    OfManifest(
        "the lock of the note ends a day too early",
        NOTE,
        "lock_short",
        "is locked until",
        lambda owner: _lock(owner, NOTE, "COMPLIANCE", -1),
    ),
    OfManifest(
        "the manifest of the archive before becomes another",
        BEFORE + MANIFEST,
        "chain_differs",
        "is not the one that this archive goes on from",
        lambda owner: owner.write(MANIFEST, owner.other.data, owner.before),
    ),
    OfManifest(
        "the manifest of the archive before is removed",
        BEFORE + MANIFEST,
        "object_missing",
        "is not the one that this archive goes on from",
        lambda owner: owner.remove(MANIFEST, owner.before),
    ),
    OfManifest(
        "something else is put beside them",
        "data/payments/00003.copy.zst",
        "version_unknown",
        "is no part of the archive",
        lambda owner: owner.put_beside("data/payments/00003.copy.zst"),
    ),
    OfManifest(
        "the script or the text that explains is put once more",
        "README.txt",
        "version_unknown",
        "was put more than once",
        lambda owner: owner.put_again("README.txt"),
    ),
]

INTRODUCTION = """\
# What is done to an archive, and how it is told

Somebody owns the bucket: he passes every lock, and the store says of an object what he wants. Each line is a test, of
`ledger archive verify` and of `verify.sh`, the script that lies beside each archive; both name the object. "Content"
says that objects have to be read (`--content`, and `content` for the script), for the store itself says nothing of it.
What is done to an object is done to each object of an archive that has one of every kind: definitions, rows, access
copies, events, snapshots, packs, their index, reconciliation.

Besides, every single byte of a manifest, of its note, and of an object of each kind is changed, and both find it. The
functions of the script are called for that, once for each changed byte (`tests/contracts/test_archive_script.py`).

`README.txt` and `verify.sh` are not signed: that they were put more than once is told, and that they are what the
ledger put is not. Take the script, as the public key, from somebody you trust.

Written by `python -m tests.archive_tampering`; do not edit.

| what is done | content | the verifier tells it as | the script says |
|---|---|---|---|
"""


def page() -> str:
    """The whole of docs/archive-tampering.md."""
    lines = [f"| {each.what} | no | `{each.code}` | {each.said} |\n" for each in OF_MANIFESTS]
    for each in OF_OBJECTS:
        content = "yes" if each.needs_content else "no"
        lines.append(f"| an object: {each.what} | {content} | `{each.code}` | {each.said} |\n")
    return INTRODUCTION + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page())
