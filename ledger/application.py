"""The ledger's commands and questions: what the doors and the workers may ask of the record.

Rules:
1. A door makes one write: `receive`. It is one transaction for all files of one upload.
2. The same bytes into the same dataset are one job, unless the sender says otherwise or the earlier job failed
   for good or was cancelled. Jobs that name different parts of them (a file in an archive, a sheet, what a record is)
   are about different content. Two uploads of the same bytes at once decide one after the other.
3. Whoever decides about a job inside a transaction holds the job's lock and reads the job afterwards.
4. A retry never loads bytes a second time that have come in again meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, uuid4

from eventsourcing.application import AggregateNotFoundError
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.database import lock, lock_job, prepare, rows, unavailable_as_error
from ledger.domain.adjustment import adjustments_of
from ledger.domain.api_key import ApiKey, key_uuid
from ledger.domain.base import Aggregate, Stamp
from ledger.domain.contract import Contract
from ledger.domain.dataset import Dataset, dataset_id
from ledger.domain.erasure import Erasure
from ledger.domain.evolution import evolution_refused
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear, fiscal_year_id
from ledger.domain.operation import Operation
from ledger.domain.settlement import Settlement, settlement_id
from ledger.domain.user import User, user_uuid
from ledger.domain.words import ENDED_WELL, OnDuplicate, Stage
from ledger.errors import ConflictError, NotFoundError, no_such_job
from ledger.event_log import EventLog
from ledger.event_store import EVENTS_TABLE
from ledger.failpoints import failpoint
from ledger.fiscal_years import check_calendar
from ledger.settings import Settings


@dataclass(frozen=True)
class Arrival:
    """A file whose bytes are kept in the blob store, not yet in the record."""

    job_id: UUID
    sha256: str
    size: int
    filename: str
    content_type: str
    dataset: str
    reading: dict[str, str] = field(default_factory=dict)
    corrects: UUID | None = None
    control_totals: dict[str, Any] = field(default_factory=dict)
    may_adjust: bool = False
    adjustment: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> Content:
        """What is told apart when the same bytes come again."""
        return Content(self.dataset, self.sha256, part_of(self.reading))


def part_of(reading: Mapping[str, str]) -> str | None:
    """The part of its bytes that a job is about, by what its sender says of how they are read; None for all."""
    named = {name: reading[name] for name in PARTS if name in reading}
    return json.dumps(named, sort_keys=True, ensure_ascii=False) if named else None


class Content(NamedTuple):
    """What goes into a dataset: some bytes, or a part of them, see `part_of`."""

    dataset: str
    sha256: str
    part: str | None


@dataclass(frozen=True)
class Received:
    """The job that answers for an arrival; `duplicate` if it stood there before."""

    job_id: UUID
    duplicate: bool


# What a sender says by which the same bytes can be several things to load.
PARTS = ("member", "sheet", "record")

Kind = TypeVar("Kind", bound=Aggregate)


class Ledger(EventLog):
    """The application: one per process."""

    name = "stored"

    def __init__(self, settings: Settings) -> None:
        """Make the parts; the database is asked for nothing yet.

        Raises:
            MasterKeyError: the settings have no master key.
        """
        super().__init__(settings)
        self._calendar = FiscalCalendar.parse(settings.fiscal_calendar, settings.time_zone)

    def prepare(self) -> None:
        """Make the record's schema, if it is not there.

        Raises:
            MasterKeyError: this ledger was used with another master key.
            CalendarChangedError: it has years that would have had other days by the calendar that is set.
        """
        prepare(self.engine, "ledger")
        with self.transaction() as session:
            self.subject_keys.check(session)
            check_calendar(session, self._calendar)

    def receive(
        self, arrivals: Sequence[Arrival], stamp: Stamp, *, door: str, on_duplicate: OnDuplicate
    ) -> list[Received]:
        """Write down that files arrived: all of them, or none.

        Raises:
            ConflictError: `on_duplicate` is reject, and a dataset has received the same bytes before; or a file
                corrects a job of another dataset, or one that has not completed.
            NotFoundError: a file corrects a job that does not exist.
        """
        for arrival in arrivals:
            self._check_corrects(arrival)
        with self.transaction() as session:
            for name in sorted({f"{arrival.dataset} {arrival.sha256}" for arrival in arrivals}):
                lock(session, f"content {name}")
            parts = self._parts(session, [arrival.content.part for arrival in arrivals])
            answers: list[Received] = []
            fresh: dict[Content, UUID] = {}
            new: list[FileJob] = []
            for arrival in arrivals:
                known = (
                    None if on_duplicate is OnDuplicate.ALLOW else self._known(session, arrival.content, fresh, parts)
                )
                if known is not None and on_duplicate is OnDuplicate.REJECT:
                    raise ConflictError(
                        f"Dataset {arrival.dataset!r} has received the bytes of {arrival.filename!r} before, "
                        f"as job {known}.",
                        "Nothing was taken. Send on_duplicate=allow to load them again.",
                    )
                if known is None:
                    new.append(self._received(arrival, stamp, door))
                    fresh[arrival.content] = arrival.job_id
                answers.append(Received(known or arrival.job_id, known is not None))
            if new:
                self._append_arrivals(session, new, parts)
                failpoint("received_appended")
        failpoint("received_committed")
        return answers

    def retry(self, job_id: UUID, stamp: Stamp, *, reason: str) -> FileJob:
        """Open the next attempt of a job that failed: at once if it waits for one, from the plan if it ended.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: it has not failed, or its bytes were received again meanwhile.
        """
        known = self.job(job_id)
        with self.transaction() as session:
            lock(session, f"content {known.dataset} {known.sha256}")
            lock_job(session, job_id)
            job = self.job(job_id)
            part = part_of(job.reading)
            twin = self._latest(session, Content(job.dataset, job.sha256, part), self._parts(session, [part])[part])
            if twin is not None and twin.id != job.id and not job.waiting:
                raise ConflictError(
                    f"The bytes of {job.filename!r} were received again, as job {twin.id}.",
                    "Look at that one. To load them twice on purpose, send the file with on_duplicate=allow.",
                )
            job.retry(stamp, reason=reason)
            self.save(job, session=session)
        return job

    def job(self, job_id: UUID) -> FileJob:
        """The job as the log tells it.

        Raises:
            NotFoundError: there is no such job.
        """
        job = self._found(FileJob, job_id)
        if job is None:
            raise no_such_job(job_id)
        return job

    def dataset(self, name: str) -> Dataset | None:
        """The dataset of that name, or None."""
        return self._found(Dataset, dataset_id(name))

    def register_dataset(self, name: str, contract: Contract, stamp: Stamp, *, reason: str = "") -> Dataset:
        """Declare a dataset before its first file, or give it the next version of its contract.

        Raises:
            ConflictError: it exists, and its contract cannot become this one.
        """
        with self.transaction() as session:
            lock(session, f"dataset {name}")
            known = self.dataset(name)
            if known is None:
                known = Dataset.register(stamp, name=name, contract=contract, inferred_from=None)
            elif known.contract != contract:
                refused = evolution_refused(known.contract, contract)
                if refused:
                    raise ConflictError(
                        f"The contract of dataset {name!r} cannot become this one. {' '.join(refused)}",
                        "Add columns that may be empty at the end, or register a dataset of another name.",
                    )
                known.change_contract(stamp, contract=contract, reason=reason)
            if known.pending_events:
                self.save(known, session=session)
        return known

    def dataset_names(self, among: Collection[str] | None = None) -> list[str]:
        """The names of all datasets, or of those that are among some, sorted."""
        chosen = "" if among is None else " AND originator_id = ANY(:ids)"
        ids = {} if among is None else {"ids": [dataset_id(name) for name in among]}
        with self.transaction() as session:
            found = rows(
                session,
                f"SELECT convert_from(state, 'UTF8')::json ->> 'name' AS name FROM {EVENTS_TABLE}"
                f" WHERE topic = 'dataset.registered'{chosen} ORDER BY 1",
                **ids,
            )
        return [str(row.name) for row in found]

    def dataset_of_job(self, job_id: UUID) -> str | None:
        """The dataset that a job's file goes into, None if there is no such job."""
        with self.transaction() as session:
            found = rows(session, "SELECT dataset FROM ledger.arrivals WHERE job_id = :job_id", job_id=job_id)
        return str(found[0].dataset) if found else None

    def operation(self, operation_id: UUID) -> Operation:
        """The operation as the log tells it.

        Raises:
            NotFoundError: there is no such operation.
        """
        operation = self._found(Operation, operation_id)
        if operation is None:
            raise NotFoundError(
                f"There is no operation {operation_id}.", "Use the id that its request was answered with."
            )
        return operation

    def api_key(self, key_id: str) -> ApiKey | None:
        """The API key of that id, or None."""
        return self._found(ApiKey, key_uuid(key_id))

    def user(self, user_id: str) -> User | None:
        """The user behind that pseudonym, or None."""
        return self._found(User, user_uuid(user_id))

    def request(self, kind: Stage, arguments: dict[str, Any], stamp: Stamp) -> Operation:
        """Write down that somebody asked for an operation: all that a door does about it."""
        operation = Operation.request(uuid4(), stamp, kind=kind, arguments=arguments)
        with unavailable_as_error():
            self.save(operation)
        return operation

    def erasure(self, erasure_id: UUID) -> Erasure | None:
        """The erasure with this id (see `ledger.domain.erasure.erasure_id`), or None."""
        return self._found(Erasure, erasure_id)

    def fiscal_year(self, label: str) -> FiscalYear | None:
        """The fiscal year of that name, None if nothing ever happened to it."""
        return self._found(FiscalYear, fiscal_year_id(label))

    def job_position(self, session: Session, job_id: UUID) -> int:
        """The position of the job's Received event: the `_job` of each of its rows."""
        found = session.execute(
            text("SELECT position FROM ledger.arrivals WHERE job_id = :job_id"), {"job_id": job_id}
        ).scalar_one()
        return int(found)

    def _found(self, kind: type[Kind], aggregate_id: UUID) -> Kind | None:
        try:
            with unavailable_as_error():
                aggregate: object = self.repository.get(aggregate_id)
        except AggregateNotFoundError:
            return None
        return aggregate if isinstance(aggregate, kind) else None

    def _check_corrects(self, arrival: Arrival) -> None:
        if arrival.corrects is None:
            return
        corrected = self.job(arrival.corrects)
        wanted = adjustments_of(corrected.dataset) if arrival.adjustment else corrected.dataset
        if wanted != arrival.dataset or corrected.status not in ENDED_WELL:
            raise ConflictError(
                f"{arrival.filename!r} cannot correct job {corrected.id}, which is {corrected.status} in dataset "
                f"{corrected.dataset!r}.",
                "A correction goes into the dataset of a job that has completed with rejects.",
            )

    def settlement(self, job_id: UUID) -> Settlement | None:
        """What became of the rejects of a job, None if none was settled."""
        return self._found(Settlement, settlement_id(job_id))

    def settle(self, session: Session, job_id: UUID, stamp: Stamp) -> Settlement:
        """The settlement of a job's rejects, until the session's transaction ends nobody else's to decide about."""
        lock(session, f"settlement {job_id}")
        return self.settlement(job_id) or Settlement.open(job_id, stamp)

    def _parts(self, session: Session, parts: Iterable[str | None]) -> dict[str | None, str | None]:
        """By what each part is told apart in `ledger.arrivals`: a part may name a file."""
        digests: dict[str | None, str | None] = {None: None}
        digests.update(self.subject_keys.digests(session, filter(None, parts)))
        return digests

    def _known(
        self, session: Session, content: Content, fresh: dict[Content, UUID], parts: dict[str | None, str | None]
    ) -> UUID | None:
        if content in fresh:
            return fresh[content]
        job = self._latest(session, content, parts[content.part])
        return None if job is None else job.id

    def _latest(self, session: Session, content: Content, digest: str | None) -> FileJob | None:
        """The job that answers for some content: the last one that did not end badly.

        A job that names no part is about all of its bytes, so also about each part of them. What arrived before names
        were sealed has the part itself, not its digest.
        """
        found = rows(
            session,
            "SELECT job_id FROM ledger.arrivals WHERE dataset = :dataset AND sha256 = :sha256 "
            "AND (part IS NULL OR CAST(:part AS text) IS NULL OR part IN (:part, :digest)) ORDER BY position DESC",
            **content._asdict(),
            digest=digest,
        )
        jobs = (self.job(row.job_id) for row in found)
        return next((job for job in jobs if job.is_open or job.status in ENDED_WELL), None)

    def _received(self, arrival: Arrival, stamp: Stamp, door: str) -> FileJob:
        told = {each.name: getattr(arrival, each.name) for each in fields(arrival)}
        return FileJob.receive(told.pop("job_id"), stamp, door=door, **told)

    def _append_arrivals(self, session: Session, jobs: list[FileJob], parts: dict[str | None, str | None]) -> None:
        recordings = self.save(*jobs, session=session)
        positions = {recording.domain_event.originator_id: recording.notification.id for recording in recordings}
        session.execute(
            text(
                "INSERT INTO ledger.arrivals (job_id, position, dataset, sha256, part) "
                "VALUES (:job_id, :position, :dataset, :sha256, :part)"
            ),
            [
                {
                    "job_id": job.id,
                    "position": positions[job.id],
                    "dataset": job.dataset,
                    "sha256": job.sha256,
                    "part": parts[part_of(job.reading)],
                }
                for job in jobs
            ],
        )
