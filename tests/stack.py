"""A whole ledger for tests and benchmarks: `ledger up` in a home of its own, driven as a user drives it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import psycopg2

from tests.commands import SECONDS_MAX, run_command

START_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 60.0
# What only who owns the database can do: take the guards of the record away, and put them back.
GUARDED = ("stored_events", "leaves", "nodes", "checkpoints")
UNGUARD = "; ".join(f"ALTER TABLE ledger.{table} DISABLE TRIGGER only_added_to" for table in GUARDED)
GUARD = "; ".join(f"ALTER TABLE ledger.{table} ENABLE ALWAYS TRIGGER only_added_to" for table in GUARDED)
ABSENT = Path(__file__).parent / "absent"  # modules that are installed here, and not where the ledger is


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary folder that the user whom PostgreSQL runs as can enter, which pytest's own is not for root."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Stack:
    """`ledger up` as a child process, its command line, its HTTP door and its database."""

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None, *, workers: int = 2) -> None:
        self.home = home
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "CELERY_"))}
        found_first = os.pathsep.join(filter(None, [str(ABSENT), os.environ.get("PYTHONPATH")]))
        self.environment = {
            **inherited,
            "PYTHONPATH": found_first,
            **(environment or {}),
            "LEDGER_HOME": str(home),
        }
        self._workers = workers
        self._up: subprocess.Popen[bytes] | None = None
        self._idle: list[Any] = []  # connections to PostgreSQL
        self.taken_out: set[int] = set()  # positions of sealed events that a test has deleted

    def start(self) -> None:
        """Start, and wait until it serves."""
        stale = self.state()  # who was killed had no time to take back that it serves
        command = [sys.executable, "-m", "api.cli.main", "up", "--port", "0", "--workers", str(self._workers)]
        with open(self.home.with_suffix(".up.log"), "ab") as log:
            self._up = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.state().get("url") or self.state() == stale:
            assert self._up.poll() is None, self.home.with_suffix(".up.log").read_text()
            assert time.monotonic() < deadline, "the ledger does not start"
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop as Ctrl-C does."""
        if self._up is not None:
            self._up.send_signal(signal.SIGINT)
            self._up.wait(STOP_SECONDS_MAX)
            self._up = None

    def discard(self) -> None:
        """End it at once and for good: an orderly stop takes its time, and nobody looks at what it leaves."""
        if self._up is None:
            return
        _signal(self._up.pid, signal.SIGSTOP)  # it starts nobody again
        postgresql = self.state().get("pids", {}).get("postgresql")
        kept = [] if postgresql is None else [postgresql, *children(postgresql)]
        for victim in children(self._up.pid):
            if victim not in kept:
                _kill(victim)
        if postgresql is not None:
            _signal(postgresql, signal.SIGQUIT)  # unlike a kill, it leaves no shared memory behind
            _wait_until_ended(postgresql)
        for victim in [*kept, self._up.pid]:
            _kill(victim)
        self._up.wait(STOP_SECONDS_MAX)
        self._up = None

    def kill_everything(self) -> None:
        """What a power cut does: kill -9 to the supervisor and every process that it runs."""
        assert self._up is not None
        pids = [*self.state()["pids"].values(), self._up.pid]
        for pid in pids:
            for victim in [*children(pid), pid]:
                _kill(victim)
        self._up.wait(STOP_SECONDS_MAX)
        self._up = None

    def kill(self, name: str) -> None:
        """kill -9 one process and its children; the supervisor starts it again."""
        pid = self.state()["pids"][name]
        for victim in [pid, *children(pid)]:
            _kill(victim)

    def state(self) -> dict[str, Any]:
        """Who serves the home: url, pids and ports."""
        try:
            state: dict[str, Any] = json.loads((self.home / "ledger.json").read_text())
        except FileNotFoundError:
            return {}
        return state

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command line, with `text` on its standard input; look at its exit code and output."""
        return run_command(arguments, self.environment, text=text)

    def run_afresh(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same by an interpreter that is started for it, as a user's is."""
        command = [sys.executable, "-m", "api.cli.main", *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )

    def json(self, *arguments: str, text: str = "") -> Any:
        """Run a command that succeeds, with --json: what it prints."""
        result = self.run(*arguments, "--json", text=text)
        assert result.returncode == 0, result.stderr + result.stdout
        return json.loads(result.stdout)

    @property
    def key(self) -> str:
        """The admin key."""
        return (self.home / "secrets" / "admin.key").read_text().strip()

    def http(self, *, key: str | None = None) -> httpx2.Client:
        """The HTTP door, with the admin key unless another is given."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"}
        # A context without authorities: to read them takes longer than most requests, which go over plain HTTP.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return httpx2.Client(
            base_url=self.state()["url"], headers=headers, timeout=120, trust_env=False, verify=context
        )

    def database_url(self) -> str:
        """Where PostgreSQL is, for psycopg2."""
        password = (self.home / "secrets" / "postgresql.password").read_text().strip()
        return f"postgresql://ledger:{password}@127.0.0.1:{self.state()['ports']['postgresql']}/ledger"

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query, by a connection that is kept: tests ask often, and each new one is a process."""
        if self._idle:
            kept = self._idle.pop()
            try:
                return self._ask(kept, statement, parameters)
            except (psycopg2.OperationalError, psycopg2.InterfaceError):
                if not kept.closed:  # it is not about the connection, which may have been lost long ago
                    raise
        connection = psycopg2.connect(self.database_url())
        connection.autocommit = True
        return self._ask(connection, statement, parameters)

    def sql_unguarded(self, statement: str, *parameters: Any) -> None:
        """Change the record, as who has taken its guards away."""
        self.sql(f"BEGIN; {UNGUARD}; {statement}; {GUARD}; COMMIT", *parameters)

    def _ask(self, connection: Any, statement: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters or None)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            if not connection.closed:
                self._idle.append(connection)

    def wait(self, task_id: str, *statuses: str, seconds_max: float = 120.0) -> dict[str, Any]:
        """Wait until a task has one of the statuses, or else until it has ended; the task then."""
        deadline = time.monotonic() + seconds_max
        with self.http() as http:
            while True:
                task: dict[str, Any] = http.get(f"/task/{task_id}").json()
                if task["status"] in statuses if statuses else _has_ended(task):
                    return task
                assert time.monotonic() < deadline, task
                time.sleep(0.1)


def _has_ended(task: dict[str, Any]) -> bool:
    will_be_retried = task["status"] == "Failed" and task["error"]["retry_at"] is not None
    return task["status"] in ("Completed", "Failed", "Cancelled") and not will_be_retried


def children(pid: int) -> list[int]:
    """All descendants of a process that there are now."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [descendant for child in found for descendant in (int(child), *children(int(child)))]


def memory_peak_bytes(pid: int) -> int:
    """The most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) << 10


def is_alive(pid: int) -> bool:
    """Whether a process goes on: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until_ended(pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)


def _kill(pid: int) -> None:
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
