"""Exporting a closed fiscal year: everything that is known of it, as objects under one manifest in a cold store.

Rules:
1. The steps are: plan, make the parts, put the manifest. Each ends with an event, so that whoever is killed goes on
   from there, be it on another machine.
2. The plan names all parts and pins the settings. All else that the manifest says is older than the closing. So every
   run comes to the same manifest, to the byte.
3. The books are compared first: nothing is put of a year whose rows are not those that the log tells of.
4. The private key is the sealer's. It signs the manifest when the log says of it what it says itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from itertools import groupby
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from archive.closing import closed_partitions
from archive.export_files import make_files, plan_files
from archive.export_manifest import compose, in_years, rfc3339
from archive.export_run import Archiving, Part, Run, run_of, step
from archive.export_tables import make_table, plan_table
from archive.export_texts import (
    make_definitions,
    make_events,
    make_reconciliation,
    make_snapshots,
    plan_events,
    plan_snapshots,
)
from archive.manifest import signed_text
from archive.parts import plan_parts
from archive.stores import StorageClass
from archive.waiting import wait_for
from archive.year_jobs import jobs_of
from archive.year_story import covering_checkpoint
from ledger import telemetry
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import ARCHIVED, NEXT, YearState
from ledger.errors import ConflictError, NotFoundError
from ledger.failpoints import failpoint
from ledger.manifests import archive_export_id, keep_manifest

SOFTWARE = "ingestion-ledger"
MANIFEST = "MANIFEST.json"

# KIND -> what makes the parts of that kind; of a table, all of its parts.
MAKERS: dict[str, Callable[[Run, list[Part]], None]] = {
    "reconciliation": make_reconciliation,
    "definitions": make_definitions,
    "table": make_table,
    "events": make_events,
    "snapshots": make_snapshots,
    "files": make_files,
}


def export(archiving: Archiving, label: str) -> FiscalYear:
    """Export a year that is closed, or go on with that. What is exported already stays as it is.

    Raises:
        ConflictError: it is not closed, or its rows or files are not what they were.
        BooksDoNotBalanceError: its rows are not those that the log tells of. Nothing was put.
        PartUnavailableError: something that is needed for it is away, or the log is not sealed yet.
        NotRestoredError: what a killed run left is not restored yet, which was asked for.
    """
    year = archiving.ledger.fiscal_year(label)
    if year is None:
        raise NotFoundError(
            f"Nothing ever happened to fiscal year {label}.", f"Close it: `ledger archive close {label}`."
        )
    if year.state in ARCHIVED:
        return year
    if year.state is not YearState.CLOSED:
        raise ConflictError(f"Fiscal year {label} is {year.state.value}.", NEXT[year.state].format(label=label))
    with run_of(archiving, label) as run:
        checkpoint = _checkpoint(run)
        if not year.parts:
            with step(telemetry.SPAN_ARCHIVE_PLAN, label) as span:
                _plan(run)
                span.set_attribute(telemetry.PART_COUNT, len(run.year.parts))
        else:
            run.wait_for_others()
        for _, group in groupby(list(run.year.parts.values()), key=lambda part: (part["kind"], part.get("dataset"))):
            parts = list(group)
            if any(map(run.is_missing, parts)):
                with run.noting():
                    MAKERS[parts[0]["kind"]](run, parts)
        with step(telemetry.SPAN_ARCHIVE_MANIFEST, label):
            _put_manifest(run, checkpoint)
    return run.year


def planned_parts(archiving: Archiving, session: Session, run: Run) -> list[Part]:
    """What an export of the year consists of."""
    with_access = archiving.policy.access_class is not None
    tables = [
        part
        for each in closed_partitions(run.year)
        for part in plan_table(
            each.partition.dataset,
            plan_parts(session, each.partition, archiving.policy.part_bytes),
            with_access=with_access,
        )
    ]
    return [
        {"name": "reconciliation", "kind": "reconciliation"},
        {"name": "definitions", "kind": "definitions"},
        *tables,
        *plan_events(session, run.story.log),
        *plan_snapshots(jobs_of(session, archiving.calendar, run.story)),
        *plan_files(archiving, session, run.story),
    ]


def _plan(run: Run) -> None:
    archiving = run.archiving
    with archiving.ledger.transaction() as session:
        parts = planned_parts(archiving, session, run)
        found = session.execute(
            text("SELECT current_setting('server_version_num')::int, current_setting('server_encoding')")
        ).one()
    policy = archiving.policy
    retain_until = in_years(run.story.closed_at, policy.retention_years)
    pinned = {
        "storage_class": policy.storage_class.value,
        "access_class": None if policy.access_class is None else policy.access_class.value,
        "policy": {"mode": policy.mode.value, "retain_until": rfc3339(retain_until)},
        "software": {
            "name": SOFTWARE,
            "version": version(SOFTWARE),
            "postgresql": int(found[0]),
            "encoding": str(found[1]),
        },
    }
    stamp = archiving.stamp()

    def act(_: Session, year: FiscalYear) -> None:
        _check_generation(run, year)
        year.plan(stamp, parts=parts, pinned=pinned)

    run.year = archiving.decide(run.year.label, act)
    failpoint("year_planned")


def _check_generation(run: Run, year: FiscalYear) -> None:
    if year.generation != run.story.generation:
        raise ConflictError(
            f"Fiscal year {year.label} was reopened and closed again while it was exported.",
            f"What was put is of a generation that is no more. Ask again: `ledger archive run {year.label}`.",
        )


def _checkpoint(run: Run) -> str:
    archiving = run.archiving

    def sealed() -> str | None:
        with archiving.ledger.transaction() as session:
            return covering_checkpoint(session, run.story.position, archiving.keys)

    return wait_for(sealed, archiving.wait_seconds, f"The closing of {run.year.label} is not sealed yet.")


def _put_manifest(run: Run, checkpoint: str) -> None:
    archiving, year = run.archiving, run.year
    manifest = compose(run, checkpoint)
    data = manifest.to_bytes()
    path = run.spool / MANIFEST
    path.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    kept = run.volume.keep(MANIFEST, path, StorageClass.STANDARD, digest)
    failpoint("manifest_put")
    objects: list[Any] = [*manifest.objects(), kept]
    stamp = archiving.stamp()

    def act(session: Session, year: FiscalYear) -> None:
        _check_generation(run, year)
        year.export(
            stamp,
            manifest_sha256=digest,
            manifest_key=f"{run.prefix}/{MANIFEST}",
            manifest_version=kept.version,
            objects=len(objects),
            size_bytes=sum(each.bytes for each in objects),
            previous_manifest_sha256=None if manifest.previous is None else manifest.previous.manifest_sha256,
        )
        told = signed_text(data, year.label, year.generation, archiving.origin)
        keep_manifest(session, archive_export_id(year.label, year.generation), told)

    run.year = archiving.decide(year.label, act)
    failpoint("year_exported")
