"""Snapshots of aggregates, as lines of text: where each stood when a year was closed.

They are none of the library's, which have a time of a clock in them and a state that only it reads (decision 18).
They are taken of events as they are stored: what names somebody stays in its envelope, and is erased with its key
wherever a copy of it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import date
from enum import Enum
from typing import Any
from uuid import UUID

from eventsourcing.persistence import StoredEvent
from eventsourcing.utils import get_topic
from sqlalchemy.orm import Session

from archive.manifest import WHOLE_NUMBER_MAX, canonical
from ledger.application import Ledger
from ledger.database import rows
from ledger.event_store import EVENTS_TABLE

# What the library keeps of an aggregate for itself; id and version stand in the line by their own names.
INTERNAL = frozenset({"_id", "_version", "_pending_events"})


def snapshot_line(ledger: Ledger, session: Session, aggregate_id: UUID, until: int) -> bytes:
    """An aggregate as it stood at a position of the log, as canonical JSON on a line."""
    aggregate: Any = None
    for row in rows(
        session,
        f"SELECT originator_id, originator_version, topic, state FROM {EVENTS_TABLE}"
        " WHERE originator_id = :id AND id <= :until ORDER BY originator_version",
        id=aggregate_id,
        until=until,
    ):
        stored = StoredEvent(row.originator_id, row.originator_version, row.topic, bytes(row.state))
        event: Any = ledger.mapper.to_domain_event(stored)  # the mapper opens no envelope
        aggregate = event.mutate(aggregate)
    assert aggregate is not None, f"{aggregate_id} has no event up to {until}"
    values = {
        "id": str(aggregate.id),
        "version": aggregate.version,
        "topic": get_topic(type(aggregate)),
        "state": {name: plain(value) for name, value in vars(aggregate).items() if name not in INTERNAL},
    }
    return canonical(values) + b"\n"


def plain(value: Any) -> Any:
    """A value as canonical JSON has it. A mapping whose names are no ASCII becomes a list of pairs."""
    found: Any
    match value:
        case Enum():
            found = value.value
        case int() if abs(value) > WHOLE_NUMBER_MAX:
            found = str(value)
        case None | bool() | int() | str():
            found = value
        case UUID():
            found = str(value)
        case date():  # and instants
            found = value.isoformat()
        case Mapping():
            found = _mapping(value)
        case Set():
            found = sorted(plain(each) for each in value)
        case Sequence():
            found = [plain(each) for each in value]
        case _:
            assert is_dataclass(value), f"{type(value).__name__} has no form in a snapshot"
            found = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return found


def _mapping(value: Mapping[Any, Any]) -> Any:
    named = {str(name): plain(each) for name, each in value.items()}
    return named if all(name.isascii() for name in named) else [[name, named[name]] for name in sorted(named)]
