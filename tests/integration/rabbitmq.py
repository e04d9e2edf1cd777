"""A RabbitMQ of the tests' own: a node in a temporary folder, on free ports of the loopback address.

Rules:
1. It shares nothing with a RabbitMQ that the machine may run: name, ports, cookie, data and `epmd` are its own.
2. It is the real server of the machine's package. Where there is none the tests that need it are skipped, and the
   reason says how to get it; with LEDGER_TEST_NOTHING_SKIPPED=1 they fail instead.
3. It is ready when it answers over AMQP, and nothing of it is left when it stops.

The variables are those of https://www.rabbitmq.com/docs/configure#supported-environment-variables.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import amqp
import pytest

from api.embedded.home import LOOPBACK, free_port

START_SECONDS_MAX = 180.0
STOP_SECONDS_MAX = 60.0
CONTROL_SECONDS_MAX = 120.0
# The package's program in PATH changes to the user `rabbitmq`; the one behind it does not.
PROGRAM_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
MISSING = "RabbitMQ is not installed on this machine; get it with: apt-get install rabbitmq-server"


class RabbitMQ:
    """One node, with the user `guest` that every new node has."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self._distribution_port, self._epmd_port = (free_port(0) for _ in range(3))
        self._epmd: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where Celery finds it."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port}//"

    def start(self) -> None:
        """Start, and wait until it answers."""
        program, epmd = programs()
        assert program is not None and epmd is not None
        for name in ("plugins", "conf", "env"):
            (self._folder / name).write_text("")
        log = (self._folder / "output").open("ab")
        # In the foreground and our child: a node that found none would start one that outlives it.
        self._epmd = subprocess.Popen(
            [epmd, "-port", str(self._epmd_port), "-address", LOOPBACK],
            env=self._environment(),
            stdout=log,
            stderr=log,
        )
        self._server = subprocess.Popen(
            [program], env=self._environment(), stdout=log, stderr=log, cwd=self._folder, start_new_session=True
        )
        log.close()
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self._answers():
            told = (self._folder / "output").read_text(errors="replace")[-3000:]
            assert self._server.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.2)

    def stop(self) -> None:
        """End the node and its `epmd`."""
        if self._server is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(STOP_SECONDS_MAX)
        self.kill()

    def kill(self) -> None:
        """kill -9 the node and its `epmd`; what it had on disk is there when it starts again."""
        if self._server is not None:
            self._signal(signal.SIGKILL)
            self._server.wait()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()

    def pause(self) -> None:
        """SIGSTOP the node: its connections stay open, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT the node."""
        self._signal(signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` on this node; what it prints."""
        program = shutil.which("rabbitmqctl", path=_folders())
        assert program is not None
        done = subprocess.run(
            [program, "--quiet", *arguments],
            env=self._environment(),
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=CONTROL_SECONDS_MAX,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def waiting(self, queue: str) -> int:
        """How many messages of a queue wait for somebody to take them."""
        connection = self.connect()
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
        finally:
            connection.close()

    def connect(self) -> amqp.Connection:
        """A connection; close it."""
        connection = amqp.Connection(f"{LOOPBACK}:{self.port}", "guest", "guest", connect_timeout=5)
        connection.connect()
        return connection

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        with suppress(ProcessLookupError):
            os.killpg(self._server.pid, number)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except (OSError, amqp.AMQPError):
            return False
        return True

    def _environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            "PATH": f"{os.defpath}:/usr/local/bin:/opt/homebrew/bin",
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": f"ledger{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
        }


def programs() -> tuple[str | None, str | None]:
    """The server and Erlang's name service, each None where it is missing."""
    return shutil.which("rabbitmq-server", path=_folders()), shutil.which("epmd", path=_folders())


def _folders() -> str:
    return os.pathsep.join([*PROGRAM_FOLDERS, os.environ.get("PATH", os.defpath)])


@contextmanager
def running_rabbitmq() -> Iterator[RabbitMQ]:
    """A node for the tests of a module; skips or fails where there is no RabbitMQ."""
    if None in programs():
        if os.environ.get("LEDGER_TEST_NOTHING_SKIPPED") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    folder = Path(tempfile.mkdtemp(prefix="ledger-rabbitmq-"))
    node = RabbitMQ(folder)
    try:
        node.start()
        yield node
    finally:
        node.stop()
        shutil.rmtree(folder, ignore_errors=True)
