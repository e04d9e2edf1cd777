"""Which fiscal year a day belongs to, and what it is called."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.fiscal_calendar import FiscalCalendar

APRIL = FiscalCalendar.parse("04-01", "UTC")
DEFINITIONS = [
    "01-01",
    "04-01",
    "07-01",
    "10-15",
    "12-31",
    "saturday nearest 01-31",
    "saturday last 09-30",
    "sunday nearest 12-31",
    "friday last 12-31",
    "monday nearest 02-28",
    "04-01, 01-01 from 2027-01-01",
    "01-01, 04-01 from 1999-04-01, 07-01 from 2001-07-01",
    "01-01, sunday last 08-31 from 2025-09-01, 01-01 from 2030-01-01",
]
CALENDARS = st.sampled_from(DEFINITIONS).map(lambda start: FiscalCalendar.parse(start, "Europe/Berlin"))
DAYS = st.dates(date(1902, 1, 1), date(2197, 12, 30))


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


@given(CALENDARS, DAYS)
def test_each_day_lies_in_one_year_and_the_years_follow_each_other(calendar: FiscalCalendar, day: date) -> None:
    year = calendar.of_day(day)
    assert year.start <= day < year.end
    assert calendar.of_day(year.start) == year
    assert calendar.of_day(year.end - timedelta(days=1)) == year
    assert calendar.of_day(year.end).start == year.end


@given(CALENDARS, DAYS)
def test_each_year_is_found_by_its_name_which_no_other_has(calendar: FiscalCalendar, day: date) -> None:
    year = calendar.of_day(day)
    assert calendar.named(year.label) == year


@pytest.mark.parametrize("definition", [text for text in DEFINITIONS if "from" not in text and " " in text])
def test_years_of_whole_weeks_have_52_or_53_and_end_where_they_say(definition: str) -> None:
    calendar = FiscalCalendar.parse(definition, "UTC")
    weekday, which, end = definition.split()
    year = calendar.of_day(date(1950, 1, 1))
    weeks = set()
    while year.start.year < 2150:
        last = year.end - timedelta(days=1)
        assert last.strftime("%A").lower() == weekday
        month, day = map(int, end.split("-"))
        distances = [(last - date(number, month, day)).days for number in (last.year - 1, last.year, last.year + 1)]
        nearest = min(distances, key=abs)
        assert nearest in (range(-3, 4) if which == "nearest" else range(-6, 1))
        weeks.add((year.end - year.start).days / 7)
        year = calendar.of_day(year.end)
    assert weeks == {52, 53}


# The 53-week years of the National Retail Federation's calendar, and ends of years as Apple's annual reports have them.
@pytest.mark.parametrize(
    ("definition", "start", "last", "weeks", "label"),
    [
        ("saturday nearest 01-31", date(2023, 1, 29), date(2024, 2, 3), 53, "FY2023-24"),
        ("saturday nearest 01-31", date(2024, 2, 4), date(2025, 2, 1), 52, "FY2024-25"),
        ("saturday nearest 01-31", date(2017, 1, 29), date(2018, 2, 3), 53, "FY2017-18"),
        ("saturday nearest 01-31", date(2012, 1, 29), date(2013, 2, 2), 53, "FY2012-13"),
        ("saturday last 09-30", date(2022, 9, 25), date(2023, 9, 30), 53, "FY2022-23"),
        ("saturday last 09-30", date(2023, 10, 1), date(2024, 9, 28), 52, "FY2023-24"),
        ("saturday last 09-30", date(2016, 9, 25), date(2017, 9, 30), 53, "FY2016-17"),
        ("sunday nearest 12-31", date(2024, 12, 30), date(2025, 12, 28), 52, "FY2025"),
    ],
)
def test_years_of_whole_weeks_are_those_that_companies_have(
    definition: str, start: date, last: date, weeks: int, label: str
) -> None:
    year = FiscalCalendar.parse(definition, "UTC").of_day(last)
    assert (year.start, year.end - timedelta(days=1), year.label) == (start, last, label)
    assert (year.end - year.start).days == 7 * weeks


def test_a_change_of_the_rule_makes_the_year_under_way_a_short_one() -> None:
    calendar = FiscalCalendar.parse("04-01, 01-01 from 2027-01-01", "UTC")
    years = [calendar.of_day(day) for day in (date(2026, 3, 31), date(2026, 4, 1), date(2027, 1, 1))]
    assert [(year.label, year.start, year.end) for year in years] == [
        ("FY2025-26", date(2025, 4, 1), date(2026, 4, 1)),
        ("FY2026-SHORT", date(2026, 4, 1), date(2027, 1, 1)),
        ("FY2027", date(2027, 1, 1), date(2028, 1, 1)),
    ]


@given(CALENDARS, DAYS)
def test_a_change_to_come_leaves_all_years_before_it_as_they_were(calendar: FiscalCalendar, day: date) -> None:
    changed = FiscalCalendar.parse(f"{calendar}, 01-01 from 2190-01-01", "Europe/Berlin")
    if calendar.of_day(day).end <= date(2190, 1, 1):
        assert changed.of_day(day) == calendar.of_day(day)


@given(CALENDARS)
def test_a_definition_is_read_as_it_is_written(calendar: FiscalCalendar) -> None:
    assert FiscalCalendar.parse(str(calendar), "Europe/Berlin") == calendar


def test_the_zone_decides_the_day_of_an_instant() -> None:
    berlin = FiscalCalendar.parse("04-01", "Europe/Berlin")
    instant = datetime(2026, 3, 31, 22, 30, tzinfo=UTC)
    assert berlin.of_instant(instant).label == "FY2026-27"
    assert APRIL.of_instant(instant).label == "FY2025-26"


@given(CALENDARS, DAYS)
def test_the_bounds_of_instants_agree_with_the_year_of_each_instant(calendar: FiscalCalendar, day: date) -> None:
    year = calendar.of_day(day)
    start, end = calendar.bounds_of_instants(year)
    assert calendar.of_instant(start) == year
    assert calendar.of_instant(end - timedelta(microseconds=1)) == year
    assert calendar.of_instant(end) != year


@pytest.mark.parametrize("day", [date(1, 1, 1), date(1900, 3, 31), date(9999, 12, 31)])
def test_a_day_that_must_be_a_mistake_is_refused(day: date) -> None:
    with pytest.raises(ValueError, match="outside the fiscal years"):
        APRIL.of_day(day)


@pytest.mark.parametrize("label", ["FY2025", "FY2025-27", "2025", "", "FY0000-01", "FY2025-26-SHORT", "fy2025-26"])
def test_a_name_that_no_year_has_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="no fiscal year"):
        APRIL.named(label)


@pytest.mark.parametrize(
    "definition",
    [
        "02-29",
        "13-01",
        "x",
        "",
        "04-01-01",
        "someday last 01-31",
        "saturday first 01-31",
        "saturday last 02-30",
        "04-01, 01-01",
        "04-01, 01-01 from 2027-02-01",
        "04-01, 01-01 from 2027",
        "04-01, 01-01 from 2027-01-01, 07-01 from 2026-07-01",
        "saturday last 01-31, sunday last 01-31 from 2027-01-01",
    ],
)
def test_a_definition_by_which_years_cannot_be_told_is_refused(definition: str) -> None:
    with pytest.raises(ValueError):
        FiscalCalendar.parse(definition, "UTC")
