"""The HTTP door on a PostgreSQL and a MongoDB-protocol server of the tests' own, and two datasets with a job each.

The API is a process; workers are not: the test plans and loads by itself, so nothing happens that it did not do.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen
from uuid import UUID, uuid4

import httpx2
from celery import Celery
from pydantic import SecretStr
from sqlalchemy import text

from api.embedded.environment import environment as environment_of
from api.embedded.environment import sealer_environment
from api.embedded.home import Home
from api.embedded.parts import embedded_parts
from api.embedded.postgresql import PostgreSQL
from api.embedded.process import Program
from api.embedded.supervisor import Supervisor
from ledger.application import Ledger
from ledger.domain.access import Role
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage, Status
from ledger.environment import environment
from ledger.event_log import LoggedEvent
from ledger.keys import NewKey, create_key
from ledger.manifests import keep_manifest
from ledger.seal import seal
from ledger.seal_key import signer
from ledger.settings import Settings
from tests.homes import new_home
from tests.integration.place import STAMP, Place, new_place, wait_until
from tests.stack import open_folder
from workers.results import PROGRESS, result_settings
from workers.tasks import prepare_all

ADMIN_KEY = "lk_the-admin-key-of-the-tests"
CONTRACT = Contract((Column("id", ColumnType.BIGINT, nullable=False), Column("memo", ColumnType.TEXT)), rejects_max="9")
CONTENT = b"id,memo\n1,rent\nseven,a secret memo\n3,wages\n"


@dataclass
class Doors:
    """A running API, and what tests need to know of its insides."""

    url: str
    ledger: Ledger
    home: Home
    results_url: str
    places: dict[str, Place] = field(default_factory=dict)
    jobs: dict[str, UUID] = field(default_factory=dict)

    def http(self, *credentials: str, scheme: str = "Bearer") -> httpx2.Client:
        """A client that shows these credentials, each in a header of its own."""
        headers = [("Authorization", f"{scheme} {credential}") for credential in credentials]
        return httpx2.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False, verify=False)

    def key(self, role: Role, *datasets: str, expires_in: timedelta | None = None) -> NewKey:
        """A key that was just given out."""
        return create_key(
            self.ledger,
            STAMP,
            name=f"a test's {role}",
            role=role,
            datasets=list(datasets) or None,
            expires_in=expires_in,
        )

    def load(self, dataset: str) -> UUID:
        """A file with one reject, loaded into a dataset."""
        place = self.places.setdefault(dataset, Place(new_place(self.ledger, self.home.path).workshop, dataset))
        job_id = place.send(CONTENT, CONTRACT, f"{dataset}.csv")
        place.perform(job_id, Stage.PLAN)
        place.follow()
        place.perform(job_id, Stage.LOAD)
        assert self.ledger.job(job_id).status is Status.COMPLETED
        self.jobs[dataset] = job_id
        return job_id

    def load_another(self, dataset: str) -> UUID:
        """One more file, which is not the dataset's job."""
        known = self.jobs[dataset]
        another = self.load(dataset)
        self.jobs[dataset] = known
        return another

    def seal(self) -> None:
        """What the sealer does."""
        settings = Settings(seal_key_file=self.home.seal_key_path())
        with self.ledger.transaction() as session:
            seal(session, signer(settings), settings.origin, STAMP.at)

    def export(self) -> UUID:
        """An export whose manifest is signed."""
        export_id = uuid4()
        with self.ledger.transaction() as session:
            keep_manifest(session, export_id, "a manifest")
            session.execute(text("UPDATE audit.manifests SET note = 'signed'"))
        return export_id

    def tell(self, operation_id: UUID, progress: dict[str, int]) -> None:
        """What a worker says that is at an operation."""
        worker = Celery("worker", set_as_current=False)
        worker.conf.update(result_settings(Settings(result_backend=SecretStr(self.results_url))))
        worker.backend.store_result(str(operation_id), progress, PROGRESS)

    def query(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with self.ledger.transaction() as session:
            return [tuple(row) for row in session.execute(text(statement), parameters).all()]

    def denials(self, **wanted: Any) -> list[LoggedEvent]:
        """The denials on record, in their order; those whose fields are as wanted."""
        found = [each for each in self.ledger.events_after(0, 1_000_000) if each.topic == "access.denied"]
        return [each for each in found if all(getattr(each.event, name) == value for name, value in wanted.items())]

    def state(self) -> list[Any]:
        """All that a refused request must leave as it is."""
        tables = ("ledger.api_keys", "work.items", "rejects.records")
        kept = "SELECT count(*), max(id) FROM ledger.stored_events WHERE topic <> 'access.denied'"
        blobs = sorted(path.name for path in self.home.blobs.rglob("*") if path.is_file())
        return [self.query(kept), blobs, *(self.query(f"SELECT count(*) FROM {table}") for table in tables)]


@contextmanager
def running_doors(settings: dict[str, str] | None = None, *, datasets: tuple[str, ...] = ()) -> Iterator[Doors]:
    """An API with some settings, and a loaded file in each of the datasets."""
    with open_folder() as folder:
        home = Home(new_home(folder / "home"))
        with Supervisor(home, threading.Event()) as supervisor:
            ports = home.choose_ports({"postgresql": 0, "mongodb": 0})
            supervisor.start(embedded_parts(home, ports), ports)
            base = {**environment(), "PYTHONPATH": str(Path(__file__).parents[2]), "LEDGER_API_KEY": ADMIN_KEY}
            variables = environment_of(home, ports, {**base, **(settings or {})})
            ledger = Ledger(Settings(database_url=PostgreSQL(home, ports["postgresql"]).url))
            prepare_all(ledger)
            port = home.choose_ports({"api": 0})["api"]
            doors = Doors(f"http://127.0.0.1:{port}", ledger, home, variables["CELERY_RESULT_BACKEND"])
            for dataset in datasets:
                doors.load(dataset)
            doors.seal()
            supervisor.start(_programs(variables, {**variables, **sealer_environment(home, base)}, port), {})
            wait_until(lambda: _views_have(doors), "the view does not catch up")
            yield doors
            ledger.engine.dispose()


def _programs(variables: dict[str, str], sealing: dict[str, str], port: int) -> list[Program]:
    uvicorn = ["-m", "uvicorn", "api.app:app", "--host", "127.0.0.1", "--port", str(port), "--no-access-log"]
    return [
        Program("projector", [sys.executable, "-m", "projections"], variables),
        Program("sealer", [sys.executable, "-m", "ledger.sealer"], sealing),
        Program("api", [sys.executable, *uvicorn], variables, lambda: _is_alive(port)),
    ]


def _is_alive(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/livez", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _views_have(doors: Doors) -> bool:
    with doors.http(ADMIN_KEY) as http:
        answer = http.get("/api/v1/jobs").json()
        return len(answer.get("tasks", ())) >= len(doors.jobs)
