"""A blob store in memory."""

from __future__ import annotations

import hashlib

from ledger.errors import NotFoundError


class MemoryBlobs:
    """A blob store that ends with its test."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def writer(self) -> _MemoryWriter:
        """Start a blob."""
        return _MemoryWriter(self._blobs)

    def read(self, sha256: str, start: int, size: int) -> bytes:
        """Up to `size` bytes from `start`."""
        if sha256 not in self._blobs:
            raise NotFoundError(f"There is no blob {sha256}.")
        return self._blobs[sha256][start : start + size]

    def size(self, sha256: str) -> int:
        """How many bytes a blob has."""
        return len(self._blobs[sha256])

    def check(self) -> None:
        """Nothing can be away."""

    def sweep(self) -> None:
        """Nothing is left behind."""


class _MemoryWriter:
    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.size = 0
        self._blobs, self._pieces = blobs, list[bytes]()

    def write(self, data: bytes) -> None:
        self._pieces.append(bytes(data))
        self.size += len(data)

    def finish(self) -> str:
        data = b"".join(self._pieces)
        digest = hashlib.sha256(data).hexdigest()
        self._blobs[digest] = data
        return digest

    def abort(self) -> None:
        self._pieces.clear()
