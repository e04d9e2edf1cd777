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
from projections.formats.recognise import SAMPLE_BYTES
from tests.fuzz.child import READY, to_line
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
    """One process at a time that reads files."""

    def __init__(self, seconds_max: float, plant: str | None = None) -> None:
        self._seconds_max = seconds_max
        self._plant = plant
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._pending = b""

    def __enter__(self) -> ReadingChild:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        self._errors.close()

    def ask(self, given: Given) -> Answer:
        """Have one file read."""
        process = self.start()
        assert process.stdin is not None
        started, stage = time.perf_counter(), "checking"
        try:
            process.stdin.write(to_line(given) + given.content)
            process.stdin.flush()
        except BrokenPipeError:
            return self._died(given, stage, started)
        while (line := self._line(started + self._seconds_max)) is not None:
            if not line:
                return self._died(given, stage, started)
            if not line.startswith(b"{"):
                stage = line.decode()
                continue
            return self._told(given, json.loads(line), started)
        self._end()
        return Answer(broken=f"it hangs: no end after {self._seconds_max:g} s", seconds=self._seconds_max)

    def _told(self, given: Given, told: dict[str, Any], started: float) -> Answer:
        seconds = time.perf_counter() - started
        if "came" in told:
            return Answer(Came(**told["came"]), seconds=told["seconds"])
        self._end()  # what is left of its memory may mislead the next one
        if told.get("exhausted") == "reading":
            return _contained(given, "out of memory", seconds)
        return Answer(broken=told.get("broken", "out of memory in the worker"), seconds=seconds)

    def _died(self, given: Given, stage: str, started: float) -> Answer:
        assert self._process is not None
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit {code}"
        self._end()
        seconds = time.perf_counter() - started
        if stage == "reading" and -code in CRASHES:
            return _contained(given, how, seconds)
        return Answer(broken=f"its process died while {stage}: {how}\n{self._said()}", seconds=seconds)

    def start(self) -> subprocess.Popen[bytes]:
        """Wait until there is a process that is ready."""
        if self._process is not None:
            return self._process
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.child", *filter(None, [self._plant])]
        self._pending = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        ready = self._line(time.perf_counter() + START_SECONDS_MAX)
        assert ready == READY, f"the reading process does not start:\n{self._said()}"
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _line(self, until: float) -> bytes | None:
        """The next line without its end, none if there is no time left, an empty one if there are no more."""
        assert self._process is not None and self._process.stdout is not None
        source = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            left = until - time.perf_counter()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                return None
            data = os.read(source, 1 << 16)
            if not data:
                return b""
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
        job = SimpleNamespace(sha256=put(blobs, given.content), size=len(given.content), filename=given.filename)
        known = SimpleNamespace(**settings, blobs_url=url, reader_seconds_max=60.0)
        sample = given.content[:SAMPLE_BYTES]
        try:
            made = transcription_of(blobs, cast(Any, job), sample, cast(Any, known), given.options)
        except FileRefusedError as refused:
            return refused.code
        return made.transcript or job.sha256
