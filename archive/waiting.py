"""Waiting for the sealer, which signs what others have written down."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ledger.errors import PartUnavailableError

LOOK_SECONDS = 0.2

Found = TypeVar("Found")


def wait_for(find: Callable[[], Found | None], seconds_max: float, missing: str) -> Found:
    """What is found sooner or later.

    Raises:
        PartUnavailableError: it took longer. `missing` says what is not there.
    """
    deadline = time.monotonic() + seconds_max
    while (found := find()) is None:
        if time.monotonic() >= deadline:
            raise PartUnavailableError(missing, "It is tried again. See whether the sealer runs: ledger doctor")
        time.sleep(LOOK_SECONDS)
    return found
