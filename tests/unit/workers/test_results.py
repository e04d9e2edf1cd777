"""What the result backend is told, and that its absence is nobody's error."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from celery.exceptions import Ignore

from ledger.domain.base import Stamp
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.settings import Settings
from workers import results
from workers.app import app
from workers.results import News, OperationFailedError, Results

STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "admin", "request-1")
PROGRESS = {"events": 5, "position": 5, "log_position": 9}


class Clock:
    """Time that passes when a test says so."""

    seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


@dataclass
class FakeTask:
    """A Celery task whose result backend writes down what it is told, or is away."""

    away: bool = False
    told: list[Any] = field(default_factory=list)
    request: Any = field(default_factory=lambda: SimpleNamespace(id="1"))

    @property
    def backend(self) -> FakeTask:
        return self

    def update_state(self, state: str, meta: Any) -> None:
        self._tell((state, meta))

    def cleanup(self) -> None:
        self._tell("cleanup")

    def _tell(self, what: Any) -> None:
        self.told.append(what)
        if self.away:
            raise ConnectionError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(results, "time", clock)
    return clock


def news_of(task: Any) -> News:
    return News(task)


def operation() -> Operation:
    return Operation.request(UUID(int=1), STAMP, kind=Stage.REBUILD, arguments={"view": "status"})


def completed() -> Operation:
    found = operation()
    found.complete(STAMP, result={"view": "status"})
    return found


def test_progress_is_told_at_once_and_then_once_a_second(clock: Clock) -> None:
    task = FakeTask()
    news = news_of(task)
    for _ in range(25):  # two seconds and a half
        news.progress(PROGRESS)
        clock.seconds += 0.1
    assert task.told == [("PROGRESS", PROGRESS)] * 3


def test_a_backend_that_is_away_is_no_error_is_said_once_and_not_waited_for_again(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    task = FakeTask(away=True)
    news = news_of(task)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            news.progress(PROGRESS)
            clock.seconds += 10
        with pytest.raises(Ignore):
            news.end(completed())
    assert task.told == [("PROGRESS", PROGRESS), "cleanup"]
    assert len(caplog.records) == 1


def test_a_backend_that_is_back_at_the_end_gets_the_result(clock: Clock) -> None:
    task = FakeTask(away=True)
    news = news_of(task)
    news.progress(PROGRESS)
    task.away = False
    assert news.end(completed()) == {"view": "status"}


def test_a_message_that_ended_nothing_leaves_no_result() -> None:
    with pytest.raises(Ignore):
        news_of(FakeTask()).end(None)


def test_a_failed_operation_is_a_failure_for_celery_too() -> None:
    failed = operation()
    failed.fail(STAMP, error={"message": "MongoDB is away.", "remedy": "Bring it back."})
    with pytest.raises(OperationFailedError, match="MongoDB is away"):
        news_of(FakeTask()).end(failed)


@pytest.mark.parametrize(
    "meta",
    [
        {"status": "PENDING", "result": None},
        {"status": "SUCCESS", "result": PROGRESS},
        {"status": "PROGRESS", "result": None},
        {"status": "PROGRESS", "result": {**PROGRESS, "position": "far"}},
    ],
)
def test_what_is_no_progress_is_not_told_as_one(monkeypatch: pytest.MonkeyPatch, meta: dict[str, Any]) -> None:
    reader = Results(Settings())
    monkeypatch.setattr(reader._backend, "get_task_meta", lambda *_, **__: meta)
    assert reader.progress(UUID(int=1)) is None
    monkeypatch.setattr(
        reader._backend, "get_task_meta", lambda *_, **__: {"status": "PROGRESS", "result": {**PROGRESS, "more": 1}}
    )
    assert reader.progress(UUID(int=1)) == PROGRESS


def test_only_operators_tasks_keep_results() -> None:
    app.loader.import_default_modules()
    ours = {name: task for name, task in app.tasks.items() if name.startswith("ledger.")}
    assert {name for name, task in ours.items() if not task.ignore_result} == {
        "ledger.archive_year",
        "ledger.close_year",
        "ledger.hold_year",
        "ledger.post_adjustment",
        "ledger.rebuild",
        "ledger.replay",
        "ledger.restore_year",
        "ledger.verify",
    }
