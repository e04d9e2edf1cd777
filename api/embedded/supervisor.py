"""Starts the processes of a home, keeps them running, and leaves none behind.

Rules:
1. One supervisor per home. What an earlier one left behind is ended before anything starts.
2. Processes start in order, each when the one before does its work; they stop in reverse order, asked first,
   killed with everything they started when they take too long.
3. A process that ends by itself is started again, at once at first, later with growing pauses, without end: a
   part that comes back is worth more than a supervisor that gave up.
4. `ledger.json` tells who runs: pids from the first process on, the address once everything is up, nothing
   (no file) after an orderly stop.

It runs in the thread that made it: the kernel ends children with the thread that started them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from api.embedded.home import Home
from api.embedded.process import Process, kill, mark_of, marked_processes, start_options
from ledger.errors import LedgerError, PartUnavailableError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
PAUSE_SECONDS_MIN = 0.5
PAUSE_SECONDS_MAX = 10.0
ALIVE_SECONDS_TRUSTED = 30.0
START_ATTEMPTS_MAX = 5
LOG_LINES_SHOWN = 20
_LOG_BYTES_SHOWN = 1 << 14


@dataclass
class _Child:
    process: Process
    log_path: Path
    popen: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # time.monotonic()
    log_start: int = 0  # Where the log of this run begins, in bytes.
    pause_seconds: float = PAUSE_SECONDS_MIN
    restart_at: float = 0.0  # time.monotonic(), while popen is None


class Supervisor:
    """The one that serves a home. Used as a context manager: takes the home's lock, and stops all at the end.

    `until`, once set (by a signal handler, say), ends the waiting in `start` and `run`.
    """

    def __init__(self, home: Home, until: threading.Event) -> None:
        self.home = home
        self.until = until
        self._children: list[_Child] = []
        self._ports: Mapping[str, int] = {}
        self._url: str | None = None
        self._lock = contextlib.ExitStack()

    def __enter__(self) -> Supervisor:
        """Raises ConflictError when another supervisor serves the home."""
        self._lock.enter_context(self.home.lock())
        self._end_leftovers(None)
        self.home.remove_state()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            self._lock.close()

    def start(self, processes: Sequence[Process], ports: Mapping[str, int]) -> None:
        """Start `processes` in order, waiting for each to be ready; returns early when `until` is set.

        `ports` is what `ledger.json` says of them. Raises PartUnavailableError, with the last lines of its
        log, for a process that does not become ready in time or ends again and again.
        """
        self._ports = {**self._ports, **ports}
        for process in processes:
            if self.until.is_set():
                return
            child = _Child(process, self.home.logs / f"{process.name}.log")
            self._spawn(child)
            self._wait_until_ready(child)

    def run(self, url: str) -> None:
        """Keep everything running until `until` is set; says in `ledger.json` that `url` is served."""
        self._url = url
        self._write_state()
        while not self.until.wait(POLL_SECONDS):
            self._poll()

    def stop(self) -> None:
        """End all processes, the last first, with everything they started. Doing it again changes nothing."""
        for child in reversed(self._children):
            self._stop_child(child)
        self._children.clear()
        self._end_leftovers(None)
        self.home.remove_state()

    def _spawn(self, child: _Child) -> None:
        process = child.process
        process.prepare()
        with open(child.log_path, "ab") as log:
            child.log_start = log.tell()
            child.popen = subprocess.Popen(
                process.command(),
                env={**process.environment, **mark_of(self.home.path, process.name)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **start_options(process.user),
            )
        child.started_at = time.monotonic()
        if child not in self._children:
            self._children.append(child)
        self._write_state()
        logger.info(
            "%s started, process %d",
            process.name,
            child.popen.pid,
            extra={"action": "process_started", "process_name": process.name, "process_id": child.popen.pid},
        )

    def _wait_until_ready(self, child: _Child) -> None:
        process = child.process
        deadline = time.monotonic() + process.ready_seconds_max
        attempts = 1
        while not self.until.is_set():
            assert child.popen is not None
            if child.popen.poll() is not None:
                self._end_leftovers(process.name)
                if attempts == START_ATTEMPTS_MAX:
                    code = child.popen.returncode
                    raise self._not_ready(child, f"ended {attempts} times, the last time with {code}")
                self.until.wait(PAUSE_SECONDS_MIN * 2 ** (attempts - 1))
                attempts += 1
                self._spawn(child)
            elif process.ready():
                return
            elif time.monotonic() > deadline:
                raise self._not_ready(child, f"was not ready within {process.ready_seconds_max:g} seconds")
            self.until.wait(POLL_SECONDS / 2)
            for other in self._children:
                if other is not child:
                    self._poll_child(other)

    def _not_ready(self, child: _Child, what: str) -> PartUnavailableError:
        with open(child.log_path, "rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(child.log_start, size - _LOG_BYTES_SHOWN))
            lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n".join(f"    {line}" for line in lines) or "    (it wrote nothing)"
        return PartUnavailableError(
            f"{child.process.name} {what}. Its log {child.log_path} ends with:\n{shown}\n",
            "Remove the cause and start again.",
        )

    def _poll(self) -> None:
        for child in self._children:
            self._poll_child(child)

    def _poll_child(self, child: _Child) -> None:
        name = child.process.name
        if child.popen is not None and child.popen.poll() is not None:
            alive_seconds = time.monotonic() - child.started_at
            if alive_seconds >= ALIVE_SECONDS_TRUSTED:
                child.pause_seconds = PAUSE_SECONDS_MIN
            logger.warning(
                "%s ended with %d after %.1f s; it is started again in %.1f s",
                name,
                child.popen.returncode,
                alive_seconds,
                child.pause_seconds,
                extra={"action": "process_ended", "process_name": name, "exit_code": child.popen.returncode},
            )
            self._kill_group(child.popen)
            self._end_leftovers(name)
            self._pause(child)
            self._write_state()
        elif child.popen is None and time.monotonic() >= child.restart_at:
            try:
                self._spawn(child)
            except (LedgerError, OSError):  # A full disk, say: it may have room again later.
                logger.exception(
                    "%s cannot be started; it is tried again in %.1f s",
                    name,
                    child.pause_seconds,
                    extra={"action": "process_start_failed", "process_name": name},
                )
                self._pause(child)

    def _pause(self, child: _Child) -> None:
        child.popen = None
        child.restart_at = time.monotonic() + child.pause_seconds
        child.pause_seconds = min(child.pause_seconds * 2, PAUSE_SECONDS_MAX)

    def _stop_child(self, child: _Child) -> None:
        if child.popen is None:
            return
        process, popen = child.process, child.popen
        if popen.poll() is None:
            popen.send_signal(process.stop_signal)
            try:
                popen.wait(process.stop_seconds_max)
            except subprocess.TimeoutExpired:
                logger.warning(
                    "%s did not end within %.0f s and is killed",
                    process.name,
                    process.stop_seconds_max,
                    extra={"action": "process_killed", "process_name": process.name},
                )
        self._kill_group(popen)
        popen.wait()
        child.popen = None
        logger.info("%s stopped", process.name, extra={"action": "process_stopped", "process_name": process.name})

    def _kill_group(self, popen: subprocess.Popen[bytes]) -> None:
        """End what is left of the child's group: who hides its environment is known by it alone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)

    def _end_leftovers(self, name: str | None) -> None:
        leftovers = marked_processes(self.home.path, name)
        if leftovers:
            logger.warning(
                "ending what an earlier run left behind: processes %s",
                ", ".join(map(str, leftovers)),
                extra={"action": "leftovers_ended", "process_ids": leftovers},
            )
            kill(leftovers)

    def _write_state(self) -> None:
        pids = {child.process.name: child.popen.pid for child in self._children if child.popen is not None}
        try:
            self.home.write_state({"url": self._url, "pids": pids, "ports": dict(self._ports)})
        except OSError:  # A full disk: those who run go on running.
            path = self.home.state_path
            logger.exception("%s cannot be written", path, extra={"action": "state_not_written"})
