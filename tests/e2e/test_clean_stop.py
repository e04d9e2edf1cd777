"""Ctrl-C ends everything and keeps everything; a home is served by one at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.stack import Stack, children, is_alive


class Running(Protocol):
    """The fixture that runs a ledger of one's own."""

    def __call__(self, settings: dict[str, str]) -> AbstractContextManager[Stack]: ...


@pytest.fixture(scope="module")
def own(running: Running) -> Iterator[Stack]:
    """A ledger to be stopped and started."""
    with running({}) as stack:
        yield stack


@pytest.fixture(scope="module")
def loaded(own: Stack, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A file that was loaded before the stop."""
    path = tmp_path_factory.mktemp("kept") / "kept.csv"
    path.write_text("id,amount\n1,2.50\n2,3.75\n")
    [task] = own.json("load", str(path), "--wait")
    return dict(task)


def test_two_cannot_serve_one_home(own: Stack) -> None:
    before = own.state()
    second = own.run_afresh("up", "--port", "0")
    assert second.returncode == 5
    assert "already being served" in second.stderr
    assert "--home" in second.stderr
    assert "Traceback" not in second.stderr
    assert own.state() == before
    assert own.json("jobs", "list") is not None


def test_control_c_leaves_no_process_and_the_next_start_finds_everything(own: Stack, loaded: dict[str, Any]) -> None:
    served = {descendant for pid in own.state()["pids"].values() for descendant in (pid, *children(pid))}
    assert len(served) > len(own.state()["pids"])
    own.stop()
    assert not [pid for pid in served if is_alive(pid)]
    assert _processes_of(own.home) == []
    assert own.state() == {}
    assert own.run("jobs", "list").returncode == 10

    own.start()
    assert own.wait(loaded["task_id"])["status"] == "Completed"
    assert own.json("jobs", "show", loaded["task_id"])["status"] == "Completed"
    assert own.sql("SELECT count(*), sum(amount)::text FROM data.kept") == [(2, "6.25")]
    [again] = own.json("load", "-", "--dataset", "kept", "--wait", text="id,amount\n1,2.50\n2,3.75\n")
    assert (again["task_id"], again["duplicate"]) == (loaded["task_id"], True)
    [other] = own.json("load", "-", "--dataset", "kept", "--wait", text="id,amount\n3,1.00\n")
    assert other["status"] == "Completed"


def test_control_c_during_a_load_loses_nothing(own: Stack, flights: Path) -> None:
    [task] = own.json("load", str(flights), "--dataset", "interrupted")
    own.stop()
    assert _processes_of(own.home) == []
    own.start()
    ended = own.wait(task["task_id"])
    assert (ended["status"], ended["rows_loaded"]) == ("Completed", 336_776)
    assert own.sql("SELECT count(*), count(DISTINCT _record) FROM data.interrupted") == [(336_776, 336_776)]


def _processes_of(home: Path) -> list[str]:
    """The commands of all processes that name the home in their command line or environment, but for this one."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            text = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or belongs to somebody else
        if str(home).encode() in text:
            found.append(text[:200].decode(errors="replace"))
    return found
