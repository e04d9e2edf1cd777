"""What is asked of the archives of fiscal years, as operations: bringing one back, and holding its objects.

Rules:
1. Asking and the event that says so are one transaction, so that nothing is promised that nobody does.
2. Bringing a year back takes hours or days. Each attempt looks, asks for what is missing and gives the work back; the
   pause is a quarter of the time that has passed since somebody asked, within limits.
3. A copy that is there already is taken for ours: then only what comes after it is done. So whoever was killed goes on.
4. Holds are carried out as the log says at the end: if that has changed meanwhile, they are carried out again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy.orm import Session

from archive import closing as closings
from archive import retention
from archive.closing import Closing
from archive.retrieval import ask, bring_back, last_request, tell_jobs
from archive.retrieval_plan import plan
from archive.sealed import exports_of, newest_archive
from archive.stores import ColdStore, NotRestoredError, Tier
from archive.year_story import last_proof
from ledger import telemetry
from ledger.domain.base import Stamp
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.domain.year_states import CopyState
from ledger.errors import ConflictError
from ledger.year_records import year_to_decide_about
from projections.views import Order
from workers.cold_stores import cold_store
from workers.operations import NotYetError
from workers.workshop import Workshop

log = logging.getLogger(__name__)

PAUSE_SHARE = 0.25
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 15.0, 1800.0


def request_restore(
    closing: Closing, store: ColdStore, label: str, stamp: Stamp, *, tier: Tier, days: int, reason: str
) -> Operation:
    """Ask for a copy of an archived year; the operation that makes it.

    Raises:
        ConflictError: the year has no archive, or a copy, or one was asked for.
        InvalidRequestError: cold storage brings nothing back like that, or no reason is given.
    """
    plan(newest_archive(closing.ledger, store, closings.known_year(closing, label, stamp)).manifest, tier, days)
    operation = Operation.request(uuid4(), stamp, kind=Stage.RESTORE_YEAR, arguments={"fiscal_year": label})
    closings.decide(
        closing,
        label,
        stamp,
        lambda year: year.request_restore(stamp, tier=tier.value, days=days, reason=reason),
        lambda session, year: _save(closing, session, operation),
    )
    return operation


def decide_hold(
    closing: Closing, label: str, stamp: Stamp, act: Callable[[FiscalYear], None]
) -> tuple[FiscalYear, Operation | None]:
    """Have a hold of a year placed or lifted; the operation by which its objects follow, if it has an archive.

    Raises what the act does.
    """
    asked: list[Operation] = []

    def also(session: Session, year: FiscalYear) -> None:
        if exports_of(closing.ledger, year):
            arguments = {"fiscal_year": label}
            asked.append(Operation.request(uuid4(), stamp, kind=Stage.HOLD_YEAR, arguments=arguments))
            _save(closing, session, asked[0])

    year = closings.decide(closing, label, stamp, act, also)
    return year, asked[0] if asked else None


def restore_fiscal_year(workshop: Workshop, order: Order, now: datetime | None = None) -> dict[str, Any]:
    """Bring the year that an order names back; what was shown equal. Raises as `archive.retrieval` does.

    Args:
        now: the time by which cold storage lets copies go, if that is not the clock's.

    Raises:
        NotYetError: cold storage has not brought everything back yet.
        ConflictError: the copy is not wanted any more.
    """
    ledger = workshop.ledger
    operation = ledger.operation(order.id)
    label, stamp = order.arguments["fiscal_year"], workshop.stamp(operation)
    year = ledger.fiscal_year(label)
    if year is None or year.copy is CopyState.NONE:
        raise ConflictError(f"The copy of fiscal year {label} is not wanted any more.", "There is nothing to do.")
    if year.copy is CopyState.REQUESTED:
        _bring_back(workshop, year, stamp, now or datetime.now(UTC))
    proof = last_proof(ledger, year)
    with telemetry.span(telemetry.SPAN_RESTORE_TELL_FILES, {telemetry.FISCAL_YEAR: label}):
        tell_jobs(ledger, label, proof["manifest_sha256"], stamp)
    return {"fiscal_year": label, "rows": sum(table["rows"] for table in proof["tables"]), **proof}


def hold_fiscal_year(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Have the objects of a year held, or not, as the log says; how many there are, and how many were changed."""
    ledger = workshop.ledger
    label, stamp = order.arguments["fiscal_year"], workshop.stamp(ledger.operation(order.id))
    store = cold_store(workshop.settings)
    changed = 0
    while True:
        year = ledger.fiscal_year(label)
        assert year is not None, f"a hold of {label} was decided about"
        done = retention.carry_out_holds(ledger, store, year)
        changed += done.changed
        with ledger.transaction() as session:
            then = year_to_decide_about(ledger, session, label, stamp, workshop.calendar)
            if bool(then.holds) == bool(year.holds):
                told = {"is_on_hold": bool(year.holds), "objects": done.objects, "changed": changed}
                result = {"fiscal_year": label, **told}
                order.finish(session, result)
                return result


def _bring_back(workshop: Workshop, year: FiscalYear, stamp: Stamp, now: datetime) -> None:
    ledger, store = workshop.ledger, cold_store(workshop.settings)
    wanted: Any = last_request(ledger, year).event
    tier, days = Tier(wanted.tier), wanted.days
    waited_seconds = (now - wanted.timestamp).total_seconds()
    pause_seconds = min(PAUSE_SECONDS_MAX, max(PAUSE_SECONDS_MIN, waited_seconds * PAUSE_SHARE))
    archive = newest_archive(ledger, store, year)
    with telemetry.span(telemetry.SPAN_RESTORE_ASK, {telemetry.FISCAL_YEAR: year.label}) as span:
        asked = ask(store, archive, tier, days, now)
        span.set_attributes({telemetry.PART_COUNT: asked.parts, telemetry.PART_COUNT_READY: asked.ready})
    if not asked.is_ready:
        slower = f"; {asked.slower:,} of them come as Standard, as {tier} has no capacity" if asked.slower else ""
        raise NotYetError(pause_seconds, f"{asked.ready:,} of {asked.parts:,} parts are back{slower}")
    try:
        bring_back(ledger, workshop.calendar, store, archive, year.label, stamp)
    except NotRestoredError as gone:  # copies go at midnight, whoever reads them
        raise NotYetError(pause_seconds, gone.message) from gone
    log.info("fiscal year %s is back", year.label, extra={"action": "year_restored", "fiscal_year": year.label})


def _save(closing: Closing, session: Session, operation: Operation) -> None:
    closing.ledger.save(operation, session=session)
