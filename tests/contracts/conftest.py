"""What the contract suites of this folder run against: servers that speak MongoDB's protocol, and cold stores.

Servers that speak S3 are those of `tests.s3_servers`. Rules for the others, each a process of its own:
1. The embedded default, `nx-27017`, is never skipped: where its wheel is missing, the suites fail.
2. `SecantusDB` is GPL-2.0: it takes part where someone installed it, as a process, and is never imported.
3. `LEDGER_TEST_MONGODB_URL` adds a MongoDB that is already running. It is not killed; tests leave no database there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pymongo
import pytest
from botocore.exceptions import ClientError
from pymongo.database import Database
from pymongo.errors import PyMongoError

from api.embedded.home import LOOPBACK, free_port
from ledger.errors import LedgerError
from projections.view_store import Document, ViewStore, connect
from tests.cold_stores import DEVIATIONS
from tests.contracts.cold_places import Bucket, ColdPlace, bucket_place, folder_place
from tests.s3_servers import S3_SERVERS, S3Server, s3_environment_of

START_SECONDS_MAX = 60.0
MONGODB_URL = os.environ.get("LEDGER_TEST_MONGODB_URL")
SECANTUS = shutil.which("secantusd-py", path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
EMBEDDED = ["nx-27017", *(["secantusdb"] if SECANTUS else [])]
SERVERS = [*EMBEDDED, *(["mongod"] if MONGODB_URL else [])]


@dataclass
class ServerProcess:
    """A server on a folder and a port of its own, which can be killed and started again."""

    kind: str
    folder: Path
    port: int = field(default_factory=lambda: free_port(0))
    process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The server in the foreground, everything it writes inside `folder`."""
        where = ["--host", LOOPBACK, "--port", str(self.port)]
        if self.kind == "secantusdb":
            assert SECANTUS is not None
            # Without the flag it acknowledges what a kill then loses.
            return [SECANTUS, *where, "--storage-path", str(self.folder / "data"), "--sync-on-commit"]
        start = [sys.executable, "-c", "from nx_27017.nx_27017 import main; main()", *where]
        return [
            *start,
            "--data-dir",
            str(self.folder / "data"),
            "--pid-file",
            str(self.pid_file),
            "--log-file",
            os.devnull,
        ]

    @property
    def pid_file(self) -> Path:
        return self.folder / "server.pid"

    def url(self, database: str) -> str:
        """Where pymongo finds a database, with the patience of a busy machine."""
        options = "directConnection=true&serverSelectionTimeoutMS=5000&socketTimeoutMS=60000"
        return f"mongodb://{LOOPBACK}:{self.port}/{database}?{options}"

    def start(self) -> None:
        """Start and wait until a ping is answered."""
        self.pid_file.unlink(missing_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not answers(self.url("admin")):
            died = self.process.poll() is not None
            assert not died and time.monotonic() < deadline, (self.folder / "server.log").read_text()[-3000:]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End the process; without warning, unless told otherwise."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=60)


@pytest.fixture(scope="session", params=SERVERS)
def server_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """Each server in turn, as the URL of a database by name."""
    if request.param == "mongod":
        assert MONGODB_URL is not None
        base, _, options = MONGODB_URL.partition("?")
        root = base.rstrip("/") if base.count("/") == 2 else base.rpartition("/")[0]
        yield lambda name: f"{root}/{name}?{options}"
        return
    server = ServerProcess(request.param, tmp_path_factory.mktemp(request.param))
    server.start()
    yield server.url
    server.kill(signal.SIGTERM)


@pytest.fixture
def database_url(server_url: Callable[[str], str]) -> str:
    """The URL of a database that nobody else uses."""
    return server_url(f"test_{uuid.uuid4().hex[:12]}")


@pytest.fixture
def database(database_url: str) -> Iterator[Database[Document]]:
    """A database that nobody else uses, dropped afterwards."""
    database = connect(database_url)
    yield database
    database.client.drop_database(database.name)
    database.client.close()


@pytest.fixture
def store(database: Database[Document]) -> ViewStore:
    """The first generation of a view, prepared."""
    store = ViewStore(database, "status", 1)
    store.prepare()
    return store


@pytest.fixture(params=EMBEDDED)
def killable_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server for one test to kill and start again."""
    server = ServerProcess(request.param, tmp_path)
    server.start()
    yield server
    if server.process is not None and server.process.poll() is None:
        server.kill()


def answers(url: str) -> bool:
    """Whether a server answers a ping."""
    client: pymongo.MongoClient[Document] = pymongo.MongoClient(url, serverSelectionTimeoutMS=200)
    with suppress(PyMongoError):
        return bool(client.admin.command("ping")["ok"] == 1)
    client.close()
    return False


@pytest.fixture(scope="session")
def view_document() -> Callable[..., Document]:
    """Makes documents as the status view holds them."""

    def make(number: int, *, version: int = 1, **values: object) -> Document:
        return {
            "_id": str(uuid.UUID(int=number)),
            "version": version,
            "received_position": number,
            "dataset": "flights" if number % 3 else "invoices",
            "status": "Completed" if number % 2 else "Failed",
            **values,
        }

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Callable[[str], S3Server]]:
    """Each server that speaks S3 once, when it is first asked for."""
    with ExitStack() as running:
        yield cache(lambda kind: running.enter_context(S3_SERVERS[kind]()))


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a server the one that boto3 talks to."""

    def use(url: str) -> None:
        for name, value in s3_environment_of(url).items():
            monkeypatch.setenv(name, value)

    return use


@pytest.fixture(params=["folder", *S3_SERVERS])
def place(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    s3_server: Callable[[str], S3Server],
    s3_environment: Callable[[str], None],
) -> ColdPlace:
    """Each cold store in turn, empty; the tests of what a server does otherwise than S3 have to fail."""
    if request.param == "folder":
        return folder_place(tmp_path)
    expect_deviation(request)
    server = s3_server(request.param)
    s3_environment(server.url)
    return bucket_place(request.param, tmp_path, server.double)


@pytest.fixture(params=list(S3_SERVERS))
def bucket(
    request: pytest.FixtureRequest, s3_server: Callable[[str], S3Server], s3_environment: Callable[[str], None]
) -> Bucket:
    """A bucket of each server in turn; the tests of what it does otherwise than S3 have to fail."""
    expect_deviation(request)
    s3_environment(s3_server(request.param).url)
    return Bucket()


def expect_deviation(request: pytest.FixtureRequest) -> None:
    """Let the test fail if it is one that finds what its server does otherwise than S3, and only then."""
    for deviation in DEVIATIONS:
        if (deviation.server, deviation.test) == (request.param, request.node.originalname):
            errors = (AssertionError, pytest.fail.Exception, LedgerError, ClientError)
            request.applymarker(pytest.mark.xfail(reason=deviation.what, strict=True, raises=errors))
