"""The fiscal calendar: which fiscal year a day belongs to, and what that year is called."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

YEAR_MIN = 1900
YEAR_MAX = 2199


@dataclass(frozen=True)
class FiscalYear:
    """A fiscal year: the days from `start` up to, and without, `end`."""

    label: str
    start: date
    end: date


@dataclass(frozen=True)
class FiscalCalendar:
    """Fiscal years that start on the same day each year; `zone` decides the day of an instant.

    A year that spans two calendar years is named FY2025-26, one that is a calendar year FY2025.
    """

    start_month: int
    start_day: int
    zone: ZoneInfo

    @classmethod
    def parse(cls, start: str, zone: str) -> FiscalCalendar:
        """From `MM-DD` and the name of a time zone."""
        month, day = (int(part) for part in start.split("-"))
        date(2025, month, day)  # 29 February cannot start every year
        return cls(month, day, ZoneInfo(zone))

    def starting_in(self, year: int) -> FiscalYear:
        """The fiscal year whose first day lies in calendar year `year`."""
        start = date(year, self.start_month, self.start_day)
        end = date(year + 1, self.start_month, self.start_day)
        whole = (self.start_month, self.start_day) == (1, 1)
        label = f"FY{year}" if whole else f"FY{year}-{(year + 1) % 100:02d}"
        return FiscalYear(label, start, end)

    def of_day(self, day: date) -> FiscalYear:
        """The fiscal year that `day` belongs to.

        Raises:
            ValueError: the day lies outside the years 1900 to 2199, so it is a mistake in the data.
        """
        year = day.year if (day.month, day.day) >= (self.start_month, self.start_day) else day.year - 1
        if not YEAR_MIN <= year <= YEAR_MAX:
            raise ValueError(f"{day.isoformat()} lies outside the fiscal years {YEAR_MIN} to {YEAR_MAX}")
        return self.starting_in(year)

    def of_instant(self, instant: datetime) -> FiscalYear:
        """The fiscal year of an instant (which must know its offset), by the day in the ledger's zone."""
        assert instant.tzinfo is not None
        return self.of_day(instant.astimezone(self.zone).date())

    def bounds_of_instants(self, year: FiscalYear) -> tuple[datetime, datetime]:
        """The first instant of a fiscal year and the first after it."""
        return (
            datetime(year.start.year, year.start.month, year.start.day, tzinfo=self.zone),
            datetime(year.end.year, year.end.month, year.end.day, tzinfo=self.zone),
        )
