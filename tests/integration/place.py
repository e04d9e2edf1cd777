"""A place to work at: a PostgreSQL of the tests' own, and a look at everything that workers do there.

Rules:
1. The server is the real one, started for one module. Each test takes a dataset, and a blob store, of its own.
2. Tests wait for a state (`wait_until`). How long that may take is a limit against hanging, never a claim.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import event, text
from sqlalchemy.orm import Session

from api.embedded.home import Home
from api.embedded.parts import MongoDBServer, embedded_parts
from api.embedded.postgresql import PostgreSQL
from api.embedded.supervisor import Supervisor
from ledger.application import Arrival, Ledger
from ledger.blobs import FolderBlobStore, put
from ledger.domain.base import Stamp
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.values import ColumnType
from ledger.domain.words import OnDuplicate, Stage, Status
from ledger.settings import Settings
from tests.homes import new_home
from tests.stack import GUARD, UNGUARD, open_folder
from tests.waiting import wait_until
from workers.dispatcher import Dispatcher
from workers.leases import Work, claim
from workers.load import load_chunk
from workers.plan import plan_file
from workers.tasks import prepare_all
from workers.workshop import Procedure, Workshop, perform

LONG_LEASE_SECONDS = 300.0
WAIT_SECONDS_MAX = 60.0
ROWS = 400
ALL_ROWS = (ROWS, sum(range(ROWS)))
CONTRACT = Contract(
    (Column("number", ColumnType.BIGINT), Column("paid_on", ColumnType.DATE, nullable=False)),
    fiscal_date_column="paid_on",
    rejects_max="0",  # so that one bad record fails its file
)
STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "admin", "request-1")


@dataclass
class Place:
    """Everything that workers need, one dataset, and a look at what they did."""

    workshop: Workshop
    dataset: str = field(default_factory=lambda: f"payments_{uuid4().hex[:8]}")

    @property
    def ledger(self) -> Ledger:
        return self.workshop.ledger

    def with_settings(self, **values: Any) -> Place:
        settings = self.workshop.settings.model_copy(update=values)
        return Place(replace(self.workshop, settings=settings), self.dataset)

    def receive(self, *, last_line: str = "") -> UUID:
        """A file in several chunks, received, with its work written down."""
        lines = [f"{number},2026-04-{1 + number % 30:02}\n" for number in range(ROWS)]
        return self.send(("number,paid_on\n" + "".join(lines) + last_line).encode())

    def send(self, data: bytes, contract: Contract = CONTRACT, filename: str = "payments.csv", **sender: Any) -> UUID:
        """Any file, received, with its work written down."""
        if self.ledger.dataset(self.dataset) is None:
            self.ledger.register_dataset(self.dataset, contract, STAMP)
        sha256 = put(self.workshop.blobs, data)
        arrival = Arrival(uuid4(), sha256, len(data), filename, "text/csv", self.dataset, **sender)
        self.ledger.receive([arrival], STAMP, door="http", on_duplicate=OnDuplicate.ALLOW)
        self.follow()
        return arrival.job_id

    def plan(self, **file: Any) -> UUID:
        """A file that is received and planned: its chunks are due."""
        job_id = self.receive(**file)
        self.perform(job_id, Stage.PLAN)
        self.follow()
        assert self.ledger.job(job_id).status is Status.QUEUED
        return job_id

    def follow(self) -> None:
        while Dispatcher(self.ledger, self.workshop.settings).follow().events:
            pass

    def perform(self, job_id: UUID, stage: Stage, chunk: int = 0, procedure: Procedure | None = None) -> None:
        """What a message makes a worker do."""
        chosen = procedure or {Stage.PLAN: plan_file, Stage.LOAD: load_chunk}[stage]
        perform(self.workshop, chosen, job_id, stage, chunk, time.time())

    def claim(self, job_id: UUID, stage: Stage, chunk: int = 0, *, lease_seconds: float) -> Work | None:
        return claim(self.ledger.engine, job_id, stage, chunk, worker="test", lease_seconds=lease_seconds)

    def claim_when_due(self, job_id: UUID, stage: Stage, chunk: int = 0, *, lease_seconds: float) -> Work:
        work = wait_until(
            lambda: self.claim(job_id, stage, chunk, lease_seconds=lease_seconds), "the work does not become due"
        )
        assert isinstance(work, Work)
        return work

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.ledger.transaction() as session:
            return [tuple(row) for row in session.execute(text(statement), parameters).all()]

    def rows(self) -> tuple[int, int]:
        """How many rows the dataset has, and their sum."""
        [(count, total)] = self.query(f"SELECT count(*), coalesce(sum(number), 0) FROM data.{self.dataset}")
        return int(count), int(total)

    def events(self, job_id: UUID) -> list[str]:
        return [logged.topic.removeprefix("filejob.") for logged in self.ledger.events_of(job_id)]

    def work(self, job_id: UUID) -> list[tuple[Any, ...]]:
        return self.query(
            "SELECT stage, chunk, epoch, attempts, due_at, leased_until FROM work.items WHERE job_id = :job_id"
            " ORDER BY stage, chunk",
            job_id=job_id,
        )


def unguard(session: Session) -> None:
    """Be somebody who owns the database and has taken the guards of the record away, for this transaction."""
    session.execute(text("SET LOCAL ROLE NONE"))
    session.execute(text(UNGUARD))
    event.listen(session, "before_commit", lambda session: session.execute(text(GUARD)), once=True)


@contextmanager
def running_ledger(**settings: Any) -> Iterator[Ledger]:
    """A ledger on a PostgreSQL that is started for it, with every schema that workers use."""
    with _running_parts("postgresql") as (home, ports):
        ledger = Ledger(Settings(database_url=PostgreSQL(home, ports["postgresql"]).url, **settings))
        prepare_all(ledger)
        yield ledger
        ledger.engine.dispose()


@contextmanager
def running_ledger_with_views() -> Iterator[tuple[Ledger, str]]:
    """A ledger as above, and the URL of a MongoDB-protocol server, with NAME for a database's name."""
    with _running_parts("postgresql", "mongodb") as (home, ports):
        ledger = Ledger(Settings(database_url=PostgreSQL(home, ports["postgresql"]).url))
        prepare_all(ledger)
        yield ledger, MongoDBServer(home, ports["mongodb"]).url_of("NAME")
        ledger.engine.dispose()


