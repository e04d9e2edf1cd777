"""Retry: what is worth another attempt, how often, and after which pause. Pure: chance is an argument.

Rules:
1. The file's fault is not worth another attempt: the same bytes will fail the same way. Everything else is.
2. Attempts are counted before the work, so work that kills its worker every time comes to an end as well.
3. The pause doubles with each attempt up to a maximum, and chance takes some of it off, so that what failed
   together does not come back together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ledger.domain.reconciliation import CountsDoNotCloseError
from ledger.domain.words import Stage
from ledger.errors import FileRefusedError, LedgerError
from ledger.settings import Settings

# ERROR → another attempt? The first line that fits decides.
WORTH_RETRYING: tuple[tuple[type[Exception], bool], ...] = (
    (FileRefusedError, False),
    (CountsDoNotCloseError, False),
    (LedgerError, True),
    (Exception, True),
)
DOUBLINGS_MAX = 32


@dataclass(frozen=True)
class RetryPolicy:
    """How often one piece of work is tried, and the pauses in between."""

    attempts_max: int
    pause_seconds_min: float
    pause_seconds_max: float
    jitter_share: float

    @classmethod
    def of(cls, settings: Settings, stage: Stage) -> RetryPolicy:
        """The policy of a stage."""
        attempts_max = {
            Stage.PLAN: settings.plan_attempts_max,
            Stage.LOAD: settings.load_attempts_max,
            Stage.REBUILD: settings.operator_attempts_max,
            Stage.REPLAY: settings.operator_attempts_max,
        }[stage]
        return cls(attempts_max, settings.retry_seconds_min, settings.retry_seconds_max, settings.retry_jitter_share)

    def pause_seconds(self, attempt: int, chance: float) -> float:
        """The pause after an attempt, counted from 1. `chance` is from [0, 1)."""
        doubled = self.pause_seconds_min * 2.0 ** min(attempt - 1, DOUBLINGS_MAX)
        return min(self.pause_seconds_max, doubled) * (1 - self.jitter_share * chance)


def is_worth_retrying(error: Exception) -> bool:
    """Whether another attempt may end better than the one that ended with this error."""
    return next(retried for kind, retried in WORTH_RETRYING if isinstance(error, kind))


def error_fields(error: Exception, code: str | None = None) -> dict[str, Any]:
    """An error as a Failed event and a task carry it.

    The text of an error that is our own mistake may quote a record: only its kind is told.
    """
    if not isinstance(error, LedgerError):
        error = LedgerError(
            f"The program failed ({type(error).__name__}).", "Report this: the log of the worker has the details."
        )
        code = code or "internal_error"
    return {
        "code": code or error.code,
        "message": error.message,
        "remedy": error.remedy,
        "record": getattr(error, "record", None),
        "line": getattr(error, "line", None),
        "byte_offset": getattr(error, "byte_offset", None),
        "column": getattr(error, "column", None),
    }
