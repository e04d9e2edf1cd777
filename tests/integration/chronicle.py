"""Two readers of the log for tests: one that checks that it is a story the rules allow, one that folds it as a view."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ledger.application import Ledger
from ledger.domain.filejob import FileJob
from ledger.event_log import LoggedEvent
from projections.status import fold
from tests.filejob_model import ChunkModel, JobModel

# What a job may fail of where only blobs are missing, records refused and workers killed.
ERRORS = {"not_found", "rejects_too_many", "attempts_exhausted"}


class Chronicle:
    """What the log tells, as it is told: a model of each job, and where the log last asked for work on it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.position = ledger.position()
        self.models: dict[UUID, JobModel] = {}
        self.versions: dict[UUID, int] = {}
        self.asked_at: dict[UUID, int] = {}

    def read_on(self) -> None:
        """Take in the events since the last time: each must be one that the model of its job allows."""
        for logged in self._ledger.events_after(self.position, 1000):
            self.position = logged.position
            if isinstance(logged.event, FileJob.Event):
                self._take_in(logged, logged.event)

    def _take_in(self, logged: LoggedEvent, event: Any) -> None:
        job_id, name = event.originator_id, type(event).__name__
        assert event.originator_version == self.versions.get(job_id, 0) + 1
        self.versions[job_id] = event.originator_version
        if name in ("Received", "Queued", "Retried"):
            self.asked_at[job_id] = logged.position
        if name == "Received":
            self.models[job_id] = JobModel()
            return
        model = self.models[job_id]
        assert model.can(name, getattr(event, "chunk", None) or 0), (name, model)
        match name:
            case "Queued":
                model.plan(event.chunks_total)
            case "ChunkLoaded":
                model.load(event.chunk, ChunkModel(event.rows_loaded, event.rows_rejected))
            case "Failed":
                assert event.error["code"] in ERRORS, event.error
                assert event.retry_at is not None or event.rows_withdrawn == model.rows[0]
                model.fail(will_be_retried=event.retry_at is not None)
            case "Retried":
                assert event.stage == ("load" if model.planned else "plan")
                model.retry()
            case "Cancelled":
                assert event.rows_withdrawn == model.rows[0]
                model.cancel()
            case "Completed":
                assert model.counts_close()
                assert event.rows_loaded == model.rows[0]
                model.end("Completed")


class View:
    """Documents folded from the log in batches of any size, by a projector that forgets how far it was."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._start = self._position = ledger.position()
        self.documents: dict[UUID, dict[str, Any]] = {}

    def apply_batch(self, size: int) -> int:
        """Fold the next events; how many there were."""
        events = self._ledger.events_after(self._position, size)
        for logged in events:
            document = fold(self.documents.get(logged.event.originator_id), logged)
            if document is not None:
                self.documents[logged.event.originator_id] = document
            self._position = logged.position
        return len(events)

    def forget(self, events: int) -> None:
        """Begin again so many events earlier."""
        self._position = max(self._start, self._position - events)
