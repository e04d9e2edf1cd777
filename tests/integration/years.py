"""Fiscal years for tests: closed and reopened in the record alone, as far as those who load rows can tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import Ground
from ledger.fiscal_years import hold_years
from ledger.year_records import save_year, year_to_decide_about
from tests.integration.place import STAMP, Place

SECOND = replace(STAMP, actor="key:bert")


def decide(place: Place, label: str, *acts: Callable[[FiscalYear], None]) -> None:
    """Have things happen to a year, in one transaction."""
    with place.ledger.transaction() as session:
        hold_years(session)
        year = year_to_decide_about(place.ledger, session, label, STAMP, place.workshop.calendar)
        for act in acts:
            act(year)
        save_year(place.ledger, session, year)


def soft_close(year: FiscalYear) -> None:
    year.soft_close(STAMP)


def close(year: FiscalYear) -> None:
    year.close(STAMP, position=1, tables=[], requested_by=STAMP.actor)


def reopen(year: FiscalYear) -> None:
    """By one person and another."""
    year.request_reopen(STAMP, reason="an invoice was missing")
    year.reopen(SECOND)


def archive(year: FiscalYear) -> None:
    """All that comes between the closing of a year and the drop of its rows."""
    close(year)
    year.plan(STAMP, parts=[{"name": "a"}], pinned={})
    year.store_parts(STAMP, objects=[{"name": "a", "bytes": 1_234}])
    year.export(
        STAMP,
        manifest_sha256="34" * 32,
        manifest_key="MANIFEST.json",
        manifest_version="1",
        objects=1,
        size_bytes=1,
        previous_manifest_sha256=None,
    )
    year.verify(STAMP, evidence={})
    year.authorize_drop(STAMP, ground=Ground.GRACE)


def drop(year: FiscalYear) -> None:
    year.drop(STAMP, tables=[])
