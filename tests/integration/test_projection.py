"""The status view on real PostgreSQL and a real MongoDB-protocol server: followed, interrupted, rebuilt."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from pymongo.database import Database
from sqlalchemy import text

from ledger.application import Arrival, Ledger
from ledger.domain.base import Stamp
from ledger.domain.filejob import FileJob
from ledger.domain.words import OnDuplicate, Stage
from ledger.errors import ConflictError, UnreadableEventError
from projections import generation_view, runner, status
from projections import rebuild as rebuild_module
from projections.runner import STATUS, apply_batch, live_store
from projections.status import fold_all
from projections.view_store import ViewStore, connect, generations, live_generation
from projections.views import View
from tests.faults.faults import fault
from tests.integration.place import running_ledger_with_views, unguard
from tests.integration.views import new_order, parts_of

STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "admin", "request-1")
Parts = tuple[Ledger, str]


@pytest.fixture(scope="module")
def parts() -> Iterator[Parts]:
    with running_ledger_with_views() as parts:
        yield parts


@pytest.fixture
def ledger(parts: Parts) -> Ledger:
    return parts[0]


@pytest.fixture
def views(parts: Parts) -> Database[dict[str, Any]]:
    """A database of views that nobody used before: its view begins at the start of the log."""
    return connect(parts[1].replace("NAME", f"views_{uuid4().hex}"))


def arrival(content: str = "", dataset: str = "payments") -> Arrival:
    digest = content or uuid4().hex * 2
    return Arrival(uuid4(), digest, 110, "payments.csv", "text/csv", dataset)


def receive(ledger: Ledger, count: int) -> list[UUID]:
    arrivals = [arrival() for _ in range(count)]
    answers = ledger.receive(arrivals, STAMP, door="http", on_duplicate=OnDuplicate.RETURN)
    return [answer.job_id for answer in answers]


def fail(ledger: Ledger, job_id: UUID) -> None:
    job = ledger.job(job_id)
    job.fail(STAMP, stage=Stage.PLAN, chunk=None, attempt=1, error={"code": "x", "message": "m", "remedy": "r"})
    ledger.save(job)


def rebuild(ledger: Ledger, views: Database[dict[str, Any]], tell: Any = lambda progress: None) -> dict[str, Any]:
    return view_of(ledger, views).rebuild(new_order(tell=tell))


def view_of(ledger: Ledger, views: Database[dict[str, Any]]) -> View:
    return rebuild_module.view_of(parts_of(ledger, database=views), STATUS)


def catch_up(ledger: Ledger, store: ViewStore) -> None:
    while apply_batch(ledger, store):
        pass


def test_the_view_tells_every_job_as_its_events_do(ledger: Ledger, views: Database[dict[str, Any]]) -> None:
    jobs = receive(ledger, 30)
    for job_id in jobs[::3]:
        fail(ledger, job_id)
    store = live_store(views)
    catch_up(ledger, store)
    assert store.position() == ledger.position()
    for job_id in jobs:
        assert store.document(str(job_id)) == fold_all(ledger.events_of(job_id))


def test_a_crash_before_the_position_is_written_changes_nothing(
    ledger: Ledger, views: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(ledger, 5)
    store = live_store(views)
    catch_up(ledger, store)
    digest, position = store.digest(), store.position()
    jobs = receive(ledger, 5)
    fail(ledger, jobs[0])

    class CrashError(Exception):
        pass

    real = ViewStore.write

    def write_documents_only(self: ViewStore, documents: Any, position: int) -> None:
        real(self, documents, self.position())
        raise CrashError

    monkeypatch.setattr(ViewStore, "write", write_documents_only)
    with pytest.raises(CrashError):
        apply_batch(ledger, store)
    assert store.position() == position
    monkeypatch.undo()
    catch_up(ledger, store)
    assert store.digest() != digest
    assert rebuild(ledger, views)["equal"] is True


def test_an_event_that_cannot_be_folded_stops_the_view_and_is_never_skipped(
    ledger: Ledger, views: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = live_store(views)
    catch_up(ledger, store)
    position = store.position()
    fail(ledger, receive(ledger, 1)[0])
    monkeypatch.delitem(status.RULES, FileJob.Failed)
    with pytest.raises(KeyError):
        runner.run(ledger, views, threading.Event())
    assert store.position() == position


@pytest.mark.parametrize(
    ("topic", "state"),
    [("filejob.teleported", b"{}"), ("filejob.received", b"no JSON"), ("filejob.received", b"{}")],
    ids=["unknown kind", "no content", "fields missing"],
)
def test_the_view_goes_up_to_an_unreadable_event_and_tells_where_it_is(
    ledger: Ledger, views: Database[dict[str, Any]], topic: str, state: bytes
) -> None:
    store = live_store(views)
    receive(ledger, 3)
    before = ledger.position()
    insert = "INSERT INTO ledger.stored_events (originator_id, originator_version, topic, state)"
    with ledger.transaction() as session:
        unreadable = session.execute(
            text(f"{insert} VALUES (:stream, 1, :topic, :state) RETURNING id"),
            {"stream": uuid4(), "topic": topic, "state": state},
        ).scalar_one()
    receive(ledger, 3)
    try:
        with pytest.raises(UnreadableEventError, match=f"position {unreadable} of the log"):
            catch_up(ledger, store)
        assert store.position() == before
    finally:
        with ledger.transaction() as session:
            unguard(session)
            session.execute(text("DELETE FROM ledger.stored_events WHERE id = :id"), {"id": unreadable})
    catch_up(ledger, store)
    assert store.position() == ledger.position()


def test_a_rebuild_gives_the_same_content_and_switches(ledger: Ledger, views: Database[dict[str, Any]]) -> None:
    receive(ledger, 20)
    catch_up(ledger, live_store(views))
    before = live_generation(views, STATUS)
    rebuilt = rebuild(ledger, views)
    assert rebuilt["equal"] is True
    assert live_generation(views, STATUS) == rebuilt["generation"] > before
    assert live_store(views).digest() == rebuilt["digest"]


def test_a_rebuild_finds_out_that_the_old_view_had_drifted(ledger: Ledger, views: Database[dict[str, Any]]) -> None:
    job_id = receive(ledger, 3)[0]
    store = live_store(views)
    catch_up(ledger, store)
    views[f"{STATUS}_{store.generation}"].update_one({"_id": str(job_id)}, {"$set": {"rows_loaded": 99}})
    rebuilt = rebuild(ledger, views)
    assert rebuilt["equal"] is False
    document = live_store(views).document(str(job_id))
    assert document is not None
    assert document["rows_loaded"] == 0


def test_a_rebuild_from_a_dropped_view_tells_the_same(ledger: Ledger, views: Database[dict[str, Any]]) -> None:
    receive(ledger, 10)
    store = live_store(views)
    catch_up(ledger, store)
    digest = store.digest()
    store.drop()
    catch_up(ledger, live_store(views))
    assert live_store(views).digest() == digest


def test_readers_see_a_whole_view_while_it_is_rebuilt_and_events_come_in(
    ledger: Ledger, views: Database[dict[str, Any]]
) -> None:
    jobs = receive(ledger, 10)
    catch_up(ledger, live_store(views))
    stop = threading.Event()

    def is_there(job_id: UUID) -> bool:
        store = live_store(views)
        while store.document(str(job_id)) is None:
            before, store = store, live_store(views)
            if store.generation == before.generation:
                return False
        return True  # perhaps only in a later generation: of two rebuilds at once the second drops the one looked at

    def read() -> int:
        reads = 0
        while not stop.is_set() or reads == 0:
            assert all(map(is_there, jobs))
            reads += 1
        return reads

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        projector = pool.submit(runner.run, ledger, views, stop)
        try:
            for _ in range(3):
                receive(ledger, 5)
                rebuild(ledger, views)
        finally:
            stop.set()
        projector.result()
        assert reader.result() > 0
    catch_up(ledger, live_store(views))
    assert rebuild(ledger, views)["equal"] is True


@fault(
    22,
    "many write into the log at once, some of them slowly",
    protection="who appends holds a lock until the commit, so that positions become visible in their order",
    seen="without the lock: events that a follower never saw",
)
def test_no_follower_passes_over_an_event_however_many_write(ledger: Ledger) -> None:
    start = ledger.position()
    done = threading.Event()
    seen: list[int] = []

    def follow() -> None:
        position = start
        while True:
            finished = done.is_set()
            events = ledger.events_after(position, 7)
            seen.extend(logged.position for logged in events)
            if events:
                position = events[-1].position
            elif finished:
                return

    with ThreadPoolExecutor(9) as pool:
        follower = pool.submit(follow)
        written = [pool.submit(receive, ledger, 2) for _ in range(60)]
        jobs = [job_id for future in written for job_id in future.result()]
        done.set()
        follower.result()
    assert len(jobs) == 120
    assert len(seen) == len(set(seen)) == 120


def test_the_same_bytes_received_at_once_are_one_job(ledger: Ledger) -> None:
    content = uuid4().hex * 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(
                lambda _: ledger.receive([arrival(content)], STAMP, door="http", on_duplicate=OnDuplicate.RETURN)[0],
                range(16),
            )
        )
    assert len({answer.job_id for answer in answers}) == 1
    assert sum(not answer.duplicate for answer in answers) == 1
    with pytest.raises(ConflictError, match="received the bytes"):
        ledger.receive([arrival(), arrival(content)], STAMP, door="http", on_duplicate=OnDuplicate.REJECT)


def test_a_refused_upload_leaves_no_job_of_it(ledger: Ledger) -> None:
    content, position = uuid4().hex * 2, ledger.position()
    ledger.receive([arrival(content)], STAMP, door="http", on_duplicate=OnDuplicate.RETURN)
    other = arrival()
    with pytest.raises(ConflictError):
        ledger.receive([other, arrival(content)], STAMP, door="http", on_duplicate=OnDuplicate.REJECT)
    assert ledger.position() > position
    assert not ledger.events_of(other.job_id)


def test_bytes_whose_job_failed_for_good_may_come_again(ledger: Ledger) -> None:
    content = uuid4().hex * 2
    first = ledger.receive([arrival(content)], STAMP, door="http", on_duplicate=OnDuplicate.RETURN)[0]
    fail(ledger, first.job_id)
    again = ledger.receive([arrival(content)], STAMP, door="http", on_duplicate=OnDuplicate.RETURN)[0]
    assert not again.duplicate
    assert again.job_id != first.job_id


def test_two_rebuilds_at_once_do_not_disturb_each_other(ledger: Ledger, views: Database[dict[str, Any]]) -> None:
    receive(ledger, 5)
    catch_up(ledger, live_store(views))
    refused: list[ConflictError] = []

    def rebuild_meanwhile(progress: dict[str, Any]) -> None:
        with pytest.raises(ConflictError, match="being rebuilt") as found:
            rebuild(ledger, views)
        refused.append(found.value)

    assert rebuild(ledger, views, rebuild_meanwhile)["equal"] is True
    assert refused


def test_what_a_killed_rebuild_left_behind_is_swept_by_the_next(
    ledger: Ledger, views: Database[dict[str, Any]]
) -> None:
    receive(ledger, 5)
    catch_up(ledger, live_store(views))
    abandoned = ViewStore(views, STATUS, 7)
    catch_up(ledger, abandoned)
    rebuilt = rebuild(ledger, views)
    assert rebuilt["equal"] is True
    assert generations(views, STATUS) == {1, rebuilt["generation"]}


def test_a_roll_back_brings_the_old_view_up_to_date_and_a_worker_that_died_behind_it_does_not_undo_it(
    ledger: Ledger, views: Database[dict[str, Any]]
) -> None:
    receive(ledger, 3)
    catch_up(ledger, live_store(views))
    first, second = live_generation(views, STATUS), rebuild(ledger, views)["generation"]
    assert generations(views, STATUS) == {first, second}
    job_id = receive(ledger, 1)[0]
    order = new_order()
    for _ in range(2):  # an attempt, and that of another worker who does not know that it was done
        rolled_back = view_of(ledger, views).roll_back(order)
        assert rolled_back["generation"] == live_generation(views, STATUS) == first
        assert live_store(views).document(str(job_id)) is not None
    assert rebuild(ledger, views)["equal"] is True
    third = live_generation(views, STATUS)
    assert generations(views, STATUS) == {first, third}


def test_a_view_that_was_never_rebuilt_cannot_be_rolled_back(ledger: Ledger, views: Database[dict[str, Any]]) -> None:
    with pytest.raises(ConflictError, match="Nothing is kept"):
        view_of(ledger, views).roll_back(new_order())


def test_a_rebuild_whose_worker_died_behind_the_switch_keeps_what_was_live_before(
    ledger: Ledger, views: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = receive(ledger, 3)[0]
    store = live_store(views)
    catch_up(ledger, store)
    views[f"{STATUS}_{store.generation}"].update_one({"_id": str(job_id)}, {"$set": {"rows_loaded": 99}})

    class DiedError(Exception):
        pass

    def die(name: str) -> None:
        if name == "rebuild_switched":
            raise DiedError

    monkeypatch.setattr(generation_view, "failpoint", die)
    order = new_order()
    with pytest.raises(DiedError):
        view_of(ledger, views).rebuild(order)
    again = view_of(ledger, views).rebuild(order)
    assert (again["equal"], again["generation"]) == (False, live_generation(views, STATUS))
    assert [found["job_id"] for found in again["differences"]] == [str(job_id)]
    assert store.generation in generations(views, STATUS)


def test_a_check_of_the_view_tells_what_differs_and_changes_nothing(
    ledger: Ledger, views: Database[dict[str, Any]]
) -> None:
    jobs = receive(ledger, 4)
    store = live_store(views)
    catch_up(ledger, store)
    collection = views[f"{STATUS}_{store.generation}"]
    assert view_of(ledger, views).check(new_order())["equal"] is True
    collection.update_one({"_id": str(jobs[0])}, {"$set": {"rows_loaded": 99}})
    collection.delete_one({"_id": str(jobs[1])})
    collection.insert_one({"_id": "made up", "version": 1, "received_position": ledger.position() + 1})
    checked = view_of(ledger, views).check(new_order())
    assert (checked["equal"], checked["switched"], checked["differences_total"]) == (False, False, 3)
    assert [(found["job_id"], found["what"]) for found in checked["differences"]] == [
        (str(jobs[0]), "changed"),
        (str(jobs[1]), "missing"),
        ("made up", "unknown"),
    ]
    assert generations(views, STATUS) == {store.generation}
