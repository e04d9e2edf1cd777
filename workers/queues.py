"""The queues of the broker, and how messages are sent to them.

Rules:
1. Work on files of one chunk has a queue of its own, so that one huge file never starves small ones. What operators
   ask for has a third.
2. On RabbitMQ queues are quorum queues. A message that was delivered `deliveries_max` times, or that no worker
   understands, goes to the dead-letter queue, where `workers.dead_letters` writes it down.
3. A message counts as sent when the broker has confirmed it and found a queue for it, within a time limit. Nobody
   sends but the dispatcher: a broker that blocks its publishers stops no door.
"""

from __future__ import annotations

from typing import Any

from kombu import Exchange, Queue

from ledger.settings import Settings

SMALL = "ledger.small"
LARGE = "ledger.large"
OPERATOR = "ledger.operator"
DEAD = "ledger.dead"
WORK_QUEUES = (SMALL, LARGE, OPERATOR)


def is_rabbitmq(settings: Settings) -> bool:
    """Whether the broker is RabbitMQ, and not the Valkey of an embedded ledger."""
    return settings.broker_url.get_secret_value().startswith("amqp")


def queue_of(chunks: int) -> str:
    """The queue for work on a file of so many chunks."""
    return SMALL if chunks <= 1 else LARGE


def exchange(settings: Settings) -> Exchange:
    """Where messages are sent; each carries the name of its queue."""
    return Exchange("ledger", type="topic" if is_rabbitmq(settings) else "direct", durable=True)


def work_queues(settings: Settings) -> tuple[Queue, ...]:
    """The queues that workers consume."""
    # Without reject-publish RabbitMQ cannot promise that a dead letter arrives.
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": settings.deliveries_max,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
    }
    where = exchange(settings)
    return tuple(
        Queue(name, where, routing_key=name, queue_arguments=arguments if is_rabbitmq(settings) else None)
        for name in WORK_QUEUES
    )


def dead_letter_queue() -> Queue:
    """Where RabbitMQ puts what no worker could take."""
    return Queue(
        DEAD, Exchange(DEAD, type="fanout", durable=True), durable=True, queue_arguments={"x-queue-type": "quorum"}
    )


def connection_options(settings: Settings) -> dict[str, Any]:
    """What makes rule 3 true for the connection that messages are sent through."""
    if not is_rabbitmq(settings):
        return {}
    # The limit of `apply_async` is for confirms only; a declaration, too, may find nobody who answers.
    return {"confirm_publish": True, "read_timeout": settings.publish_seconds_max}


def publish_options(settings: Settings) -> dict[str, Any]:
    """What makes rule 3 true for `apply_async`; Valkey stores a message or says that it cannot."""
    if not is_rabbitmq(settings):
        return {"retry": False}
    return {"retry": False, "mandatory": True, "confirm_timeout": settings.publish_seconds_max}
