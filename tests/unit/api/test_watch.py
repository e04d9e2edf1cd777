"""Waiting for a task: through a short silence of the server, and not for ever."""

from __future__ import annotations

from typing import Any

import pytest

from api.cli import load
from api.cli.client import CommandError, ExitCode

SILENCE = CommandError("The ledger does not answer.", exit_code=ExitCode.UNREACHABLE)
GONE = CommandError("There is no such job.", exit_code=ExitCode.NOT_FOUND)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Script:
    """A client that answers as written down; the last answer is given again and again."""

    def __init__(self, *answers: str | CommandError) -> None:
        self.answers = list(answers)

    def get(self, path: str, **parameters: Any) -> dict[str, Any]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, CommandError):
            raise answer
        return task(answer)


def task(status: str) -> dict[str, Any]:
    return {"task_id": "1", "filename": "payments.csv", "status": status, "error": None, "duplicate": False}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(load, "time", clock)
    return clock


@pytest.mark.parametrize("on_news", [None, lambda task: None])
def test_a_short_silence_of_the_server_is_waited_through(on_news: Any) -> None:
    script: Any = Script("Queued", SILENCE, SILENCE, SILENCE, "Processing", SILENCE, "Completed")
    assert load.watch(script, task("Received"), on_news=on_news)["status"] == "Completed"


def test_a_long_silence_is_told(clock: Clock) -> None:
    script: Any = Script("Queued", SILENCE)
    with pytest.raises(CommandError, match="does not answer"):
        load.watch(script, task("Received"))
    assert clock.seconds > load.PATIENCE_SECONDS


def test_another_error_is_told_at_once(clock: Clock) -> None:
    script: Any = Script(GONE)
    with pytest.raises(CommandError, match="no such job"):
        load.watch(script, task("Received"))
    assert clock.seconds == 0


def test_a_deadline_ends_the_waiting_and_not_the_work() -> None:
    script: Any = Script("Processing")
    with pytest.raises(CommandError, match="has not ended") as found:
        load.watch(script, task("Received"), deadline=5.0)
    assert found.value.exit_code == ExitCode.TIMEOUT
    assert "goes on" in found.value.remedy
