"""The fiscal calendar: which fiscal year a day belongs to, and what that year is called.

Rules:
1. Years follow each other without gap or overlap. Either each starts on the same day (`YearlyRule`), or each has 52 or
   53 whole weeks and ends on the same day of the week, on or near the same date (`WeeklyRule`).
2. A ledger may change its rule. The year that is under way then ends the day before: it is a short year, and its name
   says so. Years before keep the days and names that they had.
3. A year that spans two calendar years is named FY2025-26, one that is a calendar year FY2025; so is one of whole weeks
   that ends about the end of December, though some of its days lie beyond. No two years have the same name.
4. The day of an instant is that of the ledger's time zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

YEAR_MIN = 1900
YEAR_MAX = 2199
SHORT = "-SHORT"
DAY = timedelta(days=1)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
LABEL = re.compile(r"FY(?P<year>\d{4})(-\d{2})?(-SHORT)?")


@dataclass(frozen=True)
class Year:
    """A fiscal year of the calendar: the days from `start` up to, and without, `end`."""

    label: str
    start: date
    end: date


class Rule(Protocol):
    """Where years begin and end."""

    def of_day(self, day: date) -> Year:
        """The year that a day belongs to."""


@dataclass(frozen=True)
class YearlyRule:
    """Years that start on the same day each calendar year."""

    month: int
    day: int

    def of_day(self, day: date) -> Year:
        """The year that a day belongs to."""
        year = day.year if (day.month, day.day) >= (self.month, self.day) else day.year - 1
        start, end = date(year, self.month, self.day), date(year + 1, self.month, self.day)
        return Year(_label(start, end), start, end)

    def __str__(self) -> str:
        return f"{self.month:02d}-{self.day:02d}"


@dataclass(frozen=True)
class WeeklyRule:
    """Years of 52 or 53 weeks whose last day is the last such weekday up to a date, or the one nearest to it."""

    weekday: int
    is_nearest: bool
    month: int
    day: int

    def of_day(self, day: date) -> Year:
        """The year that a day belongs to."""
        year = day.year - 1
        while self._last_day(year) < day:
            year += 1
        label = f"FY{year}" if self.month == 12 else f"FY{year - 1}-{year % 100:02d}"
        return Year(label, self._last_day(year - 1) + DAY, self._last_day(year) + DAY)

    def _last_day(self, year: int) -> date:
        """The last day of the fiscal year that ends about the date in a calendar year."""
        latest = date(year, self.month, self.day) + (3 * DAY if self.is_nearest else 0 * DAY)
        return latest - (latest.weekday() - self.weekday) % 7 * DAY

    def __str__(self) -> str:
        which = "nearest" if self.is_nearest else "last"
        return f"{WEEKDAYS[self.weekday]} {which} {self.month:02d}-{self.day:02d}"


@dataclass(frozen=True)
class FiscalCalendar:
    """The rules of a ledger's years, each but the first with the day since when it holds; `zone` decides days."""

    rules: tuple[tuple[date, Rule], ...]
    zone: ZoneInfo

    @classmethod
    def parse(cls, definition: str, zone: str) -> FiscalCalendar:
        """From a definition, and the name of a time zone.

        `04-01` is the first day of each year; `saturday nearest 01-31` and `saturday last 08-31` are the last one of
        years of whole weeks. A change is added with the first day of the first year that follows it:
        `04-01, 01-01 from 2027-01-01`.

        Raises:
            ValueError: it is no such definition; it says what is wrong.
        """
        first, *changes = (part.strip() for part in definition.split(","))
        rules: list[tuple[date, Rule]] = [(date.min, _rule(first))]
        for change in changes:
            text, separator, since = change.partition(" from ")
            if not separator:
                raise ValueError(f"{change!r} does not say since when: add `from YYYY-MM-DD`")
            day, rule = date.fromisoformat(since.strip()), _rule(text)
            if rule.of_day(day).start != day:
                raise ValueError(f"{day} is no first day of a year by {text!r}: such are {_starts_about(rule, day)}")
            if day <= rules[-1][0]:
                raise ValueError(f"{day} does not come after {rules[-1][0]}")
            rules.append((day, rule))
        return cls(tuple(rules), ZoneInfo(zone))

    def __str__(self) -> str:
        """The definition in its one form."""
        (_, first), *changes = self.rules
        return ", ".join([str(first), *(f"{rule} from {since}" for since, rule in changes)])

    def of_day(self, day: date) -> Year:
        """The fiscal year that `day` belongs to.

        Raises:
            ValueError: the day lies outside the years 1900 to 2199, so it is a mistake in the data.
        """
        if not YEAR_MIN <= day.year <= YEAR_MAX + 1:  # days of the ends of time have no year of all their days
            raise _outside(day)
        following = date.max
        for since, rule in reversed(self.rules):
            if since <= day:
                year = rule.of_day(day)
                break
            following = since
        if following < year.end:
            year = Year(_label(year.start, following) + SHORT, year.start, following)
        if not YEAR_MIN <= year.start.year <= YEAR_MAX:
            raise _outside(day)
        return year

    def of_instant(self, instant: datetime) -> Year:
        """The fiscal year of an instant (which must know its offset), by the day in the ledger's zone."""
        assert instant.tzinfo is not None
        return self.of_day(instant.astimezone(self.zone).date())

    def named(self, label: str) -> Year:
        """The fiscal year of a name.

        Raises:
            ValueError: no year of this calendar has the name.
        """
        match = LABEL.fullmatch(label)
        if match is not None and YEAR_MIN < int(match["year"]) < YEAR_MAX:
            number = int(match["year"])
            year = self.of_day(date(number, 1, 1) - DAY)
            while year.start.year <= number + 1:
                if year.label == label:
                    return year
                year = self.of_day(year.end)
        raise ValueError(f"{label!r} is no fiscal year of the calendar {str(self)!r}")

    def bounds_of_instants(self, year: Year) -> tuple[datetime, datetime]:
        """The first instant of a fiscal year and the first after it."""
        return (
            datetime(year.start.year, year.start.month, year.start.day, tzinfo=self.zone),
            datetime(year.end.year, year.end.month, year.end.day, tzinfo=self.zone),
        )


def _rule(text: str) -> Rule:
    words = text.split()
    match words:
        case [start]:
            return YearlyRule(*_month_and_day(start))
        case [weekday, "nearest" | "last" as which, end] if weekday in WEEKDAYS:
            return WeeklyRule(WEEKDAYS.index(weekday), which == "nearest", *_month_and_day(end))
    raise ValueError(f"{text!r} is neither MM-DD, nor such as `saturday nearest 01-31` or `saturday last 08-31`")


def _month_and_day(text: str) -> tuple[int, int]:
    month, day = (int(part) for part in text.split("-"))
    date(2025, month, day)  # 29 February is no day of every year
    return month, day


def _label(start: date, end: date) -> str:
    last = end - DAY
    return f"FY{start.year}" if start.year == last.year else f"FY{start.year}-{last.year % 100:02d}"


def _starts_about(rule: Rule, day: date) -> str:
    year = rule.of_day(day)
    return f"{year.start} and {year.end}"


def _outside(day: date) -> ValueError:
    return ValueError(f"{day.isoformat()} lies outside the fiscal years {YEAR_MIN} to {YEAR_MAX}")
