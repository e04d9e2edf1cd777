"""How a process of the ledger learns that it shall end."""

from __future__ import annotations

import _thread
import signal
import threading


def set_on_signals(stop: threading.Event) -> None:
    """Set an event when SIGINT or SIGTERM comes.

    By a thread of its own: a handler runs in the middle of whatever the main thread does, which may be a wait for this
    very event that holds its lock; to set it there would be to wait for oneself, for ever.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
