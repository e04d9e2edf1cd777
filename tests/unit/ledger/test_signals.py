"""A signal that comes at the worst moment ends a process all the same."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from ledger.signals import set_on_signals

WAIT_SECONDS_MAX = 60.0


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = threading.Event()
    set_on_signals(stop)
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_event_is_set_by_a_signal(stop: threading.Event, number: signal.Signals) -> None:
    assert not stop.is_set()
    os.kill(os.getpid(), number)
    assert stop.wait(WAIT_SECONDS_MAX)


def test_a_signal_that_comes_while_the_main_thread_holds_the_events_lock_holds_nobody_up(stop: threading.Event) -> None:
    with stop._cond:  # as `wait` does before it waits, and after
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.is_set()
    assert stop.wait(WAIT_SECONDS_MAX)
