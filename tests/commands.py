"""The command line, run again and again: each command is a process of its own, forked where the imports are done.

To start Python and to import what a command needs takes many times as long as most commands take.

Rules:
1. A command has the environment, the standard streams and the exit code that it would have if a shell had started it.
2. What our own code imports only when it needs it is not imported before: a command must find that by itself.
3. `ledger up` is not run here: it is the first of its processes, and they know each other by what started them.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SECONDS_MAX = 600.0
STREAMS = ("input", "output", "error")
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.command_imports"])


def run_command(
    arguments: Sequence[str], environment: Mapping[str, str], *, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command with `text` on its standard input: its exit code and what it printed."""
    assert arguments[0] != "up", "see rule 3"
    with tempfile.TemporaryDirectory(prefix="ledger-command-") as folder:
        streams = [Path(folder, name) for name in STREAMS]
        for path in streams:
            path.write_text(text if path.name == "input" else "", encoding="utf-8", newline="")
        process = _forks.Process(target=_become, args=(list(arguments), dict(environment), streams))
        process.start()
        process.join(SECONDS_MAX)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), SECONDS_MAX)
        _, output, error = (path.read_text(encoding="utf-8") for path in streams)
        return subprocess.CompletedProcess(list(arguments), process.exitcode, output, error)


def _become(arguments: list[str], environment: dict[str, str], streams: list[Path]) -> None:
    """Be that command from here on."""
    from api.cli.main import run

    for descriptor, path in enumerate(streams):
        opened = os.open(path, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["ledger", *arguments]
    run()
