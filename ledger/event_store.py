"""The event store: the `eventsourcing` library on PostgreSQL, through SQLAlchemy.

Rules:
1. Events are appended under an EXCLUSIVE lock on their table, held only from the append to the commit. It makes
   the order of positions the order of commits, so that whoever follows the log can never pass over an event.
2. The wait for that lock has a limit: a stuck writer turns into an error, not into a stuck ledger. And whoever holds
   it and falls silent, because it was paused or cut off, is cut off by PostgreSQL before those who wait give up.
3. A silent connection is given up, by us and by PostgreSQL, when the other machine does not even acknowledge.
4. A transaction that carries rows with its event passes its session to `save`; the event goes last.
5. Connections work as a role that may add to the log and read it, and not change it (`roles.sql`).
"""

from __future__ import annotations

import json
from typing import Any

from eventsourcing.persistence import ApplicationRecorder
from eventsourcing_sqlalchemy.datastore import SQLAlchemyDatastore
from eventsourcing_sqlalchemy.factory import SQLAlchemyFactory
from eventsourcing_sqlalchemy.recorders import SQLAlchemyApplicationRecorder
from sqlalchemy import event, make_url, text
from sqlalchemy.orm import Session

SCHEMA = "ledger"
EVENTS_TABLE = f"{SCHEMA}.stored_events"
CHANNEL = "stored_events"
# The name of the ledger's own role, as SQL. Roles belong to a whole server, several databases of which may be ledgers;
# a name has 63 bytes at most.
ROLE = (
    "'ledger_app_' || CASE WHEN octet_length(current_database()::text) <= 52"
    " THEN current_database()::text ELSE md5(current_database()::text) END"
)
LOCK_SECONDS_MAX = "LOCK_SECONDS_MAX"
# Of the longest wait for the log's lock: how long its holder may be silent.
SILENT_SHARE = 0.5

# A machine that is gone says nothing, and a network that is cut says nothing either: without these, Linux waits two
# hours for an answer, and a quarter of an hour for an acknowledgement.
IDLE_SECONDS = 10
INTERVAL_SECONDS = 5
PROBES = 4
UNACKNOWLEDGED_MILLISECONDS_MAX = (IDLE_SECONDS + PROBES * INTERVAL_SECONDS) * 1000
# These are ours (libpq), the options are PostgreSQL's own, for its end of the same connection.
GIVE_UP_SILENCE = {
    "keepalives_idle": IDLE_SECONDS,
    "keepalives_interval": INTERVAL_SECONDS,
    "keepalives_count": PROBES,
    "tcp_user_timeout": UNACKNOWLEDGED_MILLISECONDS_MAX,
}
GIVE_UP_SILENCE_OPTIONS = (
    f"-c tcp_keepalives_idle={IDLE_SECONDS} -c tcp_keepalives_interval={INTERVAL_SECONDS}"
    f" -c tcp_keepalives_count={PROBES} -c tcp_user_timeout={UNACKNOWLEDGED_MILLISECONDS_MAX}"
)


class LedgerRecorder(SQLAlchemyApplicationRecorder):
    """The library's recorder, with limits on the wait for the table's lock and on the silence of its holder."""

    lock_seconds_max = 30.0

    def _lock_table(self, session: Session) -> None:
        milliseconds = int(self.lock_seconds_max * 1000)
        session.execute(text(f"SET LOCAL lock_timeout = {milliseconds}"))
        silent_milliseconds = max(1, int(milliseconds * SILENT_SHARE))  # 0 would be no limit
        session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = {silent_milliseconds}"))
        super()._lock_table(session)


class LedgerDatastore(SQLAlchemyDatastore):
    """The library's engine and sessions; a broken connection in the pool is replaced before use."""

    def __init__(self, **arguments: Any) -> None:
        # An operator's own options come last, and win: the driver takes one text for all of them.
        given = make_url(arguments["url"]).query.get("options", ())
        options = " ".join([GIVE_UP_SILENCE_OPTIONS, *([given] if isinstance(given, str) else given)])
        super().__init__(
            **arguments,
            pool_pre_ping=True,
            pool_size=5,
            max_overflow=20,
            pool_timeout=10,
            hide_parameters=True,  # an error that is logged must quote neither records nor names
            connect_args={"connect_timeout": 5, "application_name": "ledger", "options": options, **GIVE_UP_SILENCE},
        )
        event.listen(self.engine, "connect", _take_role)


def _take_role(connection: Any, _: object) -> None:
    """Have a new connection work as the ledger's own role, if its database has one and it may: see `roles.sql`."""
    with connection.cursor() as cursor:
        # In this order: before PostgreSQL 16 there is no right to SET, and then there is no such role.
        cursor.execute(
            "SELECT set_config('role', rolname, false) FROM pg_roles"
            f" WHERE CASE WHEN rolname = {ROLE} THEN pg_has_role(session_user, oid, 'SET') ELSE false END"
        )
    connection.commit()


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


def content_of(state: bytes) -> dict[str, Any] | None:
    """The content of an event as its row has it; None if that is no JSON object: somebody has changed it."""
    try:
        content = json.loads(state)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def event_store_environment(database_url: str, lock_seconds_max: float) -> dict[str, str]:
    """What the library needs to know, in its own words."""
    return {
        "PERSISTENCE_MODULE": "ledger.event_store:LedgerFactory",
        "SQLALCHEMY_URL": database_url,
        "SQLALCHEMY_SCHEMA": SCHEMA,
        LOCK_SECONDS_MAX: str(lock_seconds_max),
        "CREATE_TABLE": "no",
    }
