"""A job as it was: what its first events told, up to a version or to a moment, and nothing that came later."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from api.answers import task_at
from api.state import State
from ledger.application import Ledger
from ledger.blobs import FolderBlobStore
from ledger.errors import InvalidRequestError, NotFoundError
from ledger.event_log import LoggedEvent
from ledger.settings import Settings
from projections.status import fold_all, task
from projections.view_store import connect
from tests.integration.trail_model import Storyteller
from workers.results import Results

MICROSECOND = timedelta(microseconds=1)
NOBODY = cast(Any, None)  # nobody is let in here


@pytest.fixture(scope="module")
def stories(ledger: Ledger) -> dict[UUID, list[LoggedEvent]]:
    """Every job of some random stories, whose clocks go back now and then, and its events."""
    teller = Storyteller(ledger, random.Random(5))
    teller.tell(300)
    jobs = {each.stream for each in teller.told if each.topic == "filejob.received"}
    return {job: ledger.events_of(job) for job in jobs}


@pytest.fixture(scope="module")
def state(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Iterator[State]:
    settings = Settings(time_zone="Europe/Berlin")
    views = connect("mongodb://127.0.0.1:1/none")  # time travel asks the log alone
    yield State(
        settings, ledger, FolderBlobStore(tmp_path_factory.mktemp("blobs")), views, Results(settings), NOBODY, NOBODY
    )
    views.client.close()


def told_until(events: list[LoggedEvent], end: datetime) -> int:
    """How many of the first events were before an instant, all of them."""
    return max(count for count in range(len(events) + 1) if all(each.event.timestamp < end for each in events[:count]))


def check(state: State, events: list[LoggedEvent], at: str, count: int) -> None:
    job_id = events[0].event.originator_id
    if count == 0:
        with pytest.raises(NotFoundError, match="it was received at"):
            task_at(state, job_id, at)
        return
    document = fold_all(events[:count])
    assert document is not None
    told = task_at(state, job_id, at)
    assert {name: value for name, value in told.items() if name not in ("at", "version", "versions", "view")} == task(
        document
    )
    assert (told["version"], told["versions"]) == (count, len(events))


def test_a_job_at_any_moment_is_the_fold_of_what_was_told_by_then(
    state: State, stories: dict[UUID, list[LoggedEvent]]
) -> None:
    assert max(map(len, stories.values())) >= 4
    for events in stories.values():
        for each in events:
            for instant in (
                each.event.timestamp - MICROSECOND,
                each.event.timestamp,
                each.event.timestamp + MICROSECOND,
            ):
                at = instant.astimezone(UTC).isoformat(timespec="microseconds")
                check(state, events, at, told_until(events, instant + MICROSECOND))


def test_a_day_is_meant_to_its_end_in_the_ledgers_zone(state: State, stories: dict[UUID, list[LoggedEvent]]) -> None:
    for events in stories.values():
        for day in {each.event.timestamp.date() for each in events}:
            midnight = datetime.fromisoformat(f"{day + timedelta(days=1)}T00:00:00").replace(tzinfo=UTC)
            berlin = midnight - timedelta(hours=1 if midnight < datetime(2026, 3, 29, 1, tzinfo=UTC) else 2)
            check(state, events, day.isoformat(), told_until(events, berlin))


def test_a_version_is_the_fold_of_so_many_events(state: State, stories: dict[UUID, list[LoggedEvent]]) -> None:
    for events in stories.values():
        for count in range(1, len(events) + 1):
            check(state, events, str(count), count)
        for version in ("0", str(len(events) + 1), "9" * 30):
            with pytest.raises(NotFoundError, match=f"its versions are 1 to {len(events)}"):
                task_at(state, events[0].event.originator_id, version)


@pytest.mark.parametrize("at", ["soon", "-1", "1.5", "2026-13-01", "\u0663"])
def test_what_is_no_time_and_no_version_is_refused(
    state: State, stories: dict[UUID, list[LoggedEvent]], at: str
) -> None:
    with pytest.raises(InvalidRequestError, match="neither a day nor an instant"):
        task_at(state, next(iter(stories)), at)


def test_what_is_no_job_is_not_found(state: State, ledger: Ledger) -> None:
    with pytest.raises(NotFoundError, match="There is no job"):
        task_at(state, UUID(int=7), "1")
