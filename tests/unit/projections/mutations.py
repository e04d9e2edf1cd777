"""Damaged samples, read in a child process: a library that crashes takes only the child along."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from collections import Counter
from importlib import import_module
from io import BytesIO
from pathlib import Path

from ledger.errors import FileRefusedError
from projections.formats.rows import Limits

MEMORY_BYTES = 4 << 30
SECONDS_MAX = 60
ROOT = Path(__file__).parents[3]


def damaged(sample: bytes, chance: random.Random) -> bytes:
    """The sample cut, or with some bytes changed, swapped or repeated."""
    data = bytearray(sample)
    if chance.random() < 0.25:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.choice((1, 1, 1, 2, 5, 30))):
        # What describes the data stands mostly at the end.
        place = chance.randrange(len(data)) if chance.random() < 0.5 else -chance.randrange(1, min(len(data), 2000))
        data[place] = chance.choice((0, 255, 127, data[place] ^ (1 << chance.randrange(8)), chance.randrange(256)))
    if chance.random() < 0.1:
        start = chance.randrange(len(data))
        data[start : start + chance.randrange(1, 200)] = b""
    return bytes(data)


def outcomes(reader: str, sample: Path, count: int) -> Counter[str]:
    """How often `module:function` ended how, over so many damaged samples: "read", a refusal's code, or "crash".

    Anything but a refusal that a reader raises fails.
    """
    found: Counter[str] = Counter()
    first = 0
    while first < count:
        command = [
            sys.executable,
            "-m",
            "tests.unit.projections.mutations",
            reader,
            str(sample),
            str(first),
            str(count),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_MAX, check=False, cwd=ROOT, env=environment
        )
        ended = child.stdout.split()
        found.update(ended)
        first += len(ended)
        if child.returncode == 0:
            break
        assert child.returncode < 0, child.stderr[-3000:]
        found["crash"] += 1
        first += 1
    return found


def run(reader: str, sample: bytes, first: int, count: int) -> None:
    """The child: print how each reading ended."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    module, _, function = reader.partition(":")
    read = getattr(import_module(module), function)
    limits = Limits(cells_max=1_000_000)
    for seed in range(first, count):
        try:
            for _ in read(BytesIO(damaged(sample, random.Random(seed))), limits, {}):
                pass
            report("read")
        except FileRefusedError as error:
            report(error.code)


def report(outcome: str) -> None:
    """Tell it at once: the next reading may end the process."""
    sys.stdout.write(f"{outcome}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), int(sys.argv[4]))
