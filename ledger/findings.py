"""What a verification finds, how much of the record it looks at, and what it came to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:  # the command line needs the levels alone, and reading notes takes longer than most commands
    from ledger.notes import Checkpoint

FINDINGS_TOLD = 100


class Level(StrEnum):
    """How much is verified: `ledger.verifier`, rule 2."""

    SIGNATURES = "signatures"
    TREE = "tree"
    EVENTS = "events"
    VIEWS = "views"
    ARCHIVES = "archives"

    @property
    def reads_events(self) -> bool:
        """Whether every event is read again."""
        return self is Level.EVENTS or self.needs_ledger

    @property
    def needs_ledger(self) -> bool:
        """Whether it takes more than the log and the keys."""
        return self in (Level.VIEWS, Level.ARCHIVES)


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was sealed. What is not known, or does not apply, is None."""

    code: str
    message: str
    position: int | None = None
    stream: UUID | None = None
    version: int | None = None
    field: str | None = None
    object: str | None = None  # of a cold store, by its key


@dataclass(frozen=True)
class NotCompared:
    """Something that could not be looked at now, though nothing is wrong with it as far as is known."""

    message: str


@dataclass
class Findings:
    """What was found, and what could not be compared.

    Of the findings the first `FINDINGS_TOLD` are kept: a log that was written anew has as many as events.
    """

    findings: list[Finding] = field(default_factory=list)
    findings_total: int = 0
    not_compared: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool | None:
        """Whether nothing was found; None if that cannot be said, for something was not compared."""
        if self.findings_total:
            return False
        return None if self.not_compared else True

    def add(self, found: Finding | NotCompared) -> None:
        """Take something in."""
        if isinstance(found, NotCompared):
            self.not_compared.append(found.message)
            return
        self.findings_total += 1
        if len(self.findings) < FINDINGS_TOLD:
            self.findings.append(found)

    def put_first(self, findings: list[Finding]) -> None:
        """Take in what is to be told before the others."""
        self.findings = [*findings, *self.findings][:FINDINGS_TOLD]
        self.findings_total += len(findings)

    def extend(self, found: Iterable[Finding | NotCompared]) -> None:
        """Take in one after the other."""
        for each in found:
            self.add(each)


@dataclass
class Verified(Findings):
    """What a run came to: what it read of each, the last checkpoint, and how many events are not sealed yet."""

    checkpoints: int = 0
    leaves: int = 0
    events: int = 0
    checkpoint: Checkpoint | None = None
    unsealed: int = 0
