"""Whoever closes, archives, restores or reopens a year is killed at every step, and whoever comes next goes on.

The steps are found in the code, so a new one is tested from its first day. All is one year on S3: each step is where a
process of its own dies once, by SIGKILL, and nothing is lost or there twice at any time.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from archive.export_run import Policy
from archive.manifest import parse_manifest
from archive.stores import LockMode, StorageClass
from ledger.application import Ledger
from ledger.domain.year_states import CopyState, YearState
from tests.faults.kit import failpoint_names
from tests.integration.archiving import POLICY, killed_at, label_of, new_archive
from tests.integration.whole_way import RESTORED_IN, WholeWay
from tests.s3_servers import new_bucket, s3_environment_of
from tests.strict_s3.server import StrictS3

YEAR = 2012
CLOSING = ["year_fenced", "year_closed_appended"]
EXPORTING = ["year_planned", "part_written", "part_put", "parts_noted", "table_tried", "manifest_put", "year_exported"]
FINISHING = ["note_put", "lock_raised", "year_verified"]
HOLDING = ["hold_changed"]
DROPPING = ["rows_dropped", "year_dropped_appended", "year_dropped", "files_told"]
ASKING = ["part_asked_for"]
BRINGING_BACK = ["copy_made", "restored_appended", "restored_committed", "jobs_told"]
RELEASING = ["copy_dropped"]
REOPENING = ["rows_put_back", "reopened_appended"]
STEPS = [CLOSING, EXPORTING, FINISHING, HOLDING, DROPPING, ASKING, BRINGING_BACK, RELEASING, REOPENING]
OTHER_POLICY = Policy(StorageClass.GLACIER, None, LockMode.GOVERNANCE, retention_years=1, run_days=1, part_bytes=100)

Kill = Callable[[list[str], Callable[[], object]], None]


@pytest.fixture(scope="module")
def s3() -> Iterator[StrictS3]:
    with StrictS3() as double, pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment_of(double.url).items():
            patch.setenv(name, value)
        yield double


@pytest.fixture
def closing_killed(ledger: Ledger, s3: StrictS3, tmp_path: Path) -> WholeWay:
    """A year whose closing was killed at every step, and which was closed then."""
    archive = new_archive(ledger, tmp_path, f"s3://{new_bucket()}/books")
    archive.fill(YEAR)
    before = archive.rows(label_of(YEAR))
    for step in CLOSING:
        assert killed_at(ledger, tmp_path / "failpoints", step, lambda: archive.close(YEAR)) == -signal.SIGKILL, step
        assert ledger.fiscal_year(label_of(YEAR)) is None
    archive.close(YEAR)
    assert archive.rows(label_of(YEAR)) == before > 0
    return WholeWay(archive, s3, label_of(YEAR))


def test_no_step_is_forgotten() -> None:
    steps = [step for each in STEPS for step in each]
    assert len(steps) == len(set(steps))
    assert set(steps) == failpoint_names("archive")


def test_a_year_goes_its_whole_way_though_whoever_works_on_it_is_killed_at_every_step(
    closing_killed: WholeWay, tmp_path: Path
) -> None:
    way = closing_killed

    def kill(steps: list[str], act: Callable[[], object]) -> None:
        for step in steps:
            assert killed_at(way.ledger, tmp_path / "failpoints", step, act) == -signal.SIGKILL, step
            way.check()
            # Whoever goes on may have been given other settings.
            way.archive.archiving = replace(way.archive.archiving, policy=OTHER_POLICY)
        act()
        way.check()

    kill(EXPORTING, way.export)
    kill(FINISHING, way.finish)
    check_exported_once(way)
    hold(way, kill)
    kill(DROPPING, way.drop)
    way.request()
    kill(ASKING, way.ask)
    way.s3.clock.advance(RESTORED_IN)
    kill(BRINGING_BACK, way.bring_back)
    assert way.copy() == way.rows
    jobs = 6
    assert (way.times_told("filejob.archived"), way.times_told("filejob.restored")) == (jobs, jobs)
    kill(RELEASING, way.release)
    way.request()
    way.bring_back()
    kill(REOPENING, way.reopen)
    assert (way.year.state, way.year.copy) == (YearState.REOPENED, CopyState.NONE)
    told = ("closed", "planned", "exported", "verified", "dropped", "restored", "released", "reopened")
    assert [way.topics().count(each) for each in told] == [1, 1, 1, 1, 1, 2, 2, 1]


def check_exported_once(way: WholeWay) -> None:
    """There is one archive, whole, by the settings with which it was begun."""
    way.check_archive()
    manifest = parse_manifest(way.manifest())
    assert (manifest.policy.mode, len(manifest.access) > 0) == (POLICY.mode, True)
    assert {part.storage_class for table in manifest.tables for part in table.parts} == {POLICY.storage_class}


def hold(way: WholeWay, kill: Kill) -> None:
    """Hold the year, and let it go again, with whoever carries that out killed both times."""
    kill(HOLDING, way.hold)
    assert all(each.is_on_hold for each in way.kept())
    kill(HOLDING, way.lift)
    assert not any(each.is_on_hold for each in way.kept())
