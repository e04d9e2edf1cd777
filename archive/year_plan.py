"""The plan of a year's end, while the year is open or when it is closed: how much there is, and what comes next.

Nothing is changed. What is told of a year that is still open is how it stands now, as if it were closed at this moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.orm import Session

from archive.closing import Closing, count, is_misfit
from archive.estimate import TableSize, estimate_of, rows_stored, tables_when_closed
from archive.export_run import Policy
from archive.partitions import partitions_of
from archive.preflight import Refusal
from archive.retrieval_plan import PRICES_OF, offers_of
from archive.year_story import story_if_closed, story_of
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import FENCED, YearState

DAYS = 3  # for which copies of what is brought back stay in the cold store, unless somebody says otherwise
# STATE -> the command that leads on, once nothing is in the way.
COMMANDS = {
    YearState.OPEN: "ledger archive close {label}",
    YearState.SOFT_CLOSED: "ledger archive close {label}",
    YearState.REOPENED: "ledger archive close {label}",
    YearState.CLOSED: "ledger archive run {label}",
    YearState.EXPORTED: "ledger archive run {label}",
    YearState.VERIFIED: "ledger archive drop {label}",
    YearState.DROPPED: "ledger archive restore {label} --dry-run",
}


def year_plan(
    closing: Closing, year: FiscalYear, stamp: Stamp, policy: Policy, refused: Sequence[Refusal], *, is_priced: bool
) -> dict[str, Any]:
    """What archiving a year takes, and what brings it back, as JSON values.

    Args:
        refused: what is in the way.
        is_priced: whether it goes into a bucket.
    """
    with closing.ledger.transaction() as session:
        if year.state in FENCED:
            story, tables = story_of(closing.ledger, session, year), tables_when_closed(year)
        else:
            story = story_if_closed(session, year, stamp, closing.ledger.position())
            tables = _tables_now(closing, session, year, refused)
        found = estimate_of(session, closing.calendar, story, tables, policy, is_priced=is_priced)
    restore = offers_of(policy.storage_class, *rows_stored(tables, policy), DAYS) if is_priced else []
    return {
        **found,
        "start": year.start.isoformat(),
        "end": year.end.isoformat(),
        "state": year.state.value,
        "tables": [asdict(each) for each in tables],
        "restore": restore,
        "prices": PRICES_OF if is_priced else None,
        "in_the_way": [asdict(each) for each in refused],
        "next": COMMANDS[year.state].format(label=year.label),
    }


def _tables_now(closing: Closing, session: Session, year: FiscalYear, refused: Sequence[Refusal]) -> list[TableSize]:
    if is_misfit(refused):
        return []  # nobody can say which partitions are the year's
    found = partitions_of(session, closing.calendar, Year(year.label, year.start, year.end))
    return [TableSize(each.dataset, each.name, count(session, each), each.bytes_on_disk) for each in found]
