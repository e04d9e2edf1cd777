"""The life of a job told a second time, from the rules and not from the code, for tests to compare the two.

A model is told the names of events and the little that matters of each. It knows no library and nothing of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OPEN = frozenset({"Received", "Queued", "Processing", "Retried"})
LOADING = frozenset({"Queued", "Processing", "Retried"})


@dataclass(frozen=True)
class ChunkModel:
    """A chunk that was loaded: its numbers, and whether they are those that the plan has for it."""

    rows_loaded: int
    rows_rejected: int
    as_planned: bool = True


@dataclass
class JobModel:
    """Where a job stands. `waiting`: it failed and will be retried. `planned`: it has a plan, so chunks are loaded."""

    status: str = "Received"
    waiting: bool = False
    planned: bool = False
    blamed: bool = False
    nameless: bool = False
    attempt: int = 1
    chunks_total: int = 0
    loaded: dict[int, ChunkModel] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done for it."""
        return self.status in OPEN or self.waiting

    @property
    def has_finished(self) -> bool:
        """Whether it shows an end: an open job has none, whatever happened before."""
        return not self.is_open

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of it count as loaded, and how many as rejected."""
        chunks = self.loaded.values()
        return sum(chunk.rows_loaded for chunk in chunks), sum(chunk.rows_rejected for chunk in chunks)

    @property
    def missing(self) -> set[int]:
        """The chunks that are still to be loaded."""
        return set(range(self.chunks_total)) - set(self.loaded) if self.planned else set()

    def can(self, event: str, chunk: int = 0) -> bool:
        """Whether an event may happen now, as far as the state goes."""
        return {
            "Queued": self.status in {"Received", "Retried"} and not self.planned,
            "ChunkLoaded": (self.status in LOADING or self.waiting) and chunk in self.missing,
            "Completed": self.status in LOADING,
            "Failed": self.is_open,
            "Retried": self.status == "Failed" and not self.nameless,
            "Cancelled": self.is_open or self.status == "Failed",
            "Archived": self.status == "Completed",
            "Restored": self.status == "Archived",
            "NameErased": self.has_finished and not self.nameless,
        }[event]

    def counts_close(self) -> bool:
        """Whether every chunk is loaded, and each as the plan has it."""
        return self.planned and not self.missing and all(chunk.as_planned for chunk in self.loaded.values())

    def plan(self, chunks_total: int) -> None:
        """Queued."""
        self.status, self.planned, self.chunks_total, self.blamed = "Queued", True, chunks_total, False

    def load(self, number: int, chunk: ChunkModel) -> None:
        """ChunkLoaded: a job that waits goes on waiting."""
        self.status = "Failed" if self.waiting else "Processing"
        self.loaded[number] = chunk

    def fail(self, *, will_be_retried: bool) -> None:
        """Failed: for good means without rows and without a plan."""
        self.status, self.waiting, self.blamed = "Failed", will_be_retried, True
        if not will_be_retried:
            self._lose_everything()

    def retry(self) -> None:
        """Retried."""
        self.status, self.waiting, self.blamed = "Retried", False, False
        self.attempt += 1

    def cancel(self) -> None:
        """Cancelled: why it failed before is still told."""
        self.status, self.waiting = "Cancelled", False
        self._lose_everything()

    def end(self, status: str) -> None:
        """Completed or Archived."""
        self.status, self.blamed = status, False

    def erase_name(self) -> None:
        """NameErased: where it stands does not change."""
        self.nameless = True

    def _lose_everything(self) -> None:
        self.planned = False
        self.loaded = {}
