"""The store of events whose personal fields are sealed: in envelopes when they are stored, plain when they are read."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import EventStore, Mapper, Recording
from sqlalchemy.orm import Session

from ledger.envelope import NONCE_BYTES, EnvelopeDamagedError, open_event, seal_event, subjects_sealed, subjects_told
from ledger.errors import UnreadableEventError
from ledger.event_store import LedgerRecorder
from ledger.subject_keys import SubjectKeys

new_nonce = partial(secrets.token_bytes, NONCE_BYTES)


class SealedEventStore(EventStore[UUID]):
    """The library's event store; the keys of subjects are fetched and made in the transaction of the events."""

    recorder: LedgerRecorder

    def __init__(self, mapper: Mapper[UUID], recorder: LedgerRecorder, keys: SubjectKeys) -> None:
        super().__init__(mapper, recorder)
        self._keys = keys

    def put(
        self, domain_events: Sequence[DomainEventProtocol[UUID]], *, session: Session | None = None, **arguments: Any
    ) -> list[Recording[UUID]]:
        """Store events, their personal fields sealed."""
        subjects = {subject for event in domain_events for subject in subjects_told(event)}
        if not subjects:
            return super().put(domain_events, session=session, **arguments)
        with nullcontext(session) if session else self.recorder.transaction(commit=True) as own:
            keys = self._keys.for_writing(own, subjects)
            sealed = [seal_event(event, keys, new_nonce) for event in domain_events]
            recordings = super().put(sealed, session=own, **arguments)
        return [
            Recording(event, recording.notification) for event, recording in zip(domain_events, recordings, strict=True)
        ]

    def get(self, originator_id: UUID, **which: Any) -> Iterator[DomainEventProtocol[UUID]]:
        """The events of an aggregate, as they are read.

        Raises:
            UnreadableEventError: a personal field is not what was sealed.
        """
        with self.recorder.transaction(commit=False) as session:
            events: list[Any] = list(super().get(originator_id, **which))
            keys = self._keys.for_reading(session, {subject for event in events for subject in subjects_sealed(event)})
        return iter([_opened(event, keys) for event in events])


def _opened(event: Any, keys: dict[str, bytes | None]) -> Any:
    try:
        return open_event(event, keys)
    except EnvelopeDamagedError as damaged:
        raise UnreadableEventError(
            f"Version {event.originator_version} of {event.originator_id} cannot be read: {damaged}.",
            "Verify the log, and see who changed it.",
        ) from damaged
