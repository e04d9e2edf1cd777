"""`ledger archive plan|run|drop`: a closed year goes into cold storage, and its rows away."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.operation_results import sentences
from api.cli.operations import result_of, tell, watched
from api.cli.options import AsJson, Wait
from api.cli.output import print_json, say, table
from api.cli.years import YEARS, Label, archive
from ledger.domain.counted import counted


@archive.command("plan")
def plan(label: Label, as_json: AsJson = False) -> None:
    """Show what a year's end would find, take and cost, and what comes next. Nothing is changed.

    The year may be open or closed. 5 means that something is in the way.

    Example: ledger archive plan FY2025-26
    """
    planned = Client.found().get(f"{YEARS}/{label}/plan")
    if as_json:
        print_json(planned)
    else:
        _show_plan(planned)
    if planned["in_the_way"]:
        raise typer.Exit(ExitCode.CONFLICT)


@archive.command("run")
def run(
    label: Label,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it takes and costs, about.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Archive a closed year, up to an archive that was verified. Its rows stay where they are.

    With --dry-run, 5 means that something is in the way.

    Example: ledger archive run FY2025-26 --dry-run

    Example: ledger archive run FY2025-26
    """
    client = Client.found()
    if dry_run:
        _tell_estimate(client.get(f"{YEARS}/{label}/archive"), as_json)
        return
    _tell(client, client.post(f"{YEARS}/{label}/archive"), f"archiving {label}", wait, as_json)


@archive.command("drop")
def drop(
    label: Label,
    yes: Annotated[
        str | None, typer.Option(metavar="YEAR", help="The name of the year again: nothing is asked.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Approve that the rows of a verified year are dropped, as another person than who closed it, and have it done.

    Example: ledger archive drop FY2025-26 --yes FY2025-26
    """
    if yes is None and sys.stdin.isatty():
        say(f"This drops the rows of fiscal year {label} here: from then on they are in its archive alone.")
        yes = typer.prompt(f"Type {label} to go on", default="", show_default=False, err=True)
    if yes != label:
        raise CommandError(
            "Nothing was dropped: it was not confirmed.", f"Type {label}, or give --yes {label}.", ExitCode.USAGE
        )
    client = Client.found()
    _tell(client, client.post(f"{YEARS}/{label}/drop", confirm=label), f"dropping {label}", wait, as_json)


def _tell(client: Client, operation: dict[str, Any], what: str, wait: bool, as_json: bool) -> None:
    if not wait:
        tell(operation, as_json)
        return
    operation = watched(client, operation, what, quiet=as_json, unit="parts")
    result = result_of(operation)
    if as_json:
        print_json(result)
    else:
        say(sentences(operation))


def _tell_estimate(estimate: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(estimate)
    else:
        _show_estimate(estimate)
    if estimate["in_the_way"]:
        raise typer.Exit(ExitCode.CONFLICT)


def _show_estimate(estimate: dict[str, Any]) -> None:
    what = f"{counted(estimate['rows'], 'row')} and {counted(estimate['files'], 'file')}"
    what += f", kept for {counted(estimate['retention_years'], 'year')}"
    say(f"Fiscal year {estimate['fiscal_year']}, generation {estimate['generation']}: {what}", "bold")
    _show_classes(estimate["classes"])
    _show_what_is_in_the_way(estimate)


def _show_plan(planned: dict[str, Any]) -> None:
    label, days = planned["fiscal_year"], f"from {planned['start']} up to {planned['end']}"
    say(f"Fiscal year {label}, {days}: {planned['state']}", "bold")
    files = f"{counted(planned['files'], 'file')} of {planned['file_bytes']:,} bytes"
    what = f"{counted(planned['rows'], 'row')}, and {files} in {counted(planned['jobs'], 'job')}"
    say(f"  {what}, to be kept for {counted(planned['retention_years'], 'year')}")
    tables = [[each["dataset"], each["name"], f"{each['rows']:,}", f"{each['bytes']:,}"] for each in planned["tables"]]
    table(["DATASET", "TABLE", "ROWS", "BYTES"], tables)
    _show_classes(planned["classes"])
    for offer in planned["restore"]:
        costs = f"up to {offer['hours_max']} hours and about {offer['dollars']} US dollars"
        lasting = f"with copies for {counted(offer['days'], 'day')}"
        say(f"Bringing its rows back by {offer['tier']} takes {costs}, {lasting}.")
    for late in planned["late_records"]:
        job = late["job"]
        say(f"Late: {counted(late['records'], 'record')} of job {job}: ledger archive post {label} --job {job}")
    _show_what_is_in_the_way(planned)
    if not any(each["code"].startswith("cold_store") for each in planned["in_the_way"]):
        say(f"The cold store {planned['store']} can keep it.")
    say(f"{'Then' if planned['in_the_way'] else 'Next'}: {planned['next']}")


def _show_classes(classes: list[dict[str, Any]]) -> None:
    """What is kept by class, with its price where it has one."""
    rows = [[each["storage_class"], f"{each['objects']:,}", f"{each['bytes']:,}"] for each in classes]
    head = ["CLASS", "OBJECTS", "BYTES"]
    priced = "by the price list of S3 in us-east-1 of June 2026"
    if all(each["dollars_to_put"] is None for each in classes):
        priced = "and a folder has no price"
    else:
        head += ["$ TO PUT", "$ A MONTH", "$ IN ALL"]
        for row, each in zip(rows, classes, strict=True):
            row += [f"{each['dollars_to_put']:.4f}", f"{each['dollars_a_month']:.4f}", f"{each['dollars_in_all']:.2f}"]
    table(head, rows)
    say(f"Guessed from what is in the database, {priced}.")


def _show_what_is_in_the_way(found: dict[str, Any]) -> None:
    for each in found["in_the_way"]:
        say(f"In the way: {each['message']} {each['remedy']}", "red")
