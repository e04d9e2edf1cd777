"""Waiting for a state. How long that may take is a limit against hanging, never a claim."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SECONDS_MAX = 120.0
POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], Any], what: str | Callable[[], str], seconds_max: float = SECONDS_MAX) -> Any:
    """Wait until something is so; what it is then. `what` says what was never so."""
    deadline = time.monotonic() + seconds_max
    while not (found := condition()):
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(POLL_SECONDS)
    return found
