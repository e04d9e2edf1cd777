"""What the tests with real services share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from ledger import blobs_s3
from ledger.application import Ledger
from tests.integration.place import running_ledger


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """A ledger on a PostgreSQL of the module's own, with every schema that workers use."""
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    """A server that speaks S3, on the loopback address."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an operator sets for a bucket that is not Amazon's."""
    values = {
        "AWS_ENDPOINT_URL_S3": s3_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    # A test need not wait for five attempts.
    monkeypatch.setattr(blobs_s3, "CONFIG", Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 1}))
