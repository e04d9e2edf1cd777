"""`ledger archive restore|release|locks|gc`: archives of fiscal years in cold storage."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import Client, ExitCode
from api.cli.operation_results import sentences
from api.cli.operations import result_of, tell, watched
from api.cli.options import AsJson, ReasonUnlessDry
from api.cli.output import print_json, say, shown, table
from api.cli.years import YEARS, Label, archive, tell_year
from ledger.domain.counted import counted

Tier = Annotated[str, typer.Option(help="Expedited, Standard or Bulk: the faster, the dearer.")]
Days = Annotated[int, typer.Option(help="Days for which the copies stay in the cold store.")]


@archive.command("restore")
def restore(
    label: Label,
    reason: ReasonUnlessDry = "",
    tier: Tier = "Standard",
    days: Days = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it takes and costs.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is there: minutes to days.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the rows of an archived year back, to be read in a schema of their own. The archive stays.

    Example: ledger archive restore FY2025-26 --tier Bulk --dry-run

    Example: ledger archive restore FY2025-26 --tier Bulk --reason "the auditors ask"
    """
    client = Client.found()
    if dry_run:
        _tell_plan(client.get(f"{YEARS}/{label}/restore", tier=tier, days=days), as_json)
        return
    operation = client.post(f"{YEARS}/{label}/restore", reason=reason, tier=tier, days=days)
    if not wait:
        tell(operation, as_json)
        return
    operation = watched(client, operation, f"restoring {label}", quiet=as_json)
    result = result_of(operation)
    if as_json:
        print_json(result)
    else:
        say(sentences(operation))


@archive.command("release")
def release(label: Label, as_json: AsJson = False) -> None:
    """Drop the copy of a year that was brought back, or want none any more. The archive stays.

    Example: ledger archive release FY2025-26
    """
    tell_year(Client.found().post(f"{YEARS}/{label}/release"), as_json)


@archive.command("locks")
def locks(label: Label, as_json: AsJson = False) -> None:
    """Show until when the objects of a year are locked and which are on hold. What is not as the log says exits with 9.

    Example: ledger archive locks FY2025-26
    """
    found = Client.found().get(f"{YEARS}/{label}/locks")
    if as_json:
        print_json(found)
    else:
        for each in found["generations"]:
            held = f"{counted(each['held'], 'object')} on hold"
            say(f"Generation {each['generation']}, kept until {each['retain_until']}: {held}")
            for lock in each["locks"]:
                locked = f"{counted(lock['objects'], 'object')} locked"
                say(f"  {locked}: {shown(lock['mode'])} until {shown(lock['until'])}")
        for finding in found["findings"]:
            say(f"  {finding}", "red")
    if found["findings_total"]:
        raise typer.Exit(ExitCode.DIFFERS)


@archive.command("gc")
def list_garbage(as_json: AsJson = False) -> None:
    """List what lies in the cold store and belongs to no archive. Nothing is deleted: that is for who owns the bucket.

    Example: ledger archive gc
    """
    found = Client.found().get("/api/v1/archive/garbage")
    if as_json:
        print_json(found)
        return
    columns = ["key", "version", "size_bytes", "locked_until"]
    table(
        [name.upper().replace("_", " ") for name in columns],
        [[shown(each[name]) for name in columns] for each in found["objects"]],
    )
    say(f"In no archive: {counted(found['objects_total'], 'object')} with {found['size_bytes']:,} bytes.")


def _tell_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    what = f"{counted(plan['rows'], 'row')}, in {counted(plan['objects'], 'object')}"
    say(f"Fiscal year {plan['fiscal_year']}: {what}", "bold")
    columns = ["storage_class", "objects", "bytes", "hours_max", "dollars"]
    table(
        [name.upper().replace("_", " ") for name in columns],
        [[shown(each[name]) for name in columns] for each in plan["classes"]],
    )
    costs = f"up to {plan['hours_max']} hours and costs about {plan['dollars']} US dollars"
    say(f"{plan['tier']} takes {costs}, with copies for {counted(plan['days'], 'day')} ({plan['prices']}).")
