"""A comparison of a view comes to an end, and to a right answer, however many events come in meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import Any
from uuid import UUID, uuid4

import pytest
from bson import ObjectId
from psycopg2 import errors
from pymongo.database import Database
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import is_unavailable
from ledger.erasures import erase_job
from ledger.errors import ConflictError
from projections import rebuild, runner
from projections.runner import STATUS, live_store
from projections.trail.store import TRAIL, TrailStore, generations, live_trail
from projections.view_store import ViewStore, connect
from projections.view_store import generations as status_generations
from projections.views import View
from tests.integration.place import running_ledger_with_views, wait_until
from tests.integration.test_projection import STAMP, fail, receive
from tests.integration.views import new_order, parts_of

Views = Database[dict[str, Any]]
EVENTS_MEANWHILE = 5
# So that the log does not grow without need.
PAUSE_SECONDS = 0.02


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Ledger, str]]:
    with running_ledger_with_views() as parts:
        yield parts


@pytest.fixture
def ledger(parts: tuple[Ledger, str]) -> Ledger:
    return parts[0]


@pytest.fixture
def views(parts: tuple[Ledger, str]) -> Views:
    return connect(parts[1].replace("NAME", f"views_{uuid4().hex}"))


def view_of(ledger: Ledger, views: Views, name: str) -> View:
    return rebuild.view_of(parts_of(ledger, database=views), name)


def catch_up(ledger: Ledger, views: Views) -> None:
    while runner.apply_batch(ledger, live_store(views)):
        pass
    while live_trail(ledger).apply_batch():
        pass


class Bustle:
    """Events are appended, to streams that are there and to new ones, and both views follow, all the time."""

    def __init__(self, ledger: Ledger, views: Views) -> None:
        self._ledger = ledger
        self._views = views
        self._stop = threading.Event()

    @contextmanager
    def about(self, jobs: list[UUID]) -> Iterator[None]:
        acts = (
            partial(self._write, jobs),
            partial(runner.run, self._ledger, self._views, self._stop),
            partial(runner.run_trail, self._ledger, self._stop),
        )
        with ThreadPoolExecutor(len(acts)) as pool, pytest.MonkeyPatch.context() as patch:
            threads = [pool.submit(act) for act in acts]
            for kind, live in (
                (ViewStore, lambda: live_store(self._views)),
                (TrailStore, partial(live_trail, self._ledger)),
            ):
                patch.setattr(kind, "digest", self._digest_of(kind.digest, live))
            try:
                yield
            finally:
                self._stop.set()
            for thread in threads:
                thread.result()

    def _write(self, jobs: list[UUID]) -> None:
        old, erased = iter(jobs), cycle((True, False, False))
        while not self._stop.wait(PAUSE_SECONDS):
            new = receive(self._ledger, 2)
            fail(self._ledger, next(old, new[0]))
            if next(erased):
                fail(self._ledger, new[1])
                erase_job(self._ledger, new[1], STAMP, reason="somebody asked for it")

    @staticmethod
    def _digest_of(real: Callable[[Any], str], live: Callable[[], Any]) -> Callable[[Any], str]:
        """That of a generation; when it has been read, the live one has moved on."""

        def digest(store: Any) -> str:
            before = live().position()
            found = real(store)
            wait_until(lambda: live().position() >= before + EVENTS_MEANWHILE, "the live view does not move on")
            return found

        return digest


@pytest.fixture
def bustle(ledger: Ledger, views: Views) -> Bustle:
    return Bustle(ledger, views)


def test_readers_find_in_the_new_generation_what_came_in_since_the_comparison(
    ledger: Ledger, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(ledger, 3)
    catch_up(ledger, views)
    arrived: list[UUID] = []
    monkeypatch.setattr(
        "projections.generation_view.failpoint",
        lambda step: step == "rebuild_compared" and arrived.extend(receive(ledger, 1)),
    )
    view_of(ledger, views, STATUS).rebuild(new_order())
    assert live_store(views).document(str(arrived[0])) is not None


@pytest.mark.parametrize(
    "position", [None, "7", [3], True, {"x": 1}, 5.5], ids=["none", "text", "list", "boolean", "object", "float"]
)
def test_whatever_stands_as_the_position_of_a_document_is_told_and_stops_nobody(
    ledger: Ledger, views: Views, position: Any
) -> None:
    job_id, *others = receive(ledger, 4)
    catch_up(ledger, views)
    collection = views[f"{STATUS}_{live_store(views).generation}"]
    collection.update_one({"_id": str(job_id)}, {"$set": {"received_position": position}})
    collection.insert_one({"_id": ObjectId(), "version": 1})
    checked = view_of(ledger, views, STATUS).check(new_order())
    told = {(found["job_id"], found["what"]) for found in checked["differences"]}
    assert told >= {(str(job_id), "unknown"), (str(job_id), "missing")}
    assert checked["differences_total"] == 3
    page = live_store(views).page(datasets=None, status=None, before=None, limit=3)
    assert {document["task_id"] for document in page} == set(map(str, others))
    assert view_of(ledger, views, STATUS).rebuild(new_order())["equal"] is False
    assert view_of(ledger, views, STATUS).check(new_order())["equal"] is True


def test_documents_of_the_same_position_are_each_told(
    ledger: Ledger, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.view_store.DIGEST_PAGE_DOCUMENTS", 2)
    receive(ledger, 5)
    catch_up(ledger, views)
    collection = views[f"{STATUS}_{live_store(views).generation}"]
    position = ledger.position() - 2
    collection.insert_many([{"_id": f"made up {n}", "received_position": position} for n in range(5)])
    checked = view_of(ledger, views, STATUS).check(new_order())
    assert [(found["job_id"], found["what"]) for found in checked["differences"]] == [
        (f"made up {n}", "unknown") for n in range(5)
    ]


def test_a_view_that_says_to_be_beyond_the_end_of_the_log_is_told(ledger: Ledger, views: Views) -> None:
    receive(ledger, 2)
    catch_up(ledger, views)
    beyond = ledger.position() + 1000
    views["positions"].update_one({"_id": f"{STATUS}_{live_store(views).generation}"}, {"$set": {"position": beyond}})
    checked = view_of(ledger, views, STATUS).check(new_order())
    assert (checked["equal"], checked["differences"]) == (
        False, [{"view_position": beyond, "what": "beyond the end of the log"}],
    )  # fmt: skip
    assert view_of(ledger, views, STATUS).rebuild(new_order())["equal"] is False
    assert view_of(ledger, views, STATUS).check(new_order())["equal"] is True


def test_a_view_that_cannot_follow_the_log_any_more_is_built_anew(ledger: Ledger, views: Views) -> None:
    job_id, *_ = receive(ledger, 3)
    catch_up(ledger, views)
    views[f"{STATUS}_{live_store(views).generation}"].delete_one({"_id": str(job_id)})
    fail(ledger, job_id)
    rebuilt = view_of(ledger, views, STATUS).rebuild(new_order())
    assert rebuilt["equal"] is False
    assert rebuilt["differences"][0]["what"] == "cannot follow the log"
    assert view_of(ledger, views, STATUS).check(new_order())["equal"] is True


@pytest.mark.parametrize("name", [STATUS, TRAIL])
def test_a_check_that_ends_by_an_error_leaves_nothing_behind(ledger: Ledger, views: Views, name: str) -> None:
    receive(ledger, 3)
    catch_up(ledger, views)

    class StoppedError(Exception):
        pass

    def stop(progress: dict[str, Any]) -> None:
        raise StoppedError

    before = status_generations(views, STATUS), generations(ledger)
    with pytest.raises(StoppedError):
        view_of(ledger, views, name).check(new_order(tell=stop))
    assert (status_generations(views, STATUS), generations(ledger)) == before


@pytest.mark.parametrize("name", [STATUS, TRAIL])
def test_a_sound_view_is_found_equal_while_events_come_in_all_the_time(
    ledger: Ledger, views: Views, bustle: Bustle, name: str
) -> None:
    jobs = receive(ledger, 50)
    catch_up(ledger, views)
    view = view_of(ledger, views, name)
    with bustle.about(jobs):
        checked = view.check(new_order())
        rebuilt = view.rebuild(new_order())
    for result in (checked, rebuilt):
        assert (result["equal"], result["differences_total"]) == (True, 0), result
        assert result["digest"] == result["digest_before"]
    catch_up(ledger, views)
    assert view.check(new_order())["equal"] is True


def test_drift_of_the_status_is_found_while_events_come_in_all_the_time(
    ledger: Ledger, views: Views, bustle: Bustle
) -> None:
    changed, deleted, *jobs = receive(ledger, 50)
    catch_up(ledger, views)
    collection = views[f"{STATUS}_{live_store(views).generation}"]
    collection.update_one({"_id": str(changed)}, {"$set": {"rows_loaded": 99}})
    collection.delete_one({"_id": str(deleted)})
    # As many as there can be of jobs that no event tells of: behind the end of the log as well.
    collection.insert_one({"_id": "made up", "version": 1, "received_position": 2**60})
    expected = [(str(changed), "changed"), (str(deleted), "missing"), ("made up", "unknown")]
    with bustle.about(jobs):
        checked = view_of(ledger, views, STATUS).check(new_order())
        rebuilt = view_of(ledger, views, STATUS).rebuild(new_order())
    for result in (checked, rebuilt):
        assert (result["equal"], result["differences_total"]) == (False, 3)
        assert [(found["job_id"], found["what"]) for found in result["differences"]] == expected
        assert result["digest"] != result["digest_before"]


def test_drift_of_the_trail_is_found_while_events_come_in_all_the_time(
    ledger: Ledger, views: Views, bustle: Bustle
) -> None:
    jobs = receive(ledger, 50)
    catch_up(ledger, views)
    [first, second, *_] = [entry.position for entry in live_trail(ledger).in_order()]
    with ledger.transaction() as session:
        session.execute(text("UPDATE trail.entries SET filename = 'x' WHERE position = :at"), {"at": first})
        session.execute(text("DELETE FROM trail.entries WHERE position = :at"), {"at": second})
        # Before the beginning of the log, as only somebody's hand enters it.
        session.execute(
            text(
                "INSERT INTO trail.entries SELECT generation, -7, at, actor, topic, :stream, version, job, related_job,"
                " dataset, fiscal_years, sha256, filename, correlation, traceparent, text FROM trail.entries"
                " WHERE position = :at"
            ),
            {"at": first, "stream": uuid4()},
        )
    expected = [(-7, "unknown"), (first, "changed"), (second, "missing")]
    with bustle.about(jobs):
        checked = view_of(ledger, views, TRAIL).check(new_order())
        rebuilt = view_of(ledger, views, TRAIL).rebuild(new_order())
    for result in (checked, rebuilt):
        assert (result["equal"], result["differences_total"]) == (False, 3)
        assert [(found["position"], found["what"]) for found in result["differences"]] == expected
    catch_up(ledger, views)
    assert view_of(ledger, views, TRAIL).check(new_order())["equal"] is True


def test_a_rebuild_stays_alone_however_briefly_the_server_lets_transactions_be_idle(
    ledger: Ledger, views: Views
) -> None:
    receive(ledger, 3)
    catch_up(ledger, views)
    holder = (
        "SELECT 1 FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE state = 'idle in transaction'"
        " AND locktype = 'advisory' AND clock_timestamp() - state_change > interval '4 seconds'"
    )
    refused: list[ConflictError] = []

    def wait_longer(progress: dict[str, Any]) -> None:
        def is_held() -> bool:
            with ledger.transaction() as session:
                session.execute(text("SET LOCAL ROLE NONE"))  # the ledger's own role does not see who is idle
                return bool(session.execute(text(holder)).all())

        wait_until(is_held, "nobody holds the lock of the rebuild so long")
        with pytest.raises(ConflictError, match="being rebuilt") as found:
            view_of(ledger, views, STATUS).check(new_order())
        refused.append(found.value)

    with server_setting(ledger, "idle_in_transaction_session_timeout = '2s'"):
        assert view_of(ledger, views, STATUS).check(new_order(tell=wait_longer))["equal"] is True
    assert refused


def test_a_connection_that_the_server_gave_up_because_it_was_idle_is_a_part_that_is_away(ledger: Ledger) -> None:
    def is_gone(pid: int) -> bool:
        with Session(ledger.engine) as session:
            found = session.execute(text("SELECT 1 FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid})
            return found.first() is None

    with Session(ledger.engine) as session:
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 1"))
        wait_until(lambda: is_gone(pid), "the server does not give the connection up")
        with pytest.raises(DBAPIError) as found:
            session.execute(text("SELECT 1"))
        assert is_unavailable(found.value), found.value
        session.invalidate()
    # Whether the server's last word still arrives before the end of the connection is chance: this is that word.
    assert is_unavailable(errors.IdleInTransactionSessionTimeout())


@contextmanager
def server_setting(ledger: Ledger, setting: str) -> Iterator[None]:
    """As an operator sets it for every connection that is made from now on."""
    name = setting.partition(" ")[0]

    def alter(change: str) -> None:
        with Session(ledger.engine) as session, session.begin():
            session.execute(text("SET LOCAL ROLE NONE"))
            database = session.execute(text("SELECT current_database()")).scalar_one()
            session.execute(text(f"ALTER DATABASE {database} {change}"))
        ledger.engine.dispose()

    alter(f"SET {setting}")
    try:
        yield
    finally:
        alter(f"RESET {name}")
