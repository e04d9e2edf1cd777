"""A year goes its whole way over S3 though every call fails, and comes to the same archive, to the byte.

The calls are found by recording a clean run: each operation on each object, the first, second ... time in a step. What
boto sends again by itself is the same call. They meet
1. at every call what another attempt hides: a lost answer, 503, a reset, a flipped bit of what is sent, an answer that
   is none of S3's;
2. at every call an answer that is wrong: cut, or half of it said to be all, or with a bit flipped. The step ends with
   an error, and is done again;
3. at the first and the last object of each operation in each step what does not end before all attempts are made.
On one way each call is met as it comes. A step that is done again makes some of its calls no more: these are met on
another way, which goes as far as it has to, until none is left. All ways begin with copies of one database, in which
the year is closed, so that their manifests can be compared.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff

from archive import stores_s3
from archive.export_run import alone
from archive.stores import open_cold_store
from archive.stores_s3 import S3ColdStore
from ledger.application import Ledger
from ledger.domain.year_states import CopyState, YearState
from ledger.errors import LedgerError
from ledger.failpoints import FailpointError
from tests.integration.archiving import HEADER, armed, lines, new_archive
from tests.integration.whole_way import RESTORED_IN, STEPS, WholeWay, copied
from tests.s3_servers import new_bucket, s3_environment_of
from tests.strict_s3.faults import Call, Fault
from tests.strict_s3.server import StrictS3

YEAR = 2012
JOBS = 2
# STEP -> how often jobs were told that their rows are back, when it is done.
TOLD = {"bring_back": JOBS, "bring_back_again": 2 * JOBS, "reopen": 3 * JOBS}
# FAULT, once -> the codes of the errors that a step may end with.
HIDDEN: dict[Fault, set[str]] = {
    Fault.LOST_ANSWER: set(),
    Fault.SLOW_DOWN: set(),
    Fault.RESET: set(),
    Fault.GARBLED_ANSWER: set(),
    Fault.FLIPPED_REQUEST: {"part_unavailable"},  # only a put is sent again by us, and boto does it for no bad request
}
WRONG: dict[Fault, set[str]] = {
    Fault.CUT_ANSWER: {"object_damaged", "archive_differs"},
    Fault.SHORT_ANSWER: {"object_damaged", "archive_differs"},
    Fault.FLIPPED_ANSWER: {"object_damaged", "archive_differs", "not_found", "conflict"},
}
LASTING = [Fault.LOST_ANSWER, Fault.SLOW_DOWN, Fault.FLIPPED_REQUEST]
FOR_LONG = 1_000

Calls = dict[str, list[Call]]  # STEP -> the calls of a clean run, in their order


@pytest.fixture(scope="module")
def s3() -> Iterator[StrictS3]:
    """The double. Nobody pauses before another attempt."""
    with StrictS3() as double, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment_of(double.url).items():
            patch.setenv(name, value)
        patch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0)
        patch.setattr(stores_s3, "PAUSE_SECONDS", 0)
        yield double


@pytest.fixture(scope="module")
def closed(ledger: Ledger, s3: StrictS3, tmp_path_factory: pytest.TempPathFactory) -> WholeWay:
    """A year that is closed and sealed: where all others begin."""
    archive = new_archive(ledger, tmp_path_factory.mktemp("closed"), f"s3://{new_bucket()}/books", datasets=1)
    archive.load(archive.places[0], HEADER + lines(YEAR, range(60)) + f"x,{YEAR}-05-01,1,\n")
    archive.load(archive.places[0], HEADER + lines(YEAR, range(60, 70)) + lines(YEAR + 1, range(5)))
    return WholeWay(archive, s3, archive.close(YEAR))


@pytest.fixture(scope="module")
def clean(closed: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Calls]:
    """The manifest of a run in which nothing fails, and the calls of its steps."""
    calls = {}
    with copied(closed, tmp_path_factory.mktemp("clean")) as way:
        for step in STEPS:
            wait_for_copies(way, step)
            way.s3.faults.begin()
            getattr(way, step)()
            calls[step] = way.s3.faults.meant()
            check_step(way, step)
        check_end(way)
        return way.manifest(), calls


def wait_for_copies(way: WholeWay, step: str) -> None:
    if step == "bring_back":
        way.s3.clock.advance(RESTORED_IN)
    if step == "read_all":
        way.restore_all()


def check_step(way: WholeWay, step: str) -> None:
    """What a step was for is so, and each job was told of it once."""
    if step in ("hold", "lift"):
        assert {each.is_on_hold for each in way.kept()} == {step == "hold"}
    if step in ("bring_back", "bring_back_again"):
        assert (way.year.state, way.year.copy) == (YearState.DROPPED, CopyState.RESTORED)
        assert way.copy() == way.rows
        assert (way.times_told("filejob.archived"), way.times_told("filejob.restored")) == (JOBS, TOLD[step])


def check_end(way: WholeWay) -> None:
    """The rows are where they were, nothing was decided twice, and each job was told so once."""
    way.check()
    assert (way.year.state, way.year.copy) == (YearState.REOPENED, CopyState.NONE)
    assert way.times_told("filejob.restored") == TOLD["reopen"]
    once = ("closed", "planned", "exported", "verified", "hold_placed", "hold_lifted", "dropped", "reopened")
    assert {way.topics().count(each) for each in once} == {1}
    assert {way.topics().count(each) for each in ("restore_requested", "restored", "released")} == {2}


def first_and_last(calls: Iterable[Call]) -> list[Call]:
    """The calls on the first and on the last object that each operation comes to."""
    targets: dict[str, list[str]] = {}
    for call in calls:
        targets.setdefault(call.operation, []).append(call.target)
    return [call for call in calls if call.target in (targets[call.operation][0], targets[call.operation][-1])]


def go(way: WholeWay, fault: Fault, calls: Calls, *, times: int = 1) -> tuple[set[str], Calls]:
    """Go from step to step though a fault meets each of some calls.

    The codes of the errors that steps ended with, and the calls that were not made any more.
    """
    told: set[str] = set()
    left: Calls = {}
    for step, of_step in calls.items():
        wait_for_copies(way, step)
        way.s3.faults.strike(fault, of_step, times=times)
        while (error := attempt(way, step)) is not None:
            assert error.message and error.remedy
            told.add(error.code)
        left[step] = [call for call in of_step if call not in way.s3.faults.struck]
        way.s3.faults.disarm()
        check_step(way, step)
    return told, left


def attempt(way: WholeWay, step: str) -> LedgerError | None:
    """Try a step; why it ended. It does only if something happened to it, and whatever did, nothing is lost."""
    before = len(way.s3.faults.struck)
    way.s3.faults.begin()
    try:
        getattr(way, step)()
    except LedgerError as error:
        assert len(way.s3.faults.struck) > before, (step, error.message)
        return error
    finally:
        way.check()
    return None


@pytest.mark.parametrize("fault", [*HIDDEN, *WRONG], ids=lambda fault: fault.name.lower())
def test_a_fault_at_any_call_changes_nothing_of_what_a_year_comes_to(
    closed: WholeWay, clean: tuple[bytes, Calls], tmp_path: Path, fault: Fault
) -> None:
    check_ways(closed, clean, tmp_path, fault, {**HIDDEN, **WRONG}[fault])


@pytest.mark.parametrize("fault", LASTING, ids=lambda fault: fault.name.lower())
def test_a_fault_that_lasts_ends_a_step_which_then_goes_on(
    closed: WholeWay, clean: tuple[bytes, Calls], tmp_path: Path, fault: Fault
) -> None:
    manifest, calls = clean
    once = {step: [call for call in first_and_last(each) if call.number == 1] for step, each in calls.items()}
    check_ways(closed, (manifest, once), tmp_path, fault, {"part_unavailable"}, times=FOR_LONG)


def check_ways(
    closed: WholeWay, clean: tuple[bytes, Calls], folder: Path, fault: Fault, codes: set[str], *, times: int = 1
) -> None:
    """Go the way as often as it takes until a fault has met each of some calls; all come to the same manifest."""
    manifest, calls = clean
    told: set[str] = set()
    while calls:
        with copied(closed, folder) as way:
            errors, left = go(way, fault, calls, times=times)
            assert way.manifest() == manifest
            if "reopen" in calls:
                check_end(way)
        assert sum(map(len, left.values())) < sum(map(len, calls.values())), left
        told |= errors
        calls = as_far_as_any(left)
    assert told == codes


def as_far_as_any(calls: Calls) -> Calls:
    """The calls of the steps up to the last one that has any: no need to go further."""
    steps = list(calls)
    while steps and not calls[steps[-1]]:
        steps.pop()
    return {step: calls[step] for step in steps}


@pytest.mark.parametrize("has_lock", [True, False], ids=["alone", "lock_lost"])
def test_two_archivers_at_once_make_one_archive(
    closed: WholeWay, clean: tuple[bytes, Calls], tmp_path: Path, has_lock: bool
) -> None:
    manifest, _ = clean
    with copied(closed, tmp_path) as way:
        with armed(tmp_path / "failpoints", "year_planned", "raise"), pytest.raises(FailpointError):
            way.export()  # else the second is told by the plan of the first
        told = archive_twice(way, tmp_path, has_lock=has_lock)
        assert "verified" in told and set(told) <= {"verified", "conflict"}
        assert way.manifest() == manifest
        way.check_archive()
        way.check()
        assert [way.topics().count(each) for each in ("planned", "exported", "verified")] == [1, 1, 1]


def archive_twice(way: WholeWay, folder: Path, *, has_lock: bool) -> list[str]:
    """Have two processes archive a year at once, as if on two machines; what they came to."""
    fork = multiprocessing.get_context("fork")
    both, told = fork.Barrier(2, timeout=60), fork.SimpleQueue()
    put = S3ColdStore._try_to_put

    def put_at_once(store: S3ColdStore, *arguments: Any) -> None:
        if "/reconciliation-" in arguments[0] and not has_lock:
            both.wait()  # neither has found the first part of all in the bucket
        put(store, *arguments)

    def run(number: int) -> None:
        way.ledger.engine.dispose(close=False)
        S3ColdStore._try_to_put = put_at_once  # type: ignore[method-assign]
        ours = replace(way.archive.archiving, store=open_cold_store(way.url), spool=folder / str(number))
        way.archive.archiving = ours
        both.wait()
        try:
            with alone(ours, way.label) if has_lock else nullcontext():
                way.export()
                way.finish()
            told.put("verified")
        except LedgerError as error:
            told.put(error.code)

    processes = [fork.Process(target=run, args=(number,)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [told.get(), told.get()]
