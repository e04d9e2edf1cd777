"""PostgreSQL, the part that every process shares: preparing schemas, locks by name, reading the log."""

from __future__ import annotations

import hashlib
import logging
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from typing import Any
from uuid import UUID

import psycopg2
from eventsourcing.persistence import PersistenceError
from psycopg2 import errors
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from ledger.errors import PartUnavailableError
from ledger.event_store import CHANNEL, ROLE

log = logging.getLogger(__name__)

PREPARE_LOCK = "ledger.prepare"


def prepare(engine: Engine, package: str) -> None:
    """Apply `schema.sql` of a package. Safe to call by several processes at once, any number of times.

    It is done as the login role; the ledger's own role then owns what was made, or may add to it (`roles.sql`).
    """
    with unavailable_as_error():
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(PREPARE_LOCK)})
            cursor: Any = connection.connection.cursor()  # the driver's own: for it a % in a text is only a %
            with cursor:
                cursor.execute("SET LOCAL ROLE NONE")
                cursor.execute(files(package).joinpath("schema.sql").read_text())
                cursor.execute(f"SELECT set_config('ledger.role', {ROLE}, true)")
                cursor.execute(files("ledger").joinpath("roles.sql").read_text())
        _take_role_in(engine)


def _take_role_in(engine: Engine) -> None:
    """Give up a pool's connections of before the role was there: those that come after them take it."""
    with engine.connect() as connection:
        if connection.exec_driver_sql("SELECT current_user = session_user").scalar_one():
            engine.dispose()


def lock_key(name: str) -> int:
    """A 64-bit key for PostgreSQL's advisory locks, from a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def lock(session: Session, name: str) -> None:
    """Hold the lock of that name until the transaction ends."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lock_key(name)})


def lock_shared(session: Session, name: str) -> None:
    """Keep whoever wants the lock of that name for himself alone from it until the transaction ends."""
    session.execute(text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": lock_key(name)})


def lock_at_once(session: Session, name: str) -> bool:
    """Hold the lock of that name until the transaction ends, if nobody has it; whether that is so."""
    return bool(session.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": lock_key(name)}).scalar())


def now(session: Session) -> datetime:
    """The time by PostgreSQL's clock, the only one that counts where processes have to agree."""
    found = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    assert isinstance(found, datetime)
    return found


def lock_job(session: Session, job_id: UUID) -> None:
    """Be the only one who decides about a job until the transaction ends."""
    lock(session, f"job {job_id}")


def is_unavailable(error: BaseException) -> bool:
    """Whether a database error means that PostgreSQL could not be reached, or went away."""
    cause = _behind(error)
    if isinstance(cause, PoolTimeoutError):
        return True
    if isinstance(cause, psycopg2.InterfaceError):
        return True
    if isinstance(cause, errors.IdleInTransactionSessionTimeout):  # a server's setting: it gave the connection up
        return True
    # Classes 08, 53 and 57: connection, resources, intervention; no code at all: the connection broke.
    return isinstance(cause, psycopg2.OperationalError) and (cause.pgcode or "08")[:2] in ("08", "53", "57")


@contextmanager
def unavailable_as_error() -> Iterator[None]:
    """Turn the database's absence into a `PartUnavailableError`; other errors pass."""
    try:
        yield
    except (DBAPIError, PoolTimeoutError, PersistenceError, psycopg2.Error) as error:
        if is_unavailable(error):
            reason = next(iter(str(_behind(error)).strip().splitlines()), type(error).__name__)
            raise PartUnavailableError(
                f"PostgreSQL cannot be reached ({reason}).",
                "Nothing was changed; try again when it is back.",
            ) from error
        raise


def _behind(error: BaseException) -> BaseException | None:
    """What the driver or the pool said, whichever libraries have wrapped it since."""
    if isinstance(error, PersistenceError):  # the event store's own reading and saving
        return None if error.__cause__ is None else _behind(error.__cause__)
    return error.orig if isinstance(error, DBAPIError) else error


class LogListener:
    """Waits for new events without asking again and again: PostgreSQL notifies at each commit.

    A lost connection only means that the wait lasts its full time; the caller looks at the log after each wait.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: Any = None

    def wait(self, seconds_max: float) -> None:
        """Return when an event was committed since the last call, or after `seconds_max`."""
        try:
            connection = self._connected()
            if not select.select([connection], [], [], seconds_max)[0]:
                return
            connection.poll()
            connection.notifies.clear()
        except Exception as error:  # the edge: any failure here is a slow wait, never a stop
            log.warning("cannot listen to the log: %s", error, extra={"action": "log_listen_failed"})
            self.close()
            time.sleep(min(seconds_max, 1.0))

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = None

    def _connected(self) -> Any:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            driver_connection = self._connection.driver_connection
            driver_connection.autocommit = True
            with driver_connection.cursor() as cursor:
                cursor.execute(f"LISTEN {CHANNEL}")
        return self._connection.driver_connection


def driver_cursor(session: Session) -> Any:
    """The driver's own cursor in a session's transaction: for it a % in a text is only a %, and it can COPY."""
    return session.connection().connection.cursor()


@contextmanager
def snapshot(engine: Engine) -> Iterator[Session]:
    """A session that sees one state of the database throughout."""
    seen_at_once = engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(seen_at_once) as session, session.begin():
        yield session


def rows(session: Session, statement: str, **parameters: Any) -> Sequence[Any]:
    """The rows of a SELECT, each with its columns as attributes."""
    return session.execute(text(statement), parameters).all()
