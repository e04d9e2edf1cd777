"""The Celery application: `celery --app workers.app worker`.

The broker is a hint (see `workers.dispatcher`), so tasks keep no results unless operators watch them (see
`workers.results`), are acknowledged late, and are never retried by Celery: PostgreSQL knows what is due. This module
is a process's edge and reads the settings.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_init, worker_process_init, worker_process_shutdown
from opentelemetry.instrumentation.celery import CeleryInstrumentor

from ledger import failpoints, telemetry
from ledger.settings import Settings
from ledger.subject_keys import MasterKeyError, SubjectKeys
from workers.queues import SMALL, exchange, is_rabbitmq, work_queues
from workers.results import result_settings


def configured(settings: Settings) -> Celery:
    """The application, for the broker that the settings name."""
    application = Celery("ledger", broker=settings.broker_url.get_secret_value())
    application.conf.update(
        include=["workers.tasks"],
        task_queues=work_queues(settings),
        task_default_queue=SMALL,
        task_default_exchange=exchange(settings).name,
        task_default_exchange_type=exchange(settings).type,
        task_default_routing_key=SMALL,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        # A child that is at something for longer is killed; its lease then runs out, and the attempt counts.
        task_annotations={
            "ledger.plan": {"time_limit": settings.plan_seconds_max},
            "ledger.load": {"time_limit": settings.load_seconds_max},
            "ledger.rebuild": {"time_limit": settings.operator_seconds_max},
            "ledger.verify": {"time_limit": settings.operator_seconds_max},
            "ledger.close_year": {"time_limit": settings.operator_seconds_max},
            "ledger.archive_year": {"time_limit": settings.operator_seconds_max},
            "ledger.restore_year": {"time_limit": settings.operator_seconds_max},
            "ledger.hold_year": {"time_limit": settings.operator_seconds_max},
            "ledger.post_adjustment": {"time_limit": settings.operator_seconds_max},
            "ledger.replay": {"time_limit": settings.operator_seconds_max},
        },
        worker_prefetch_multiplier=1,
        worker_max_tasks_per_child=500,
        worker_max_memory_per_child=400_000,
        # A child waits for PostgreSQL before it reports; killed for that, it would begin to wait anew.
        worker_proc_alive_timeout=60,
        worker_soft_shutdown_timeout=10,
        worker_enable_soft_shutdown_on_idle=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_send_sent_event=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=4,
        broker_heartbeat=settings.broker_heartbeat_seconds,
        broker_pool_acquire_timeout=settings.publish_seconds_max,
        # Nothing is confirmed to a worker: it would wait for that, and take no work, while RabbitMQ blocks publishers.
        broker_transport_options={} if is_rabbitmq(settings) else {"visibility_timeout": 3600},
        **result_settings(settings),
    )
    return application


app = configured(Settings())


@setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Connecting to this signal keeps Celery from replacing the process's logging."""
    telemetry.configure("worker", Settings())


@worker_init.connect
def _refuse_without_a_master_key(**_: Any) -> None:
    try:
        SubjectKeys(Settings().master_key())
    except MasterKeyError as error:
        raise SystemExit(str(error)) from None  # Celery would log any other error, and go on


@worker_process_init.connect
def _enter_the_workshop(**_: Any) -> None:
    # After the fork: exporters have threads, and connections cannot be shared.
    from workers import tasks

    settings = Settings()
    telemetry.configure("worker", settings)
    failpoints.use(settings.failpoints)
    CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]
    tasks.enter(settings)


@worker_process_shutdown.connect
def _leave_the_workshop(**_: Any) -> None:
    telemetry.flush()
