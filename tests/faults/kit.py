"""What every fault test works with: a ledger that can be hurt, and files whose sums are known.

Rules:
1. A `FaultStack` has failpoints, small chunks and little patience, so that a fault falls into the middle of a load
   and its repair takes seconds.
2. It remembers in `accepted` every task that it was told about in an answer of success: no fault may lose one.
3. Whoever is paused is resumed before the ledger is stopped.
4. Each file is unlike every other, and each has a dataset of its own unless told otherwise, so that nothing is taken
   for a duplicate by accident.
"""

from __future__ import annotations

import ast
import hashlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import psycopg2

from tests.homes import new_home
from tests.stack import Stack, children, open_folder
from tests.waiting import wait_until

SOURCES = Path(__file__).parents[2]
PACKAGES = ("ledger", "projections", "workers", "archive", "api")
CHUNK_BYTES = 20_000
FAST = {
    "LEDGER_CHUNK_BYTES": str(CHUNK_BYTES),
    "LEDGER_LEASE_SECONDS": "2",
    "LEDGER_RESEND_SECONDS": "2",
    "LEDGER_RETRY_SECONDS_MAX": "2",
}
WAIT_SECONDS_MAX = 120.0
FIRST_DAY = date(2026, 3, 1)
DAYS = 60
LOG_CHARACTERS_SHOWN = 3_000

Action = Literal["kill", "stop", "raise"]


@dataclass(frozen=True)
class PaymentsFile:
    """A CSV of payments that no other file is like; about 15 chunks of a `FaultStack` by default."""

    filename: str
    dataset: str
    content: bytes
    records: int
    numbers_sum: int

    @property
    def sha256(self) -> str:
        """What its blob is named."""
        return hashlib.sha256(self.content).hexdigest()


class FaultStack(Stack):
    """A whole ledger with failpoints, small chunks and little patience."""

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None, *, workers: int = 2) -> None:
        self.failpoints = home.with_suffix(".failpoints")
        self.failpoints.mkdir(exist_ok=True)
        self.accepted: set[str] = set()
        self._actions: dict[str, Action] = {}
        self._paused: list[int] = []
        super().__init__(
            home, {**FAST, "LEDGER_FAILPOINTS": str(self.failpoints), **(environment or {})}, workers=workers
        )

    def start(self) -> None:
        """Start, and wait until everybody does their work: the dispatcher is the last to say so."""
        super().start()
        wait_until(self._is_followed, "nobody follows the log")

    def stop(self) -> None:
        """Stop as Ctrl-C does; nobody acts on a failpoint or stays paused while it stops."""
        for name in failpoint_names():
            self.disarm(name)
        self.resume()
        super().stop()

    def discard(self) -> None:
        """End it at once; nobody stays paused."""
        self.resume()
        super().discard()

    def arm(self, name: str, action: Action) -> None:
        """Let the first process that comes to a failpoint be killed, stopped, or fail there."""
        assert name in failpoint_names(), f"there is no failpoint {name!r}"
        (self.failpoints / f"{name}.hit").unlink(missing_ok=True)
        self._actions[name] = action
        beside = self.failpoints / f"{name}.new"
        beside.write_text(action)
        beside.rename(self.failpoints / name)

    def disarm(self, name: str) -> None:
        """Let a failpoint do nothing, if nobody came to it yet."""
        (self.failpoints / name).unlink(missing_ok=True)

    def wait_hit(self, name: str, seconds_max: float = WAIT_SECONDS_MAX) -> int:
        """Wait until somebody came to an armed failpoint; the id of the process."""
        hit = self.failpoints / f"{name}.hit"
        wait_until(lambda: hit.exists() and hit.read_text(), f"nobody came to the failpoint {name}", seconds_max)
        pid = int(hit.read_text())
        if self._actions[name] == "stop":
            self._paused.append(pid)
        return pid

    def pause(self, name: str) -> list[int]:
        """SIGSTOP one process and all its descendants: they neither answer nor end. Their ids."""
        stopped: list[int] = []
        pid = self.state()["pids"][name]
        while new := [found for found in [pid, *children(pid)] if found not in stopped]:
            for found in new:
                _signal(found, signal.SIGSTOP)
            stopped += new  # until one look finds no child that was started meanwhile
        self._paused += stopped
        return stopped

    def resume(self, *pids: int) -> None:
        """SIGCONT these processes, or all that are paused; a parent after its children."""
        for pid in reversed(pids or self._paused):
            _signal(pid, signal.SIGCONT)
        self._paused = [pid for pid in self._paused if pids and pid not in pids]

    def kill_child(self, name: str = "celery") -> int:
        """kill -9 one child of a process, which itself lives on: a worker of Celery's pool, say. Its id."""
        pid = self.state()["pids"][name]
        wait_until(lambda: children(pid), f"{name} has no child")
        child = children(pid)[0]
        _signal(child, signal.SIGKILL)
        return child

    def wait_replaced(self, name: str, pid: int) -> int:
        """Wait until another process than `pid` has taken its place; its id."""
        wait_until(lambda: self.state()["pids"].get(name) not in (None, pid), f"nobody came after {name}")
        return int(self.state()["pids"][name])

    def wait_ready(self) -> None:
        """Wait until files can be taken."""
        wait_until(lambda: self._answers("/readyz"), "the ledger does not become ready")

    def put(self, file: PaymentsFile, *, timeout_seconds: float = 60.0, **parameters: str) -> httpx2.Response:
        """Send a file as a raw body: the answer, whatever it says. What it accepts is remembered."""
        with self.http() as http:
            answer = http.put(
                f"/api/v1/files/{file.filename}",
                content=file.content,
                params={"dataset": file.dataset, **parameters},
                timeout=timeout_seconds,
            )
        if answer.is_success:
            self.accepted.update(task["task_id"] for task in answer.json()["tasks"])
        return answer

    def send(self, file: PaymentsFile, **parameters: str) -> dict[str, Any]:
        """Send a file that the door accepts: its task."""
        answer = self.put(file, **parameters)
        assert answer.status_code == httpx2.codes.ACCEPTED, answer.text
        task: dict[str, Any] = answer.json()["tasks"][0]
        return task

    def topics(self, task_id: str) -> list[str]:
        """What has happened to a job so far, read from the log's table itself."""
        statement = "SELECT topic FROM ledger.stored_events WHERE originator_id = %s ORDER BY originator_version"
        return [topic for (topic,) in self.sql(statement, task_id)]

    def position(self) -> int:
        """The position of the last event in the log."""
        [(position,)] = self.sql("SELECT coalesce(max(id), 0) FROM ledger.stored_events")
        return int(position)

    def blob(self, file: PaymentsFile) -> Path:
        """Where the blob of a file stands, if it does."""
        return self._blobs() / file.sha256[:2] / file.sha256

    def incoming(self) -> list[Path]:
        """The uploads that are on their way into the blobs' folder, or were left there."""
        return list(self._blobs().glob("incoming/*"))

    def wait_chunks(self, task_id: str, number: int) -> None:
        """Wait until so many chunks are loaded, and see that the load is still going on."""
        wait_until(lambda: self.topics(task_id).count("filejob.chunk_loaded") >= number, "chunks are not loaded")
        assert "filejob.completed" not in self.topics(task_id), "the file is too small for this test"

    def check_loaded(self, task_id: str, file: PaymentsFile) -> None:
        """Wait for the end of a job; every record of its file is there once."""
        task = self.wait(task_id, seconds_max=WAIT_SECONDS_MAX)
        assert (task["status"], task["rows_loaded"]) == ("Completed", file.records), task
        found = self.sql(
            "SELECT count(*), count(DISTINCT _record), sum(number), min(_record), max(_record) "
            f"FROM data.{file.dataset} WHERE _job = (SELECT position FROM ledger.arrivals WHERE job_id = %s)",
            task_id,
        )
        assert found == [(file.records, file.records, file.numbers_sum, 1, file.records)]

    def _is_followed(self) -> bool:
        with suppress(psycopg2.OperationalError, psycopg2.errors.UndefinedTable):
            return bool(self.sql("SELECT 1 FROM work.positions WHERE name = 'dispatcher'"))
        return False

    def _blobs(self) -> Path:
        url = self.environment.get("LEDGER_BLOBS_URL")
        return self.home / "blobs" if url is None else Path(urlsplit(url).path)

    def _answers(self, path: str) -> bool:
        with suppress(httpx2.HTTPError, KeyError, OSError), self.http() as http:
            return http.get(path, timeout=10).is_success
        return False


