"""The blob store: bytes kept unchanged under the name of their SHA-256.

Rules:
1. A blob is written aside, made durable, and only then takes its name: a name that exists is a whole blob.
2. Writing the same bytes again is harmless, so every retry is free.
3. A blob is never changed. What is read is what was hashed, and readers of ranges hash what they read.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ledger.errors import InvalidRequestError, NotFoundError, PartUnavailableError
from ledger.failpoints import failpoint
from ledger.folders import sync_folder

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 24 * 3600
SYNC_BYTES = 64 << 20
READ_BYTES = 1 << 20


class BlobWriter(Protocol):
    """Takes the bytes of one blob."""

    size: int

    def write(self, data: bytes) -> None:
        """Add bytes. Raises PartUnavailableError when they cannot be kept."""

    def finish(self) -> str:
        """Make the blob durable and give its SHA-256."""

    def abort(self) -> None:
        """Forget what was written. Safe to call at any time, also after `finish`."""


class BlobStore(Protocol):
    """Where blobs are kept."""

    def writer(self) -> BlobWriter:
        """Start a blob."""

    def read(self, sha256: str, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`. Raises NotFoundError, PartUnavailableError."""

    def check(self) -> None:
        """Raise PartUnavailableError unless blobs can be kept now."""

    def sweep(self) -> None:
        """Remove what broken uploads left behind."""


def put(store: BlobStore, data: bytes) -> str:
    """Keep some bytes and give their SHA-256."""
    writer = store.writer()
    try:
        writer.write(data)
        return writer.finish()
    finally:
        writer.abort()


def sha256_of(store: BlobStore, sha256: str) -> str | None:
    """The SHA-256 of what is kept under that name, None if nothing is. Raises PartUnavailableError as `read` does."""
    digest, offset = hashlib.sha256(), 0
    try:
        while data := store.read(sha256, offset, READ_BYTES):
            digest.update(data)
            offset += len(data)
    except NotFoundError:
        return None
    return digest.hexdigest()


def open_blob_store(url: str) -> BlobStore:
    """The blob store at `file:///folder` or `s3://bucket/prefix`.

    Raises:
        InvalidRequestError: the URL names no kind of store that there is.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        return FolderBlobStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from ledger.blobs_s3 import S3BlobStore  # boto3 takes half a second to import, and few processes need it

        return S3BlobStore(parts.netloc, parts.path.strip("/"))
    raise InvalidRequestError(
        f"LEDGER_BLOBS_URL is {url!r}, which names no blob store.", "Use file:///folder or s3://bucket/prefix."
    )


class BlobFile(io.RawIOBase):
    """A blob as a file that can be read and sought."""

    def __init__(self, store: BlobStore, sha256: str, size: int) -> None:
        self._store = store
        self._sha256 = sha256
        self._size = size
        self._position = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """At most that many bytes, all that are left for a negative number; none only at the end."""
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._store.read(self._sha256, self._position, wanted) if wanted else b""
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Stand elsewhere: at an offset from the start, from here or from the end."""
        self._position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence] + offset
        return self._position

    def tell(self) -> int:
        """The offset at which the next byte is read."""
        return self._position

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True


class FolderBlobStore:
    """Blobs as files of a folder: `ab/abcdef...`, and `incoming/` for those being written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"

    def writer(self) -> BlobWriter:
        """Start a blob in `incoming/`."""
        return _FolderBlobWriter(self._folder, self._incoming)

    def read(self, sha256: str, start: int, size: int) -> bytes:
        """Read a range of the blob's file."""
        try:
            with open(self._path(sha256), "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, start)
        except FileNotFoundError:
            raise NotFoundError(f"The blob store has no blob {sha256}.") from None
        except OSError as error:
            raise PartUnavailableError(
                f"The blob store {self._folder} cannot be read: {error.strerror}.", "Repair the folder, then try again."
            ) from error

    def check(self) -> None:
        """Write, sync and remove a small file."""
        writer = self.writer()
        try:
            writer.write(b"check")
        finally:
            writer.abort()

    def sweep(self) -> None:
        """Remove what broken uploads left behind more than a day ago."""
        if not self._incoming.is_dir():
            return
        for path in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()
                    log.info("removed an abandoned upload", extra={"action": "blob_swept", "path": path.name})

    def _path(self, sha256: str) -> Path:
        return self._folder / sha256[:2] / sha256


class _FolderBlobWriter:
    def __init__(self, folder: Path, incoming: Path) -> None:
        self._folder = folder
        self._hash = hashlib.sha256()
        self.size = 0
        try:
            incoming.mkdir(parents=True, exist_ok=True)
            descriptor, self._path = tempfile.mkstemp(dir=incoming)
        except OSError as error:
            raise _cannot_write(folder, error) from error
        self._file: io.FileIO | None = io.FileIO(descriptor, "wb")
        self._synced = 0
        self._syncing: threading.Thread | None = None
        self._sync_error: OSError | None = None

    def write(self, data: bytes) -> None:
        assert self._file is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
            self._hash.update(data)
            self.size += len(data)
        except OSError as error:
            raise _cannot_write(self._folder, error) from error
        failpoint("blob_growing")
        if self.size - self._synced >= SYNC_BYTES:
            self._sync_meanwhile()

    def finish(self) -> str:
        assert self._file is not None
        sha256 = self._hash.hexdigest()
        target = self._folder / sha256[:2] / sha256
        try:
            self._join()
            if self._sync_error is not None:
                raise self._sync_error
            os.fsync(self._file.fileno())
            self._file.close()
            target.parent.mkdir(exist_ok=True)
            os.chmod(self._path, 0o440)
            failpoint("blob_synced")
            os.replace(self._path, target)
            for folder in (target.parent, self._folder):
                sync_folder(folder)
        except OSError as error:
            raise _cannot_write(self._folder, error) from error
        self._file = None
        failpoint("blob_durable")
        return sha256

    def abort(self) -> None:
        if self._file is None:
            return
        self._join()
        self._file.close()
        self._file = None
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _sync_meanwhile(self) -> None:
        """Let the disk begin while more comes in, so that the last fsync, which counts, is short."""
        if self._syncing is None or not self._syncing.is_alive():
            assert self._file is not None
            self._synced = self.size
            self._syncing = threading.Thread(target=self._sync, args=(self._file.fileno(),), daemon=True)
            self._syncing.start()

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            # Linux tells a failed write-back once: the last fsync would find nothing wrong.
            self._sync_error = error

    def _join(self) -> None:
        if self._syncing is not None:
            self._syncing.join()


def _cannot_write(folder: Path, error: OSError) -> PartUnavailableError:
    return PartUnavailableError(
        f"The blob store {folder} cannot keep the file: {error.strerror}.",
        "Nothing was taken. Free some space or repair the folder, then send the file again.",
    )
