"""Failpoints: named places, one at every durable step, where a test makes this process die, fail or stand still.

Rules:
1. They are off unless the setting `failpoints` names a folder. Then a file named after a failpoint arms it, in
   whatever process gets there first.
2. A failpoint acts once: it removes its file before it acts, so that the process that takes over gets past it.
   A file `NAME.hit` then holds the id of the process.
3. The file's content says what to do: `kill` (SIGKILL, as a power cut would), `stop` (SIGSTOP, until somebody
   continues the process) or `raise` (FailpointError, as our own mistake would).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

_folder: list[Path] = []


class FailpointError(Exception):
    """A test wanted this step to fail."""


def use(folder: Path | None) -> None:
    """Look for armed failpoints in this folder from now on; None switches them off."""
    _folder[:] = [] if folder is None else [folder]


def failpoint(name: str) -> None:
    """Do what a test has armed for this place: nothing, as a rule."""
    if not _folder:
        return
    armed = _folder[0] / name
    try:
        action = armed.read_text().strip()
        armed.unlink()
    except FileNotFoundError:
        return
    (_folder[0] / f"{name}.hit").write_text(str(os.getpid()))
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise FailpointError(name)
        case _:
            raise AssertionError(f"the failpoint {name} cannot {action!r}")
