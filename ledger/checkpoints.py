"""Where checkpoints are kept out of the database's reach: a folder or a bucket, each under its size, for ever.

Rules:
1. A checkpoint that is there is never written over. Another one of the same size is a fork, and refused.
2. Whoever verifies reads them from there: they tell a history that was written anew, or a backup that was restored,
   from the one that was sealed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from ledger.errors import ConflictError, InvalidRequestError, PartUnavailableError
from ledger.folders import sync_folder
from ledger.notes import Checkpoint, NoteRefusedError, PublicKey
from ledger.settings import Settings

NAME = re.compile(r"([0-9]{16})\.checkpoint")


class CheckpointStore(Protocol):
    """Keeps signed checkpoints. Every method raises PartUnavailableError if the place cannot be reached."""

    def sizes(self) -> list[int]:
        """The sizes of all that are kept, in their order."""

    def read(self, size: int) -> bytes:
        """One of them, as a signed note."""

    def add(self, size: int, note: bytes) -> None:
        """Keep one. Raises ConflictError if another one of this size is there."""


def open_checkpoint_store(settings: Settings) -> CheckpointStore | None:
    """The store at `checkpoints_url` (`file:///folder`, `s3://bucket/prefix`); None if there is none.

    Raises:
        InvalidRequestError: the URL names no kind of store that there is.
    """
    if settings.checkpoints_url is None:
        return None
    parts = urlsplit(settings.checkpoints_url)
    if parts.scheme == "file" and parts.path:
        return FolderCheckpointStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from ledger.checkpoints_s3 import S3CheckpointStore

        return S3CheckpointStore(parts.netloc, parts.path.strip("/"), settings.checkpoint_days_locked)
    raise InvalidRequestError(
        f"{settings.checkpoints_url!r} is no place for checkpoints.", "Give file:///folder or s3://bucket/prefix."
    )


def read_checkpoint(store: CheckpointStore, size: int, known: Iterable[PublicKey], origin: str) -> Checkpoint:
    """One that is kept, if it is what its name says.

    Raises:
        NoteRefusedError: it is signed by nobody who is known, or it is of another size or another log.
        PartUnavailableError: it cannot be read now.
    """
    checkpoint = Checkpoint.open(store.read(size), known)
    if (checkpoint.size, checkpoint.origin) != (size, origin):
        raise NoteRefusedError(
            f"What is kept as the checkpoint of {origin} over {size:,} events is that of {checkpoint.origin} over "
            f"{checkpoint.size:,}.",
            "Find out who put it there.",
        )
    return checkpoint


def name_of(size: int) -> str:
    """The name of the checkpoint of a size; names are in the order of sizes."""
    return f"{size:016}.checkpoint"


def size_in(name: str) -> int | None:
    """The size that a name is of; None for what is no checkpoint."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def refuse_another(size: int, there: bytes, note: bytes) -> None:
    """Raises ConflictError if what is kept of a size is not what shall be kept."""
    if there != note:
        raise ConflictError(
            f"Another checkpoint of size {size} is kept already.",
            "Two histories have been sealed: verify both with `ledger audit verify` before anything else.",
        )


class FolderCheckpointStore:
    """Checkpoints as files of a folder, better on another machine's disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sizes(self) -> list[int]:
        """See `CheckpointStore`."""
        try:
            names = [path.name for path in self._folder.iterdir()] if self._folder.exists() else []
        except OSError as error:
            raise self._unavailable(error) from error
        return sorted(size for size in map(size_in, names) if size is not None)

    def read(self, size: int) -> bytes:
        """See `CheckpointStore`."""
        try:
            return (self._folder / name_of(size)).read_bytes()
        except OSError as error:
            raise self._unavailable(error) from error

    def add(self, size: int, note: bytes) -> None:
        """See `CheckpointStore`. A crash leaves a whole file or none."""
        path = self._folder / name_of(size)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder) as aside:
                aside.write(note)
                aside.flush()
                os.fsync(aside.fileno())
                os.chmod(aside.name, 0o444)
                os.link(aside.name, path)
            sync_folder(self._folder)
        except FileExistsError:
            refuse_another(size, self.read(size), note)
        except OSError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: OSError) -> PartUnavailableError:
        return PartUnavailableError(
            f"The folder of checkpoints {self._folder} cannot be used ({error.strerror}).",
            "Mend it: the log is sealed all the same, but only there is it out of the database's reach.",
        )
