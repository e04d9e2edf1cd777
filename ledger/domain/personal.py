"""Personal fields: what an event says of somebody, and of whom.

Rules:
1. An event's class declares its personal fields in `PERSONAL`: FIELD → whose it is. A field is a text, or is not there;
   `reading.member` is the `member` in the dictionary `reading`.
2. Whose it is is a subject, `kind:id`: a job's file and what is told of it (`job:`), or whoever acts (`actor:`).
   It follows from the event's other fields, so that nothing stored can claim another one.
3. Personal fields are stored under a key of their subject (`ledger.envelope`). Once that is destroyed, all of them
   read `ERASED`, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from uuid import UUID

ERASED = "(erased)"

# Of whom an event says something: the subject.
SubjectOf = Callable[[Any], str]
Personal = Mapping[str, SubjectOf]
AnyEvent = TypeVar("AnyEvent")


def job_subject(job_id: UUID) -> str:
    """The subject of what is said of one job's file."""
    return f"job:{job_id}"


def actor_subject(actor: str) -> str:
    """The subject of what is said of somebody who acts; `actor` is the pseudonym that events name them by."""
    return f"actor:{actor}"


def of_its_job(event: Any) -> str:
    """For `PERSONAL`: the event is one of a job's, and says something of its file."""
    return job_subject(event.originator_id)


def plain_before(state: dict[str, Any]) -> None:
    """The upcast of a version whose personal fields were stored as they are: they are read as ever."""


def personal_values(event: Any) -> Iterator[tuple[str, str, Any]]:
    """Each personal field that an event has, its subject, and what stands there."""
    for field, subject_of in event.PERSONAL.items():
        value = field_of(vars(event), field)
        if value is not None:
            yield field, subject_of(event), value


def with_values(event: AnyEvent, values: Mapping[str, Any]) -> AnyEvent:
    """A copy of an event with other values in some of its personal fields."""
    state = dict(vars(event))
    for field, value in values.items():
        name, _, inner = field.partition(".")
        state[name] = {**state[name], inner: value} if inner else value
    copy = object.__new__(type(event))
    vars(copy).update(state)
    return copy


def field_of(state: Mapping[str, Any], field: str) -> Any:
    """What stands in a personal field of an event's state, None if nothing does."""
    name, _, inner = field.partition(".")
    value = state.get(name)
    return value.get(inner) if inner and isinstance(value, dict) else None if inner else value
