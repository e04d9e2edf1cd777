"""OpenTelemetry: the one catalogue of names, and the set-up of a process.

Every span, metric and attribute of our own is a constant here; a unit stands last. Libraries' spans (HTTP, Celery,
SQLAlchemy, MongoDB) keep their own names. Nothing is exported unless the standard `OTEL_EXPORTER_OTLP_ENDPOINT`
(OTLP over HTTP) is set, but traces always exist, for every event stores the traceparent that it came from.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import context, metrics, trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.context import Context
from opentelemetry.instrumentation.logging import LoggingInstrumentor
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.instrumentation.pymongo import PymongoInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pythonjsonlogger.json import JsonFormatter
from sqlalchemy import Engine

from ledger.settings import Settings

SPAN_STORE = "file.store"
SPAN_RECEIVE = "filejob.receive"
SPAN_QUEUE_WAIT = "queue.wait"
SPAN_PLAN = "filejob.plan"
SPAN_LOAD = "chunk.load"
SPAN_CHECK = "chunk.check"
SPAN_COPY = "chunk.copy"
SPAN_APPEND = "events.append"
SPAN_PROJECT = "projection.batch"
SPAN_ARCHIVE_CLOSE = "archive.close"
SPAN_ARCHIVE_VERIFY_LOG = "archive.verify_log"
SPAN_ARCHIVE_PLAN = "archive.plan"
SPAN_ARCHIVE_BALANCE = "archive.balance"  # a table against the log
SPAN_ARCHIVE_WRITE = "archive.write"  # a part, into the spool folder
SPAN_ARCHIVE_TRY = "archive.try"  # a table, restored on trial
SPAN_ARCHIVE_PUT = "archive.put"  # a part, into the cold store
SPAN_ARCHIVE_MANIFEST = "archive.manifest"
SPAN_ARCHIVE_SIGN = "archive.sign"
SPAN_ARCHIVE_LOCK = "archive.lock"
SPAN_ARCHIVE_VERIFY = "archive.verify"
SPAN_ARCHIVE_DROP = "archive.drop"
SPAN_ARCHIVE_TELL_FILES = "archive.tell_files"
SPAN_RESTORE_ASK = "restore.ask"  # cold storage for copies of all parts
SPAN_RESTORE_COPY = "restore.copy"  # a part, into its table
SPAN_RESTORE_COMPARE = "restore.compare"  # a table with what was archived
SPAN_RESTORE_TELL_FILES = "restore.tell_files"

JOB_ID = "filejob.id"
JOB_DATASET = "filejob.dataset"
JOB_SIZE_BYTES = "filejob.size_bytes"
CHUNK_NUMBER = "filejob.chunk.number"
CHUNK_COUNT = "filejob.chunk.count"
CHUNK_BYTES = "filejob.chunk.bytes"
CHUNK_ROWS = "filejob.chunk.rows"
CHUNK_REJECTS = "filejob.chunk.rejects"
ATTEMPT = "filejob.attempt"
EVENT_COUNT = "events.count"
FISCAL_YEAR = "fiscal_year"
PART = "archive.part"
PART_COUNT = "archive.part.count"
PART_COUNT_READY = "archive.part.count_ready"
PART_BYTES = "archive.part.bytes"  # as they are kept: compressed
PART_TEXT_BYTES = "archive.part.text_bytes"
PART_ROWS = "archive.part.rows"
TABLE = "archive.table"
TABLE_ROWS = "archive.table.rows"
OUTCOME = "outcome"
REASON = "reason"
STAGE = "stage"
VIEW = "view"
LEVEL = "level"

_propagator = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("ledger")
_meter = metrics.get_meter("ledger")

FILES_RECEIVED = _meter.create_counter("filejob.received", "{file}", "Files that a door took")
BYTES_RECEIVED = _meter.create_counter("filejob.received_bytes", "By", "Bytes that a door took")
ROWS_LOADED = _meter.create_counter("filejob.rows_loaded", "{row}", "Rows committed to data tables")
ROWS_REJECTED = _meter.create_counter("filejob.rows_rejected", "{record}", "Records that their contract refused")
WORK_DURATION = _meter.create_histogram("work.duration_seconds", "s", "Time of one piece of work, by stage and outcome")
QUEUE_WAIT = _meter.create_histogram("queue.wait_seconds", "s", "Time from a message's publication to its start")
MESSAGES_REFUSED = _meter.create_counter("messages.refused", "{message}", "Messages that were not ours, by stage")
DEAD_LETTERS = _meter.create_counter("messages.dead", "{message}", "Messages that the broker gave up on")
ACCESS_DENIED = _meter.create_counter("access.denied", "{attempt}", "Attempts that were refused, by reason")
MAILS = _meter.create_counter(
    "mail.recipients", "{mail}", "Mails about failed files, by recipient and outcome (sent, refused)"
)
VERIFICATION_FINDINGS = _meter.create_gauge(
    "verification.findings", "{finding}", "What differed from what was sealed when it was last verified, by level"
)
SEALED = _meter.create_gauge("seal.events", "{event}", "Events that the last checkpoint stands for")
PROJECTION_LAG = _meter.create_gauge("projection.lag_events", "{event}", "Events in the log that the view lacks")


def configure(service: str, settings: Settings) -> None:
    """Set up logs, traces and metrics of this process. Call once, after any fork."""
    resource = Resource.create({"service.name": f"ledger-{service}", "service.namespace": "ledger"})
    tracer_provider = TracerProvider(resource=resource)
    handlers: list[logging.Handler] = [_json_handler()]
    if settings.otlp_endpoint:
        handlers.append(_export(resource, tracer_provider))
    trace.set_tracer_provider(tracer_provider)
    PymongoInstrumentor().instrument()
    # Without its own handler, which would send every record a second time.
    LoggingInstrumentor().instrument(inject_trace_context=True, enable_log_auto_instrumentation=False)
    logging.basicConfig(level=settings.log_level, handlers=handlers, force=True)
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)


def instrument_engine(engine: Engine) -> None:
    """Record a span for each statement of a database engine."""
    SQLAlchemyInstrumentor().instrument(engine=engine)


def flush() -> None:
    """Send what is still waiting to be exported, before the process ends."""
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider(), get_logger_provider()):
        force_flush = getattr(provider, "force_flush", None)
        if force_flush is not None:
            force_flush(5_000)


@contextmanager
def span(name: str, attributes: dict[str, Any] | None = None, traceparent: str | None = None) -> Iterator[trace.Span]:
    """A span of our own, under the current one or under the given traceparent.

    It tells only the kind of an error that ends it: the text of one may quote a record of the file.
    """
    parent = context_of(traceparent) if traceparent else None
    with _tracer.start_as_current_span(
        name, context=parent, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def record_queue_wait(published_at_seconds: float, now_seconds: float, stage: str) -> None:
    """Record, as a span and a metric, how long a message lay in the queue before the current work began."""
    waited_seconds = max(0.0, now_seconds - published_at_seconds)
    start = int(min(published_at_seconds, now_seconds) * 1e9)
    _tracer.start_span(SPAN_QUEUE_WAIT, start_time=start, attributes={STAGE: stage}).end(int(now_seconds * 1e9))
    QUEUE_WAIT.record(waited_seconds, {STAGE: stage})


def current_traceparent() -> str | None:
    """The W3C traceparent of the current span, None outside any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


def context_of(traceparent: str | None) -> Context:
    """The context to continue a stored traceparent in; the current one when there is none."""
    if traceparent is None:
        return context.get_current()
    return _propagator.extract({"traceparent": traceparent})


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Work inside the trace that a stored traceparent belongs to."""
    token = context.attach(context_of(traceparent))
    try:
        yield
    finally:
        context.detach(token)


def _export(resource: Resource, tracer_provider: TracerProvider) -> logging.Handler:
    """Send traces, metrics and logs by OTLP; the handler that takes the logs."""
    # Imported only here: they take a quarter of a second at the start of every process.
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    tracer_provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[reader]))
    logger_provider = LoggerProvider(resource=resource)
    logger_provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    set_logger_provider(logger_provider)
    return LoggingHandler(logger_provider=logger_provider)


def _json_handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}{otelTraceID}{otelSpanID}",
            style="{",
            rename_fields={
                "asctime": "time",
                "levelname": "level",
                "name": "logger",
                "otelTraceID": "trace_id",
                "otelSpanID": "span_id",
            },
        )
    )
    return handler
