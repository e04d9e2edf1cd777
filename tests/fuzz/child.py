"""`python -m tests.fuzz.child [PLANT]`: reads one file after the other, in a process that may die of it.

A file comes on standard input: a line of JSON that says what it is and how many bytes it has, then the bytes. Lines go
to standard output: that it is ready, the stage that is begun, then JSON that says what became of the file. It has the
limits of the process that reads files for the ledger, see `projections.reader_process`.

PLANT is the name of a fault in `tests.fuzz.plants` that is put into the product before: it must be noticed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from typing import Any, BinaryIO

from ledger.settings import Settings
from tests.fuzz import plants
from tests.fuzz.promise import BrokenPromiseError, Given, examine

MEMORY_BYTES: int = Settings.model_fields["reader_memory_bytes_max"].default
GROWTH_BYTES_MAX = 256 << 20  # of one file: its text is at most 4 MiB
FRAMES = 6
READY = b"ready"


def to_line(given: Given) -> bytes:
    """What is sent before the bytes of a file."""
    known = {**vars(given), "content": len(given.content), "options": dict(given.options)}
    return json.dumps(known).encode() + b"\n"


def from_line(line: bytes, source: BinaryIO) -> Given:
    """The file that a line announces, its bytes read from the source."""
    known = json.loads(line)
    return Given(**{**known, "content": source.read(known["content"])})


def main() -> None:
    """Read files until there are no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if len(sys.argv) > 1:
        plants.PLANTS[sys.argv[1]]()
    _tell(READY.decode())
    while line := sys.stdin.buffer.readline():
        _tell(json.dumps(_answer(from_line(line, sys.stdin.buffer))))


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
