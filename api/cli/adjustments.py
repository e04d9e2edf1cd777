"""`ledger archive post`: late records of a closed year are posted in one that is open."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import Client, ExitCode
from api.cli.load import watch_all
from api.cli.operation_results import sentences
from api.cli.operations import result_of, tell, watched
from api.cli.options import AsJson, ReasonUnlessDry, Wait
from api.cli.output import bars, print_json, say, sentence_of, table
from api.cli.years import YEARS, Label, archive


@archive.command("post")
def post(
    label: Label,
    job: Annotated[str, typer.Option(metavar="JOB", help="The job whose late records are posted.")],
    reason: ReasonUnlessDry = "",
    posted_on: Annotated[
        str | None, typer.Option("--date", metavar="DAY", help="When, in a year that is open; today by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be posted, and where.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Post the late records of a job and a closed year in one that is open: in the adjustments of their dataset.

    Waits until they are loaded there; ends with 7 if they are not.

    Example: ledger archive post FY2025-26 --job 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --dry-run

    Example: ledger archive post FY2025-26 --job 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --reason "as agreed"
    """
    client, path = Client.found(), f"{YEARS}/{label}/post"
    if dry_run:
        _tell_posting(client.get(path, job=job, posted_on=posted_on), as_json)
        return
    operation = client.post(path, job=job, reason=reason, posted_on=posted_on)
    if not wait:
        tell(operation, as_json)
        return
    operation = watched(client, operation, f"posting late records of {label}", quiet=as_json)
    result = result_of(operation)
    if not as_json:
        say(sentences(operation))
    task = client.get(f"/task/{result['by_job']}")
    with bars(quiet=as_json) as progress:
        [task] = watch_all(client, progress, [task], None)
    if as_json:
        print_json({**result, "task": task})
    else:
        say(sentence_of(task))
    if task["status"] != "Completed":
        raise typer.Exit(ExitCode.JOB_FAILED)


def _tell_posting(posting: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(posting)
        return
    where = f"{posting['dataset']}, posted on {posting['posted_on']} in {posting['posted_in']}"
    say(f"{posting['records']:,} late records of fiscal year {posting['fiscal_year']} would go into {where}", "bold")
    totals = ("count", "sum", "min", "max")
    rows = [[name, *(total.get(what, "") for what in totals)] for name, total in posting["columns"].items()]
    table(["COLUMN", *(what.upper() for what in totals)], rows)
