"""A blob store beside another: what is made of blobs is kept elsewhere, and thrown away with its folder."""

from __future__ import annotations

from ledger.blobs import BlobFile, BlobStore, BlobWriter
from ledger.errors import NotFoundError

READ_BYTES = 1 << 20


class BesideStore:
    """A blob store whose blobs can be read, and that keeps new ones elsewhere."""

    def __init__(self, store: BlobStore, beside: BlobStore) -> None:
        self._store = store
        self._beside = beside

    def writer(self) -> BlobWriter:
        """Start a blob, elsewhere."""
        return self._beside.writer()

    def read(self, sha256: str, start: int, size: int) -> bytes:
        """Read what was kept elsewhere, or else in the store."""
        try:
            return self._beside.read(sha256, start, size)
        except NotFoundError:
            return self._store.read(sha256, start, size)

    def check(self) -> None:
        """Raise PartUnavailableError unless blobs can be kept elsewhere."""
        self._beside.check()

    def sweep(self) -> None:
        """There is nothing to remove: the whole folder is thrown away."""


def copy_blob(blobs: BlobStore, sha256: str, size: int, target: BlobStore) -> None:
    """Keep a blob of one store, which has so many bytes, in another as well.

    Raises:
        NotFoundError: there is no such blob.
        PartUnavailableError: one of the stores cannot be reached.
    """
    source, writer = BlobFile(blobs, sha256, size), target.writer()
    try:
        while data := source.read(READ_BYTES):
            writer.write(data)
        writer.finish()
    finally:
        writer.abort()
