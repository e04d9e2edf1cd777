"""Celery's result backend: where operators see how far an operation is, and nothing else.

Rules:
1. The log is what counts. A backend that is away costs those who watch their progress bar, never an operation its
   end; loading files does not touch it at all.
2. A message that did not end its operation leaves no result: a duplicate must not write over the news of the one that
   is at work, and Celery keeps the first success that it is told.
3. Results are thrown away after `RESULT_SECONDS_KEPT`. MongoDB does not do that by itself through Celery, and Celery's
   own clean-up needs its scheduler (beat), one more process that must run exactly once. Only operators' tasks write
   results, so cleaning up whenever one of them ends keeps their number small, with nothing more to run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import Celery, Task
from celery.exceptions import Ignore
from pydantic import BaseModel, TypeAdapter, ValidationError

from ledger.domain.operation import Operation
from ledger.errors import LedgerError
from ledger.settings import Settings

log = logging.getLogger(__name__)

PROGRESS = "PROGRESS"
RESULT_SECONDS_KEPT = 7 * 24 * 3600
TELL_SECONDS_MIN = 1.0
# A backend that does not answer may cost an operation this much time, once.
MILLISECONDS_MAX = {"serverSelectionTimeoutMS": 2000, "connectTimeoutMS": 2000, "socketTimeoutMS": 3000}


class Progress(BaseModel):
    """How far an operation is: events read, and where that is in a log of that length."""

    events: int
    position: int
    log_position: int


class PartsProgress(BaseModel):
    """How far an archive is: parts that are in cold storage, out of how many, and their bytes."""

    parts: int
    parts_total: int
    bytes: int


PROGRESSES: TypeAdapter[Progress | PartsProgress] = TypeAdapter(Progress | PartsProgress)


class OperationFailedError(LedgerError):
    """An operation has failed: how Celery, and whoever watches it, is told."""

    code = "operation_failed"


def result_settings(settings: Settings) -> dict[str, Any]:
    """What Celery needs to know about its result backend."""
    return {
        "result_backend": settings.result_backend.get_secret_value(),
        "result_expires": RESULT_SECONDS_KEPT,
        "mongodb_backend_settings": {"options": MILLISECONDS_MAX},
    }


class News:
    """Tells the result backend about one message's operation, as long as the backend answers."""

    def __init__(self, task: Task[Any, Any]) -> None:
        self._task = task
        self._tell_at_seconds = 0.0
        self._silent = False

    def progress(self, progress: dict[str, Any]) -> None:
        """Say how far it is, not more often than every `TELL_SECONDS_MIN`."""
        if self._silent or time.monotonic() < self._tell_at_seconds:
            return
        self._try(lambda: self._task.update_state(state=PROGRESS, meta=progress))
        self._tell_at_seconds = time.monotonic() + TELL_SECONDS_MIN

    def end(self, ended: Operation | None) -> dict[str, Any]:
        """The result that Celery shall keep.

        Raises:
            OperationFailedError: the operation has failed, which Celery keeps as well.
            Ignore: Celery shall keep nothing, for this message ended nothing, or the backend is away.
        """
        # Celery takes a backend that is away when it stores a result for a failure of its own: we look before it does.
        if ended is None or not self._try(self._task.backend.cleanup):
            raise Ignore
        if ended.error is not None:
            raise OperationFailedError(ended.error["message"], ended.error["remedy"])
        assert ended.result is not None
        return ended.result

    def _try(self, tell: Callable[[], object]) -> bool:
        try:
            tell()
        except Exception as error:  # the edge: any failure here is news that are not told, never more
            if not self._silent:
                log.warning(
                    "the result backend is away, nobody sees how far an operation is: %s",
                    type(error).__name__,
                    extra={"action": "result_backend_away", "operation_id": self._task.request.id},
                )
            self._silent = True
            return False
        return True


class Results:
    """Reads what the result backend was told. May be shared by threads."""

    def __init__(self, settings: Settings) -> None:
        reader = Celery("ledger-results", set_as_current=False)
        reader.conf.update(result_settings(settings))
        self._backend = reader.backend

    def progress(self, operation_id: UUID) -> dict[str, int] | None:
        """How far an operation is; None if nobody knows, be it that the backend is away."""
        try:
            told = self._backend.get_task_meta(str(operation_id), cache=False)
            return PROGRESSES.validate_python(told["result"]).model_dump() if told["status"] == PROGRESS else None
        except ValidationError:
            return None
        except Exception as error:  # the edge: any failure here is news that are not told, never more
            log.warning("the result backend is away: %s", type(error).__name__, extra={"action": "result_backend_away"})
            return None
