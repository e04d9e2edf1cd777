"""Late records: which are told apart by their day, whatever that is written like, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.fiscal_years import ClosedYear
from projections.chunk import ChunkContent, read_chunk
from projections.fields import Reading
from projections.formats.splitter import Chunk
from projections.late_records import set_late_aside
from tests.thorough import thorough
from tests.unit.projections.checks import LF, contract_of

ZONES = ["UTC", "Europe/London", "Asia/Kolkata", "Pacific/Auckland", "America/New_York"]
FEW = thorough(examples=100, steps=1)


def closed(label: str, calendar: FiscalCalendar) -> ClosedYear:
    year = calendar.named(label)
    return ClosedYear(label, year.start, year.end, False)


def late_in(
    lines: Sequence[str], kind: str, years: Sequence[str], *, zone: str = "UTC", received: date = date(2030, 1, 1)
) -> ChunkContent:
    """The content of a chunk of these lines, of which each is a number and a value, with the late ones set aside."""
    calendar = FiscalCalendar.parse("04-01", zone)
    contract = contract_of(["bigint", kind], fiscal=None if kind == "text" else "b")
    data = "".join(f"{line}\n" for line in lines).encode()
    chunk = Chunk(0, 0, len(data), 1, 1, len(lines), 0)
    content = read_chunk(data, chunk, LF, Reading(contract, contract.columns, calendar))
    set_late_aside(content, received, [closed(year, calendar) for year in years])
    return content


def test_a_day_is_late_from_the_first_to_the_last_of_its_year() -> None:
    days = ["2025-03-31", "2025-04-01", "2026-03-31", "2026-04-01"]
    content = late_in([f"{number},{day}" for number, day in enumerate(days)], "date", ["FY2025-26"])
    assert content.late == {1: "FY2025-26", 2: "FY2025-26"}
    assert {index: (flaw.code, flaw.column) for index, flaw in content.flaws.items()} == dict.fromkeys(
        [1, 2], ("fiscal_year_closed", "b")
    )
    assert content.good.tolist() == [0, 3]


def test_the_reason_names_the_year_and_what_to_do() -> None:
    [flaw] = late_in(["1,2025-04-01"], "date", ["FY2025-26"]).flaws.values()
    assert flaw.reason == "its fiscal year FY2025-26 is closed: post it as an adjustment, or have the year reopened"


def test_what_does_not_fit_its_contract_is_refused_for_that_and_not_for_being_late() -> None:
    content = late_in(["x,2025-04-01", "1,2025-04-01", "2,2025-04-31"], "date", ["FY2025-26"])
    assert {index: flaw.code for index, flaw in content.flaws.items()} == {
        0: "value_invalid",
        1: "fiscal_year_closed",
        2: "date_invalid",
    }


def test_what_was_late_before_is_not_when_its_year_is_open_again() -> None:
    content = late_in(["x,2025-04-01", "1,2025-04-01"], "date", ["FY2025-26"])
    set_late_aside(content, date(2030, 1, 1), [])
    assert (content.late, sorted(content.flaws)) == ({}, [0])


@pytest.mark.parametrize(("received", "late"), [(date(2026, 3, 31), [0, 1]), (date(2026, 4, 1), [])])
def test_without_a_fiscal_date_all_records_are_as_late_as_their_file(received: date, late: list[int]) -> None:
    content = late_in(["1,a", "2,2025-04-01"], "text", ["FY2025-26"], received=received)
    assert sorted(content.late) == late


@pytest.mark.parametrize(
    ("zone", "instant", "is_late"),
    [("Pacific/Auckland", "2026-03-30 23:00:00-15:00", False), ("Etc/GMT+12", "2026-04-02 00:00:00+15:45", True)],
)
def test_the_day_of_an_instant_can_be_two_days_from_the_one_that_is_written(
    zone: str, instant: str, is_late: bool
) -> None:
    assert bool(late_in([f"1,{instant}"], "timestamptz", ["FY2025-26"], zone=zone).late) is is_late


near = st.integers(-3 * 24 * 60, 3 * 24 * 60).map(lambda minutes: timedelta(minutes=minutes))
bounds = st.sampled_from([datetime(2025, 4, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)])
offsets = st.integers(-15 * 4, 15 * 4).map(lambda quarters: timezone(timedelta(minutes=15 * quarters)))
instants = st.builds(lambda bound, distance, offset: (bound + distance).astimezone(offset), bounds, near, offsets)


@FEW
@given(found=st.lists(instants, min_size=1, max_size=20), zone=st.sampled_from(ZONES))
def test_an_instant_is_late_by_its_day_in_the_ledgers_zone_whatever_its_offset(
    found: list[datetime], zone: str
) -> None:
    lines = [f"{number},{instant.isoformat(sep=' ')}" for number, instant in enumerate(found)]
    content = late_in(lines, "timestamptz", ["FY2025-26"], zone=zone)
    days = [instant.astimezone(ZoneInfo(zone)).date() for instant in found]
    expected = [index for index, day in enumerate(days) if date(2025, 4, 1) <= day < date(2026, 4, 1)]
    assert sorted(content.late) == expected


@FEW
@given(days=st.lists(st.dates(date(2023, 1, 1), date(2027, 12, 31)), min_size=1, max_size=30), is_time=st.booleans())
def test_several_closed_years_each_take_their_own(days: list[date], is_time: bool) -> None:
    calendar = FiscalCalendar.parse("04-01", "UTC")
    lines = [f"{number},{day}{' 23:59:59' if is_time else ''}" for number, day in enumerate(days)]
    content = late_in(lines, "timestamp" if is_time else "date", ["FY2024-25", "FY2026-27"])
    labels = {index: calendar.of_day(day).label for index, day in enumerate(days)}
    assert content.late == {index: label for index, label in labels.items() if label in ("FY2024-25", "FY2026-27")}
