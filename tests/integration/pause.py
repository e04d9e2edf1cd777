"""A thread that stands still at a named step, as a worker does that is paused there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.place import WAIT_SECONDS_MAX, wait_until


class Pause:
    """Stops one thread where it calls a function of a module, until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, function: str) -> None:
        self._reached = threading.Event()
        self._go_on = threading.Event()
        self._paused: threading.Thread | None = None
        real = getattr(module, function)

        def paused(*arguments: Any) -> Any:
            if threading.current_thread() is self._paused:
                self._reached.set()
                assert self._go_on.wait(WAIT_SECONDS_MAX)
            return real(*arguments)

        monkeypatch.setattr(module, function, paused)
        self.error: BaseException | None = None

    def start(self, function: Callable[[], object]) -> None:
        """Run a function in a thread of its own until it stands at the pause."""

        def run() -> None:
            try:
                function()
            except BaseException as error:
                self.error = error

        self._paused = threading.Thread(target=run, daemon=True)
        self._paused.start()
        wait_until(lambda: self._reached.is_set() or not self._thread.is_alive(), "the worker does not get there")
        assert self._reached.is_set(), self.error

    @property
    def lasts(self) -> bool:
        """Whether it stands there, or goes on from there."""
        return self._thread.is_alive()

    def end(self) -> BaseException | None:
        """Let it go on to its end; the error that it ended with."""
        self._go_on.set()
        self._thread.join(WAIT_SECONDS_MAX)
        assert not self._thread.is_alive(), "it does not end"
        return self.error

    @property
    def _thread(self) -> threading.Thread:
        assert self._paused is not None
        return self._paused
