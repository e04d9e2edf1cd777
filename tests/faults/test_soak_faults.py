"""Many files, one after the other: what the processes hold in memory does not grow with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.faults import fault
from tests.faults.kit import FaultStack, payments_file, running_fault_stack
from tests.faults.oracle import assert_ledger_sound
from tests.stack import children

FILES = int(os.environ.get("LEDGER_TEST_SOAK_FILES", "40"))
WARM_UP_ROUNDS = 2
ROUNDS = 2
# An allocator keeps some of what it had; a leak of 100 kB a file would be many times this in a longer run.
GROWTH_BYTES_MAX = 24 << 20
OURS = ("api", "dispatcher", "projector", "sealer", "celery")


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


@fault(
    53,
    "many files, one after the other",
    protection="nothing that is kept in memory grows with the number of files",
    seen="with 400 kB kept for each file, of 60 a round: the workers had grown by 46 MiB",
)
def test_memory_does_not_grow_with_the_number_of_files(stack: FaultStack) -> None:
    for _ in range(WARM_UP_ROUNDS):
        load_many(stack)
    before = memory_bytes(stack)
    for _ in range(ROUNDS):
        load_many(stack)
    after = memory_bytes(stack)
    grown = {name: (after[name] - before[name]) >> 20 for name in OURS if after[name] - before[name] > GROWTH_BYTES_MAX}
    assert not grown, f"these have grown, in MiB: {grown}"
    assert_ledger_sound(stack, stack.accepted)


def load_many(stack: FaultStack) -> None:
    """Small files into one dataset, each to its end."""
    files = [payments_file(200, "soak") for _ in range(FILES)]
    tasks = [stack.send(file) for file in files]
    for task, file in zip(tasks, files, strict=True):
        stack.check_loaded(task["task_id"], file)


def memory_bytes(stack: FaultStack) -> dict[str, int]:
    """What each of our processes and its children hold now."""
    pids = stack.state()["pids"]
    return {name: sum(map(_resident_bytes, [pids[name], *children(pids[name])])) for name in OURS}


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