@contextmanager
def running_workshop() -> Iterator[Workshop]:
    """Everything that workers need, with every store that a ledger has."""
    with _running_parts("postgresql", "mongodb") as (home, ports):
        settings = Settings(
            database_url=PostgreSQL(home, ports["postgresql"]).url,
            views_url=MongoDBServer(home, ports["mongodb"]).url_of("views"),
            blobs_url=(home.path / "blobs").as_uri(),
            seal_key_file=home.seal_key_path(),
        )
        ledger = Ledger(settings)
        prepare_all(ledger)
        yield Workshop.of(ledger, settings)
        ledger.engine.dispose()


@contextmanager
def _running_parts(*names: str) -> Iterator[tuple[Home, dict[str, int]]]:
    with open_folder() as folder:
        home = Home(new_home(folder / "home"))
        with Supervisor(home, threading.Event()) as supervisor:
            ports = home.choose_ports(dict.fromkeys(names, 0))
            supervisor.start(embedded_parts(home, ports), ports)
            yield home, ports


def patient_place(ledger: Ledger, folder: Path) -> Place:
    """A place where no lease runs out and no pause ends while a test goes on."""
    return new_place(
        ledger,
        folder,
        chunk_bytes=2048,
        lease_seconds=LONG_LEASE_SECONDS,
        retry_seconds_min=LONG_LEASE_SECONDS,
        retry_seconds_max=LONG_LEASE_SECONDS,
        retry_jitter_share=0,
    )


def new_place(ledger: Ledger, folder: Path, **settings: Any) -> Place:
    """A dataset of its own, on a blob store in `folder`."""
    calendar = FiscalCalendar.parse("04-01", "UTC")
    return Place(Workshop(ledger, FolderBlobStore(folder / "blobs"), Settings(**settings), calendar))
