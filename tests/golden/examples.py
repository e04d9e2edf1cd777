"""One example of every event that the ledger stores, made by the commands that make them in real life.

An example stands for what was stored once and for all: never change one. When an event's class gets a higher
`class_version`, its example may get new fields; `python -m tests.golden.write` then adds a file beside the old one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

from eventsourcing.persistence import Mapper, StoredEvent
from eventsourcing.utils import get_topic
from pydantic import SecretStr

from ledger.application import Ledger
from ledger.domain.access import Role
from ledger.domain.api_key import ApiKey
from ledger.domain.audit import AuditExport, AuditRead, ReadKind, Told
from ledger.domain.base import LedgerEvent, Stamp
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.dataset import Dataset
from ledger.domain.dead_letter import DeadLetter
from ledger.domain.denial import Denial
from ledger.domain.erasure import Erasure
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.personal import actor_subject, job_subject
from ledger.domain.reconciliation import LoadedChunk
from ledger.domain.settlement import Settlement
from ledger.domain.user import User
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage
from ledger.domain.year_states import Ground
from ledger.envelope import open_event, seal_event
from ledger.settings import Settings

FOLDER = Path(__file__).parent
OTHER_ID = UUID("5d1f0e6c-1b6e-4a92-9c1b-0f6a7d1c2e34")
JOB_ID = UUID("0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51")
START = datetime(2026, 4, 1, 9, 30, 0, 123456, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CONTRACT = Contract(
    (
        Column("payment", ColumnType.BIGINT, nullable=False),
        Column("paid_on", ColumnType.DATE, nullable=False),
        Column("amount", ColumnType.NUMERIC),
        Column("überweisung", ColumnType.TEXT),
    ),
    null_tokens=("NULL",),
    fiscal_date_column="paid_on",
)
ERROR = {
    "code": "value_invalid",
    "message": "Record 7 (line 8) of 'payments.csv' does not fit dataset 'payments', column 'amount'.",
    "remedy": "Correct it and send the file again. Nothing of this file stays loaded.",
    "record": 7,
    "line": 8,
    "byte_offset": None,
    "column": "amount",
}
MASTER_KEY = "the master key of the tests, which seals nothing of anybody"
KEYS = dict.fromkeys(
    (job_subject(JOB_ID), actor_subject("key:9f3c1a7be2d0"), actor_subject("user:3f1c9a7be2d04856")), bytes(range(32))
)
DIALECT = {"format": "delimited", "encoding": "utf-8", "delimiter": ";", "quote": '"', "header": True}


def stamp(seconds: int) -> Stamp:
    """When the example was decided: some seconds after the first one."""
    return Stamp(START + timedelta(seconds=seconds), "worker", "request-1", TRACEPARENT)


def examples() -> dict[str, LedgerEvent]:
    """One event of every class, by topic; the first one that its aggregate triggers."""
    found: dict[str, LedgerEvent] = {}
    aggregates = (
        _completed_and_archived(),
        _failed_and_cancelled(),
        _dataset(),
        _dead_letter(),
        *_operations(),
        _settlement(),
        _audit_read(),
        _audit_export(),
        _erasure(),
        _api_key(),
        User.see(stamp(0), user_id="3f1c9a7be2d04856", name="Anna März <anna@example.com>"),
        _denial(),
        _fiscal_year(),
    )
    for aggregate in aggregates:
        for event in aggregate.pending_events:
            assert isinstance(event, LedgerEvent)
            found.setdefault(get_topic(type(event)), event)
    return found


def mapper() -> Mapper[UUID]:
    """The mapper of the real application, which reaches for no database before it is asked for something."""
    return Ledger(Settings(subject_key=SecretStr(MASTER_KEY))).mapper


def stored(event: LedgerEvent) -> StoredEvent:
    """An event as it is stored, sealed under a key and nonces that are always the same."""
    nonces = (number.to_bytes(12, "big") for number in count(1))
    return mapper().to_stored_event(seal_event(event, KEYS, nonces.__next__))


def read(event: StoredEvent) -> LedgerEvent:
    """A stored event as it is read."""
    found = open_event(mapper().to_domain_event(event), KEYS)
    assert isinstance(found, LedgerEvent)
    return found


def to_text(stored: StoredEvent) -> str:
    """A stored event as a golden file holds it: every byte of the state, as text."""
    values = {
        "topic": stored.topic,
        "originator_id": str(stored.originator_id),
        "originator_version": stored.originator_version,
        "state": stored.state.decode("utf-8"),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def from_text(text: str) -> StoredEvent:
    """The stored event that a golden file holds."""
    values: dict[str, Any] = json.loads(text)
    return StoredEvent(
        UUID(values["originator_id"]), values["originator_version"], values["topic"], values["state"].encode("utf-8")
    )


def golden_path(event_class: type[LedgerEvent]) -> Path:
    """The file of the example of a class, as its present version writes it."""
    return FOLDER / f"{get_topic(event_class)}.{getattr(event_class, 'class_version', 1)}.json"


def _received() -> FileJob:
    return FileJob.receive(
        JOB_ID,
        stamp(0),
        sha256="ab" * 32,
        size=70,
        filename="payments-März.csv",
        content_type="text/csv",
        door="http",
        dataset="payments",
        reading={"sheet": "Payments"},
        corrects=OTHER_ID,
        control_totals={"records": 3, "columns": {"amount": {"sum": "12.5"}}},
        may_adjust=True,
        adjustment={"fiscal_year": "FY2024-25", "reason": "as agreed"},
    )


def _queued() -> FileJob:
    job = _received()
    job.queue(
        stamp(1),
        format="delimited",
        dialect=DIALECT,
        parser_version="delimited-1",
        contract_version=1,
        contract_digest=CONTRACT.digest(),
        plan="ef" * 32,
        data_start=10,
        chunks_total=1,
        records=3,
        transcript="56" * 32,
        text_size=70,
        trailer={"records": 41, "columns": {"amount": {"sum": "12.5"}}},
    )
    return job


def _completed_and_archived() -> FileJob:
    job = _queued()
    years = ["FY2024-25", "FY2025-26"]
    totals = {"amount": {"count": 2, "sum": "12.5", "min": "-0.5", "max": "13"}}
    chunk = LoadedChunk(0, 10, 70, "12" * 32, 1, 3, 2, 1, 0, years, totals, "78" * 32, {"FY2023-24": 1})
    job.load_chunk(stamp(2), chunk, attempt=1)
    job.complete(stamp(3))
    # Of several years at once, as version 1 told it: who restores names them.
    archived = {"manifest": "34" * 32, "rows": 2, "row_set_digest": "78" * 32, "totals": totals, "years_left": []}
    job.trigger_event(FileJob.Archived, fiscal_years=years, **archived, **stamp(4).fields())
    job.restore(stamp(5), fiscal_years=years, manifest="34" * 32)
    return job


def _fiscal_year() -> FiscalYear:
    calendar = FiscalCalendar.parse("04-01", "Europe/Berlin")
    first, second = (replace(stamp(0), actor=actor) for actor in ("key:9f3c1a7be2d0", "user:3f1c9a7be2d04856"))
    year = FiscalYear.open(first, year=calendar.named("FY2024-25"), calendar=calendar)
    year.place_hold(first, case="2026/17")
    year.propose(stamp(0), grace_days=30, closes_by_itself=False)
    year.lift_hold(second, case="2026/17", reason="the case is settled")
    year.soft_close(first)
    year.find_late(stamp(1), job=JOB_ID, dataset="payments", records=3)
    year.post_adjustment(
        first, job=JOB_ID, dataset="payments", records=2, posted_in="FY2025-26", by_job=OTHER_ID, reason="as agreed"
    )
    table = {"dataset": "payments", "schema": "data", "name": "payments__fy2024_25", "rows": 2, "fingerprint": "-17"}
    year.close(stamp(2), position=41, tables=[table], requested_by=first.actor)
    year.plan(stamp(3), parts=[{"name": "data.payments/0", "first": [7, 1], "rows": 2}], pinned={"access_class": None})
    stored_object = {
        "name": "data.payments/0",
        "key": "v1/part",
        "version": "v7",
        "sha256": "12" * 32,
        "size_bytes": 90,
    }
    year.store_parts(stamp(4), objects=[stored_object])
    year.export(
        stamp(5),
        manifest_sha256="34" * 32,
        manifest_key="v1/MANIFEST.json",
        manifest_version="v8",
        objects=2,
        size_bytes=4_711,
        previous_manifest_sha256="56" * 32,
    )
    year.verify(stamp(6), evidence={"objects": 2, "by": "verifier"})
    year.authorize_drop(second, ground=Ground.APPROVAL)
    year.drop(stamp(7), tables=[table])
    year.request_restore(first, tier="Bulk", days=7, reason="the auditors ask")
    year.restore(stamp(8), proof={"rows": 2, "postgresql": 180_000})
    year.request_reopen(first, reason="an invoice was missing")
    year.reopen(second)
    year.release(stamp(9))
    return year


def _settlement() -> Settlement:
    settlement = Settlement.open(JOB_ID, stamp(0))
    settlement.correct(stamp(1), by_job=OTHER_ID, records=[1, 2, 3, 7])
    settlement.waive(stamp(2), reason="a test payment", records=[7, 9])
    return settlement


def _failed_and_cancelled() -> FileJob:
    job = _queued()
    job.fail(stamp(2), stage=Stage.LOAD, chunk=0, attempt=1, error=ERROR, rows_withdrawn=2)
    job.retry(stamp(3), reason="the sender corrected the contract")
    job.cancel(stamp(4), reason="sent by mistake", rows_withdrawn=0)
    job.erase_name(stamp(5), erasure=OTHER_ID)
    return job


def _erasure() -> Erasure:
    fields = {"filejob.received": {"filename": 1, "reading.sheet": 1}, "filejob.failed": {"error.message": 2}}
    erasure = Erasure.carry_out(
        stamp(5), subject=job_subject(JOB_ID), fields=fields, streams=1, reason="a person asked for it"
    )
    erasure.repeat(stamp(6), reason="a backup was restored")
    return erasure


def _dataset() -> Dataset:
    dataset = Dataset.register(stamp(0), name="payments", contract=CONTRACT, inferred_from=str(JOB_ID))
    dataset.change_contract(stamp(1), contract=Contract(CONTRACT.columns[:3]), reason="the text is no longer sent")
    return dataset


def _dead_letter() -> DeadLetter:
    return DeadLetter.record(
        stamp(0),
        message="1",
        queue="ledger.large",
        reason="delivery_limit",
        task="ledger.load",
        job_id=str(JOB_ID),
        sha256="56" * 32,
    )


def _audit_read() -> AuditRead:
    return AuditRead.record(
        OTHER_ID,
        stamp(60),
        kind=ReadKind.QUESTION,
        asked={"dataset": "payments", "filename": "(not kept)"},
        reads=3,
        told=Told(120, 7, 130),
        first_read_at="2026-04-01T09:30:01.123456+00:00",
    )


def _audit_export() -> AuditExport:
    return AuditExport.take(
        OTHER_ID,
        stamp(0),
        format="ndjson",
        asked={"since": "2026-04-01"},
        told=Told(2, 7, 9),
        size=812,
        sha256="9a" * 32,
        manifest_sha256="bc" * 32,
    )


def _operations() -> list[Operation]:
    completed, failed = (
        Operation.request(UUID(int=JOB_ID.int + number), stamp(0), kind=Stage.REBUILD, arguments={"view": "status"})
        for number in (1, 2)
    )
    completed.complete(
        stamp(1),
        result={
            "view": "status",
            "generation": 2,
            "position": 9,
            "events": 9,
            "digest": "78" * 32,
            "digest_before": "78" * 32,
            "equal": True,
        },
    )
    failed.fail(
        stamp(1),
        error={
            "code": "conflict",
            "message": "The view 'status' is being rebuilt already.",
            "remedy": "Wait until that is done.",
            "record": None,
            "line": None,
            "byte_offset": None,
            "column": None,
        },
    )
    return [completed, failed]


def _api_key() -> ApiKey:
    key = ApiKey.create(
        "9f3c1a7be2d0",
        stamp(0),
        name="the payroll system, März AG",
        role=Role.UPLOADER,
        datasets=["payments", "refunds"],
        expires_at=START + timedelta(days=90),
        secret_sha256="9a" * 32,
    )
    key.revoke(stamp(1), reason="the payroll system was replaced")
    return key


def _denial() -> Denial:
    return Denial.deny(
        JOB_ID,
        stamp(60),
        method="POST",
        route="/api/v1/jobs/{job_id}/cancel",
        permission="operate_jobs",
        dataset="payments",
        reason="dataset_not_granted",
        count=7,
        first_at=START,
    )
