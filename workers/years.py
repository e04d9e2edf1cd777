"""Closing a fiscal year, as an operation: on somebody's request, or by itself some days after its end.

Rules:
1. The operation ends in the transaction that closes the year. Tried again, it does not find the year closed by itself.
2. That a year was closed, and could not be, is also said in the process's log.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from archive import closing
from archive.closing import Closing
from ledger.application import Ledger
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.settings import Settings
from projections.views import Order
from workers.workshop import Workshop

log = logging.getLogger(__name__)

# How long those are waited for who change rows of the year: the closing is tried again.
WAIT_SECONDS = 30.0


def closing_of(ledger: Ledger, settings: Settings) -> Closing:
    """What closing years needs, by the settings."""
    calendar = FiscalCalendar.parse(settings.fiscal_calendar, settings.time_zone)
    return Closing(ledger, calendar, settings.scratch_folder or Path(tempfile.gettempdir()), WAIT_SECONDS)


def close_fiscal_year(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Close the year that an order names; what was closed. Raises as `archive.closing.close`."""
    operation = workshop.ledger.operation(order.id)
    results: list[dict[str, Any]] = []

    def end(session: Session, year: FiscalYear) -> None:
        results.append(_result(year))
        order.finish(session, results[0])

    label, stamp = order.arguments["fiscal_year"], workshop.stamp(operation)
    closing.close(
        closing_of(workshop.ledger, workshop.settings), label, stamp, requested_by=operation.requested_by, end=end
    )
    log.info("fiscal year %s is closed", label, extra={"action": "year_closed", "fiscal_year": label})
    return results[0]


def _result(year: FiscalYear) -> dict[str, Any]:
    tables = [{name: table[name] for name in ("dataset", "name", "rows", "fingerprint")} for table in year.tables]
    rows = sum(table["rows"] for table in tables)
    return {"fiscal_year": year.label, "generation": year.generation, "tables": tables, "rows": rows}
