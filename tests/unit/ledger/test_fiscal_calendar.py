"""Which fiscal year a day belongs to, and what it is called."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.fiscal_calendar import FiscalCalendar

APRIL = FiscalCalendar.parse("04-01", "UTC")
CALENDARS = st.sampled_from(["01-01", "04-01", "07-01", "10-15", "12-31"]).map(
    lambda start: FiscalCalendar.parse(start, "Europe/Berlin")
)


@pytest.mark.parametrize(
    ("day", "label"),
    [
        (date(2026, 3, 31), "FY2025-26"),
        (date(2026, 4, 1), "FY2026-27"),
        (date(1999, 12, 31), "FY1999-00"),
    ],
)
def test_a_year_that_spans_two_is_named_after_both(day: date, label: str) -> None:
    assert APRIL.of_day(day).label == label


def test_a_year_that_is_a_calendar_year_is_named_after_it() -> None:
    assert FiscalCalendar.parse("01-01", "UTC").of_day(date(2025, 12, 31)).label == "FY2025"


@given(CALENDARS, st.dates(date(1901, 1, 1), date(2198, 12, 30)))
def test_each_day_lies_in_one_year_and_the_years_follow_each_other(calendar: FiscalCalendar, day: date) -> None:
    year = calendar.of_day(day)
    assert year.start <= day < year.end
    assert calendar.of_day(year.start) == year
    assert calendar.of_day(year.end - timedelta(days=1)) == year
    assert calendar.of_day(year.end).start == year.end


def test_the_zone_decides_the_day_of_an_instant() -> None:
    berlin = FiscalCalendar.parse("04-01", "Europe/Berlin")
    instant = datetime(2026, 3, 31, 22, 30, tzinfo=UTC)
    assert berlin.of_instant(instant).label == "FY2026-27"
    assert APRIL.of_instant(instant).label == "FY2025-26"


@given(CALENDARS, st.integers(1901, 2198))
def test_the_bounds_of_instants_agree_with_the_year_of_each_instant(calendar: FiscalCalendar, number: int) -> None:
    year = calendar.starting_in(number)
    start, end = calendar.bounds_of_instants(year)
    assert calendar.of_instant(start) == year
    assert calendar.of_instant(end - timedelta(microseconds=1)) == year
    assert calendar.of_instant(end) != year


@pytest.mark.parametrize("day", [date(1, 1, 1), date(1900, 3, 31), date(9999, 12, 31)])
def test_a_day_that_must_be_a_mistake_is_refused(day: date) -> None:
    with pytest.raises(ValueError, match="outside the fiscal years"):
        APRIL.of_day(day)


@pytest.mark.parametrize("start", ["02-29", "13-01", "x"])
def test_a_start_that_is_no_day_of_every_year_is_refused(start: str) -> None:
    with pytest.raises(ValueError):
        FiscalCalendar.parse(start, "UTC")
