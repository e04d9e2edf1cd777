"""The process that reads the files: started, asked, and started again when it has died or hangs."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import IO, Any, cast

from ledger.blobs import open_blob_store, put
from ledger.errors import FileRefusedError
from ledger.settings import Settings
from tests.fuzz.child import to_line
from tests.fuzz.promise import Came, Given
from workers.transcription import CRASHES, transcription_of

ROOT = Path(__file__).parents[2]
SETTINGS = ("record_bytes_max", "reader_memory_bytes_max", "scratch_folder")
ERROR_CHARACTERS = 2_000
START_SECONDS_MAX = 120.0


@dataclass(frozen=True)
class Answer:
    """What became of a file: what it came to, or how its process ended where the ledger survives that, or neither.

    `broken` says how it broke the promise.
    """

    came: Came | None = None
    contained: str | None = None
    broken: str | None = None
    seconds: float = 0.0


class ReadingChild:
    """One process at a time that reads files, forked by one that has done its imports.

    `plant` is the fault of `tests.fuzz.plants` that is put into the next one that is started.
    """

    def __init__(self) -> None:
        self.plant: str | None = None
        self._pid: int | None = None
        self._pending = b""
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._parent = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> ReadingChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        self._parent.kill()
        self._parent.communicate()
        self._errors.close()

    def start(self) -> None:
        """Wait until there is a process that is ready."""
        if self._pid is None:
            self._send(json.dumps(self.plant).encode() + b"\n")
            line = self._line(time.perf_counter() + START_SECONDS_MAX) or b""
            assert line.startswith(b"ready "), f"the reading process does not start: {line!r}\n{self._said()}"
            self._pid = int(line.split()[1])

    def end(self) -> None:
        """End the process that reads, if there is one."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            while not (self._line(time.perf_counter() + START_SECONDS_MAX) or b"died").startswith(b"died"):
                pass
            self._pid = None

    def ask(self, given: Given, seconds_max: float) -> Answer:
        """Have one file read, which may take so many seconds."""
        self.start()
        started, stage = time.perf_counter(), "checking"
        self._send(to_line(given) + given.content)
        while (line := self._line(started + seconds_max)) is not None:
            if line.startswith(b"{"):
                return self._told(given, json.loads(line), started)
            if line.startswith(b"died "):
                self._pid = None
                return self._died(given, stage, int(line.split()[1]), started)
            stage = line.decode()
        self.end()
        return Answer(broken=f"it hangs: no end after {seconds_max:g} s", seconds=seconds_max)

    def _told(self, given: Given, told: dict[str, Any], started: float) -> Answer:
        seconds = time.perf_counter() - started
        if "came" in told:
            return Answer(Came(**told["came"]), seconds=told["seconds"])
        self.end()  # what is left of its memory may mislead the next one
        if told.get("exhausted") == "reading":
            return _contained(given, "out of memory", seconds)
        return Answer(broken=told.get("broken", "out of memory in the worker"), seconds=seconds)

    def _died(self, given: Given, stage: str, code: int, started: float) -> Answer:
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        seconds = time.perf_counter() - started
        if stage == "reading" and -code in CRASHES:
            return _contained(given, how, seconds)
        return Answer(broken=f"its process died while {stage}: {how}\n{self._said()}", seconds=seconds)

    def _send(self, data: bytes) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write(data)
        self._parent.stdin.flush()

    def _line(self, until: float) -> bytes | None:
        """The next line without its end, none if there is no time left."""
        assert self._parent.stdout is not None
        source = self._parent.stdout.fileno()
        while b"\n" not in self._pending:
            left = until - time.perf_counter()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                return None
            data = os.read(source, 1 << 16)
            assert data, f"the process that forks has ended:\n{self._said()}"
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-ERROR_CHARACTERS:]


def _contained(given: Given, how: str, seconds: float) -> Answer:
    """The end of a process, if the ledger's own way of reading turns it into a refusal."""
    try:
        became = read_by_the_ledger(given)
    except Exception as error:
        return Answer(broken=f"{how}, and the ledger does not contain it: {error!r}", seconds=seconds)
    return Answer(contained=f"{how}; the ledger's own process: {became}", seconds=seconds)


def read_by_the_ledger(given: Given) -> str:
    """What the ledger's own reading process makes of a file: the code of a refusal, or the text's digest.

    Raises:
        LedgerError: the ledger would try it again.
    """
    settings = {name: Settings.model_fields[name].default for name in SETTINGS}
    with tempfile.TemporaryDirectory(prefix="ledger-fuzz-") as folder:
        url = f"file://{folder}/blobs"
        blobs = open_blob_store(url)
        sha256, size = put(blobs, given.content), len(given.content)
        known = SimpleNamespace(**settings, blobs_url=url, reader_seconds_max=60.0)
        try:
            made = transcription_of(blobs, sha256, size, given.filename, cast(Any, known), given.options)
        except FileRefusedError as refused:
            return refused.code
        return made.transcript or sha256
