"""What a ledger tells over OTLP while it loads a file: one trace from the door to the last row, metrics, and logs.

The receiver is the test itself. A file's own data must be in none of it, nor its name.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ledger import telemetry
from tests.integration.rabbitmq import running_rabbitmq
from tests.stack import Stack, open_folder
from tests.waiting import wait_until

ROWS = 3_000
MARKER = "tulip4711"  # a value in the file, and in its name; it must not be told
WAIT_SECONDS_MAX = 60.0
MESSAGES: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}
METRICS = {
    "filejob.received": "{file}",
    "filejob.received_bytes": "By",
    "filejob.rows_loaded": "{row}",
    "work.duration_seconds": "s",
    "queue.wait_seconds": "s",
    "projection.lag_events": "{event}",
}


@dataclass
class Told:
    """One span, metric or log record, and the service and the process of it that told it."""

    service: str
    instance: str
    item: Any


@dataclass
class Receiver:
    """Keeps everything that is sent to it over OTLP."""

    requests: list[tuple[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    url: str = ""

    def take(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        self.requests.append((path, MESSAGES[path].FromString(body)))

    def spans(self) -> list[Told]:
        return self._items("/v1/traces", "resource_spans", "scope_spans", "spans")

    def metrics(self) -> list[Told]:
        return self._items("/v1/metrics", "resource_metrics", "scope_metrics", "metrics")

    def log_records(self) -> list[Told]:
        return self._items("/v1/logs", "resource_logs", "scope_logs", "log_records")

    def trace(self, trace_id: str) -> list[Span]:
        return [told.item for told in self.spans() if told.item.trace_id.hex() == trace_id]

    def _items(self, path: str, resources: str, scopes: str, items: str) -> list[Told]:
        return [
            Told(of["service.name"], of["service.instance.id"], item)
            for received_path, message in list(self.requests)
            if received_path == path
            for resource in getattr(message, resources)
            for of in [attributes(resource.resource)]
            for scope in getattr(resource, scopes)
            for item in getattr(scope, items)
        ]


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.take(self.path, gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Story:
    """A file was loaded, and everything that was told about it has arrived."""

    receiver: Receiver
    stack: Stack
    task: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]

    @property
    def trace_id(self) -> str:
        return str(self.events[0][1]["traceparent"]).split("-")[1]

    @property
    def spans(self) -> list[Span]:
        return self.receiver.trace(self.trace_id)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]


@contextmanager
def running_stack(receiver: Receiver, settings: dict[str, str]) -> Iterator[Stack]:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_BLRP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "LEDGER_CHUNK_BYTES": "20000",
        **settings,
    }
    with open_folder() as folder:
        stack = Stack(folder / "home", environment)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


@pytest.fixture(scope="module", params=["valkey", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A file of several chunks, loaded over each broker in turn."""
    folder = tmp_path_factory.mktemp("telemetry")
    with running_receiver() as receiver:
        if request.param == "valkey":
            with running_stack(receiver, {}) as stack:
                yield load(stack, receiver, folder)
        else:
            with (
                running_rabbitmq() as node,
                running_stack(receiver, {"CELERY_BROKER_URL": node.url}) as stack,
            ):
                yield load(stack, receiver, folder)


def load(stack: Stack, receiver: Receiver, folder: Path) -> Story:
    path = folder / f"{MARKER}.csv"
    lines = (f"{number},2026-04-{1 + number % 30:02},{MARKER}x{number}\n" for number in range(ROWS))
    path.write_text("number,paid_on,text\n" + "".join(lines))
    [task] = stack.json("load", str(path), "--dataset", "payments", "--wait")
    stack.json("jobs", "show", task["task_id"])
    assert (task["status"], task["rows_loaded"]) == ("Completed", ROWS)
    assert task["chunks_total"] >= 2
    statement = (
        "SELECT topic, convert_from(state, 'UTF8')::json FROM ledger.stored_events"
        " WHERE originator_id = %s ORDER BY originator_version"
    )
    found = Story(receiver, stack, task, stack.sql(statement, task["task_id"]))
    refuse_a_file(stack, folder)
    wait_until(lambda: complete(found), lambda: f"not everything arrived:\n{shape(found.spans)}")
    return found


