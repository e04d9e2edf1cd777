"""What a verification finds, how much of the record it looks at, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:  # the command line needs the levels alone, and reading notes takes longer than most commands
    from ledger.notes import Checkpoint


class Level(StrEnum):
    """How much is verified: `ledger.verifier`, rule 2."""

    SIGNATURES = "signatures"
    TREE = "tree"
    EVENTS = "events"
    VIEWS = "views"

    @property
    def reads_events(self) -> bool:
        """Whether every event is read again."""
        return self in (Level.EVENTS, Level.VIEWS)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was sealed. What is not known, or does not apply, is None."""

    code: str
    message: str
    position: int | None = None
    stream: UUID | None = None
    version: int | None = None
    field: str | None = None


@dataclass
class Verified:
    """What a run came to: what it read of each, the last checkpoint, and how many events are not sealed yet."""

    checkpoints: int = 0
    leaves: int = 0
    events: int = 0
    checkpoint: Checkpoint | None = None
    unsealed: int = 0
    findings: list[Finding] = field(default_factory=list)
