"""Moments as people write them: an instant (RFC 3339), or a day, which is meant as a whole in the ledger's zone.

Every period is from its first instant up to, and without, its end. Events know microseconds: the end of an instant that
is itself included is a microsecond later.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from ledger.errors import InvalidRequestError

DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
MICROSECOND = timedelta(microseconds=1)


def start_of(text: str, zone: tzinfo) -> datetime:
    """The first instant of a moment, in UTC.

    Raises:
        InvalidRequestError: it is neither an instant with its offset from UTC nor a day.
    """
    return _read(text, zone)[0]


def end_of(text: str, zone: tzinfo) -> datetime:
    """The first instant behind a moment, in UTC: the start of the next day, or a microsecond after an instant.

    Raises:
        InvalidRequestError: as `start_of` does.
    """
    return _read(text, zone)[1]


def _read(text: str, zone: tzinfo) -> tuple[datetime, datetime]:
    try:
        if DAY.fullmatch(text):
            day = date.fromisoformat(text)
            following = day + timedelta(days=1)
            midnights = (datetime.combine(each, time(), zone).astimezone(UTC) for each in (day, following))
            return next(midnights), next(midnights)
        if INSTANT.fullmatch(text):
            instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
            return instant, instant + MICROSECOND
    except (ValueError, OverflowError):
        pass  # such as 31 February
    raise InvalidRequestError(
        f"{text[:80]!r} is neither a day nor an instant.",
        "Write a day as 2026-04-30, an instant as 2026-04-30T12:00:00Z or with its offset, +02:00.",
    )
