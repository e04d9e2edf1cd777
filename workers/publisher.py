"""Sending messages: one connection to the broker, made when it is needed and given up at the first trouble."""

from __future__ import annotations

import time
from typing import Any

from celery import Task
from kombu import Connection, Producer, Queue
from kombu.exceptions import OperationalError as BrokerError

from ledger import telemetry
from ledger.errors import PartUnavailableError
from ledger.settings import Settings
from workers.app import app
from workers.queues import OPERATOR, connection_options, publish_options


class Publisher:
    """Sends messages to workers, each with its limit of time. Used by one thread."""

    def __init__(self, settings: Settings) -> None:
        self._options = publish_options(settings)
        self._connection_options = connection_options(settings)
        self._connection: Connection | None = None
        self._producer: Producer | None = None

    def send(self, task: Task[Any, Any], item: Any) -> None:
        """Send the message of one due item.

        Raises:
            PartUnavailableError: the broker is away, blocks, or has no queue for it. A later `send` connects and
                declares anew.
        """
        try:
            with telemetry.continued(item.traceparent):
                task.apply_async(
                    kwargs={
                        "job_id": str(item.job_id),
                        "chunk": item.chunk,
                        "published_at_seconds": time.time(),
                    },
                    queue=item.queue,
                    # Operators watch their tasks: one of theirs is known by the id that its request was answered with.
                    task_id=str(item.job_id) if item.queue == OPERATOR else None,
                    producer=self._connected(),
                    **self._options,
                )
        except self._errors() as error:
            raise self._away(error) from error

    def depth(self, queue: Queue) -> int:
        """How many messages wait in a queue, which is made if it is not there.

        Raises:
            PartUnavailableError: the broker is away.
        """
        try:
            channel: Any = self._connected().channel
            found = channel.queue_declare(
                queue.name, durable=True, exclusive=False, auto_delete=False, arguments=queue.queue_arguments
            )
        except self._errors() as error:
            raise self._away(error) from error
        return int(found.message_count)

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.collect()
        self._connection = self._producer = None

    def _away(self, error: BaseException) -> PartUnavailableError:
        self.close()
        return PartUnavailableError(
            f"The broker does not take messages ({type(error).__name__}: {error}).",
            "Nothing is lost: what is due is sent when it is back.",
        )

    def _connected(self) -> Producer:
        if self._producer is None:
            self._connection = app.connection_for_write(transport_options=self._connection_options)
            self._producer = app.amqp.Producer(self._connection, auto_declare=False)
        return self._producer

    def _errors(self) -> tuple[type[BaseException], ...]:
        connection = self._connection
        theirs = () if connection is None else (*connection.connection_errors, *connection.channel_errors)
        return (BrokerError, OSError, *theirs)
