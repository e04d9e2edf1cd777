"""One run: files of each reader, one after the other, and what became of them."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.fuzz.child import from_line, to_line
from tests.fuzz.damage import damaged
from tests.fuzz.pool import Answer, ReadingChild
from tests.fuzz.promise import Given
from tests.fuzz.samples import SOUND

SOUND_SHARE = 0.2
SHOWN_MAX = 10  # broken promises of one reader that are told; the others are counted
Say = Callable[[str], None]


@dataclass
class Tally:
    """The figures of one reader."""

    reader: str
    inputs: int = 0
    sound: int = 0
    refused: int = 0
    records: int = 0
    flawed: int = 0
    contained: int = 0
    broken: int = 0
    slowest_seconds: float = 0.0
    slowest: str = ""

    def add(self, given: Given, number: int, answer: Answer) -> None:
        """Count one file."""
        self.inputs += 1
        self.sound += given.records is not None
        self.contained += answer.contained is not None
        self.broken += answer.broken is not None
        if answer.came is not None:
            self.refused += answer.came.refused is not None
            self.records += answer.came.records
            self.flawed += answer.came.flawed
        if answer.seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest = answer.seconds, f"#{number}, {len(given.content):,} bytes"


def the_input(reader: str, seed: int, number: int) -> Given:
    """The file of that number: the same for the same seed."""
    chance = random.Random(f"{seed} {reader} {number}")
    given = SOUND[reader](chance)
    return given if chance.random() < SOUND_SHARE else damaged(given, SOUND[reader](chance), chance)


def fuzz(
    readers: Sequence[str],
    seed: int,
    child: ReadingChild,
    *,
    seconds: float | None = None,
    inputs: int | None = None,
    seconds_max: float = 30.0,
    folder: Path | None = None,
    say: Say = sys.stdout.write,
) -> list[Tally]:
    """Read files of each reader for so many seconds, or so many of them.

    Args:
        seconds_max: how long one file may take.
        folder: where files that broke the promise or ended their process are kept; made if it is needed.
    """
    keep = _Keeper(folder, seed, say)
    child.start()
    return [
        _one(reader, seed, seconds, inputs, partial(child.ask, seconds_max=seconds_max), keep) for reader in readers
    ]


def _one(
    reader: str, seed: int, seconds: float | None, inputs: int | None, ask: Callable[[Given], Answer], keep: _Keeper
) -> Tally:
    tally = Tally(reader)
    until = None if seconds is None else time.monotonic() + seconds
    while tally.inputs != inputs and (until is None or time.monotonic() < until):
        number = tally.inputs
        given = the_input(reader, seed, number)
        answer = ask(given)
        tally.add(given, number, answer)
        if answer.contained is not None or (answer.broken is not None and tally.broken <= SHOWN_MAX):
            keep.tell(given, number, answer)
    return tally


class _Keeper:
    """Keeps files that somebody has to look at, and says how to read them again."""

    def __init__(self, folder: Path | None, seed: int, say: Say) -> None:
        self._folder = folder
        self._seed = seed
        self._say = say

    def tell(self, given: Given, number: int, answer: Answer) -> None:
        path = self._saved(given, f"{given.reader}-{self._seed}-{number}")
        what = "BROKEN PROMISE" if answer.broken is not None else "contained"
        self._say(
            f"{what}: {given.reader} #{number} of seed {self._seed}: {answer.broken or answer.contained}\n"
            f"  again: python -m tests.fuzz --again {path}\n"
        )

    def _saved(self, given: Given, name: str) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="ledger-fuzz-kept-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        path.write_bytes(given.content)
        path.with_name(f"{name}.json").write_bytes(to_line(given))
        return path


def kept(path: Path) -> Given:
    """A file that was kept."""
    with path.open("rb") as source:
        return from_line(path.with_name(f"{path.name}.json").read_bytes(), source)


def table(tallies: Sequence[Tally]) -> str:
    """The figures of a run."""
    head = ("reader", "inputs", "sound", "refused", "records", "flawed", "contained", "broken", "slowest")
    rows = [
        (
            tally.reader,
            *(
                f"{count:,}"
                for count in (tally.inputs, tally.sound, tally.refused, tally.records, tally.flawed, tally.contained)
            ),
            f"{tally.broken:,}",
            f"{tally.slowest_seconds:.2f} s ({tally.slowest})",
        )
        for tally in tallies
    ]
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in (0, len(head) - 1) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )
