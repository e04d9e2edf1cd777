"""What tests need to give orders about views without an operation: each is carried out at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from pymongo.database import Database
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.blobs import BlobStore, FolderBlobStore
from ledger.domain.fiscal_calendar import FiscalCalendar
from projections.views import Order, Parts

NOBODY = cast(Any, None)


def parts_of(
    ledger: Ledger,
    blobs: BlobStore | None = None,
    database: Database[dict[str, Any]] = NOBODY,
    calendar: FiscalCalendar | None = None,
) -> Parts:
    """What views are made of and kept in, as far as a test has it."""
    return Parts(
        ledger,
        blobs or FolderBlobStore(Path("/nowhere")),
        database,
        calendar or FiscalCalendar.parse("04-01", "UTC"),
    )


def new_order(
    tell: Callable[[dict[str, Any]], None] = lambda progress: None,
    finish: Callable[[Session, dict[str, Any]], None] = lambda session, result: None,
    **arguments: Any,
) -> Order:
    """An order of its own; its end is written down nowhere."""
    return Order(uuid4(), arguments, tell, finish)
