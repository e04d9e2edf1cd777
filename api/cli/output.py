"""What a command prints: data to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from api.cli.client import CommandError, ExitCode
from ledger.domain.counted import counted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class Bars:
    """Progress bars on a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def add(self, what: str, total_bytes: int | None) -> Callable[[int], None]:
        """A new bar: the function that moves it on by so many bytes."""
        return partial(self._progress.advance, self._progress.add_task(what, total=total_bytes))

    def add_share(self, what: str) -> Callable[[int, int], None]:
        """A new bar: the function that shows how much is done, out of how much there is by now."""
        bar = self._progress.add_task(what, total=None)
        return lambda done, total: self._progress.update(bar, completed=done, total=total)


Unit = Literal["bytes", "events", "parts"]


@contextmanager
def bars(*, quiet: bool, unit: Unit = "bytes") -> Iterator[Bars | None]:
    """Bars while somebody looks; None if nobody does."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TransferSpeedColumn,
    )

    amounts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if unit == "bytes" else [MofNCompleteColumn(), TextColumn(unit)]
    )
    columns = [TextColumn("{task.description}"), BarColumn(), *amounts]
    with Progress(*columns, console=_console(stderr=True), transient=True) as progress:
        yield Bars(progress)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its place when all of it is there; until then the old one stays.

    Raises:
        CommandError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            yield file
        beside.replace(path)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror}.", "Name another file.", ExitCode.USAGE
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def print_json(value: Any) -> None:
    """Machines read this."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_yaml(value: Any) -> None:
    """People edit this."""
    from api.contract_text import write_yaml

    sys.stdout.write(write_yaml(value))


def say(sentence: str, style: str | None = None) -> None:
    """People read this."""
    _console(stderr=True).print(sentence, style=style, markup=False, soft_wrap=True)


def shown(value: Any) -> str:
    """A value in a table: nothing for none."""
    return "" if value is None else str(value)


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Rows for people; piped, they are tab-separated for other programs."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            sys.stdout.write("\t".join(row) + "\n")
        return
    from rich.table import Table

    for_people = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        for_people.add_column(column)
    for row in rows:
        for_people.add_row(*row)
    _console(stderr=False).print(for_people)


def sentence_of(task: dict[str, Any]) -> str:
    """What became of a task, in a plain sentence."""
    name, dataset, status = task["filename"], task["dataset"], task["status"]
    match status:
        case "Completed":
            skipped = task["records"] - task["rows_loaded"] - task["rows_rejected"]
            return (
                f"{name}: {task['rows_loaded']:,} of {counted(task['records'], 'record')} loaded into data.{dataset}, "
                f"{task['rows_rejected']:,} rejected{f', {skipped:,} skipped' if skipped else ''}."
            )
        case "Failed":
            error = task["error"]
            if error["retry_at"] is not None:
                return f"{name}: will be tried again at {error['retry_at'][11:19]} UTC. {error['message']}"
            return f"{name}: failed. {error['message']} {error['remedy']}"
        case "Processing" | "Retried":
            return f"{name}: {task['chunks_loaded']} of {counted(task['chunks_total'], 'chunk')} loaded."
        case _:
            return f"{name}: {status.lower()}, for dataset {dataset}."


@cache
def _console(*, stderr: bool) -> Console:
    from rich.console import Console  # only when something is printed for people: it takes a while to import

    return Console(stderr=stderr, highlight=False)
