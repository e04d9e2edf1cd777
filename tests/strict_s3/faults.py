"""What the double does wrong when it is told to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
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
    FORBIDDEN = "403 AccessDenied"


# Those that are an answer and nothing else. FAULT -> status, code.
REFUSALS: dict[Fault, tuple[int, str]] = {
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.PRECONDITION_FAILED: (412, "PreconditionFailed"),
    Fault.CONDITIONAL_CONFLICT: (409, "ConditionalRequestConflict"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
}


@dataclass(frozen=True)
class Call:
    """A call as its caller means it, however often it is sent: the first, second ... of an operation on a target."""

    operation: str
    target: str
    number: int


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
        self.struck: set[Call] = set()
        self._meant: dict[str, Call] = {}
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._left: dict[Call, int] = {}
        self._striking = Fault.SLOW_DOWN

    def arm(self, fault: Fault, operation: str | None = None, *, times: int = 1, after: int = 0) -> None:
        """Let a fault happen to the next calls of an operation, or of any, once so many have worked."""
        with self._lock:
            self._armed = _Armed(fault, operation, times, after)

    def strike(self, fault: Fault, calls: Iterable[Call], *, times: int = 1) -> None:
        """Let a fault happen to each of some calls, the first so many times that it is sent."""
        with self._lock:
            self._striking, self._left, self.struck = fault, dict.fromkeys(calls, times), set()

    def begin(self) -> None:
        """Number calls anew; what was struck so far is let through."""
        with self._lock:
            self._left = {call: times for call, times in self._left.items() if call not in self.struck}
            self._meant, self._numbers = {}, Counter()

    def meant(self) -> list[Call]:
        """The calls since `begin`, in their order."""
        with self._lock:
            return list(self._meant.values())

    def disarm(self) -> None:
        """Let everything work."""
        with self._lock:
            self._armed = None
            self._left = {}

    def next(self, operation: str, target: str, invocation: str) -> Fault | None:
        """Note a call; what shall happen to it. What is sent again by boto is the same invocation."""
        with self._lock:
            self.calls.append(operation)
            call = self._call(operation, target, invocation)
            if self._left.get(call, 0):
                self._left[call] -= 1
                self.struck.add(call)
                return self._striking
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

    def _call(self, operation: str, target: str, invocation: str) -> Call:
        if invocation not in self._meant:
            self._numbers[operation, target] += 1
            self._meant[invocation] = Call(operation, target, self._numbers[operation, target])
        return self._meant[invocation]
