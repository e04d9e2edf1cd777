"""Servers that speak S3, each on the loopback address: our strict double, moto, and MiniStack.

Rules:
1. None is skipped. MiniStack pins other versions than ours, so it is installed into an environment of its own, beside
   the one that the tests run in; where that cannot be done, its tests fail.
2. Buckets are made anew for each test, with Object Lock.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import boto3
from moto.server import ThreadedMotoServer

from api.embedded.home import LOOPBACK, free_port
from tests.strict_s3.server import StrictS3

REGION = "eu-central-1"
START_SECONDS_MAX = 60.0
MINISTACK_PACKAGES = Path(__file__).with_name("ministack.txt")


class S3Server(NamedTuple):
    """A server that runs: where, and our double itself if it is that."""

    url: str
    double: StrictS3 | None = None


def s3_environment_of(url: str) -> dict[str, str]:
    """What an operator sets for a bucket that is not Amazon's."""
    return {
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def new_bucket(*, is_locking: bool = True) -> str:
    """A bucket that nobody else uses, at the server that the environment names."""
    name = f"archive-{uuid4().hex[:12]}"
    client: Any = boto3.client("s3")
    client.create_bucket(
        Bucket=name,
        CreateBucketConfiguration={"LocationConstraint": REGION},
        ObjectLockEnabledForBucket=is_locking,
    )
    return name


@contextmanager
def strict_double() -> Iterator[S3Server]:
    """Our own double."""
    with StrictS3() as s3:
        yield S3Server(s3.url, s3)


@contextmanager
def moto() -> Iterator[S3Server]:
    """The server of moto."""
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield S3Server(f"http://{host}:{port}")
    server.stop()


@contextmanager
def ministack() -> Iterator[S3Server]:
    """MiniStack. It keeps nothing."""
    python = _ministack_python()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port(0)
        url = f"http://{LOOPBACK}:{port}"
        environment = {
            "PATH": os.defpath,
            "HOME": folder,
            "TMPDIR": folder,
            "BIND_HOST": LOOPBACK,  # it listens to the whole network without
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3",
        }
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", "ministack"], cwd=folder, env=environment, stdout=output, stderr=output
            )
        try:
            deadline = time.monotonic() + START_SECONDS_MAX
            while not _answers(url):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.05)
            yield S3Server(url)
        finally:
            process.kill()
            process.wait()


# NAME -> how it is started.
S3_SERVERS: dict[str, Callable[[], AbstractContextManager[S3Server]]] = {
    "double": strict_double,
    "moto": moto,
    "ministack": ministack,
}


def _ministack_python() -> Path:
    """The interpreter of MiniStack's environment, which is made the first time, by one process at a time."""
    place = Path(sys.prefix) / "ministack"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = place / "installed.txt"
        python = place / "bin" / "python"
        if not installed.exists() or installed.read_text() != MINISTACK_PACKAGES.read_text():
            venv.create(place, with_pip=True)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            result = subprocess.run(
                [*install, "--requirement", MINISTACK_PACKAGES], capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, f"MiniStack cannot be installed: {result.stderr}"
            installed.write_text(MINISTACK_PACKAGES.read_text())
    return python


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