def complete(story: Story) -> bool:
    """Everything of the trace that comes last has arrived, and every metric."""
    consumers = len(story.named("run/ledger.load")) >= story.task["chunks_total"]
    names = {told.item.name for told in story.receiver.metrics()}
    server = any(span.kind == Span.SPAN_KIND_SERVER for span in story.spans)
    logged = {attributes(told.item).get("action") for told in story.receiver.log_records()}
    return consumers and server and set(METRICS) <= names and "file_failed" in logged


def refuse_a_file(stack: Stack, folder: Path) -> None:
    """A file that fails: what PostgreSQL complains about is data, too."""
    path = folder / f"{MARKER}-refused.csv"
    path.write_text(f"number,paid_on,text\n{MARKER},2026-04-01,text\n")
    result = stack.run("load", str(path), "--dataset", "payments", "--wait")
    assert result.returncode != 0
    assert "record 1 (line 2)" in result.stderr, "the sender is told where"


def attributes(item: Any) -> dict[str, Any]:
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in item.attributes}


def shape(spans: list[Span]) -> str:
    """The trace as a tree, for a failing test."""
    ids = {span.span_id for span in spans}
    lines: list[str] = []

    def show(parent: Span | None, depth: int) -> None:
        for span in sorted(spans, key=lambda span: span.start_time_unix_nano):
            if span.parent_span_id == parent.span_id if parent else span.parent_span_id not in ids:
                lines.append("  " * depth + f"{Span.SpanKind.Name(span.kind)[10:]} {span.name}")
                show(span, depth + 1)

    show(None, 0)
    return "\n".join(lines)


def test_every_span_of_a_file_is_in_one_trace_with_one_root(story: Story) -> None:
    ids = {span.span_id for span in story.spans}
    assert len(ids) == len(story.spans)
    [root] = [span for span in story.spans if not span.parent_span_id]
    assert [span.name for span in story.spans if span.parent_span_id and span.parent_span_id not in ids] == []
    assert (root.name, root.kind) == ("PUT /api/v1/files/{name:path}", Span.SPAN_KIND_SERVER)


def test_the_trace_leads_from_the_door_to_every_chunk(story: Story) -> None:
    spans = {span.span_id: span for span in story.spans}

    def path_to(span: Span) -> list[str]:
        parent = spans.get(span.parent_span_id)
        kind = Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_")
        return [*(path_to(parent) if parent else []), span.name if kind == "INTERNAL" else f"{kind} {span.name}"]

    found = {" > ".join(path_to(span)) for span in story.spans}
    door = "SERVER PUT /api/v1/files/{name:path}"
    planning = f"{door} > filejob.receive > PRODUCER apply_async/ledger.plan > CONSUMER run/ledger.plan"
    loading = f"{planning} > filejob.plan > PRODUCER apply_async/ledger.load > CONSUMER run/ledger.load"
    expected = {
        f"{door} > file.store",
        f"{planning} > queue.wait",
        f"{planning} > filejob.plan > events.append",
        f"{loading} > queue.wait",
        f"{loading} > chunk.load > chunk.copy",
        f"{loading} > chunk.load > events.append",
    }
    assert expected <= found, shape(story.spans)
    chunks_total = story.task["chunks_total"]
    for name in ("apply_async/ledger.load", "run/ledger.load", "chunk.load"):
        assert len(story.named(name)) == chunks_total, name
    numbers = [attributes(span)[telemetry.CHUNK_NUMBER] for span in story.named("chunk.load")]
    assert sorted(numbers) == list(range(chunks_total))


def test_the_services_tell_of_their_databases(story: Story) -> None:
    systems = {(told.service, attributes(told.item).get("db.system")) for told in story.receiver.spans()}
    sql = {service for service, system in systems if system == "postgresql"}
    assert sql == {"ledger-api", "ledger-worker", "ledger-dispatcher", "ledger-projector", "ledger-sealer"}
    assert {service for service, system in systems if system == "mongodb"} == {"ledger-api", "ledger-projector"}
    batches = [told.item for told in story.receiver.spans() if told.item.name == telemetry.SPAN_PROJECT]
    assert batches
    assert {attributes(span)[telemetry.VIEW] for span in batches} == {"status", "trail"}


