"""The event store: the `eventsourcing` library on PostgreSQL, through SQLAlchemy.

Rules:
1. Events are appended under an EXCLUSIVE lock on their table, held only from the append to the commit. It makes
   the order of positions the order of commits, so that whoever follows the log can never pass over an event.
2. The wait for that lock has a limit: a stuck writer turns into an error, not into a stuck ledger.
3. A transaction that carries rows with its event passes its session to `save`; the event goes last.
"""

from __future__ import annotations

from typing import Any

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing_sqlalchemy.datastore import SQLAlchemyDatastore
from eventsourcing_sqlalchemy.factory import SQLAlchemyFactory
from eventsourcing_sqlalchemy.recorders import SQLAlchemyApplicationRecorder
from sqlalchemy import text
from sqlalchemy.orm import Session

SCHEMA = "ledger"
EVENTS_TABLE = f"{SCHEMA}.stored_events"
CHANNEL = "stored_events"
LOCK_SECONDS_MAX = "LOCK_SECONDS_MAX"


class LedgerRecorder(SQLAlchemyApplicationRecorder):
    """The library's recorder, with a limit on the wait for the table's lock."""

    lock_seconds_max = 30.0

    def _lock_table(self, session: Session) -> None:
        milliseconds = int(self.lock_seconds_max * 1000)
        session.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
        super()._lock_table(session)


class LedgerDatastore(SQLAlchemyDatastore):
    """The library's engine and sessions; a broken connection in the pool is replaced before use."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(
            **arguments,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=20,
            pool_timeout=10,
            connect_args={"connect_timeout": 5, "application_name": "ledger"},
        )


class LedgerFactory(SQLAlchemyFactory):
    """Builds the recorder of the ledger's one log."""

    datastore_class = LedgerDatastore
    application_recorder_class = LedgerRecorder

    def application_recorder(self) -> ApplicationRecorder:
        """The recorder, with its limit taken from the settings."""
        recorder = super().application_recorder()
        assert isinstance(recorder, LedgerRecorder)
        recorder.lock_seconds_max = float(self.env.get(LOCK_SECONDS_MAX) or 30.0)
        return recorder


def event_store_environment(database_url: str, lock_seconds_max: float) -> dict[str, str]:
    """What the library needs to know, in its own words."""
    return {
        "PERSISTENCE_MODULE": "ledger.event_store:LedgerFactory",
        "SQLALCHEMY_URL": database_url,
        "SQLALCHEMY_SCHEMA": SCHEMA,
        LOCK_SECONDS_MAX: str(lock_seconds_max),
        "CREATE_TABLE": "no",
    }
