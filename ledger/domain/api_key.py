"""ApiKey: a credential for a program or a person, which the ledger gives out itself.

Rules:
1. The secret is 256 random bits, told once to whoever creates the key, and kept nowhere. The event has its SHA-256:
   of so many random bits nobody finds the secret again, so nothing slower is needed than that.
2. Role, datasets and expiry never change. Another key is another fact.
3. A key is revoked once, for a reason.
4. Whose it is can be erased (`ledger.domain.personal`).
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar
from uuid import UUID, uuid5

from eventsourcing.domain import CanInitAggregate

from ledger.domain.access import Role
from ledger.domain.base import Aggregate, Stamp
from ledger.domain.contract import check_dataset_name
from ledger.domain.personal import Personal, actor_subject
from ledger.domain.words import REASON_CHARACTERS_MAX
from ledger.errors import ConflictError, InvalidRequestError

KEYS = UUID("c7a8e0a4-52a9-4f0b-9d3c-1f6f0e6b7d42")
NAME_CHARACTERS_MAX = 200


def key_uuid(key_id: str) -> UUID:
    """The id of the aggregate behind the short id of a key."""
    return uuid5(KEYS, key_id)


class ApiKey(Aggregate):
    """A credential that the ledger gave out."""

    TOPIC = "key"

    class Event(Aggregate.Event):
        """Something that happened to a key."""

    class Created(CanInitAggregate[UUID], Event):
        """The key was given out. `name` says to whom, `datasets` what it sees: null for all of them."""

        TOPIC = "key.created"
        PERSONAL: ClassVar[Personal] = {"name": lambda event: actor_subject(f"key:{event.key_id}")}
        originator_topic: str
        key_id: str
        name: str
        role: str
        datasets: list[str] | None
        expires_at: str | None
        secret_sha256: str

    class Revoked(Event):
        """The key opens nothing any more."""

        TOPIC = "key.revoked"
        reason: str

        def apply(self, aggregate: ApiKey) -> None:
            """Remember who closed it, when and why."""
            aggregate.revoked_at = self.timestamp
            aggregate.revoked_by = self.actor
            aggregate.revoked_because = self.reason

    def __init__(
        self,
        *,
        key_id: str,
        name: str,
        role: str,
        datasets: list[str] | None,
        expires_at: str | None,
        secret_sha256: str,
        actor: str,
    ) -> None:
        self.key_id = key_id
        self.name = name
        self.role = Role(role)
        self.datasets = datasets
        self.expires_at = None if expires_at is None else datetime.fromisoformat(expires_at)
        self.secret_sha256 = secret_sha256
        self.created_by = actor
        self.revoked_at: datetime | None = None
        self.revoked_by: str | None = None
        self.revoked_because: str | None = None

    @classmethod
    def create(
        cls,
        key_id: str,
        stamp: Stamp,
        *,
        name: str,
        role: Role,
        datasets: list[str] | None,
        expires_at: datetime | None,
        secret_sha256: str,
    ) -> ApiKey:
        """Give out a key.

        Raises:
            InvalidRequestError: its name says nothing or cannot be shown, or its datasets cannot be.
        """
        if not name.strip() or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise InvalidRequestError(
                f"The name of a key has 1 to {NAME_CHARACTERS_MAX} visible characters.", "Say whose it is."
            )
        if datasets is not None:
            if not datasets:
                raise InvalidRequestError(
                    "A key for no dataset opens nothing.", "Name some, or leave them out for all."
                )
            for dataset in datasets:
                check_dataset_name(dataset)
        return cls._create(
            cls.Created,
            id=key_uuid(key_id),
            key_id=key_id,
            name=name.strip(),
            role=role.value,
            datasets=None if datasets is None else sorted(set(datasets)),
            expires_at=None if expires_at is None else expires_at.isoformat(),
            secret_sha256=secret_sha256,
            **stamp.fields(),
        )

    def revoke(self, stamp: Stamp, *, reason: str) -> None:
        """Close the key for ever.

        Raises:
            ConflictError: it is revoked already.
            InvalidRequestError: there is no reason.
        """
        if self.revoked_at is not None:
            raise ConflictError(
                f"Key {self.key_id} was revoked already, by {self.revoked_by}.",
                "It opens nothing; nothing is to be done.",
            )
        if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX:
            raise InvalidRequestError(
                f"A reason has 1 to {REASON_CHARACTERS_MAX} characters.", "Say why the key is revoked, for the record."
            )
        self.trigger_event(self.Revoked, reason=reason, **stamp.fields())
