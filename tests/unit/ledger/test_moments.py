"""Moments as people write them: a day is meant as a whole, in the ledger's zone, and an instant as an instant."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.moments import end_of, start_of
from ledger.errors import InvalidRequestError

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("day", "start", "end"),
    [
        ("2026-04-30", "2026-04-29T22:00:00+00:00", "2026-04-30T22:00:00+00:00"),
        ("2026-03-29", "2026-03-28T23:00:00+00:00", "2026-03-29T22:00:00+00:00"),  # 23 hours
        ("2026-10-25", "2026-10-24T22:00:00+00:00", "2026-10-25T23:00:00+00:00"),  # 25 hours
    ],
)
def test_a_day_is_the_ledgers_own_however_long(day: str, start: str, end: str) -> None:
    assert (start_of(day, BERLIN).isoformat(), end_of(day, BERLIN).isoformat()) == (start, end)


@given(
    day=st.dates(date(1900, 1, 1), date(9999, 12, 30)), zone=st.sampled_from([BERLIN, ZoneInfo("Asia/Kolkata"), UTC])
)
def test_days_follow_each_other_without_a_gap(day: date, zone: ZoneInfo) -> None:
    following = day + timedelta(days=1)
    if following < date(9999, 12, 31):
        assert end_of(day.isoformat(), zone) == start_of(following.isoformat(), zone)


@given(instant=st.datetimes(timezones=st.sampled_from([UTC, BERLIN])).filter(lambda found: 1 < found.year < 9999))
def test_an_instant_is_within_its_own_period_and_alone(instant: datetime) -> None:
    text = instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert start_of(text, BERLIN) == instant.astimezone(UTC)
    assert end_of(text, BERLIN) == instant.astimezone(UTC) + timedelta(microseconds=1)


@pytest.mark.parametrize("text", ["2026-04-30T12:00:00+02:00", "2026-04-30t10:00:00z", "2026-04-30 10:00:00.000Z"])
def test_an_instant_may_be_written_in_every_way_of_the_standard(text: str) -> None:
    assert start_of(text, BERLIN) == datetime(2026, 4, 30, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2026-02-31", "2026-04-30T12:00:00", "2026-04-30T25:00:00Z", "20260430", "2026-W18-4",
        "9999-12-31", "2026-04-30T12:00Z", "0001-01-01", "\u0662026-04-30", "2026-04-30\n",
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused_with_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="neither a day nor an instant") as refused:
        end_of(text, BERLIN)
        start_of(text, BERLIN)
    assert "2026-04-30T12:00:00Z" in refused.value.remedy
