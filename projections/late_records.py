"""Late records: those whose fiscal year was closed before they came.

Rules:
1. A record is late by the day of its fiscal date, or of its file's arrival where the contract has no fiscal date. A
   late record is refused and kept like any other reject, under a code of its own.
2. Only a record that is good in every other way is late: what does not fit its contract is refused for that.
3. Which years are closed is asked within the transaction that loads the chunk. A chunk that is read again, to replay it
   or to build its table anew, has the late records that it had then: they are taken from the rejects that were kept.
4. Of which year a late record is, its reason says in its first words.
5. The work is done by column. Only instants within two days of a year's bounds are read one by one, each different text
   once: further away the offset of an instant cannot matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow
import pyarrow.compute
from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.fiscal_years import FISCAL_YEAR_CLOSED, ClosedYear
from projections.chunk import ChunkContent
from projections.columns import among, different, positions
from projections.formats.rows import Flaw

DAY = timedelta(days=1)
NEAR_DAYS = 2
IS_CLOSED = "its fiscal year {label} is closed"


def set_late_aside(content: ChunkContent, received: date, closed: Iterable[ClosedYear]) -> None:
    """Refuse the good records of years that are closed, instead of those that were when this was asked before.

    Args:
        received: the day on which the file came.
    """
    for index in content.late:
        del content.flaws[index]
    content.late = {}
    for year in closed:
        flaw = _flaw(content.reading.contract, year)
        late = dict.fromkeys(index for index in _records_of(content, received, year) if index not in content.flaws)
        content.flaws.update(dict.fromkeys(late, flaw))
        content.late.update(dict.fromkeys(late, year.label))


def late_records(session: Session, job_id: UUID, label: str) -> list[int]:
    """The numbers of a job's records that came too late for a year, sorted."""
    found = rows(
        session,
        "SELECT record FROM rejects.records WHERE job_id = :job_id AND code = :code"
        " AND starts_with(reason, :is_closed) ORDER BY record",
        job_id=job_id,
        code=FISCAL_YEAR_CLOSED,
        is_closed=IS_CLOSED.format(label=label),
    )
    return [int(row.record) for row in found]


def _flaw(contract: Contract, year: ClosedYear) -> Flaw:
    closed = IS_CLOSED.format(label=year.label) + (" but for adjustments" if year.takes_adjustments else "")
    reason = f"{closed}: post it as an adjustment, or have the year reopened"
    return Flaw(FISCAL_YEAR_CLOSED, reason, contract.fiscal_date_column)


def _records_of(content: ChunkContent, received: date, year: ClosedYear) -> list[int]:
    """The indexes of the records of a year, those that were found to be good by themselves."""
    contract, zone = content.reading.contract, content.reading.calendar.zone
    column = contract.fiscal_date_column
    if column is None:
        return content.good.tolist() if year.start <= received < year.end else []
    [kind] = [each.type for each in contract.columns if each.name == column]
    found: list[int] = []
    for start, checked in content.pieces:
        values = checked.values[column]
        mask = _instants_in(year, values, zone) if kind is ColumnType.TIMESTAMPTZ else _in(year, values)
        found += (checked.good[positions(mask)] + start).tolist()
    return found


def _in(year: ClosedYear, values: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    """Which days or times are in a year: in their plain form their order is that of the texts."""
    days = pyarrow.compute.utf8_slice_codeunits(values, 0, len("YYYY-MM-DD"))
    return pyarrow.compute.and_(
        pyarrow.compute.greater_equal(days, year.start.isoformat()),
        pyarrow.compute.less(days, year.end.isoformat()),
    )


def _instants_in(year: ClosedYear, values: pyarrow.ChunkedArray, zone: ZoneInfo) -> pyarrow.ChunkedArray:
    days = pyarrow.compute.utf8_slice_codeunits(values, 0, len("YYYY-MM-DD"))
    bounds = (year.start, year.end)
    about = [(bound + number * DAY).isoformat() for bound in bounds for number in range(-NEAR_DAYS, NEAR_DAYS)]
    near = among(days, about)
    texts = different(values.filter(pyarrow.compute.fill_null(near, False)))
    within = among(values, (text for text in texts if year.start <= _day(text, zone) < year.end))
    return pyarrow.compute.if_else(near, within, _in(year, values))


def _day(text: str, zone: ZoneInfo) -> date:
    return datetime.fromisoformat(text).astimezone(zone).date()
