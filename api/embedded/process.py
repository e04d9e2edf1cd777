"""What a supervised process is, and how one is started so that it cannot outlive its supervisor.

Rules:
1. A child has its own session, so that Ctrl-C in a terminal reaches the supervisor alone, which then stops
   its children in order.
2. The kernel kills a child whose supervisor ends without a word (Linux, PR_SET_PDEATHSIG of prctl(2)).
3. Whatever a child starts carries its mark in the environment; that is how leftovers of a killed supervisor
   are known, whatever they call themselves.
4. The environment of a child is given whole; nothing is inherited by accident, secrets least of all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ledger.errors import PartUnavailableError

MARK = "LEDGER_SUPERVISED"
PLAIN_ENVIRONMENT: Mapping[str, str] = {"PATH": os.defpath, "LC_ALL": "C"}
_PR_SET_PDEATHSIG = 1
_KILL_SECONDS_MAX = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class SystemUser:
    """A user of the operating system, by its numbers; `name` is for messages."""

    name: str
    user_id: int
    group_id: int

    @classmethod
    def from_id(cls, user_id: int) -> SystemUser:
        """The user with this number, with its main group; a number without a name is its own group."""
        try:
            entry = pwd.getpwuid(user_id)
        except KeyError:
            return cls(str(user_id), user_id, user_id)
        return cls(entry.pw_name, user_id, entry.pw_gid)

    @classmethod
    def first_existing(cls, names: Sequence[str]) -> SystemUser | None:
        """The first of `names` that this machine knows, or None."""
        for name in names:
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(name, entry.pw_uid, entry.pw_gid)
        return None


class Process(Protocol):
    """What the supervisor needs to know of a process. Names are stable: they name logs and pids."""

    @property
    def name(self) -> str:
        """Names the log and the process in messages."""

    @property
    def environment(self) -> Mapping[str, str]:
        """The whole environment."""

    @property
    def user(self) -> SystemUser | None:
        """Who it runs as; None is whoever runs the supervisor."""

    @property
    def stop_signal(self) -> signal.Signals:
        """What asks it to end in an orderly way."""

    @property
    def ready_seconds_max(self) -> float:
        """How long it may take to become ready."""

    @property
    def stop_seconds_max(self) -> float:
        """How long it may take to end before it is killed."""

    def prepare(self) -> None:
        """Bring about what a start needs. Called before every start: what is in order stays as it is."""

    def command(self) -> list[str]:
        """Program and arguments; asked for after `prepare`."""

    def ready(self) -> bool:
        """Whether it does its work now. Answers within a few seconds."""


@dataclass(frozen=True)
class Program:
    """A supervised process that needs no preparation: one of the ledger's own."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    ready_check: Callable[[], bool] | None = None
    user: SystemUser | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    ready_seconds_max: float = 60.0
    stop_seconds_max: float = 30.0

    def prepare(self) -> None:
        """Nothing to prepare."""

    def command(self) -> list[str]:
        """The arguments as given."""
        return list(self.arguments)

    def ready(self) -> bool:
        """What the check says; without one, a process that runs is ready."""
        return self.ready_check is None or self.ready_check()


def start_options(user: SystemUser | None) -> dict[str, Any]:
    """The options of `subprocess` that make a child keep rules 1 and 2 and run as `user`."""
    options: dict[str, Any] = {
        "start_new_session": True,
        # Runs after the switch of user, which would clear what it sets.
        "preexec_fn": partial(_die_with, os.getpid()),
    }
    if user is not None:
        options |= {"user": user.user_id, "group": user.group_id, "extra_groups": []}
    return options


def _die_with(parent: int) -> None:
    if sys.platform != "linux":
        return
    if _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL)) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # It ended before the kernel knew that we want to follow it.
        os._exit(1)


def mark_of(home: Path, name: str) -> dict[str, str]:
    """The environment variable that marks what the process `name` of this home starts."""
    return {MARK: f"{name}:{home}"}


def marked_processes(home: Path, name: str | None = None) -> list[int]:
    """The pids of all living processes that carry the mark of this home, or of one process of it."""
    variable = f"{MARK}=".encode()
    pids = []
    for pid in _process_ids():
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # It ended meanwhile, or belongs to a user whose processes are none of ours.
            continue
        mark = next((entry for entry in entries if entry.startswith(variable)), b"=:").partition(b"=")[2]
        marked_name, _, marked_home = os.fsdecode(mark).partition(":")
        if marked_home == str(home) and name in (None, marked_name):
            pids.append(pid)
    return pids


def processes_in(folder: Path) -> list[int]:
    """The pids of all living processes without a terminal whose current folder is `folder`."""
    pids = []
    for pid in _process_ids():
        try:
            current = Path(f"/proc/{pid}/cwd").readlink()
            # proc_pid_stat(5): after the command's parenthesis come state, ppid, pgrp, session, tty_nr.
            terminal = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4]
        except OSError:
            continue
        if current == folder and terminal == "0":
            pids.append(pid)
    return pids


def _process_ids() -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) != os.getpid():
            yield int(entry.name)


def kill(pids: Sequence[int]) -> None:
    """End processes at once, and wait until they hold nothing any more.

    One that ended meanwhile is no error. Raises PartUnavailableError for one that does not end.
    """
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _KILL_SECONDS_MAX
    while any(_holds_memory(pid) for pid in pids):
        if time.monotonic() > deadline:  # It sits in the kernel, on a dead disk or mount.
            raise PartUnavailableError(
                f"Of the processes {', '.join(map(str, pids))} one does not end although it was killed.",
                "See what it waits for (ps -o pid,stat,wchan,cmd), and start again when it is gone.",
            )
        time.sleep(0.02)


def _holds_memory(pid: int) -> bool:
    # Of a process that ended and waits for its parent to notice, the kernel shows no environment any more.
    try:
        return bool(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        return False
