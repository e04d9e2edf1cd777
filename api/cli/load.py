"""`ledger load`: send files, watch them become rows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from api.cli.client import Client, CommandError, ExitCode, file_size
from api.cli.output import ERRORS, print_json, say, sentence_of
from ledger.domain.words import FINISHED, OnDuplicate
from ledger.settings import Settings

POLL_SECONDS_MIN = 0.1
POLL_SECONDS_MAX = 1.0
POLL_SHARE = 0.05
STANDARD_INPUT = "-"


def load(
    files: Annotated[list[str], typer.Argument(help="Files or folders; - is standard input.", show_default=False)],
    dataset: Annotated[str | None, typer.Option(help="The dataset; by default named after the file.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every file has ended.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most, with --wait.")] = None,
    on_duplicate: Annotated[
        OnDuplicate, typer.Option(help="What to do with bytes that the dataset has received before.")
    ] = OnDuplicate.RETURN,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tasks as JSON.")] = False,
) -> None:
    """Send files to the ledger.

    Examples:
      ledger load payments.csv --wait

      ledger load inbox/ --dataset payments

      zcat big.csv.gz | ledger load - --dataset payments --wait --json
    """
    client = Client.found(Settings())
    tasks = []
    with _progress(quiet=as_json) as progress:
        for path in _sources(files):
            tasks.append(_send(client, progress, path, dataset, on_duplicate.value))
        if wait:
            tasks = _watched(client, progress, tasks, timeout)
    if as_json:
        print_json(tasks)
    else:
        for task in tasks:
            say(("Known already: " if task.get("duplicate") else "") + sentence_of(task))
    if wait and any(task["status"] != "Completed" for task in tasks):
        raise typer.Exit(ExitCode.JOB_FAILED)


def _sources(files: list[str]) -> Iterator[Path | None]:
    """The files to send, in order; None is standard input."""
    for name in files:
        path = Path(name)
        if name == STANDARD_INPUT:
            yield None
        elif path.is_dir():
            found = sorted(inside for inside in path.iterdir() if inside.is_file() and not inside.name.startswith("."))
            if not found:
                raise CommandError(f"The folder {path} holds no file.", "Check the path.", ExitCode.USAGE)
            yield from found
        else:
            file_size(path)
            yield path


def _send(
    client: Client, progress: Progress, path: Path | None, dataset: str | None, on_duplicate: str
) -> dict[str, Any]:
    size = None if path is None else file_size(path)
    filename = "standard-input" if path is None else path.name
    bar = progress.add_task(f"sending {filename}", total=size)
    source = sys.stdin.buffer if path is None else path.open("rb", buffering=0)
    try:
        return client.upload(
            source,
            filename,
            size=size,
            dataset=dataset,
            on_duplicate=on_duplicate,
            on_progress=lambda sent: progress.advance(bar, sent),
        )
    finally:
        if path is not None:
            source.close()


def watch(
    client: Client,
    task: dict[str, Any],
    *,
    deadline: float | None = None,
    on_news: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Wait until a task has ended: the task then.

    Args:
        deadline: of `time.monotonic()`; None waits for ever.

    Raises:
        CommandError: the deadline passed. The work goes on.
    """
    started = time.monotonic()
    duplicate = task.get("duplicate", False)
    while not _is_over(task):
        if deadline is not None and time.monotonic() > deadline:
            raise CommandError(
                f"{task['filename']} has not ended; it is {task['status']}.",
                f"It goes on without you: ledger jobs show {task['task_id']}",
                ExitCode.TIMEOUT,
            )
        # The longer it takes, the less a little more waiting matters.
        time.sleep(min(POLL_SECONDS_MAX, max(POLL_SECONDS_MIN, (time.monotonic() - started) * POLL_SHARE)))
        task = client.get(f"/task/{task['task_id']}")
        on_news(task)
    return {**task, "duplicate": duplicate}


def _watched(
    client: Client, progress: Progress, tasks: list[dict[str, Any]], timeout: float | None
) -> list[dict[str, Any]]:
    deadline = None if timeout is None else time.monotonic() + timeout
    bars = [progress.add_task(f"loading {task['filename']}", total=task["size"]) for task in tasks]

    def show(bar: TaskID, task: dict[str, Any]) -> None:
        done = task["chunks_loaded"] / task["chunks_total"] if task["chunks_total"] else 0.0
        progress.update(bar, completed=task["size"] * done)

    return [
        watch(client, task, deadline=deadline, on_news=partial(show, bar))
        for bar, task in zip(bars, tasks, strict=True)
    ]


def _is_over(task: dict[str, Any]) -> bool:
    will_be_retried = task["status"] == "Failed" and (task["error"] or {}).get("retry_at") is not None
    return task["status"] in FINISHED and not will_be_retried


def _progress(*, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=ERRORS,
        disable=quiet or not ERRORS.is_terminal,
        transient=True,
    )
