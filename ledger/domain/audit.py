"""What was read of the audit trail, and what was taken out of it: reading is an act that stands on record as well.

Rules:
1. A read says who (the actor), what was asked for, and how much was told: so many entries, from which position to
   which. Reads that are alike are gathered: see `ledger.audit_reads`.
2. Names of files and words that were searched for stay out of what was asked for: they can name a person, and an event
   is for ever.
3. An export says besides which bytes it came to, and what the manifest about them says, by their digests.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from uuid import UUID

from eventsourcing.domain import CanInitAggregate

from ledger.domain.base import Aggregate, Stamp


class ReadKind(StrEnum):
    """How the trail was read. `VARIOUS` are questions of one actor that were too many to tell them apart."""

    QUESTION = "question"
    EVENT = "event"
    EXPORT = "export"
    VARIOUS = "various"


@dataclass(frozen=True)
class Told:
    """How many entries of the trail were told, and the first and the last position among them, None if none was."""

    entries: int
    first_position: int | None
    last_position: int | None

    @classmethod
    def of(cls, positions: list[int]) -> Told:
        """What telling the entries at these positions comes to."""
        return cls(len(positions), min(positions, default=None), max(positions, default=None))


class AuditRead(Aggregate):
    """Reads of the audit trail by one actor, which are alike."""

    TOPIC = "auditread"

    class Event(Aggregate.Event):
        """Something that happened to reads."""

    class Recorded(CanInitAggregate[UUID], Event):
        """Somebody read the trail, so many times since `first_read_at`."""

        TOPIC = "audit.read"
        originator_topic: str
        kind: str
        asked: dict[str, str]
        reads: int
        entries: int
        first_position: int | None
        last_position: int | None
        first_read_at: str

    def __init__(self, *, kind: str, reads: int) -> None:
        self.kind = kind
        self.reads = reads

    @classmethod
    def record(
        cls,
        read_id: UUID,
        stamp: Stamp,
        *,
        kind: ReadKind,
        asked: dict[str, str],
        reads: int,
        told: Told,
        first_read_at: str,
    ) -> AuditRead:
        """Write down reads that are alike. Each record is an aggregate of its own."""
        return cls._create(
            cls.Recorded,
            id=read_id,
            kind=kind.value,
            asked=asked,
            reads=reads,
            first_read_at=first_read_at,
            **asdict(told),
            **stamp.fields(),
        )


class AuditExport(Aggregate):
    """A file with entries of the audit trail."""

    TOPIC = "auditexport"

    class Event(Aggregate.Event):
        """Something that happened to an export."""

    class Taken(CanInitAggregate[UUID], Event):
        """The file was handed out to its last byte."""

        TOPIC = "audit.exported"
        originator_topic: str
        format: str
        asked: dict[str, str]
        entries: int
        first_position: int | None
        last_position: int | None
        size: int
        sha256: str
        manifest_sha256: str

    def __init__(self, *, sha256: str, manifest_sha256: str) -> None:
        self.sha256 = sha256
        self.manifest_sha256 = manifest_sha256

    @classmethod
    def take(
        cls,
        export_id: UUID,
        stamp: Stamp,
        *,
        format: str,
        asked: dict[str, str],
        told: Told,
        size: int,
        sha256: str,
        manifest_sha256: str,
    ) -> AuditExport:
        """Write down an export. `size` is in bytes; the digests are of the file and of the manifest's text."""
        return cls._create(
            cls.Taken,
            id=export_id,
            format=format,
            asked=asked,
            size=size,
            sha256=sha256,
            manifest_sha256=manifest_sha256,
            **asdict(told),
            **stamp.fields(),
        )
