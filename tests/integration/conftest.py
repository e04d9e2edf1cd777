"""What the tests with real services share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.config import Config
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ledger import blobs_s3, telemetry
from ledger.application import Ledger
from tests.integration.place import running_ledger
from tests.s3_servers import moto, s3_environment_of


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """A ledger on a PostgreSQL of the module's own, with every schema that workers use."""
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of our own that this process ends from now on."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("ledger"))
    return exporter


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A server that speaks S3, on the loopback address."""
    with moto() as server:
        yield server.url


@pytest.fixture
def s3_environment(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator sets for a bucket that is not Amazon's."""
    for name, value in s3_environment_of(s3_url).items():
        monkeypatch.setenv(name, value)
    # A test need not wait for five attempts.
    monkeypatch.setattr(blobs_s3, "CONFIG", Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 1}))
