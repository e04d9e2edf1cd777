from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import failpoints
from ledger.failpoints import FailpointError, failpoint

REACH = "import sys; from pathlib import Path; from ledger import failpoints as f; f.use(Path(sys.argv[1])); "


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    failpoints.use(tmp_path)
    yield tmp_path
    failpoints.use(None)


def test_a_failpoint_that_is_not_armed_does_nothing(folder: Path) -> None:
    failpoint("here")
    assert not list(folder.iterdir())


def test_an_armed_failpoint_acts_once(folder: Path) -> None:
    (folder / "here").write_text("raise")
    failpoint("elsewhere")
    with pytest.raises(FailpointError, match="here"):
        failpoint("here")
    failpoint("here")
    assert [path.name for path in folder.iterdir()] == ["here.hit"]


def test_without_a_folder_nothing_is_looked_for(folder: Path) -> None:
    (folder / "here").write_text("raise")
    failpoints.use(None)
    failpoint("here")
    assert (folder / "here").exists()


def test_a_killed_process_had_no_time_for_anything_else(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("kill")
    process = subprocess.run(
        [sys.executable, "-c", REACH + "f.failpoint('here'); print('alive')", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    assert (process.returncode, process.stdout) == (-signal.SIGKILL, b"")
