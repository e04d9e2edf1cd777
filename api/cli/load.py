"""`ledger load`: send files, watch them become rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.output import Bars, bars, print_json, say, sentence_of
from api.cli.preview import preview_of, show_previews
from api.cli.sources import Source, sources
from ledger.domain.words import FINISHED, OnDuplicate

POLL_SECONDS_MIN = 0.1
POLL_SECONDS_MAX = 1.0
POLL_SHARE = 0.05
WAIT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0


def load(
    files: Annotated[list[str], typer.Argument(help="Files or folders; - is standard input.", show_default=False)],
    dataset: Annotated[str | None, typer.Option(help="The dataset; by default named after the file.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every file has ended.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Seconds to wait at most, with --wait.")] = None,
    on_duplicate: Annotated[
        OnDuplicate, typer.Option(help="What to do with bytes that the dataset has received before.")
    ] = OnDuplicate.RETURN,
    record: Annotated[str | None, typer.Option(help="JSON: the path to the records. XML: the element of one.")] = None,
    sheet: Annotated[str | None, typer.Option(help="The sheet of a workbook.")] = None,
    encoding: Annotated[str | None, typer.Option(help="The encoding of a text, such as cp1252.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="The delimiter of a text, or tab; by default found.")] = None,
    quote: Annotated[str | None, typer.Option(help='What quotes fields of a text, if it is not ".')] = None,
    escape: Annotated[str | None, typer.Option(help="What stands before quotes and delimiters of a text.")] = None,
    header: Annotated[bool | None, typer.Option(help="Whether a text has a header; by default found.")] = None,
    member: Annotated[str | None, typer.Option(help="The only file to load of a zip archive.")] = None,
    corrects: Annotated[str | None, typer.Option(help="The task whose rejects this file brings again.")] = None,
    control_totals: Annotated[
        str | None, typer.Option(help="What the file has to come to, as JSON; or @FILE that holds it.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would become of the files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the tasks as JSON.")] = False,
) -> None:
    r"""Send files to the ledger.

    Each file becomes a task, and so does each file of a zip archive. A file called NAME.totals.json beside NAME, sent
    with it or in the same archive, is not loaded: it holds the control totals of NAME, as --control-totals takes them.

    Examples:
      ledger load payments.csv --wait

      ledger load inbox/ --dataset payments

      ledger load quarter.zip --wait

      zcat big.csv.gz | ledger load - --dataset payments --wait --json

      ledger load mysql.csv --quote "'" --escape '\' --no-header

      ledger load may.xlsx --sheet Payments --control-totals '{"columns": {"amount": {"sum": "1204.50"}}}'
    """
    client = Client.found()
    to_send = sources(files, _text_of(control_totals))
    said = {
        "dataset": dataset,
        "on_duplicate": on_duplicate.value,
        "record": record,
        "sheet": sheet,
        "encoding": encoding,
        "delimiter": delimiter,
        "quote": quote,
        "escape": escape,
        "header": None if header is None else "yes" if header else "no",
        "member": member,
        "corrects": corrects,
    }
    if dry_run:
        show_previews([preview_of(client, source, said | source.said) for source in to_send], as_json)
        return
    _load(client, to_send, said, wait, timeout, as_json)


def _load(
    client: Client,
    to_send: list[Source],
    said: Mapping[str, str | None],
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    with bars(quiet=as_json) as progress:
        tasks = [task for source in to_send for task in _send(client, progress, source, {**said, **source.said})]
        if wait:
            tasks = watch_all(client, progress, tasks, timeout)
    _tell(tasks, as_json)
    if wait and any(task["status"] != "Completed" for task in tasks):
        raise typer.Exit(ExitCode.JOB_FAILED)


def _tell(tasks: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(tasks)
        return
    for task in tasks:
        say(("Known already: " if task.get("duplicate") else "") + sentence_of(task))


def _text_of(value: str | None) -> str | None:
    """A value itself, or what the file holds that it names with an @."""
    if value is None or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{value[1:]} cannot be read: {error.strerror}.", "Check the path.", ExitCode.USAGE
        ) from error


def _send(
    client: Client, progress: Bars | None, source: Source, said: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    size = source.size()
    advance = progress.add(f"sending {source.filename}", size) if progress else lambda _: None
    with source.open() as stream:
        return client.upload(stream, source.filename, size=size, said=said, on_progress=advance)


def watch(
    client: Client,
    task: dict[str, Any],
    *,
    deadline: float | None = None,
    on_news: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Wait until a task has ended: the task then.

    Args:
        deadline: of `time.monotonic()`; None waits for ever.
        on_news: called with the task each time it was asked for; without it the server is asked to wait.

    Raises:
        CommandError: the deadline passed, or the server was silent for `PATIENCE_SECONDS`. The work goes on.
    """
    ended = watch_until(
        client,
        f"/task/{task['task_id']}",
        task,
        _is_over,
        name=task["filename"],
        remedy=f"It goes on without you: ledger jobs show {task['task_id']}",
        deadline=deadline,
        on_news=on_news,
    )
    return {**ended, "duplicate": task.get("duplicate", False)}


def watch_until(
    client: Client,
    path: str,
    known: dict[str, Any],
    is_over: Callable[[dict[str, Any]], bool],
    *,
    name: str,
    remedy: str,
    deadline: float | None = None,
    on_news: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Ask for a path until what it answers is over, as `watch` does for a task; the answer then."""
    started = answered = time.monotonic()
    while not is_over(known):
        seconds_left = WAIT_SECONDS if deadline is None else deadline - time.monotonic()
        if seconds_left <= 0:
            raise CommandError(f"{name} has not ended; it is {known['status']}.", remedy, ExitCode.TIMEOUT)
        if on_news is not None:
            # The longer it takes, the less a little more waiting matters.
            time.sleep(min(POLL_SECONDS_MAX, max(POLL_SECONDS_MIN, (time.monotonic() - started) * POLL_SHARE)))
        try:
            wait = min(WAIT_SECONDS, seconds_left) if on_news is None else None
            known = client.get(path, wait=wait)
            answered = time.monotonic()
        except CommandError as error:
            if error.exit_code != ExitCode.UNREACHABLE or time.monotonic() - answered > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS_MAX)  # a part restarts, say; what is in the ledger goes on
            continue
        if on_news is not None:
            on_news(known)
        elif not is_over(known):
            time.sleep(POLL_SECONDS_MIN)  # a server with many who wait answers at once
    return known


def watch_all(
    client: Client, progress: Bars | None, tasks: list[dict[str, Any]], timeout: float | None
) -> list[dict[str, Any]]:
    """Wait until all of these tasks have ended, with bars if somebody looks; the tasks then."""
    deadline = None if timeout is None else time.monotonic() + timeout
    if progress is None:  # nobody looks: no need to ask again and again
        return [watch(client, task, deadline=deadline) for task in tasks]
    shows = [_bar_of(progress, task) for task in tasks]
    return [watch(client, task, deadline=deadline, on_news=show) for task, show in zip(tasks, shows, strict=True)]


def _bar_of(progress: Bars, task: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    advance = progress.add(f"loading {task['filename']}", task["size"])
    shown = 0

    def show(news: dict[str, Any]) -> None:
        nonlocal shown
        done = news["size"] * news["chunks_loaded"] // news["chunks_total"] if news["chunks_total"] else 0
        advance(done - shown)
        shown = done

    return show


def _is_over(task: dict[str, Any]) -> bool:
    will_be_retried = task["status"] == "Failed" and (task["error"] or {}).get("retry_at") is not None
    return task["status"] in FINISHED and not will_be_retried
