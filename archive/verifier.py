"""Whether an archive is what was signed, found by somebody who believes nothing but the public keys that he is given.

Rules:
1. This shares with what writes archives only what reads manifests, notes, hashes and stores (a test enforces it), and
   does nothing but read: its credentials need no more (`LEDGER_ARCHIVE_VERIFIER_PROFILE`).
2. Without the content nothing has to be restored: the manifest is the one that was signed, of this very place in the
   chain of archives, and the store holds each object in the version that was put, with its size, SHA-256 and class,
   locked for as long as the manifest says. Nothing hides an object, and nothing else lies beside them.
3. With the content every object is read besides (`archive.verified_content`).
   With a sample some of them are, chosen by the caller among those that can be read now; it is told which.
4. What has to be restored first, or lies elsewhere, is told as not compared: it is neither damaged nor proven.
5. Of several versions of a manifest or a note the oldest counts, as only the first was put by an archiver.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from archive.fetched_objects import Counter, Fetcher, Place, Tell
from archive.manifest import Manifest, ManifestRefusedError, ObjectEntry, open_manifest, parse_manifest
from archive.stores import ColdStore, ListedVersion, Lock, StoredObject
from archive.verified_content import check_content, check_some
from ledger.findings import Findings, NotCompared
from ledger.notes import Checkpoint, NoteRefusedError, PublicKey

MANIFEST, NOTE = "MANIFEST.json", "MANIFEST.note"
HELP = ("README.txt", "verify.sh")
HEADLESS = "is not there, and other objects of its archive are"
MANIFEST_BYTES_MAX = 64 << 20

# Chooses some of the objects that can be read.
Choose = Callable[[Sequence[ObjectEntry]], Sequence[ObjectEntry]]


@dataclass
class VerifiedArchive(Findings):
    """What verifying an archive came to. `evidence` says as JSON values what was looked at, and what it was."""

    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sealed:
    """A manifest that was signed, as bytes too, and the versions that it and its note have."""

    manifest: Manifest
    data: bytes
    versions: dict[str, str]

    @property
    def sha256(self) -> str:
        """The digest of the manifest."""
        return hashlib.sha256(self.data).hexdigest()


def verify_archive(
    store: ColdStore,
    prefix: str,
    keys: Sequence[PublicKey],
    *,
    content: bool,
    choose: Choose | None = None,
    manifest_sha256: str | None = None,
    scratch: Path | None = None,
    tell: Tell = lambda told: None,
) -> VerifiedArchive:
    """Compare the archive under a prefix with its signed manifest.

    Args:
        keys: whose signatures are believed.
        content: whether all objects are read as well.
        choose: chooses a sample of them that is read instead, if there is to be one.
        manifest_sha256: that of the manifest which the log names, if it is known.
        scratch: the folder that objects lie in while they are read; the system's if not given.
        tell: is told how far it is.

    Raises:
        PartUnavailableError: the store cannot be reached.
        StoreUnfitError: it does not let us.
    """
    found = VerifiedArchive()
    place = _Volume(store, prefix, found)
    sealed = _open(place, keys, manifest_sha256)
    if sealed is None:
        return found
    manifest = sealed.manifest
    objects = list(manifest.objects())
    counter = Counter(len(objects) * (2 if content else 1), tell)
    _check_chain(place, manifest)
    looked_at = _check_objects(place, sealed, objects, counter)
    _check_versions(place, sealed, objects)
    found.evidence = {
        "fiscal_year": manifest.fiscal_year,
        "generation": manifest.generation,
        "manifest_sha256": sealed.sha256,
        "checkpoint": manifest.checkpoint,
        "objects": len(objects),
        "bytes": sum(entry.bytes for entry in objects),
        "lock_mode": manifest.policy.mode.value,
        "locked_until": None if looked_at.until is None else looked_at.until.isoformat(),
        "content": content,
    }
    with tempfile.TemporaryDirectory(dir=scratch, prefix="archive-") as folder:
        fetcher = Fetcher(place, Path(folder), counter)
        if content:
            check_content(fetcher, manifest)
        elif choose is not None:
            chosen = choose(looked_at.readable)
            found.evidence["sample"] = [entry.key for entry in chosen]
            if looked_at.cold:
                told = f"{looked_at.cold:,} of the {len(objects):,} objects of {prefix} have to be restored before"
                found.add(NotCompared(f"{told} they can be read; the sample is of the others."))
            counter.expect(len(chosen))
            check_some(fetcher, chosen)
    return found


class _Volume(Place):
    """The objects of an archive, and its manifest among them."""

    def first_version(self, name: str) -> str | None:
        """The oldest version of a key; None if it has none."""
        key = f"{self.prefix}/{name}"
        there = [each.version for each in self.store.versions(key) if each.key == key and not each.is_delete_marker]
        return there[-1] if there else None

    def has_objects(self) -> bool:
        """Whether anything lies there."""
        return any(True for _ in self.store.versions(f"{self.prefix}/"))

    def small(self, name: str, version: str) -> bytes | None:
        """The bytes of a manifest or a note; None if they cannot be had, which is then noted."""
        with self.noting(name):
            data = bytearray()
            for block in self.store.read(f"{self.prefix}/{name}", version):
                data += block
                if len(data) > MANIFEST_BYTES_MAX:
                    self.differs("manifest_refused", name, f"has more than {MANIFEST_BYTES_MAX:,} bytes")
                    return None
            return bytes(data)
        return None


def _open(place: _Volume, keys: Sequence[PublicKey], manifest_sha256: str | None) -> Sealed | None:
    """The manifest, if it is the one that was signed for this place; nothing else is believed without it."""
    versions, data = {}, {}
    for name in (MANIFEST, NOTE):
        version = place.first_version(name)
        if version is None:
            place.differs("object_missing", name, "is not there")
            continue
        read = place.small(name, version)
        if read is not None:
            versions[name], data[name] = version, read
    if len(data) < 2:
        return None
    try:
        sealed = Sealed(open_manifest(data[MANIFEST], data[NOTE], keys), data[MANIFEST], versions)
        checkpoint = Checkpoint.parse(sealed.manifest.checkpoint)
    except NoteRefusedError as refused:
        place.differs("note_refused", NOTE, f"is not believed: {refused.message}")
        return None
    except ManifestRefusedError as refused:
        place.differs("manifest_refused", MANIFEST, f"is not believed: {refused.message}")
        return None
    manifest = sealed.manifest
    if not place.prefix.endswith(f"/{manifest.fiscal_year}/g{manifest.generation:04}"):
        what = f"is that of {manifest.fiscal_year}, generation {manifest.generation}"
        place.differs("manifest_of_another", MANIFEST, what)
    if checkpoint.origin != manifest.origin:
        what = f"is that of {manifest.origin!r}, and its checkpoint that of {checkpoint.origin!r}"
        place.differs("manifest_of_another", MANIFEST, what)
    if manifest_sha256 not in (None, sealed.sha256):
        what = f"is signed and has the SHA-256 {sealed.sha256}, and by the log it has {manifest_sha256}"
        place.differs("manifest_of_another", MANIFEST, what)
    return sealed


def _check_chain(place: _Volume, manifest: Manifest) -> None:
    """Compare the manifests that this one names with those that are in the same store."""
    base = place.prefix.rsplit("/", 2)[0]
    previous = manifest.previous
    if previous is None:
        if manifest.events.first_position != 1:
            what = f"names no archive before it, and its events begin at position {manifest.events.first_position:,}"
            place.differs("chain_differs", MANIFEST, what)
    else:
        at = f"{base}/{previous.fiscal_year}/g{previous.generation:04}"
        earlier = _Volume(place.store, at, place.found)
        data = _manifest_of(earlier)
        if data is not None and hashlib.sha256(data).hexdigest() != previous.manifest_sha256:
            earlier.differs("chain_differs", MANIFEST, f"is not the one that {place.prefix} goes on from")
        elif data is not None:
            last = parse_manifest(data).events.last_position
            if last + 1 != manifest.events.first_position:
                what = f"has events from {manifest.events.first_position:,} on, and the archive before ends at {last:,}"
                place.differs("chain_differs", MANIFEST, what)
    if manifest.supersedes is not None:
        _check_superseded(place, base, manifest)


def _check_superseded(place: _Volume, base: str, manifest: Manifest) -> None:
    """One of the earlier generations is the one that is named, if any of them is in this store."""
    there, headless = [], []
    for generation in range(manifest.generation - 1, 0, -1):
        earlier = _Volume(place.store, f"{base}/{manifest.fiscal_year}/g{generation:04}", place.found)
        if earlier.first_version(MANIFEST) is None and earlier.has_objects():
            headless.append(earlier)  # perhaps only left by an export that was given up when the year was reopened
        elif (data := _manifest_of(earlier)) is not None:
            there.append(earlier)
            if hashlib.sha256(data).hexdigest() == manifest.supersedes:
                return
    for earlier in headless:
        earlier.differs("object_missing", MANIFEST, HEADLESS)
    if there:
        there[0].differs("chain_differs", MANIFEST, f"is not the one that {place.prefix} supersedes")


def _manifest_of(earlier: _Volume) -> bytes | None:
    """The manifest of another archive. That some of it is here and its manifest is not is a finding."""
    version = earlier.first_version(MANIFEST)
    if version is not None:
        return earlier.small(MANIFEST, version)
    if earlier.has_objects():
        earlier.differs("object_missing", MANIFEST, HEADLESS)
    return None


@dataclass(frozen=True)
class _LookedAt:
    """The earliest end of a lock, None if one has none; the objects that can be read now, and how many are cold."""

    until: datetime | None
    readable: list[ObjectEntry]
    cold: int


def _check_objects(place: _Volume, sealed: Sealed, objects: Sequence[ObjectEntry], counter: Counter) -> _LookedAt:
    """Compare what the store says of each object."""
    policy = Lock(sealed.manifest.policy.mode, datetime.fromisoformat(sealed.manifest.policy.retain_until))
    locks: list[Lock | None] = []
    readable: list[ObjectEntry] = []
    cold = 0

    def look_at(name: str, version: str) -> StoredObject | None:
        with place.noting(name):
            there = place.store.head(f"{place.prefix}/{name}", version)
            locks.append(there.lock)
            _check_lock(place, name, there.lock, policy)
            return there
        locks.append(None)
        return None

    for name, version in sealed.versions.items():
        look_at(name, version)
    for entry in objects:
        there = look_at(entry.key, entry.version)
        counter.add()
        if there is None:
            continue
        if there.is_readable:
            readable.append(entry)
        else:
            cold += 1
        if there.size_bytes != entry.bytes:
            place.differs("object_differs", entry.key, f"has {there.size_bytes:,} bytes, and had {entry.bytes:,}")
        if there.sha256 != entry.sha256:
            place.differs("object_differs", entry.key, f"has the SHA-256 {there.sha256}, and had {entry.sha256}")
        if there.storage_class is not entry.storage_class:
            how = f"is in the class {there.storage_class}, and was put in {entry.storage_class}"
            place.differs("class_differs", entry.key, how)
    until = None if None in locks else min(lock.until for lock in locks if lock is not None)
    return _LookedAt(until, readable, cold)


def _check_lock(place: _Volume, name: str, lock: Lock | None, policy: Lock) -> None:
    wanted = f"it has to be in the mode {policy.mode} until {policy.until}"
    if lock is None:
        place.differs("lock_short", name, f"is not locked: {wanted}")
    elif not lock.covers(policy):
        place.differs("lock_short", name, f"is locked in the mode {lock.mode} until {lock.until}: {wanted}")


def _check_versions(place: _Volume, sealed: Sealed, objects: Sequence[ObjectEntry]) -> None:
    """See that nothing is there but what was put. Versions come by key, the newest first."""
    put = {(entry.key, entry.version) for entry in objects} | set(sealed.versions.items())
    help_before: ListedVersion | None = None
    for each in place.store.versions(f"{place.prefix}/"):
        name = each.key.removeprefix(f"{place.prefix}/")
        if each.is_delete_marker:
            place.differs("object_hidden", name, f"has a delete marker, {each.version}")
        elif name in HELP:
            if help_before is not None and help_before.key == each.key:
                place.differs("version_unknown", name, f"was put again, as version {help_before.version}")
            help_before = each
        elif (name, each.version) not in put:
            place.differs("version_unknown", name, f"is no part of the archive in its version {each.version}")
