"""Entries of the audit trail: what an event is about, made of the event by its fields' names.

Rules:
1. Every event is one entry. A kind of event that is new needs no code here, unless it calls things by other names.
2. What an event does not say of the file, the job and the dataset that it is about, the first event of its stream said,
   or else the first event of its job.
3. The text that is searched holds reasons, messages and what operators asked for; names of files stand beside it. No
   other text of an event is taken over: who a key belongs to, say, is told by the event alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from ledger.event_log import LoggedEvent

# TOPIC, or the beginning of topics -> COLUMN -> the field that says it, the first of several that there is. `stream`
# is the id of the event's stream.
FIELDS_OF: dict[str, dict[str, str]] = {
    "filejob.received": {
        "job": "stream", "related_job": "corrects", "dataset": "dataset", "sha256": "sha256", "filename": "filename",
        "fiscal_years": "adjustment.fiscal_year",
    },
    "filejob": {"job": "stream", "fiscal_years": "fiscal_years"},  # the `sha256` of a chunk is not that of the file
    "dataset.registered": {"dataset": "name", "related_job": "inferred_from"},
    "settlement.corrected": {"related_job": "by_job"},
    "operation.requested": {
        "job": "arguments.job_id arguments.job", "dataset": "arguments.dataset",
        "fiscal_years": "arguments.fiscal_years arguments.fiscal_year",
    },
    "fiscal_year": {"job": "job", "related_job": "by_job", "dataset": "dataset", "fiscal_years": "label"},
    # Of every other event:
    "": {
        "job": "job_id job", "dataset": "dataset", "fiscal_years": "fiscal_years fiscal_year", "filename": "filename",
    },
}  # fmt: skip
TEXT_FIELDS = ("reason", "adjustment.reason", "kind", "case", "arguments.view", "error.message", "error.remedy")
# So that an index holds whatever there is: 4 bytes a character, and 2,704 bytes at most.
INDEXED_CHARACTERS_MAX = 600
TEXT_CHARACTERS_MAX = 4_000


@dataclass(frozen=True)
class Entry:
    """An entry of the trail. Its fields are the columns of the table."""

    position: int
    at: datetime
    actor: str
    topic: str
    stream: UUID
    version: int
    job: UUID | None
    related_job: UUID | None
    dataset: str | None
    fiscal_years: list[str]
    sha256: str | None
    filename: str | None
    correlation: str
    traceparent: str | None
    text: str


class Subject(NamedTuple):
    """What an event is about, as far as anybody said."""

    job: UUID | None = None
    dataset: str | None = None
    sha256: str | None = None
    filename: str | None = None

    def or_else(self, other: Subject) -> Subject:
        """What this does not say, by the other."""
        said = {name: value for name, value in self._asdict().items() if value is not None}
        return other._replace(**said)


def asked_for(events: Iterable[LoggedEvent]) -> set[UUID]:
    """The streams whose subjects must be known to make entries of these events: their own and those of their jobs."""
    found = set()
    for logged in events:
        stream, job = logged.event.originator_id, subject_of(logged).job
        if logged.event.originator_version > 1:
            found.add(stream)
        if job is not None and job != stream:
            found.add(job)
    return found


def entries_of(events: Iterable[LoggedEvent], known: Mapping[UUID, Subject]) -> Iterator[Entry]:
    """The entries of events that follow each other in the log.

    Args:
        known: what the first events of earlier streams are about (`asked_for`), by stream.
    """
    subjects = dict(known)
    for logged in events:
        stream = logged.event.originator_id
        subject = subject_of(logged).or_else(subjects.get(stream, Subject()))
        if subject.job is not None:
            subject = subject.or_else(subjects.get(subject.job, Subject()))
        if logged.event.originator_version == 1:
            subjects[stream] = subject
        yield _entry(logged, subject)


def subject_of(logged: LoggedEvent) -> Subject:
    """What an event itself says that it is about."""
    said = _Said(logged)
    return Subject(said.id("job"), said.word("dataset"), said.word("sha256"), said.word("filename"))


def storable(text: str, characters_max: int) -> str:
    """A text as PostgreSQL can keep it, and no longer than it needs to be."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:characters_max]


def _entry(logged: LoggedEvent, subject: Subject) -> Entry:
    event, said = logged.event, _Said(logged)
    return Entry(
        position=logged.position,
        at=event.timestamp,
        actor=storable(event.actor, INDEXED_CHARACTERS_MAX),
        topic=logged.topic,
        stream=event.originator_id,
        version=event.originator_version,
        job=subject.job,
        related_job=said.id("related_job"),
        dataset=subject.dataset,
        fiscal_years=said.words("fiscal_years"),
        sha256=subject.sha256,
        filename=subject.filename,
        correlation=storable(event.correlation, INDEXED_CHARACTERS_MAX),
        traceparent=None if event.traceparent is None else storable(event.traceparent, INDEXED_CHARACTERS_MAX),
        text=said.text(),
    )


class _Said:
    """The fields of an event, by the columns that they go into. What is not of the kind expected is not said."""

    def __init__(self, logged: LoggedEvent) -> None:
        self._logged = logged
        topic = logged.topic
        while topic not in FIELDS_OF:
            topic = topic.rpartition(".")[0]
        self._fields = FIELDS_OF[topic]

    def id(self, column: str) -> UUID | None:
        try:
            return UUID(str(self._value(column)))
        except ValueError:
            return None

    def word(self, column: str) -> str | None:
        found = self._value(column)
        return storable(found, INDEXED_CHARACTERS_MAX) if isinstance(found, str) and found else None

    def words(self, column: str) -> list[str]:
        found = self._value(column)
        several = found if isinstance(found, list) else [found]
        return [storable(each, INDEXED_CHARACTERS_MAX) for each in several if isinstance(each, str) and each]

    def text(self) -> str:
        found = (_field(self._logged, path) for path in TEXT_FIELDS)
        return storable("\n".join(each for each in found if isinstance(each, str) and each), TEXT_CHARACTERS_MAX)

    def _value(self, column: str) -> Any:
        found = (_field(self._logged, path) for path in self._fields.get(column, "").split())
        return next((each for each in found if each is not None), None)


def _field(logged: LoggedEvent, path: str) -> Any:
    found: Any = {**vars(logged.event), "stream": logged.event.originator_id}
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
