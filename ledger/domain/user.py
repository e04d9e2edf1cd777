"""User: a person whom an identity provider (OpenID Connect) vouches for.

Rules:
1. Every other event names a user by a pseudonym, `user:ID`. The ID is made from the provider and its name for the
   person (`iss` and `sub`), so it stays the same when the person's own name changes.
2. Who that is stands in `user.seen` alone: written when the ledger first sees the person, and again when the provider
   gives a name that it never gave before. So programs that show different tokens of one person do not fill the log.
3. Permissions are no part of it: they are in each token.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar
from uuid import UUID, uuid5

from eventsourcing.domain import CanInitAggregate, CanMutateAggregate
from eventsourcing.utils import get_topic

from ledger.domain.base import Aggregate, Stamp
from ledger.domain.personal import ERASED, Personal, actor_subject

USERS = UUID("e4b3c1de-0a57-4c8b-8a4f-63d0b9a5c7f1")
USER_ID_CHARACTERS = 16


def user_id_of(issuer: str, subject: str) -> str:
    """The pseudonym of a person: the beginning of a SHA-256, in hexadecimal digits."""
    return hashlib.sha256(f"{issuer}\n{subject}".encode()).hexdigest()[:USER_ID_CHARACTERS]


def user_uuid(user_id: str) -> UUID:
    """The id of the aggregate behind a pseudonym."""
    return uuid5(USERS, user_id)


class User(Aggregate):
    """A person who was seen."""

    TOPIC = "user"

    class Event(Aggregate.Event):
        """Something that is known of a user."""

    class Seen(CanInitAggregate[UUID], Event):
        """The person came, under this name: the first time, or no longer under the one before."""

        TOPIC = "user.seen"
        PERSONAL: ClassVar[Personal] = {"name": lambda event: actor_subject(f"user:{event.user_id}")}
        originator_topic: str
        user_id: str
        name: str

        def mutate(self, aggregate: Any) -> Any:
            """Begin with the person, or go on with the new name."""
            return super().mutate(None) if aggregate is None else CanMutateAggregate.mutate(self, aggregate)

        def apply(self, aggregate: User) -> None:
            """Know the name."""
            aggregate.names.append(self.name)

    def __init__(self, *, user_id: str) -> None:
        self.user_id = user_id
        self.names: list[str] = []

    @property
    def name(self) -> str:
        """The name that came last."""
        return self.names[-1]

    @classmethod
    def see(cls, stamp: Stamp, *, user_id: str, name: str) -> User:
        """Write down who comes for the first time."""
        return cls._create(cls.Seen, id=user_uuid(user_id), user_id=user_id, name=name, **stamp.fields())

    def see_again(self, stamp: Stamp, *, name: str) -> None:
        """Write down the name, if it is a new one and nobody's that was erased."""
        if name and name not in self.names and ERASED not in self.names:
            self.trigger_event(
                self.Seen, originator_topic=get_topic(type(self)), user_id=self.user_id, name=name, **stamp.fields()
            )
