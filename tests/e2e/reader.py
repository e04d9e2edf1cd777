"""Somebody who reads a part of a table and asks for a task, again and again, whatever others do meanwhile."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import psycopg2

from tests.stack import Stack
from tests.waiting import wait_until

# No reader waits for so long: what holds a table alone for so long has shut its readers out.
PATIENCE = "-c lock_timeout=15s"


class Reader:
    """Reads over a connection of its own, and over HTTP, until it is left. The first failure ends it.

    What it reads has to be the same each time. `reads` says how often all of it was read, by phase.
    """

    def __init__(self, ledger: Stack, table: str, where: str, task_id: str) -> None:
        self._ledger = ledger
        self._task_id = task_id
        self._rows = f"SELECT * FROM {table} WHERE {where} ORDER BY _job, _record LIMIT 20"
        self._sums = f"SELECT count(*), sum(distance), sum(air_time), sum(dep_delay) FROM {table} WHERE {where}"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._phase = ""
        self._first: Any = None
        self.reads: Counter[str] = Counter()
        self.failure: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """A phase of what others do. It is not over before something was read in it, from beginning to end."""
        self._phase = phase
        yield
        wait_until(lambda: self.reads[phase] or self.failure, f"nothing was read during {phase}")
        if self.failure is not None:
            raise AssertionError(f"a reader failed during {phase}") from self.failure

    def _run(self) -> None:
        try:
            connection = psycopg2.connect(self._ledger.database_url(), options=PATIENCE)
            connection.autocommit = True
            with self._ledger.http() as http, connection.cursor() as cursor:
                while not self._ended.is_set():
                    self._read(http, cursor)
            connection.close()
        except Exception as error:  # the edge of a thread: whoever waits for a phase is told
            self.failure = error

    def _read(self, http: Any, cursor: Any) -> None:
        phase, found = self._phase, []
        for statement in (self._rows, self._sums):
            cursor.execute(statement)
            found.append(cursor.fetchall())
        answer = http.get(f"/task/{self._task_id}")
        assert answer.is_success, answer.text
        found.append(answer.json()["status"])
        self._first = self._first or found
        assert found == self._first, f"{found[1:]}, and at first {self._first[1:]}"
        if phase == self._phase:
            self.reads[phase] += 1
