"""Stories of every kind told to a real ledger at random, and what the trail has to say of each event of them.

The model is made by whoever tells the story, from what was meant. It knows nothing of how entries are made.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from ledger.application import Ledger
from ledger.domain.audit import AuditRead, ReadKind, Told
from ledger.domain.base import Stamp
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.dataset import Dataset
from ledger.domain.dead_letter import DeadLetter
from ledger.domain.filejob import FileJob
from ledger.domain.operation import Operation
from ledger.domain.reconciliation import LoadedChunk
from ledger.domain.settlement import Settlement
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage

ACTORS = ("admin", "worker", "key:1", "user:ab")
DATASETS = ("payments", "refunds", "fees")
FILENAMES = ("June.csv", "june_final.csv", "100%.csv", "März.csv")
YEARS = ("FY2024-25", "FY2025-26", "FY2026-27")
WORDS = ("the wrong Month", "100% sure", "a_b", "sent\\twice", "ärger", "ÄRGER")
START = datetime(2026, 3, 28, 21, tzinfo=UTC)


@dataclass
class Meant:
    """What the trail has to say of one event."""

    position: int
    at: datetime
    actor: str
    topic: str
    stream: UUID
    version: int
    job: UUID | None = None
    related_job: UUID | None = None
    dataset: str | None = None
    fiscal_years: tuple[str, ...] = ()
    sha256: str | None = None
    filename: str | None = None
    texts: tuple[str, ...] = ()


@dataclass
class Storyteller:
    """Tells stories, and remembers what they mean."""

    ledger: Ledger
    chance: random.Random
    told: list[Meant] = field(default_factory=list)
    _at: datetime = START
    _jobs: list[FileJob] = field(default_factory=list)
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _settlements: dict[UUID, Settlement] = field(default_factory=dict)

    def tell(self, count: int) -> None:
        stories = (
            self._receive, self._receive, self._go_on, self._go_on, self._go_on, self._dataset, self._operation,
            self._settle, self._dead_letter, self._read,
        )  # fmt: skip
        for _ in range(count):
            self.chance.choice(stories)()

    def _stamp(self) -> Stamp:
        # Clocks of several machines: now and then one is behind.
        self._at += timedelta(minutes=self.chance.choice((-30, 0, 1, 7, 600)), microseconds=self.chance.randrange(3))
        return Stamp(self._at, self.chance.choice(ACTORS), f"request-{self.chance.randrange(99)}")

    def _id(self) -> UUID:
        return UUID(int=self.chance.getrandbits(128), version=4)

    def _save(self, aggregate: Any, **meant: Any) -> None:
        for recording in self.ledger.save(aggregate):
            event: Any = recording.domain_event
            self.told.append(
                Meant(
                    recording.notification.id,
                    event.timestamp,
                    event.actor,
                    recording.notification.topic,
                    event.originator_id,
                    event.originator_version,
                    **meant,
                )
            )

    def _about(self, job: FileJob | UUID | None) -> dict[str, Any]:
        if isinstance(job, UUID):
            job = next(each for each in self._jobs if each.id == job)
        if job is None:
            return {}
        return {"job": job.id, "dataset": job.dataset, "sha256": job.sha256, "filename": job.filename}

    def _receive(self) -> None:
        corrects = self.chance.choice([None, None, *(job.id for job in self._jobs)])
        job = FileJob.receive(
            self._id(),
            self._stamp(),
            sha256=f"{self.chance.randrange(6):064x}",
            size=110,
            filename=self.chance.choice(FILENAMES),
            content_type="text/csv",
            door="http",
            dataset=self.chance.choice(DATASETS),
            corrects=corrects,
        )
        self._jobs.append(job)
        self._save(job, **self._about(job), related_job=corrects)

    def _go_on(self) -> None:
        if not self._jobs:
            return
        job, stamp = self.chance.choice(self._jobs), self._stamp()
        years = tuple(sorted(self.chance.sample(YEARS, self.chance.randrange(1, 3))))
        reason = self.chance.choice(WORDS)
        meant: dict[str, Any] = {}
        match job.status.value:
            case "Received" | "Retried":
                if self.chance.random() < 0.3:
                    job.cancel(stamp, reason=reason, rows_withdrawn=0)
                    meant = {"texts": (reason,)}
                else:
                    job.queue(
                        stamp, format="delimited", dialect={"encoding": "utf-8"}, parser_version="1",
                        contract_version=1, contract_digest="12" * 32, plan="ef" * 32, data_start=10, chunks_total=1,
                        records=3,
                    )  # fmt: skip
            case "Queued":
                if self.chance.random() < 0.3:
                    error = {"code": "x", "message": reason, "remedy": "Send it anew."}
                    job.fail(stamp, stage=Stage.LOAD, chunk=0, attempt=1, error=error)
                    meant = {"texts": (reason, "Send it anew.")}
                else:
                    chunk = LoadedChunk(0, 10, 110, "12" * 32, 1, 3, 3, 0, 0, list(years), {}, "78" * 32)
                    job.load_chunk(stamp, chunk, attempt=1)
                    meant = {"fiscal_years": years}
            case "Processing":
                job.complete(stamp)
                meant = {"fiscal_years": tuple(job.chunks[0].fiscal_years)}
            case "Failed":
                job.retry(stamp, reason=reason)
                meant = {"texts": (reason,)}
            case "Completed":
                told = {"rows": 1, "row_set_digest": "78" * 32, "totals": {}}
                left = next(year for year in job.chunks[0].fiscal_years if year not in job.years_archived)
                job.archive(stamp, fiscal_year=left, manifest="34" * 32, **told)
                meant = {"fiscal_years": (left,)}
            case _:
                return
        self._save(job, **self._about(job), **meant)

    def _dataset(self) -> None:
        name, reason = self.chance.choice(DATASETS), self.chance.choice(WORDS)
        known = self._datasets.get(name) or self.ledger.dataset(name)
        columns = tuple(Column(f"c{number}", ColumnType.TEXT) for number in range(self.chance.randrange(1, 9)))
        if known is None:
            source = self.chance.choice([None, *(job.id for job in self._jobs)])
            known = Dataset.register(
                self._stamp(), name=name, contract=Contract(columns), inferred_from=source and str(source)
            )
            self._save(known, dataset=name, related_job=source)
        else:
            known.change_contract(self._stamp(), contract=Contract(columns), reason=reason)
            self._save(known, dataset=name, texts=(reason,))
        self._datasets[name] = known

    def _operation(self) -> None:
        view, words = self.chance.choice(("status", "trail")), self.chance.choice(WORDS)
        operation = Operation.request(self._id(), self._stamp(), kind=Stage.REBUILD, arguments={"view": view})
        self._save(operation, texts=("rebuild", view))
        if self.chance.random() < 0.5:
            operation.complete(self._stamp(), result={"view": view})
            self._save(operation)
        else:
            operation.fail(self._stamp(), error={"code": "x", "message": words, "remedy": ""})
            self._save(operation, texts=(words,))

    def _settle(self) -> None:
        if not self._jobs:
            return
        job, other = self.chance.choice(self._jobs), self.chance.choice(self._jobs)
        settlement = self._settlements.get(job.id)
        if settlement is None:
            settlement = self._settlements[job.id] = Settlement.open(job.id, self._stamp())
            self._save(settlement, **self._about(job))
        record, reason = len(settlement.settled) + 1, self.chance.choice(WORDS)
        if self.chance.random() < 0.5:
            settlement.correct(self._stamp(), by_job=other.id, records=[record])
            self._save(settlement, **self._about(job), related_job=other.id)
        else:
            settlement.waive(self._stamp(), reason=reason, records=[record])
            self._save(settlement, **self._about(job), texts=(reason,))

    def _dead_letter(self) -> None:
        job = self.chance.choice([None, *self._jobs])
        letter = DeadLetter.record(
            self._stamp(),
            message=str(self._id()),
            queue="ledger.large",
            reason="delivery_limit",
            task="ledger.load",
            job_id=job and str(job.id),
            sha256="56" * 32,
        )
        self._save(letter, **self._about(job), texts=("delivery_limit",))

    def _read(self) -> None:
        stamp = self._stamp()
        read = AuditRead.record(
            self._id(), stamp, kind=ReadKind.QUESTION, asked={"dataset": "payments"}, reads=1, told=Told.of([1]),
            first_read_at=stamp.at.isoformat(),
        )  # fmt: skip
        self._save(read, texts=("question",))


def answers(told: Meant, asked: dict[str, Any]) -> bool:
    """Whether an event is part of the answer to what is asked for."""
    topic = asked.get("topic")
    words = asked.get("text", "").lower()
    return all((
        asked.get("job") in (None, told.job, told.related_job),
        asked.get("sha256") in (None, told.sha256),
        asked.get("filename") in (None, told.filename),
        asked.get("actor") in (None, told.actor),
        asked.get("dataset") in (None, told.dataset),
        "fiscal_year" not in asked or asked["fiscal_year"] in told.fiscal_years,
        topic is None or told.topic == topic or told.topic.startswith(f"{topic}."),
        "since" not in asked or told.at >= asked["since"],
        "until" not in asked or told.at < asked["until"],
        any(words in text.lower() for text in (*told.texts, told.filename or "")) or not words,
    ))  # fmt: skip
