"""The home of an embedded ledger: one folder that holds everything it keeps.

Rules:
1. One `ledger up` at a time: whoever serves a home holds its lock; the kernel frees it however they end.
2. Secrets are made on first use, never change by themselves, and can be read by their owner only.
3. A file that others read (`ledger.json`, the secrets, the ports) is there whole or not at all.
4. Permissions are set only on folders that this module made, or that were empty when it was given them.
5. Two homes never choose the same port: a port is held, by a name that the kernel frees, from its choice until the
   home's lock is given back, so also before its server listens and while that is started again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ledger.errors import ConflictError, InvalidRequestError
from ledger.folders import sync_folder

LOOPBACK = "127.0.0.1"
# Below those that Linux gives to outgoing connections, one of which could take the port of a part that restarts.
PORTS = range(20_000, 30_000)
PORT_ATTEMPTS_MAX = 100
_chance = random.SystemRandom()
_PRIVATE_FOLDERS = ("blobs", "logs", "mongodb", "run", "secrets", "valkey")
_SECRET_BYTES = 32


def default_home(is_root: bool) -> Path:
    """Where an embedded ledger lives when nobody says otherwise.

    PostgreSQL refuses to run as root, and root's own folder is closed to the user that it runs as instead.
    """
    return Path("/var/lib/ledger") if is_root else Path("~/.ledger").expanduser()


def free_port(preferred: int) -> int:
    """`preferred` if it can be bound on the loopback address now, else another that can; 0 prefers none."""
    for port in filter(None, (preferred, *_chance.sample(PORTS, PORT_ATTEMPTS_MAX))):
        with socket.socket() as probe:
            # As the servers themselves do: a connection that only waits out its end does not block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                return port
    raise ConflictError(f"No port is free on {LOOPBACK}.", "Stop a program that listens there and try again.")


def write_whole(path: Path, text: str) -> None:
    """Put `text` into `path` so that a reader, or a crash, sees the old content or the new. Mode 0600."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
    sync_folder(path.parent)


class Home:
    """One folder: the data of each part, the blobs, logs, secrets, and who serves it now."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.blobs = self.path / "blobs"
        self.checkpoints = self.path / "checkpoints"
        self.archive = self.path / "archive"
        self.logs = self.path / "logs"
        self.run = self.path / "run"
        self.secrets = self.path / "secrets"
        self.state_path = self.path / "ledger.json"
        self._held_ports = contextlib.ExitStack()

    @classmethod
    def default(cls, chosen: Path | None) -> Home:
        """The home that the caller's settings name, else the default one of this user."""
        return cls(chosen or default_home(os.geteuid() == 0))

    def create(self) -> None:
        """Make the folder and those inside it; what exists stays as it is.

        Raises InvalidRequestError when the place cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not any(self.path.iterdir()):
                # A root-owned home is passed through, not read, by the user that PostgreSQL runs as.
                self.path.chmod(0o711 if os.geteuid() == 0 else 0o700)
            for name in _PRIVATE_FOLDERS:
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InvalidRequestError(
                f"The ledger's home {self.path} cannot be used: {error.strerror} ({error.filename}).",
                "Name a folder that this user may write, with --home or LEDGER_HOME.",
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold this home against every other `ledger up`. Raises ConflictError when another one serves it."""
        self.create()
        with open(self.run / "lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise ConflictError(
                    f"The ledger in {self.path} is already being served, by process {holder}.",
                    "Use that one, stop it first, or name another folder with --home.",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            with self._held_ports:
                yield

    def secret_path(self, name: str) -> Path:
        """The file of the secret `name`, which is made if it does not exist. Mode 0600. Needs the lock."""
        path = self.secrets / name
        if not path.exists():
            prefix = "lk_" if name == "admin.key" else ""
            write_whole(path, prefix + secrets.token_urlsafe(_SECRET_BYTES))
        return path

    def seal_key_path(self) -> Path:
        """The file of the key that seals the log, which is made if it does not exist. Mode 0600. Needs the lock."""
        path = self.secrets / "seal.pem"
        if not path.exists():
            from ledger.seal_key import new_seal_key  # only here: every command imports this module

            write_whole(path, new_seal_key())
        return path

    def secret(self, name: str) -> str:
        """The secret `name` (`admin.key`, `subjects.key`, `postgresql.password`, ...), made on first use."""
        return self.secret_path(name).read_text(encoding="utf-8").strip()

    def choose_ports(self, preferred: Mapping[str, int]) -> dict[str, int]:
        """A free port for each name: the one this home used before, else `preferred`, else any.

        The choice is remembered for the next start. Needs the lock, and the ports of an earlier run freed.
        """
        remembered_path = self.run / "ports.json"
        remembered: dict[str, int] = {}
        if remembered_path.exists():
            remembered = json.loads(remembered_path.read_text(encoding="utf-8"))
        ports = {name: self.hold_port(remembered.get(name, port)) for name, port in preferred.items()}
        write_whole(remembered_path, json.dumps({**remembered, **ports}, indent=2))
        return ports

    def hold_port(self, preferred: int) -> int:
        """`preferred` if it is free and no other home holds it, else another; held for this home. Needs the lock."""
        port = free_port(preferred)
        holder = self._held_ports.enter_context(socket.socket(socket.AF_UNIX))
        try:
            holder.bind(f"\0ledger-port-{port}")
        except OSError:
            return self.hold_port(0)
        return port

    def write_state(self, state: Mapping[str, Any]) -> None:
        """Say who serves this home now: `url` (null until all is up), `pids` and `ports` by name."""
        write_whole(self.state_path, json.dumps(state, indent=2))

    def read_state(self) -> dict[str, Any] | None:
        """What `write_state` wrote last; None when the home is not served. Out of date after a crash."""
        try:
            state: dict[str, Any] = json.loads(self.state_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return state

    def remove_state(self) -> None:
        """Say that nobody serves this home."""
        self.state_path.unlink(missing_ok=True)
