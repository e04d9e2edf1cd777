"""The log: every event in its place, read one after the other.

Rules:
1. Whoever follows the log passes no event over: what cannot be read is an error that names its place.
2. Personal fields are opened where their keys are there. An erased name is read as erased.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.persistence import EventStore, StoredEvent
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from ledger.database import rows, unavailable_as_error
from ledger.domain.api_key import ApiKey
from ledger.domain.audit import AuditExport, AuditRead
from ledger.domain.base import LedgerEvent
from ledger.domain.dataset import Dataset
from ledger.domain.dead_letter import DeadLetter
from ledger.domain.denial import Denial
from ledger.domain.erasure import Erasure
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.settlement import Settlement
from ledger.domain.user import User
from ledger.envelope import EnvelopeDamagedError, open_event, subjects_sealed
from ledger.errors import UnreadableEventError
from ledger.event_store import EVENTS_TABLE, LedgerRecorder, event_store_environment
from ledger.sealed_events import SealedEventStore
from ledger.settings import Settings
from ledger.subject_keys import SubjectKeys

# Reading the log needs the class behind each topic to be known; naming them here makes sure that they are imported.
AGGREGATES = (
    FileJob, Dataset, DeadLetter, Erasure, Operation, Settlement, AuditRead, AuditExport, ApiKey, User, Denial,
    FiscalYear,
)  # fmt: skip


@dataclass(frozen=True)
class LoggedEvent:
    """An event with its place in the log."""

    position: int
    event: LedgerEvent
    topic: str


class EventLog(Application[UUID]):
    """All events, in the order in which they were committed; what opens the names in them; and the database."""

    def __init__(self, settings: Settings) -> None:
        """Make the parts; the database is asked for nothing yet.

        Raises:
            MasterKeyError: the settings have no master key.
        """
        self.subject_keys = SubjectKeys(settings.master_key())
        url = settings.database_url.get_secret_value()
        super().__init__(env=event_store_environment(url, settings.lock_seconds_max))

    @property
    def engine(self) -> Engine:
        """The pool of connections that everything in this process shares."""
        engine = self.factory.datastore.engine  # type: ignore[attr-defined]
        assert isinstance(engine, Engine)
        return engine

    def construct_event_store(self) -> EventStore[UUID]:
        """See `ledger.sealed_events`."""
        assert isinstance(self.recorder, LedgerRecorder)
        return SealedEventStore(self.mapper, self.recorder, self.subject_keys)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or undone as a whole."""
        with unavailable_as_error(), Session(self.engine) as session, session.begin():
            yield session

    def events_of(self, originator_id: UUID) -> list[LoggedEvent]:
        """All events of a job or dataset in their order, with their positions."""
        with self.transaction() as session:
            found = rows(
                session,
                f"SELECT id, originator_id, originator_version, topic, state FROM {EVENTS_TABLE} "
                "WHERE originator_id = :originator_id ORDER BY originator_version",
                originator_id=originator_id,
            )
            return list(self._logged(session, found))

    def events_after(self, position: int, limit: int) -> list[LoggedEvent]:
        """The events that follow a position in the log, at most `limit`, and none from the first unreadable one on.

        Raises:
            UnreadableEventError: the very next event cannot be read. Whoever follows the log must not pass it over.
        """
        with self.transaction() as session:
            found = rows(
                session,
                f"SELECT id, originator_id, originator_version, topic, state FROM {EVENTS_TABLE} "
                "WHERE id > :position ORDER BY id LIMIT :limit",
                position=position,
                limit=limit,
            )
            events: list[LoggedEvent] = []
            try:
                for logged in self._logged(session, found):
                    events.append(logged)
            except UnreadableEventError:
                if not events:
                    raise
        return events

    def last_event(self, originator_id: UUID) -> LedgerEvent | None:
        """The last event of a job or dataset, None if it has none."""
        with self.transaction() as session:
            found = rows(
                session,
                f"SELECT id, originator_id, originator_version, topic, state FROM {EVENTS_TABLE} "
                "WHERE originator_id = :originator_id ORDER BY originator_version DESC LIMIT 1",
                originator_id=originator_id,
            )
            return next((logged.event for logged in self._logged(session, found)), None)

    def position(self) -> int:
        """The position of the last event, 0 in an empty log."""
        with self.transaction() as session:
            return int(session.execute(text(f"SELECT coalesce(max(id), 0) FROM {EVENTS_TABLE}")).scalar_one())

    def _logged(self, session: Session, found: Sequence[Any]) -> Iterator[LoggedEvent]:
        """The events in rows, one after the other, up to the first that cannot be read."""
        decoded = [self._decoded(row) for row in found]
        events = [event for event in decoded if isinstance(event, LedgerEvent)]
        keys = self.subject_keys.for_reading(session, {each for event in events for each in subjects_sealed(event)})
        for row, event in zip(found, decoded, strict=True):
            if isinstance(event, Exception):
                raise _unreadable(row, type(event).__name__) from event
            try:
                opened = open_event(event, keys)
            except EnvelopeDamagedError as damaged:
                raise _unreadable(row, str(damaged)) from damaged
            yield LoggedEvent(row.id, opened, row.topic)

    def _decoded(self, row: Any) -> LedgerEvent | Exception:
        """The event in a row, its personal fields still sealed; or what is wrong with it."""
        stored = StoredEvent(row.originator_id, row.originator_version, row.topic, bytes(row.state))
        try:
            event = self.mapper.to_domain_event(stored)
            assert isinstance(event, LedgerEvent)
            assert all(hasattr(event, known.name) for known in fields(event)), "it lacks fields of its kind"
            subjects_sealed(event)
        except Exception as error:  # whatever is wrong with it, its place has to be told
            return error
        return event


def _unreadable(row: Any, what: str) -> UnreadableEventError:
    return UnreadableEventError(
        f"The event at position {row.id} of the log, a {row.topic!r}, cannot be read ({what}).",
        "A newer version may have written it: run that one. Else see who changed the log.",
    )