def test_the_spans_of_the_work_say_what_they_did(story: Story) -> None:
    [plan] = story.named("filejob.plan")
    assert attributes(plan)[telemetry.CHUNK_COUNT] == story.task["chunks_total"]
    assert attributes(plan)[telemetry.JOB_ID] == story.task["task_id"]
    rows = [attributes(span).get(telemetry.CHUNK_ROWS, 0) for span in story.named("chunk.copy")]
    assert sum(rows) == ROWS
    for wait in story.named("queue.wait"):
        assert wait.end_time_unix_nano >= wait.start_time_unix_nano
        assert attributes(wait)[telemetry.STAGE] in ("plan", "load")


def test_every_stored_event_belongs_to_the_trace(story: Story) -> None:
    assert len(story.events) == 3 + story.task["chunks_total"]
    spans = {span.span_id.hex(): span.name for span in story.spans}
    for topic, state in story.events:
        _, trace_id, span_id, _ = state["traceparent"].split("-")
        assert trace_id == story.trace_id
        assert spans[span_id] in ("filejob.receive", "filejob.plan", "chunk.load"), topic


def test_every_metric_arrives_with_its_unit(story: Story) -> None:
    units = {told.item.name: told.item.unit for told in story.receiver.metrics()}
    assert {name: units.get(name) for name in METRICS} == METRICS
    stages = {
        attributes(point)["stage"]
        for told in story.receiver.metrics()
        if told.item.name == "work.duration_seconds"
        for point in told.item.histogram.data_points
    }
    assert stages == {"plan", "load"}


def test_what_processes_count_adds_up(story: Story) -> None:
    def total(metric: str) -> int:
        latest = {
            told.instance: sum(point.as_int for point in told.item.sum.data_points)
            for told in story.receiver.metrics()
            if told.item.name == metric
        }
        return sum(latest.values())

    wait_until(lambda: total("filejob.rows_loaded") == ROWS, lambda: str(total("filejob.rows_loaded")))
    wait_until(lambda: total("filejob.received") == 2, lambda: str(total("filejob.received")))
    worker_spans = {told.instance for told in story.receiver.spans() if told.service == "ledger-worker"}
    tasks = {
        told.instance: attributes(told.item)["filejob.chunk.number"]
        for told in story.receiver.spans()
        if told.item.name == "chunk.load"
    }
    assert set(tasks) <= worker_spans
    assert len(worker_spans) == 2, "each worker process is known by an instance of its own"


def test_a_log_record_leads_to_its_trace(story: Story) -> None:
    records = [told.item for told in story.receiver.log_records()]
    [refused] = [record for record in records if attributes(record).get("action") == "file_failed"]
    trace_id = refused.trace_id.hex()
    assert trace_id not in (story.trace_id, "")
    wait_until(
        lambda: refused.span_id in {span.span_id for span in story.receiver.trace(trace_id)},
        lambda: "the span of the log record does not arrive",
    )


def test_a_log_line_leads_to_its_trace(story: Story) -> None:
    lines = [
        json.loads(line)
        for path in (story.stack.home / "logs").glob("*.log")
        for line in path.read_text().splitlines()
        if line.startswith("{")
    ]
    [refused] = [line for line in lines if line.get("action") == "file_failed"]
    [record] = [
        told.item for told in story.receiver.log_records() if attributes(told.item).get("action") == "file_failed"
    ]
    assert (refused["trace_id"], refused["span_id"]) == (record.trace_id.hex(), record.span_id.hex())
    assert {"time", "level", "logger", "message"} <= set(refused)
    assert all(re.fullmatch("0|[0-9a-f]{32}", line["trace_id"]) for line in lines)


def test_neither_data_nor_the_name_of_a_file_is_told(story: Story) -> None:
    told = [body for body in story.receiver.bodies if MARKER.encode() in body]
    assert told == []
    logs = [*(story.stack.home / "logs").iterdir(), story.stack.home.with_suffix(".up.log")]
    assert len(logs) >= 6
    found = [(path.name, line) for path in logs for line in path.read_text().splitlines() if MARKER in line]
    assert found == []
