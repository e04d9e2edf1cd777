"""`python -m tests.fuzz.child`: reads one file after the other, in a process that may die of it.

Each line of standard input that begins a process (JSON: the fault of `tests.fuzz.plants` that is put into the product
before, or null) has one forked, which is ready at once: the imports are done. It then takes files: a line of JSON that
says what the file is and how many bytes it has, and the bytes.

Lines go to standard output: "ready" with the process's id, the stage that is begun with a file, JSON that says what
became of the file, and "died" with the exit code when the process has ended. The next one can be begun then. A process
has the limits of that which reads files for the ledger, see `projections.reader_process`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from typing import Any, BinaryIO

from projections.formats.files import read_up_to
from tests.fuzz import plants
from tests.fuzz.promise import BrokenPromiseError, Given, examine

MEMORY_BYTES = 4096 << 20
GROWTH_BYTES_MAX = 256 << 20  # of one file: its text is at most 4 MiB
FRAMES = 6


def to_line(given: Given) -> bytes:
    """What is sent before the bytes of a file."""
    known = {**vars(given), "content": len(given.content), "options": dict(given.options)}
    return json.dumps(known).encode() + b"\n"


def from_line(line: bytes, source: BinaryIO) -> Given:
    """The file that a line announces, its bytes read from the source."""
    known = json.loads(line)
    return Given(**{**known, "content": read_up_to(source, known["content"])})


def main() -> None:
    """Fork one process after the other, each when the one before has ended."""
    source = os.fdopen(0, "rb", 0)  # without a buffer: what one process does not read is the next one's
    while line := source.readline():
        pid = os.fork()
        if pid == 0:
            _serve(source, json.loads(line))
            os._exit(0)
        _tell(f"died {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _serve(source: BinaryIO, plant: str | None) -> None:
    """Read files until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if plant is not None:
        plants.PLANTS[plant]()
    _tell(f"ready {os.getpid()}")
    while line := source.readline():
        _tell(json.dumps(_answer(from_line(line, source))))


def _answer(given: Given) -> dict[str, Any]:
    stage = ["checking"]

    def begin(name: str) -> None:
        stage[0] = name
        _tell(name)

    begin("checking")
    started, memory = time.perf_counter(), _memory_bytes()
    try:
        came = vars(examine(given, begin))
    except BrokenPromiseError as broken:
        return {"broken": str(broken)}
    except MemoryError:
        return {"exhausted": stage[0]}
    except BaseException:
        return {"broken": traceback.format_exc(limit=-FRAMES)}
    grown = _memory_bytes() - memory
    if grown > GROWTH_BYTES_MAX:
        return {"broken": f"it took {grown >> 20:,} MiB of memory"}
    return {"came": came, "seconds": time.perf_counter() - started}


def _memory_bytes() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
