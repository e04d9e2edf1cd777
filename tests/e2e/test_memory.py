"""A large file streams through the door and the workers: neither ever holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from tests.stack import Stack, children, memory_peak_bytes

API_MORE_BYTES_MAX = 64 << 20  # beyond what it needs for its modules
WORKER_MEMORY_BYTES_MAX = 400 << 20
RECORDS_AT_ONCE = 10_000
QUOTED_CHARACTERS = 200_000
LOAD_SECONDS_MAX = 400.0

Send = Callable[..., dict[str, Any]]


class Generated:
    """A CSV of about so many bytes that nobody holds; after it was sent, what it held."""

    def __init__(self, size: int, record: Callable[[int], str]) -> None:
        self._size = size
        self._record = record
        self.records = 0
        self.sent = 0
        self.total = 0

    def blocks(self, records_at_once: int) -> Iterator[bytes]:
        yield b"id,account,amount,note\n"
        while self.sent < self._size:
            numbers = range(self.records, self.records + records_at_once)
            block = "".join(map(self._record, numbers)).encode()
            self.records += records_at_once
            self.total += sum(numbers)
            self.sent += len(block)
            yield block


def test_a_large_file_streams_through(stack: Stack, http: httpx2.Client, large_bytes: int) -> None:
    generated = Generated(
        large_bytes, lambda n: f"{n},ACC-{n % 9973:05d},{n % 100_000}.{n % 100:02d},payment number {n} of the year\n"
    )
    before = _api_peaks(stack)
    _check_loaded(stack, http, "large", generated, RECORDS_AT_ONCE)
    _check_memory(stack, before)


def test_long_quoted_fields_stream_through(stack: Stack, http: httpx2.Client, large_bytes: int) -> None:
    """Quoted newlines and doubled quotes make a chunk's edge hard to find; the fields make its records long."""
    long = 'He said ""pay, now"".\n' * (QUOTED_CHARACTERS // 22)
    generated = Generated(
        large_bytes // 4, lambda n: f'{n},ACC-{n % 9973:05d},{n % 100_000}.{n % 100:02d},"{n} {long}"\n'
    )
    before = _api_peaks(stack)
    _check_loaded(stack, http, "long_fields", generated, 10)
    assert stack.sql("SELECT min(length(note)) > %s FROM data.long_fields", QUOTED_CHARACTERS // 2) == [(True,)]
    _check_memory(stack, before)


def _check_loaded(stack: Stack, http: httpx2.Client, dataset: str, generated: Generated, records_at_once: int) -> None:
    answer = http.put(
        f"/api/v1/files/{dataset}.csv", content=generated.blocks(records_at_once), params={"dataset": dataset}
    )
    assert answer.status_code == 202, answer.text
    task = stack.wait(answer.json()["tasks"][0]["task_id"], seconds_max=LOAD_SECONDS_MAX)
    (stack.home / "blobs" / task["sha256"][:2] / task["sha256"]).unlink()  # the disk may be small
    assert task["status"] == "Completed", task["error"]
    assert (task["records"], task["rows_loaded"], task["rows_rejected"]) == (generated.records, generated.records, 0)
    assert task["size"] == generated.sent + len("id,account,amount,note\n")
    found = stack.sql(f"SELECT count(*), sum(id), count(DISTINCT _record), max(_record) FROM data.{dataset}")
    assert found == [(generated.records, generated.total, generated.records, generated.records)]


def _api_peaks(stack: Stack) -> dict[int, int]:
    """The most memory that each process of the door has had since it started, in bytes, by its id."""
    pid = stack.state()["pids"]["api"]
    return {each: memory_peak_bytes(each) for each in (pid, *children(pid))}


def _check_memory(stack: Stack, before: dict[int, int]) -> None:
    """What each process needed for the file, or for all that it has done since it started."""
    for pid, peak in _api_peaks(stack).items():
        assert peak - before[pid] < API_MORE_BYTES_MAX
    workers = (stack.state()["pids"]["celery"], *children(stack.state()["pids"]["celery"]))
    assert len(workers) > 1
    for pid in workers:
        assert memory_peak_bytes(pid) < WORKER_MEMORY_BYTES_MAX
