"""What `ledger load` sends: the files that its arguments name, each with the control totals beside it.

Everything is looked at before the first file is sent, so that what cannot be meant is refused while nothing was taken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from api.cli.client import CommandError, ExitCode, file_size
from ledger.domain.control_totals import (
    check_sidecar_size,
    is_sidecar,
    sidecar_totals,
    sidecars_of,
    totals_given_twice,
)
from ledger.errors import InvalidRequestError

TOTALS_CHARACTERS_MAX = 60_000  # in the address, of which the client takes 65,536
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Source:
    """A file to send, standard input if it has no path, and the control totals that are said of it, as JSON."""

    path: Path | None
    control_totals: str | None = None

    @property
    def filename(self) -> str:
        """What it is called when it is sent."""
        return "standard-input" if self.path is None else self.path.name

    @property
    def said(self) -> dict[str, str | None]:
        """What is said of it alone: see `api.choices`."""
        return {"control_totals": self.control_totals}

    def size(self) -> int | None:
        """Its size in bytes, None of standard input. Raises CommandError if it cannot be read."""
        return None if self.path is None else file_size(self.path)

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Its bytes, read without a buffer: whoever reads takes large pieces."""
        return nullcontext(sys.stdin.buffer) if self.path is None else self.path.open("rb", buffering=0)


def sources(arguments: list[str], control_totals: str | None) -> list[Source]:
    """The files to send, in order, without those that hold control totals of others.

    Args:
        control_totals: what the command's option says of every file.

    Raises:
        CommandError: a file cannot be read. InvalidRequestError: control totals are not clear.
    """
    paths = [path for argument in arguments for path in _paths(argument)]
    found = _with_totals(paths, control_totals)
    for source in found:
        if len(quote(source.control_totals or "")) > TOTALS_CHARACTERS_MAX:
            raise InvalidRequestError(
                f"The control totals of {source.filename} are too long: this command sends them as part of an address.",
                "Say them of fewer columns, or send both files to POST /uploadfiles/ in one form.",
            )
    return found


def _with_totals(paths: Sequence[Path | None], control_totals: str | None) -> list[Source]:
    # A path may be named twice, as a file and by its folder: that is one file.
    sidecars = sidecars_of(dict.fromkeys(_place(path) for path in paths if path is not None))
    found = []
    for path in paths:
        sidecar = None if path is None else sidecars.get(_place(path))
        if path is not None and is_sidecar(path.name):
            continue
        if sidecar is not None and path is not None:
            if control_totals:
                raise totals_given_twice(path.name)
            found.append(Source(path, _totals_in(Path(sidecar))))
        else:
            found.append(Source(path, control_totals))
    return found


def _place(path: Path) -> str:
    """Where a file stands, however its path is written; a link stands where it is, not where it leads."""
    return str(path.parent.resolve() / path.name)


def _totals_in(sidecar: Path) -> str:
    check_sidecar_size(sidecar.name, file_size(sidecar))
    try:
        content = sidecar.read_bytes()
    except OSError as error:
        raise CommandError(f"{sidecar} cannot be read: {error.strerror}.", "Check it.", ExitCode.USAGE) from error
    return json.dumps(sidecar_totals(sidecar.name, content), separators=(",", ":"))


def _paths(argument: str) -> list[Path | None]:
    """The files that an argument names; None is standard input."""
    path = Path(argument)
    if argument == STANDARD_INPUT:
        return [None]
    if path.is_dir():
        found = sorted(inside for inside in path.iterdir() if inside.is_file() and not inside.name.startswith("."))
        if not found:
            raise CommandError(f"The folder {path} holds no file.", "Check the path.", ExitCode.USAGE)
        return list(found)
    file_size(path)
    return [path]
