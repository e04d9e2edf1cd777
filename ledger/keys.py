"""API keys: how one is written, given out, found and revoked.

Rules:
1. A key reads `lk_ID_SECRET`. The ID finds it in one step and is told in logs and events; the secret is 256 random
   bits and is told once.
2. A request is let in by a row of `ledger.api_keys`, looked up for every request: a key that is revoked, or has
   expired by PostgreSQL's clock, opens nothing from that moment on, in every process.
3. The row is written in the transaction of the event that it tells. `restore_keys` makes the rows say what the log
   says, whatever was done to them.
4. The last use of a key is a note beside the record: written at most once in `USE_SECONDS`, never by the request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import lock, now, rows
from ledger.domain.access import Role
from ledger.domain.api_key import ApiKey
from ledger.domain.base import Stamp
from ledger.errors import NotFoundError
from ledger.event_store import EVENTS_TABLE

SECRET_BYTES = 32
ID_BYTES = 6
KEY = re.compile(r"lk_(?P<key_id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)
USE_SECONDS = 60
KEYS_LOCK = "api keys"


class NewKey(NamedTuple):
    """A key as its creator gets it: the only time that its text is told."""

    key: ApiKey
    text: str


@dataclass(frozen=True)
class KnownKey:
    """A key as its row tells it, now. `is_used_again`: its last use was written down a while ago, or never."""

    role: Role
    datasets: frozenset[str] | None
    secret_sha256: bytes
    is_revoked: bool
    has_expired: bool
    is_used_again: bool

    def is_opened_by(self, secret: str) -> bool:
        """Whether that is its secret. Takes as long for any other."""
        return hmac.compare_digest(secret_digest(secret), self.secret_sha256)


@dataclass(frozen=True)
class ListedKey:
    """A key as the log tells it, with whether it has expired by now, and what its row adds to the record."""

    key: ApiKey
    has_expired: bool
    last_used_at: datetime | None


def secret_digest(secret: str) -> bytes:
    """What is kept of a secret: its SHA-256."""
    return hashlib.sha256(secret.encode()).digest()


def create_key(
    ledger: Ledger, stamp: Stamp, *, name: str, role: Role, datasets: list[str] | None, expires_in: timedelta | None
) -> NewKey:
    """Give out a key.

    Raises:
        InvalidRequestError: its name or its datasets cannot be.
    """
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    digest = secret_digest(secret)
    with ledger.transaction() as session:
        lock(session, KEYS_LOCK)
        expires_at = None if expires_in is None else now(session) + expires_in
        key = ApiKey.create(
            key_id,
            stamp,
            name=name,
            role=role,
            datasets=datasets,
            expires_at=expires_at,
            secret_sha256=digest.hex(),
        )
        _write(session, key)
        ledger.save(key, session=session)
    return NewKey(key, f"lk_{key_id}_{secret}")


def revoke_key(ledger: Ledger, key_id: str, stamp: Stamp, *, reason: str) -> ApiKey:
    """Close a key for ever.

    Raises:
        NotFoundError: there is no such key.
        ConflictError: it is revoked already.
    """
    with ledger.transaction() as session:
        lock(session, KEYS_LOCK)
        key = key_of(ledger, key_id)
        key.revoke(stamp, reason=reason)
        _write(session, key)
        ledger.save(key, session=session)
    return key


def key_of(ledger: Ledger, key_id: str) -> ApiKey:
    """The key of that id, as the log tells it.

    Raises:
        NotFoundError: there is none.
    """
    key = ledger.api_key(key_id)
    if key is None:
        raise NotFoundError(f"There is no key {key_id[:80]!r}.", "`ledger keys list` shows those there are.")
    return key


def list_keys(ledger: Ledger) -> list[ListedKey]:
    """All keys that were ever given out, as the log tells them, the first one first."""
    with ledger.transaction() as session:
        asked_at = now(session)
        used = {
            row.key_id: row.last_used_at for row in rows(session, "SELECT key_id, last_used_at FROM ledger.api_keys")
        }
        keys = _keys_in_log(ledger, session)
    return [
        ListedKey(key, key.expires_at is not None and key.expires_at <= asked_at, used.get(key.key_id)) for key in keys
    ]


def look_up(ledger: Ledger, key_id: str) -> KnownKey | None:
    """The key of that id, None if there is none. One indexed SELECT."""
    with ledger.transaction() as session:
        found = rows(
            session,
            "SELECT role, datasets, secret_sha256, revoked_at IS NOT NULL AS is_revoked,"
            " coalesce(expires_at <= clock_timestamp(), false) AS has_expired,"
            " coalesce(last_used_at < clock_timestamp() - make_interval(secs => :seconds), true) AS is_used_again"
            " FROM ledger.api_keys WHERE key_id = :key_id",
            key_id=key_id,
            seconds=USE_SECONDS,
        )
    for row in found:
        datasets = None if row.datasets is None else frozenset(row.datasets)
        return KnownKey(
            Role(row.role), datasets, bytes(row.secret_sha256), row.is_revoked, row.has_expired, row.is_used_again
        )
    return None


def write_uses(session: Session, key_ids: Collection[str]) -> None:
    """Write down that keys were used just now."""
    session.execute(
        text("UPDATE ledger.api_keys SET last_used_at = clock_timestamp() WHERE key_id = ANY(:key_ids)"),
        {"key_ids": list(key_ids)},
    )


def restore_keys(ledger: Ledger) -> int:
    """Make the rows say what the log says; how many keys there are. The last use of a key stays where it is known."""
    with ledger.transaction() as session:
        lock(session, KEYS_LOCK)
        keys = _keys_in_log(ledger, session)
        session.execute(
            text("DELETE FROM ledger.api_keys WHERE key_id <> ALL(:key_ids)"), {"key_ids": [key.key_id for key in keys]}
        )
        for key in keys:
            _write(session, key)
    return len(keys)


def keys_that_differ(ledger: Ledger) -> list[str]:
    """The ids of keys whose row says something else than the log, or that only one of both knows."""
    with ledger.transaction() as session:
        lock(session, KEYS_LOCK)
        found = rows(
            session,
            "SELECT key_id, role, datasets, expires_at, secret_sha256, revoked_at FROM ledger.api_keys",
        )
        keys = _keys_in_log(ledger, session)
    by_rows = {
        row.key_id: (row.role, row.datasets, row.expires_at, bytes(row.secret_sha256), row.revoked_at) for row in found
    }
    by_log = {
        key.key_id: (key.role.value, key.datasets, key.expires_at, bytes.fromhex(key.secret_sha256), key.revoked_at)
        for key in keys
    }
    return sorted(key_id for key_id in by_rows.keys() | by_log.keys() if by_rows.get(key_id) != by_log.get(key_id))


def _keys_in_log(ledger: Ledger, session: Session) -> list[ApiKey]:
    found = rows(
        session,
        f"SELECT convert_from(state, 'UTF8')::json ->> 'key_id' AS key_id FROM {EVENTS_TABLE}"
        " WHERE topic = 'key.created' ORDER BY id",
    )
    return [key_of(ledger, row.key_id) for row in found]


def _write(session: Session, key: ApiKey) -> None:
    session.execute(
        text(
            "INSERT INTO ledger.api_keys (key_id, role, datasets, expires_at, secret_sha256, revoked_at)"
            " VALUES (:key_id, :role, :datasets, :expires_at, :secret_sha256, :revoked_at)"
            " ON CONFLICT (key_id) DO UPDATE SET role = excluded.role, datasets = excluded.datasets,"
            " expires_at = excluded.expires_at, secret_sha256 = excluded.secret_sha256,"
            " revoked_at = excluded.revoked_at"
        ),
        {
            "key_id": key.key_id,
            "role": key.role.value,
            "datasets": key.datasets,
            "expires_at": key.expires_at,
            "secret_sha256": bytes.fromhex(key.secret_sha256),
            "revoked_at": key.revoked_at,
        },
    )
