"""What the double does wrong when it is told to."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens to a call instead of an answer, or to its answer."""

    LOST_ANSWER = "it is done, and its answer is lost"
    SLOW_DOWN = "503 SlowDown"
    RESET = "the connection is reset in the middle of it"
    FLIPPED_REQUEST = "one bit of what is sent is flipped"
    FLIPPED_ANSWER = "one bit of the answer is flipped"
    CUT_ANSWER = "the answer ends in its middle"
    SHORT_ANSWER = "half of the answer is said to be all"
    GARBLED_ANSWER = "somebody else answers, and not in XML"
    IGNORED = "200, though nothing is done"
    PRECONDITION_FAILED = "412, though nothing is there"
    CONDITIONAL_CONFLICT = "409 ConditionalRequestConflict"


# Those that are an answer and nothing else. FAULT -> status, code.
REFUSALS: dict[Fault, tuple[int, str]] = {
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.PRECONDITION_FAILED: (412, "PreconditionFailed"),
    Fault.CONDITIONAL_CONFLICT: (409, "ConditionalRequestConflict"),
}


@dataclass
class _Armed:
    fault: Fault
    operation: str | None
    times: int
    after: int


class FaultPlan:
    """Which calls shall fail, and which calls there were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: _Armed | None = None
        self.calls: list[str] = []

    def arm(self, fault: Fault, operation: str | None = None, *, times: int = 1, after: int = 0) -> None:
        """Let a fault happen to the next calls of an operation, or of any, once so many have worked."""
        with self._lock:
            self._armed = _Armed(fault, operation, times, after)

    def disarm(self) -> None:
        """Let everything work."""
        with self._lock:
            self._armed = None

    def next(self, operation: str) -> Fault | None:
        """Note a call; what shall happen to it."""
        with self._lock:
            self.calls.append(operation)
            armed = self._armed
            if armed is None or armed.operation not in (operation, None):
                return None
            if armed.after:
                armed.after -= 1
                return None
            armed.times -= 1
            if not armed.times:
                self._armed = None
            return armed.fault
