"""No byte of any store has an erased name, whatever is done later with its job, its views and its record."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from pymongo.database import Database

from ledger.domain.personal import ERASED
from ledger.domain.words import OperationStatus, Stage
from ledger.erasures import erase_job, last_name_erased
from projections import runner
from projections.runner import STATUS, apply_batch, live_store
from projections.trail.store import TRAIL, TrailStore, generations, live_trail
from projections.trail.store import live as trail_standing
from projections.view_store import ViewStore, connect, live
from tests.integration.erasing import MARKER, WHY, archived_member, completed, everything_stored, failed
from tests.integration.place import STAMP, Place, running_workshop, wait_until
from workers.operations import Act, operate, rebuild_view
from workers.replay import replay_job
from workers.verification import verify_record

ACTS: dict[Stage, Act] = {Stage.REBUILD: rebuild_view, Stage.REPLAY: replay_job, Stage.VERIFY: verify_record}


@pytest.fixture
def place() -> Iterator[Place]:
    """A place with every store that a ledger has, and nothing in it yet."""
    with running_workshop() as workshop:
        yield Place(workshop, "payments")


@pytest.fixture
def documents(place: Place) -> Database[dict[str, Any]]:
    return connect(place.workshop.settings.views_url.get_secret_value())


def everything(place: Place, documents: Database[dict[str, Any]]) -> str:
    found = [str(list(documents[name].find())) for name in documents.list_collection_names()]
    return "\n".join([everything_stored(place.ledger), *found])


def catch_up(place: Place, documents: Database[dict[str, Any]]) -> None:
    """Let what is live follow the log to its end."""
    while apply_batch(place.ledger, live_store(documents)) or live_trail(place.ledger).apply_batch():
        pass


def follow_until(place: Place, documents: Database[dict[str, Any]], condition: Callable[[], bool]) -> None:
    """Let the views' own followers run until something holds."""
    stop = threading.Event()
    followers = [
        threading.Thread(target=runner.run, args=(place.ledger, documents, stop)),
        threading.Thread(target=runner.run_trail, args=(place.ledger, stop)),
    ]
    for follower in followers:
        follower.start()
    try:
        wait_until(condition, "the views do not get there")
    finally:
        stop.set()
        for follower in followers:
            follower.join()


def order(place: Place, kind: Stage, **arguments: Any) -> dict[str, Any]:
    """Have an operation carried through, as a worker does; its result."""
    asked = place.ledger.request(kind, arguments, STAMP)
    place.follow()
    ended = operate(place.workshop, ACTS[kind], asked.id, kind, time.time(), lambda progress: None)
    assert ended is not None
    assert ended.status is OperationStatus.COMPLETED, ended.error
    assert ended.result is not None
    return ended.result


def some_jobs(place: Place) -> list[UUID]:
    """Jobs that were loaded, that have failed and quote their name, and of a file in an archive."""
    member = archived_member(place)
    for stage in (Stage.PLAN, Stage.LOAD):
        place.perform(member, stage)
        place.follow()
    return [completed(place), member, failed(place)]


def test_after_an_erasure_no_byte_has_the_name_whatever_is_done_with_the_job(
    place: Place, documents: Database[dict[str, Any]]
) -> None:
    jobs = some_jobs(place)
    catch_up(place, documents)
    assert MARKER in everything(place, documents)
    for job_id in jobs:
        erase_job(place.ledger, job_id, STAMP, reason=WHY)
    catch_up(place, documents)
    assert MARKER not in everything(place, documents)
    for job_id in jobs[:2]:  # the other one was never planned
        replayed = order(place, Stage.REPLAY, job_id=str(job_id))
        assert (replayed["equal"], replayed["name_erased"]) == (True, True), replayed
    for view in (STATUS, TRAIL, "data.payments"):
        for arguments in ({}, {"check": True}):
            assert order(place, Stage.REBUILD, view=view, **arguments)["equal"] is True
    verified = order(place, Stage.VERIFY, level="views")
    assert verified["findings"] == []
    catch_up(place, documents)
    assert MARKER not in everything(place, documents)


def test_an_erased_name_leaves_what_is_kept_for_a_roll_back_and_does_not_come_back_by_one(
    place: Place, documents: Database[dict[str, Any]]
) -> None:
    ledger, jobs, other_id = place.ledger, some_jobs(place), completed(place, "other.csv")
    catch_up(place, documents)
    for view in (STATUS, TRAIL):
        order(place, Stage.REBUILD, view=view)
    for job_id in jobs:
        erase_job(ledger, job_id, STAMP, reason=WHY)
    catch_up(place, documents)
    status, trail = live(documents, STATUS).previous, trail_standing(ledger).previous
    kept = ViewStore(documents, STATUS, status), TrailStore(ledger, trail)
    assert all(each.position() < last_name_erased(ledger) for each in kept)
    assert MARKER in everything(place, documents)
    follow_until(place, documents, lambda: MARKER not in everything(place, documents))
    assert all(each.position() == last_name_erased(ledger) for each in kept)
    for view in (STATUS, TRAIL):
        order(place, Stage.REBUILD, view=view, roll_back=True)
    catch_up(place, documents)
    assert (live(documents, STATUS).generation, trail_standing(ledger).generation) == (status, trail)
    found = live_store(documents).documents([str(job_id) for job_id in (*jobs, other_id)]).values()
    assert sorted(document["filename"] for document in found) == [ERASED] * 3 + ["other.csv"]
    assert MARKER not in everything(place, documents)


def test_what_a_rebuild_drops_while_names_are_erased_in_it_does_not_come_back(
    place: Place, documents: Database[dict[str, Any]]
) -> None:
    ledger, job_id = place.ledger, completed(place)
    order(place, Stage.REBUILD, view=TRAIL)
    erase_job(ledger, job_id, STAMP, reason=WHY)

    def rebuild_and_apply(kept: TrailStore, until: int) -> int:
        order(place, Stage.REBUILD, view=TRAIL)
        return kept.apply_batch(until=until)

    standing = partial(trail_standing, ledger)
    assert runner.erase_in_kept(ledger, standing, partial(TrailStore, ledger), rebuild_and_apply) > 0
    assert generations(ledger) == {2, 3}
