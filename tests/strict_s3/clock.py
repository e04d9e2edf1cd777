"""The time of the double: it stands still, so that tests decide when a restore is done and when a copy is gone."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta


class VirtualClock:
    """Stands at the moment in which it was made until told otherwise."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def advance(self, duration: timedelta) -> None:
        """Let time pass."""
        assert duration > timedelta(0)
        self.now += duration


def midnight_after(moment: datetime) -> datetime:
    """The midnight (UTC) at or after a moment: when S3 lets restored copies go."""
    midnight = datetime.combine(moment.date(), time(), UTC)
    return midnight if midnight == moment else midnight + timedelta(days=1)
