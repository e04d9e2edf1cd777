"""A rehearsal: all that an archive asks of its store, done with one small object before anything is planned.

Rules:
1. It is put as a real object is, with the class of manifests, the key of KMS, a SHA-256 and a lock, so that what is not
   allowed is found now and not among a thousand parts. Then that lock is raised as those of a sealed archive are, a
   hold is placed and lifted, and the object is read.
2. Whoever verifies looks for that very object, with credentials of his own if he has some, and reads it.
3. The object stays. Who archives has no permission to delete, and shall not need one. It lies outside of all archives,
   under `rehearsals/`, has some 200 bytes, and its lock ends within hours; a rule of the bucket may let it expire.
4. Each rehearsal has a name of its own: what is there already would not be put again, and would show nothing.
"""

from __future__ import annotations

import hashlib
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from archive.stores import ColdStore, Lock, LockMode, StorageClass, StoredObject, StoreUnfitError
from ledger.errors import NotFoundError

PREFIX = "rehearsals"
# A clock may go wrong by a quarter of an hour before S3 refuses what it signs, and a lock has to end in the future.
LOCKED = timedelta(hours=1)
CONTENT = """\
Put to see whether archives of fiscal years can be kept here. It belongs to none, and is locked until {until}.
"""


def rehearse(
    store: ColdStore, verifying: ColdStore, *, name: str, mode: LockMode, now: datetime, scratch: Path
) -> StoredObject:
    """Do with one object what is done with those of an archive; what the store says of it then.

    Args:
        store: the store as whoever archives sees it.
        verifying: the store as whoever verifies sees it.
        name: one that no rehearsal had before.
        mode: that of the locks of archives that are sealed.

    Raises:
        StoreUnfitError: one of the two may not do what he has to.
        PartUnavailableError: the store is away.
    """
    key, raised = f"{PREFIX}/{name}", Lock(mode, now + 2 * LOCKED)
    content = CONTENT.format(until=raised.until.isoformat(timespec="seconds")).encode()
    with tempfile.NamedTemporaryFile(dir=scratch) as file:
        file.write(content)
        file.flush()
        digest = hashlib.sha256(content).hexdigest()
        lock = Lock(LockMode.GOVERNANCE, now + LOCKED)
        version = store.put(key, Path(file.name), digest, StorageClass.STANDARD, lock).version
    store.lock(key, version, raised)
    for is_on_hold in (True, False):
        store.hold(key, version, is_on_hold)
    kept = _looked_at(store, key, version)
    try:
        is_found = _looked_at(verifying, key, version) == kept
    except NotFoundError:
        is_found = False
    except StoreUnfitError as error:
        raise StoreUnfitError(f"Who verifies archives may not look at them. {error.message}", error.remedy) from error
    if not is_found:
        raise StoreUnfitError(
            f"Who verifies archives does not find {key}, which was just put.",
            "Have the profile LEDGER_ARCHIVE_VERIFIER_PROFILE look where LEDGER_ARCHIVE_URL is: see its endpoint.",
        )
    return kept


def _looked_at(store: ColdStore, key: str, version: str) -> StoredObject:
    """What a store says of the object, once it is read and found in the list."""
    for _ in store.read(key, version):
        pass
    if version not in {each.version for each in store.versions(key)}:
        raise StoreUnfitError(
            f"The cold store has {key} and does not list it.", "Ask who runs it: archives cannot be verified there."
        )
    return store.head(key, version)
