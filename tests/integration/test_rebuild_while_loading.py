"""Rebuilds while files come in and readers read, of workers that die, and beside others who want the same table."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import failpoints
from ledger.application import Ledger
from ledger.domain.words import Stage
from ledger.errors import ConflictError
from projections import data_view, table_build
from projections.data_tables import hold_table, share_table
from projections.data_view import DataView
from projections.table_exchange import TableInUseError
from tests.integration.place import STAMP, new_place, wait_until
from tests.integration.test_table_rebuild import Yard, payments
from tests.integration.views import new_order, parts_of
from workers.commands import cancel


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    return Yard(new_place(ledger, tmp_path, chunk_bytes=512, retry_seconds_min=0.001, retry_seconds_max=0.001))


def test_no_read_fails_and_nothing_is_lost_while_files_come_in_and_the_table_is_rebuilt(yard: Yard) -> None:
    yard.load(payments(200, years=2))
    dataset, stop = yard.place.dataset, threading.Event()

    def read() -> list[int]:
        """What a reader sees, in transactions of its own: counts that never fall."""
        counts = []
        while not stop.is_set() or not counts:
            with Session(yard.place.ledger.engine) as session:
                counts.append(session.execute(text(f"SELECT count(*) FROM data.{dataset}")).scalar_one())
        return counts

    def load() -> int:
        number = 0
        while not stop.is_set() or number < 2:
            number += 1
            yard.load(payments(30, 1_000 * number, years=3))
        return number

    with ThreadPoolExecutor(3) as threads:
        readers, loader = [threads.submit(read) for _ in range(2)], threads.submit(load)
        try:
            rebuilt = [yard.rebuild() for _ in range(3)]
        finally:
            stop.set()
        files = loader.result()
        for reader in readers:
            counts = reader.result()
            assert counts == sorted(counts)
            assert counts[0] >= 200
    assert [result["equal"] for result in rebuilt] == [True] * 3
    assert [result["generation"] for result in rebuilt] == [2, 3, 4]
    content = yard.content()
    assert len(content) == 200 + 30 * files
    assert yard.check()["equal"] is True
    assert yard.rebuild()["equal"] is True
    assert yard.content() == content


def test_a_load_that_comes_between_comparison_and_switch_is_in_the_new_table(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(payments(50))
    real = data_view.failpoint

    def arrive(name: str) -> None:
        if name == "rebuild_compared":
            yard.load(payments(50, 1_000, years=3))
        real(name)

    monkeypatch.setattr(data_view, "failpoint", arrive)
    assert (yard.rebuild()["equal"], len(yard.content())) == (True, 100)


def test_a_job_that_is_withdrawn_while_the_table_is_built_is_in_neither(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(payments(50))
    failing = yard.place.send((payments(60, 500) + "x,2024-05-01\n").encode())
    yard.place.perform(failing, Stage.PLAN)
    yard.place.follow()
    chunks = yard.place.ledger.job(failing).chunks_total
    for chunk in range(chunks - 1):
        yard.place.perform(failing, Stage.LOAD, chunk)
    assert len(yard.content()) > 50
    real = data_view.failpoint

    def arrive(name: str) -> None:
        if name == "rebuild_compared":
            yard.place.perform(failing, Stage.LOAD, chunks - 1)
        real(name)

    monkeypatch.setattr(data_view, "failpoint", arrive)
    rebuilt = yard.rebuild()
    assert (rebuilt["equal"], rebuilt["rows"], len(yard.content())) == (True, 50, 50)


def test_rows_that_came_after_the_build_and_were_gone_before_the_switch_are_no_difference(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(payments(50))
    job_id = yard.place.send(payments(60, 500).encode())
    yard.place.perform(job_id, Stage.PLAN)
    yard.place.follow()
    monkeypatch.setattr(table_build.TableBuild, "settle", lambda build: yard.place.perform(job_id, Stage.LOAD, 0))
    monkeypatch.setattr(
        data_view, "failpoint", lambda name: name == "rebuild_compared" and withdraw_at_last(yard, job_id)
    )
    rebuilt = yard.rebuild()
    assert (rebuilt["equal"], rebuilt["rows"], len(yard.content())) == (True, 50, 50)


def withdraw_at_last(yard: Yard, job_id: UUID) -> None:
    assert len(yard.content()) > 50
    cancel(yard.place.ledger, job_id, STAMP, reason="the wrong month")


class DiedError(BaseException):
    """As when a process is killed: nobody in it does anything about it."""


@contextmanager
def armed(folder: Path, name: str) -> Any:
    """The first who comes to a failpoint dies there."""
    folder.mkdir(exist_ok=True)
    failpoints.use(folder)
    (folder / name).write_text("raise")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(failpoints, "FailpointError", DiedError)
        try:
            yield
        finally:
            failpoints.use(None)


@pytest.mark.parametrize(
    "step", ["rebuild_chunk_loaded", "rebuild_chunk_committed", "rebuild_compared", "rebuild_exchanged"]
)
def test_a_rebuild_that_dies_at_a_step_goes_on_behind_the_last_chunk(yard: Yard, tmp_path: Path, step: str) -> None:
    yard.load(payments(200, years=2))
    content, order = yard.content(), new_order()
    with armed(tmp_path / "failpoints", step), pytest.raises(DiedError):
        yard.view.rebuild(order)
    assert yard.content() == content
    written = built_rows(yard)
    assert bool(written) is (step != "rebuild_chunk_loaded")
    rebuilt = yard.view.rebuild(order)
    assert (rebuilt["equal"], rebuilt["rows"]) == (True, 200)
    assert rebuilt["chunks"] == sum(
        topic == "filejob.chunk_loaded"
        for (topic,) in yard.place.query(
            "SELECT topic FROM ledger.stored_events JOIN ledger.arrivals ON job_id = originator_id"
            " WHERE dataset = :dataset",
            dataset=yard.place.dataset,
        )
    )
    assert yard.content() == content
    # What was written before the death was not written again.
    assert written <= set(yard.place.query(f"SELECT _record, xmin::text FROM data.{yard.place.dataset}"))


def built_rows(yard: Yard) -> set[tuple[Any, ...]]:
    """The rows that stand in the table that is being built, each with the transaction that wrote it."""
    return set(yard.place.query(f"SELECT _record, xmin::text FROM rebuilding.{yard.place.dataset}"))


def test_another_operation_begins_anew_and_leaves_nothing_behind(yard: Yard, tmp_path: Path) -> None:
    yard.load(payments(100))
    with armed(tmp_path / "failpoints", "rebuild_chunk_committed"), pytest.raises(DiedError):
        yard.rebuild()
    assert yard.names_in("rebuilding") != []
    assert yard.rebuild()["equal"] is True
    assert yard.names_in("rebuilding") == yard.names_in("discarded") == []


def test_of_two_builders_only_one_moves_the_build_on(yard: Yard, tmp_path: Path) -> None:
    """As when the first has lost, with a connection, the lock that keeps the second away."""
    yard.load(payments(200))
    order = new_order()
    parts = parts_of(yard.place.ledger, yard.place.workshop.blobs, calendar=yard.place.workshop.calendar)
    first, second = (table_build.TableBuild(parts, yard.place.dataset, order) for _ in range(2))
    first.begin()
    second.begin()
    second.catch_up()
    with pytest.raises(ConflictError, match="somebody else"):
        first.catch_up()
    assert len(built_rows(yard)) == 200


def test_a_second_rebuild_of_the_same_table_is_refused(yard: Yard) -> None:
    yard.load(payments(50))
    refused: list[ConflictError] = []

    def meanwhile(progress: dict[str, Any]) -> None:
        if not refused:
            for act in (DataView.rebuild, DataView.check, DataView.roll_back):
                with pytest.raises(ConflictError, match="being rebuilt") as found:
                    act(yard.view, new_order())
                refused.append(found.value)

    assert yard.view.rebuild(new_order(tell=meanwhile))["equal"] is True
    assert len(refused) == 3


def test_a_reader_who_does_not_let_go_is_waited_for_and_neither_he_nor_others_fail(yard: Yard) -> None:
    yard.load(payments(50))
    dataset, engine = yard.place.dataset, yard.place.ledger.engine
    with ThreadPoolExecutor(1) as threads, Session(engine) as reader:
        reader.execute(text(f"SELECT count(*) FROM data.{dataset}"))  # and its transaction goes on
        rebuild = threads.submit(yard.rebuild)
        waits = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"
        wait_until(lambda: yard.place.query(waits), "nobody wants to switch")
        wait_until(lambda: not yard.place.query(waits), "the one who wants to switch does not let others pass")
        yard.load(payments(5, 1_000))
        assert not rebuild.done()
        assert reader.execute(text(f"SELECT count(*) FROM data.{dataset}")).scalar_one() == 55
        reader.rollback()
        assert rebuild.result()["equal"] is True
    assert len(yard.content()) == 55


def test_a_reader_who_never_lets_go_ends_the_attempt_and_the_build_is_kept(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(payments(50))
    monkeypatch.setattr(data_view, "SWITCH_ATTEMPTS_MAX", 2)
    order = new_order()
    with Session(yard.place.ledger.engine) as reader:
        reader.execute(text(f"SELECT count(*) FROM data.{yard.place.dataset}"))
        with pytest.raises(TableInUseError):
            yard.view.rebuild(order)
    written = built_rows(yard)
    assert len(written) == 50
    assert yard.view.rebuild(order)["equal"] is True
    assert written <= set(yard.place.query(f"SELECT _record, xmin::text FROM data.{yard.place.dataset}"))


def test_who_loads_or_withdraws_shares_the_table_and_waits_for_who_holds_it(yard: Yard) -> None:
    yard.load(payments(50))
    job_id = yard.place.send(payments(20, 500).encode())
    yard.place.perform(job_id, Stage.PLAN)
    yard.place.follow()
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND NOT granted"
    with ThreadPoolExecutor(1) as threads, Session(yard.place.ledger.engine) as holder:
        hold_table(holder, yard.place.dataset)
        load = threads.submit(yard.place.perform, job_id, Stage.LOAD, 0)
        wait_until(lambda: yard.place.query(waits), "the load does not wait")
        assert len(yard.content()) == 50
        holder.rollback()
        load.result()
    with Session(yard.place.ledger.engine) as one, Session(yard.place.ledger.engine) as other:
        for session in (one, other):
            share_table(session, yard.place.dataset)


def test_the_switch_and_the_end_of_the_operation_are_one(yard: Yard) -> None:
    yard.load(payments(50))
    content = yard.content()

    class CannotFinishError(Exception):
        pass

    def finish(session: Session, result: dict[str, Any]) -> None:
        raise CannotFinishError

    for act in (yard.view.rebuild, yard.view.check):
        with pytest.raises(CannotFinishError):
            act(replace(new_order(), finish=finish))
        assert yard.content() == content
        assert yard.names_in("superseded") == []
    assert yard.rebuild()["generation"] == 2
    with pytest.raises(CannotFinishError):
        yard.view.roll_back(replace(new_order(), finish=finish))
    assert yard.view.standing().generation == 2


def test_a_rebuild_that_ends_by_our_own_mistake_leaves_nothing_half_built(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(payments(50))

    class MistakeError(Exception):
        pass

    def fail(name: str) -> None:
        if name == "rebuild_compared":
            raise MistakeError

    monkeypatch.setattr(data_view, "failpoint", fail)
    with pytest.raises(MistakeError):
        yard.rebuild()
    assert yard.names_in("rebuilding") == []
    assert yard.place.query("SELECT 1 FROM views.builds WHERE dataset = :name", name=yard.place.dataset) == []