def payments_file(records: int = 10_000, dataset: str | None = None, *, last_line: str = "") -> PaymentsFile:
    """A new file of so many records, for a dataset of its own unless one is named; `last_line` may spoil it."""
    token = secrets.token_hex(4)
    first = 100_000_000 + secrets.randbelow(800_000_000)
    numbers = range(first, first + records)
    lines = (
        f"{number},{FIRST_DAY + timedelta(days=number % DAYS)},{number % 10_000}.{number % 100:02}\n"
        for number in numbers
    )
    content = "number,paid_on,amount\n" + "".join(lines) + last_line
    return PaymentsFile(
        f"payments-{token}.csv", dataset or f"payments_{token}", content.encode(), records, sum(numbers)
    )


@contextmanager
def running_fault_stack(environment: Mapping[str, str] | None = None, *, workers: int = 2) -> Iterator[FaultStack]:
    """A ledger that serves, in a folder of its own."""
    with open_folder() as folder:
        home = new_home(folder / "home")
        with serving(FaultStack(home, environment, workers=workers)) as stack:
            yield stack


@contextmanager
def serving(stack: FaultStack) -> Iterator[FaultStack]:
    """Run a ledger; the ends of its logs are shown if what it is used for fails."""
    try:
        stack.start()
        yield stack
    except BaseException:
        show_logs(stack)
        raise
    finally:
        stack.discard()


def show_logs(stack: Stack) -> None:
    """The ends of all logs, for whoever reads why a test failed."""
    for path in (stack.home.with_suffix(".up.log"), *sorted((stack.home / "logs").glob("*.log"))):
        if path.exists():
            sys.stderr.write(f"\n--- {path.name}\n{path.read_text(errors='replace')[-LOG_CHARACTERS_SHOWN:]}\n")


@cache
def failpoint_names(*packages: str) -> frozenset[str]:
    """Every failpoint that the code has, or that some packages have."""
    calls = (
        node
        for package in packages or PACKAGES
        for path in (SOURCES / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "failpoint"
    )
    return frozenset(ast.literal_eval(call.args[0]) for call in calls)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
