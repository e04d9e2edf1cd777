"""The tasks that the broker's messages name. A message carries ids, and the time it was published."""

from __future__ import annotations

from uuid import UUID

from ledger import telemetry
from ledger.application import Ledger
from ledger.blobs import open_blob_store
from ledger.database import prepare
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.words import Stage
from ledger.settings import Settings
from workers.app import app
from workers.load import load_chunk
from workers.plan import plan_file
from workers.workshop import Workshop, perform

_workshop: list[Workshop] = []


def prepare_all(ledger: Ledger) -> None:
    """Make every schema that the workers use, if it is not there."""
    ledger.prepare()
    for package in ("projections", "workers"):
        prepare(ledger.engine, package)


def enter(settings: Settings) -> None:
    """Set up this process's workshop, once, after the fork."""
    ledger = Ledger(settings)
    telemetry.instrument_engine(ledger.engine)
    prepare_all(ledger)
    calendar = FiscalCalendar.parse(settings.fiscal_year_start, settings.time_zone)
    _workshop[:] = [Workshop(ledger, open_blob_store(settings.blobs_url), settings, calendar)]


@app.task(name="ledger.plan")
def plan(job_id: str, chunk: int, published_at_seconds: float) -> None:
    """Plan a job's file."""
    perform(_workshop[0], plan_file, UUID(job_id), Stage.PLAN, chunk, published_at_seconds)


@app.task(name="ledger.load")
def load(job_id: str, chunk: int, published_at_seconds: float) -> None:
    """Load one chunk of a job."""
    perform(_workshop[0], load_chunk, UUID(job_id), Stage.LOAD, chunk, published_at_seconds)
