"""A closed fiscal year with files of several datasets, and all that archiving it needs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from archive import closing
from archive.export_run import Archiving, Policy
from archive.partitions import tables_of_datasets
from archive.stores import LockMode, StorageClass, open_cold_store
from ledger import failpoints
from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage, Status
from ledger.manifests import sign_manifests
from ledger.notes import Signer
from ledger.seal import seal
from tests.integration.place import STAMP, Place, new_place
from workers.years import closing_of

ORIGIN = "books"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
CONTRACT = Contract(
    (
        Column("number", ColumnType.BIGINT),
        Column("paid_on", ColumnType.DATE, nullable=False),
        Column("amount", ColumnType.NUMERIC),
        Column("note", ColumnType.TEXT),
    ),
    fiscal_date_column="paid_on",
    rejects_max="50%",
)
HEADER = "number,paid_on,amount,note\n"
POLICY = Policy(
    storage_class=StorageClass.DEEP_ARCHIVE,
    access_class=StorageClass.GLACIER_IR,
    mode=LockMode.COMPLIANCE,
    retention_years=10,
    run_days=30,
    part_bytes=2_000,
)


@dataclass
class Archive:
    """A ledger whose years are archived."""

    places: list[Place]
    archiving: Archiving
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ledger(self) -> Ledger:
        return self.archiving.ledger

    def load(self, place: Place, data: str) -> UUID:
        job_id = place.send(data.encode(), CONTRACT)
        place.perform(job_id, Stage.PLAN)
        place.follow()
        for chunk in range(self.ledger.job(job_id).chunks_total):
            place.perform(job_id, Stage.LOAD, chunk)
        assert self.ledger.job(job_id).status is Status.COMPLETED
        return job_id

    def fill(self, year: int) -> list[UUID]:
        """Files of a year in each dataset: one with rejects, one that goes on in the next year, one for all."""
        jobs = []
        for place in self.places:
            jobs += [
                self.load(place, HEADER + lines(year, range(60))),
                self.load(place, HEADER + lines(year, range(60, 80)) + f"x,{year}-05-01,1,\n"),
                self.load(place, HEADER + lines(year, range(80, 90)) + lines(year + 1, range(90, 95))),
            ]
        return jobs

    def close(self, year: int) -> str:
        label = label_of(year)
        closes = closing_of(self.ledger, self.places[0].workshop.settings)
        closing.close(closes, label, STAMP, requested_by=STAMP.actor, end=lambda session, closed: None)
        self.seal()
        return label

    def seal(self) -> None:
        """What the sealer does."""
        with self.ledger.transaction() as session:
            while seal(session, SIGNER, ORIGIN, datetime.now(UTC)):
                pass
            sign_manifests(session, SIGNER, set())

    def table(self, label: str, number: int = 0) -> str:
        """The partition of a year in one of the datasets."""
        return f"data.{self.places[number].dataset}__{label.lower().replace('-', '_')}"

    def rows(self, label: str) -> int:
        """How many rows of a year are here."""
        tables = [self.table(label, number) for number in range(len(self.places))]
        return sum(self.query(f"SELECT count(*) FROM {table}")[0][0] for table in tables)

    def year(self, label: str) -> FiscalYear:
        found = self.ledger.fiscal_year(label)
        assert found is not None
        return found

    def topics(self, label: str) -> list[str]:
        logged = self.ledger.events_of(self.year(label).id)
        return [each.topic.removeprefix("fiscal_year.") for each in logged]

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self.places[0].query(statement, **parameters)


def new_archive(ledger: Ledger, folder: Path, archive_url: str | None = None, datasets: int = 2) -> Archive:
    """Datasets of a test's own, and a cold store that is empty: a folder, unless another is named."""
    url = archive_url or (folder / "cold").as_uri()
    first = new_place(ledger, folder, chunk_bytes=1 << 20, origin=ORIGIN, scratch_folder=folder, archive_url=url)
    places = [first, *(Place(first.workshop) for _ in range(datasets - 1))]
    with ledger.transaction() as session:
        for dataset, _ in tables_of_datasets(session):  # of other tests, whose years are others
            session.execute(text(f"DROP TABLE data.{dataset}"))
    told: list[dict[str, Any]] = []
    archiving = Archiving(
        ledger=ledger,
        calendar=first.workshop.calendar,
        store=open_cold_store(url),
        blobs=first.workshop.blobs,
        spool=folder / "spool",
        origin=ORIGIN,
        keys=[SIGNER.public],
        policy=POLICY,
        stamp=lambda: STAMP,
        tell=told.append,
        wait_seconds=10,
    )
    return Archive(places, archiving, told)


def lines(year: int, numbers: range) -> str:
    return "".join(f"{number},{year}-{4 + number % 9:02}-11,{number}.50,a note\n" for number in numbers)


def label_of(year: int) -> str:
    return f"FY{year}-{(year + 1) % 100:02}"


@contextmanager
def armed(folder: Path, name: str, action: str = "raise") -> Iterator[None]:
    """A failpoint that acts once."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(action)
    failpoints.use(folder)
    try:
        yield
    finally:
        failpoints.use(None)


def killed_at(ledger: Ledger, folder: Path, step: str, act: Callable[[], object]) -> int | None:
    """Have a process of its own do something, and die at a step of it; how it ended."""

    def run() -> None:
        ledger.engine.dispose(close=False)  # the connections are the parent's
        act()

    with armed(folder, step, "kill"):
        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join()
    return process.exitcode
