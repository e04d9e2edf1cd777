"""Dead letters: what RabbitMQ gave up on is written down in the log, once, and then taken from its queue.

Rules:
1. A dead letter is taken from the queue only when its event is committed; written twice, it is one event.
2. Nothing of it is trusted: it may be no message of ours. Only names and a digest go into the log, cut short.
3. It changes nothing else. The work behind it is due again by itself, and ends by its own count of attempts.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventsourcing.persistence import IntegrityError
from kombu import Connection, Consumer, Message
from kombu.exceptions import OperationalError as BrokerError

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import unavailable_as_error
from ledger.domain.base import Stamp
from ledger.domain.dead_letter import DeadLetter
from ledger.errors import PartUnavailableError
from ledger.failpoints import failpoint
from ledger.settings import Settings
from workers.queues import dead_letter_queue

log = logging.getLogger(__name__)

ACTOR = "dispatcher"
NAME_CHARACTERS_MAX = 100
WAIT_SECONDS = 1.0
PAUSE_SECONDS = 5.0
PREFETCHED = 10


class DeadLetters:
    """Follows the dead-letter queue of a RabbitMQ."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger = ledger
        self._broker_url = settings.broker_url.get_secret_value()
        self._heartbeat_seconds = settings.broker_heartbeat_seconds

    def run(self, stop: threading.Event) -> None:
        """Write dead letters down until told to stop."""
        while not stop.is_set():
            connection = Connection(self._broker_url, heartbeat=self._heartbeat_seconds, connect_timeout=4)
            errors: tuple[type[BaseException], ...] = (PartUnavailableError, BrokerError, *connection.connection_errors)
            try:
                connection.connect()
                self._consume(connection, stop)
            except errors as error:
                log.warning("dead letters wait: %s", error, extra={"action": "dead_letters_wait"})
                stop.wait(PAUSE_SECONDS)
            finally:
                connection.collect()

    def _consume(self, connection: Connection, stop: threading.Event) -> None:
        with Consumer(
            connection, queues=[dead_letter_queue()], on_message=self._take, prefetch_count=PREFETCHED, accept=["json"]
        ):
            while not stop.is_set():
                with suppress(TimeoutError):
                    connection.drain_events(timeout=WAIT_SECONDS)
                connection.heartbeat_check()

    def _take(self, message: Message) -> None:
        letter = _letter(message)
        try:
            with unavailable_as_error():
                self._ledger.save(letter)
            telemetry.DEAD_LETTERS.add(1, {"queue": letter.queue})
            log.error(
                "a message was given up by the broker: %s",
                letter.reason,
                extra={"action": "dead_letter_recorded", "queue": letter.queue, "dead_letter_id": str(letter.id)},
            )
        except IntegrityError:
            log.info("a dead letter was recorded before", extra={"action": "dead_letter_known"})
        failpoint("dead_letter_recorded")
        message.ack()


def _letter(message: Message) -> DeadLetter:
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    headers: dict[str, Any] = message.headers or {}
    deaths = headers.get("x-death")
    death: dict[str, Any] = deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}
    sha256 = hashlib.sha256(body).hexdigest()
    task_id = (message.properties or {}).get("correlation_id") or ""
    return DeadLetter.record(
        Stamp(datetime.now(UTC), ACTOR, str(task_id)[:NAME_CHARACTERS_MAX]),
        message=f"{sha256} {task_id} {death.get('time')} {death.get('count')}",
        queue=_name(death.get("queue")) or "unknown",
        reason=_name(death.get("reason")) or "unknown",
        task=_name(headers.get("task")),
        job_id=_job_id(headers.get("kwargsrepr")),
        sha256=sha256,
    )


def _name(value: Any) -> str | None:
    return str(value)[:NAME_CHARACTERS_MAX] if isinstance(value, str) else None


def _job_id(arguments: Any) -> str | None:
    """The job that a message of ours is about, from Celery's own description of its arguments."""
    if not isinstance(arguments, str) or "'job_id': '" not in arguments:
        return None
    found = arguments.split("'job_id': '", 1)[1][:36]
    try:
        return str(UUID(found))
    except ValueError:
        return None
