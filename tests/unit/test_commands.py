"""A command that the tests fork is the command that a user starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.commands import run_command

NOBODY = {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_API_KEY": "none"}


def started(arguments: list[str], environment: dict[str, str], text: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "api.cli.main", *arguments]
    ended = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [["config"], ["jobs", "list"], ["load", "-", "--dataset", "some"], ["jobs", "show"]],
    ids=" ".join,
)
def test_a_forked_command_says_and_ends_as_one_that_is_started(arguments: list[str]) -> None:
    environment = {**os.environ, **NOBODY, "LEDGER_CHUNK_BYTES": "12345", "COLUMNS": "100"}
    forked = run_command(arguments, environment, text="id\n1\n")
    code, printed, told = started(arguments, environment, "id\n1\n")
    assert (forked.returncode, forked.stdout) == (code, printed)
    assert forked.stderr.replace("ledger ", "") == told.replace("python -m api.cli.main ", "").replace("ledger ", "")
    assert forked.stdout + forked.stderr


def test_a_command_knows_nothing_of_the_one_before() -> None:
    environment = {**os.environ, **NOBODY}
    assert "12345" in run_command(["config"], {**environment, "LEDGER_CHUNK_BYTES": "12345"}).stdout
    assert "12345" not in run_command(["config"], environment).stdout
