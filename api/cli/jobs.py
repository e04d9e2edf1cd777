"""`ledger jobs`: what arrived, and what became of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import Client, ExitCode
from api.cli.load import watch, watch_all
from api.cli.options import AsJson, Reason
from api.cli.output import bars, print_json, say, sentence_of, shown, table
from ledger.domain.counted import counted
from ledger.domain.words import Status

jobs = typer.Typer(no_args_is_help=True, help="What arrived, and what became of it.")

TaskIds = Annotated[list[str], typer.Argument(help="One or many.", show_default=False)]


@jobs.command("list")
def list_jobs(
    dataset: Annotated[str | None, typer.Option(help="Only this dataset.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only this status.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Only these bytes: the jobs of one archive, say.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first.

    Files that came in one archive have its SHA-256, which `ledger jobs show` tells.

    Examples:
      ledger jobs list --status Failed

      ledger jobs list --sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
    """
    answer = Client.found().get("/api/v1/jobs", dataset=dataset, status=status, sha256=sha256, limit=limit)
    if as_json:
        print_json(answer["tasks"])
        return
    table(
        ["TASK", "STATUS", "DATASET", "FILE", "RECORDS", "LOADED", "REJECTED", "RECEIVED"],
        [
            [
                task["task_id"],
                task["status"],
                task["dataset"],
                task["filename"],
                "" if task["records"] is None else str(task["records"]),
                str(task["rows_loaded"]),
                str(task["rows_rejected"]),
                task["received_at"][:19],
            ]
            for task in answer["tasks"]
        ],
    )
    if answer["view"]["lag"] is None:
        say("The log cannot be reached: nobody can tell how old this list is.")
    elif answer["view"]["lag"]:
        say(f"The list is {counted(answer['view']['lag'], 'event')} behind the log.")


@jobs.command("show")
def show_job(
    task_id: str,
    at: Annotated[str | None, typer.Option(help="As it was: an instant, a day (its end), or a version.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show one job, as it is or as its events told it at a time.

    Examples:
      ledger jobs show 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51

      ledger jobs show 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --at 2026-03-31
    """
    task = Client.found().get(f"/api/v1/jobs/{task_id}", at=at)
    if as_json:
        print_json(task)
        return
    say(sentence_of(task))
    table(["FIELD", "VALUE"], [[name, shown(value)] for name, value in task.items() if name not in ("view", "error")])


@jobs.command("events")
def show_events(task_id: str, as_json: AsJson = False) -> None:
    """Tell the story of one job, event by event.

    Example: ledger jobs events 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51
    """
    events = Client.found().get(f"/api/v1/jobs/{task_id}/events")["events"]
    if as_json:
        print_json(events)
        return
    table(
        ["POSITION", "VERSION", "AT", "ACTOR", "EVENT", "WHAT"],
        [
            [
                str(event["position"]),
                str(event["version"]),
                event["at"],
                event["actor"],
                event["type"],
                _summary(event["data"]),
            ]
            for event in events
        ],
    )


@jobs.command("retry")
def retry_job(
    task_ids: TaskIds,
    reason: Reason = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every job has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Try failed jobs again: what is missing of one that waits for its retry, else the whole file.

    Example: ledger jobs retry 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --reason "the disk has room again" --wait
    """
    client = Client.found()
    tasks = [client.post(f"/api/v1/jobs/{task_id}/retry", reason=reason) for task_id in task_ids]
    if wait:
        tasks = [watch(client, task) for task in tasks]
    _tell(tasks, as_json)
    if wait and any(task["status"] != "Completed" for task in tasks):
        raise typer.Exit(ExitCode.JOB_FAILED)


@jobs.command("cancel")
def cancel_job(task_ids: TaskIds, reason: Reason = "", as_json: AsJson = False) -> None:
    """End jobs that have not completed; the rows that they have loaded are taken back.

    Example: ledger jobs cancel 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --reason "the wrong month"
    """
    client = Client.found()
    _tell([client.post(f"/api/v1/jobs/{task_id}/cancel", reason=reason) for task_id in task_ids], as_json)


@jobs.command("watch")
def watch_job(task_ids: TaskIds, as_json: AsJson = False) -> None:
    """Wait until jobs have ended, and tell what became of them.

    Example: ledger jobs watch 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51
    """
    client = Client.found()
    with bars(quiet=as_json) as progress:
        tasks = watch_all(client, progress, [client.get(f"/task/{task_id}") for task_id in task_ids], None)
    _tell(tasks, as_json)
    if any(task["status"] != "Completed" for task in tasks):
        raise typer.Exit(ExitCode.JOB_FAILED)


def _tell(tasks: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(tasks)
        return
    for task in tasks:
        say(sentence_of(task))


def _summary(data: dict[str, Any]) -> str:
    plain = {name: value for name, value in data.items() if isinstance(value, int | str) and value != ""}
    return " ".join(f"{name}={str(value)[:24]}" for name, value in plain.items())
