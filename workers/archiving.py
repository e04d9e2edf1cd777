"""Archiving a closed fiscal year, as an operation: as far as it may go, from wherever it stands.

Rules:
1. The steps are those of `archive`, each of which ends with events. An operation that is tried again, or asked for
   again, goes on behind them; two at once make one set of objects, and the second is told.
2. Before anything is planned all is looked at that would stop it: the cold store, by doing there what an archive needs,
   with the credentials of whoever verifies too; the tables and the spool folder, which may not be as they were when the
   year was closed. The doors look as far as they can when it is asked for.
3. Then the log is verified: what is not as it was sealed is not archived as if it were.
4. It ends at an archive that is verified, unless its rows may be dropped: then it drops them and tells their files.
"""

from __future__ import annotations

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from archive import closing as closings
from archive.closing import Closing
from archive.dropping import drop_if_due
from archive.export_run import Archiving, Policy, alone
from archive.exporting import export
from archive.finishing import finish
from archive.preflight import Refusal, refusals, refuse
from archive.rehearsal import rehearse
from archive.stores import LockMode, NotRestoredError, StorageClass
from ledger import telemetry
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import FENCED, YearState
from ledger.errors import LedgerError
from ledger.findings import Level
from ledger.seal_key import public_keys
from ledger.settings import Settings
from projections.views import Order
from workers.cold_stores import cold_store, refusals_of_cold_store, store_to_verify
from workers.operations import NotYetError
from workers.verification import verified
from workers.workshop import Workshop

log = logging.getLogger(__name__)

# How long whoever seals is waited for, and readers of a table that is dropped: it is tried again.
WAIT_SECONDS = 30.0
RESTORE_PAUSE_SECONDS = 1_800.0
NO_ACCESS = "none"


class RecordDiffersError(LedgerError):
    """The log is not what was sealed."""

    code = "record_differs"


def archive_fiscal_year(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Archive the year that an order names; where it stands then.

    Raises:
        StoreUnfitError: archives cannot be kept in the cold store. Nothing was planned.
        YearNotReadyError: something else is in the way. Nothing was planned.
        RecordDiffersError: the log is not what was sealed.
        NotYetError: something has to come back from cold storage first.
        LedgerError: what `archive.exporting.export`, `archive.finishing.finish` and `archive.dropping.drop_if_due` do.
    """
    operation = workshop.ledger.operation(order.id)
    settings = workshop.settings
    archiving = Archiving(
        ledger=workshop.ledger,
        calendar=workshop.calendar,
        store=cold_store(settings),
        blobs=workshop.blobs,
        spool=settings.scratch_folder or Path(tempfile.gettempdir()),
        origin=settings.origin,
        keys=public_keys(settings),
        policy=policy_of(settings),
        stamp=lambda: workshop.stamp(operation),
        tell=order.tell,
        wait_seconds=WAIT_SECONDS,
        verifying=store_to_verify(settings),
    )
    label = order.arguments["fiscal_year"]
    with alone(archiving, label):
        year = workshop.ledger.fiscal_year(label)
        if year is not None and _is_to_be_planned(year):
            _check_ready(archiving, year)
            _verify_log(workshop, order)
        try:
            export(archiving, label)
        except NotRestoredError as cold:
            # A run that was killed has put it, with another version of a library.
            raise NotYetError(RESTORE_PAUSE_SECONDS, cold.message) from cold
        finish(archiving, label)
        year = drop_if_due(archiving, label, settings.archive_drop_days)
    log.info("fiscal year %s is %s", label, year.state.value, extra={"action": "year_archived", "fiscal_year": label})
    return _result(year)


def in_the_way(closing: Closing, settings: Settings, year: FiscalYear) -> list[Refusal]:
    """What is in the way of archiving a year, or of closing it before, as far as this process can see it.

    Raises:
        PartUnavailableError: the cold store cannot be reached.
    """
    found = refusals_of_cold_store(settings)
    with closing.ledger.transaction() as session:
        if year.state not in FENCED:
            found += closings.in_the_way(closing, session, year)
        elif _is_to_be_planned(year):
            found += refusals(session, closing.calendar, Year(year.label, year.start, year.end), closing.spool)
    return found


def check_ready(closing: Closing, settings: Settings, year: FiscalYear) -> None:
    """Raise YearNotReadyError if something is in the way of archiving a closed year, and tell what."""
    _refuse(in_the_way(closing, settings, year), year.label)


def policy_of(settings: Settings) -> Policy:
    """How years are archived, by the settings."""
    access = settings.archive_access_class
    return Policy(
        storage_class=StorageClass(settings.archive_class),
        access_class=None if access == NO_ACCESS else StorageClass(access),
        mode=LockMode(settings.archive_lock_mode),
        retention_years=settings.archive_retention_years,
        run_days=settings.archive_run_days,
        part_bytes=settings.archive_part_bytes,
    )


def _is_to_be_planned(year: FiscalYear) -> bool:
    return year.state is YearState.CLOSED and not year.parts


def _check_ready(archiving: Archiving, year: FiscalYear) -> None:
    """As `check_ready`, and besides by doing it. What is in the way of the store raises as that does (rule 2)."""
    archiving.store.check()
    with archiving.ledger.transaction() as session:
        days = Year(year.label, year.start, year.end)
        found = refusals(session, archiving.calendar, days, archiving.spool)
    _refuse(found, year.label)
    rehearse(
        archiving.store,
        archiving.verifying or archiving.store,
        name=str(uuid4()),
        mode=archiving.policy.mode,
        now=datetime.now(UTC),
        scratch=archiving.spool,
    )


def _refuse(found: list[Refusal], label: str) -> None:
    what = f"Fiscal year {label} cannot be archived."
    refuse(found, what, f"`ledger archive plan {label}` tells all that is in the way.")


def _verify_log(workshop: Workshop, order: Order) -> None:
    about = {telemetry.FISCAL_YEAR: order.arguments["fiscal_year"]}
    with telemetry.span(telemetry.SPAN_ARCHIVE_VERIFY_LOG, about) as span:
        found = verified(
            workshop.ledger.engine,
            workshop.settings,
            Level.EVENTS,
            lambda position, last: order.tell({"events": position, "position": position, "log_position": last}),
        )
        span.set_attribute(telemetry.EVENT_COUNT, found["events"])
    if not found["holds"]:
        told = " ".join([*(finding["message"] for finding in found["findings"]), *found["not_compared"]][:10])
        raise RecordDiffersError(
            f"The log is not what was sealed. {told}",
            "Nothing was archived. See all of it with `ledger audit verify`, and find out who changed it.",
        )


def _result(year: FiscalYear) -> dict[str, Any]:
    return {
        "fiscal_year": year.label,
        "generation": year.generation,
        "state": year.state.value,
        "manifest_sha256": year.manifest_sha256,
        "holds": sorted(year.holds),
        "objects": len(year.stored) + 1,
        "bytes": sum(each["bytes"] for each in year.stored.values()),
    }
