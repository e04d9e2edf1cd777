"""`ledger archive`: fiscal years, from their closing on."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from api.cli.audit import tell_verified
from api.cli.client import Client, CommandError, ExitCode
from api.cli.operation_results import sentences
from api.cli.operations import result_of, tell, watched
from api.cli.options import AsJson, Reason, Wait
from api.cli.output import print_json, say, shown, table
from ledger.domain.counted import counted

# The order in which they are used, which is the one of the help.
COMMANDS = (
    "status", "plan", "soft-close", "close", "run", "verify", "drop",
    "restore", "release", "post", "reopen", "approve", "hold", "lift-hold", "locks", "gc",
)  # fmt: skip


class InOrderOfUse(TyperGroup):
    """Lists its commands in the order of `COMMANDS`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


archive = typer.Typer(
    cls=InOrderOfUse,
    no_args_is_help=True,
    help="""Fiscal years: closing them, into cold storage, and back.

    A year goes its way by: status, close, run, and drop, which another person approves.

    Example: ledger archive status

    Example: ledger archive close FY2025-26 --dry-run
    """,
)

YEARS = "/api/v1/archive/years"
Label = Annotated[str, typer.Argument(metavar="YEAR", help="The fiscal year, such as FY2025-26.")]
Case = Annotated[str, typer.Option(help="The legal case.")]


@archive.command("status")
def status(label: Annotated[str | None, typer.Argument(metavar="YEAR")] = None, as_json: AsJson = False) -> None:
    """Show where each fiscal year stands, or one of them with everything that is known.

    Example: ledger archive status FY2025-26
    """
    client = Client.found()
    if label is not None:
        tell_year(client.get(f"{YEARS}/{label}"), as_json)
        return
    years = client.get(YEARS)["years"]
    if as_json:
        print_json(years)
        return
    columns = ["fiscal_year", "start", "end", "state", "generation", "copy"]
    table(
        [*(name.upper().replace("_", " ") for name in columns), "NEXT"],
        [[*(shown(year[name]) for name in columns), _next(year)] for year in years],
    )


@archive.command("soft-close")
def soft_close(label: Label, as_json: AsJson = False) -> None:
    """Have a year that has ended take adjustments only: files of those who may `adjust`.

    Example: ledger archive soft-close FY2025-26
    """
    tell_year(Client.found().post(f"{YEARS}/{label}/soft-close"), as_json)


@archive.command("close")
def close(
    label: Label,
    yes: Annotated[
        str | None, typer.Option(metavar="YEAR", help="The name of the year again: nothing is asked.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be closed, and what is in the way.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Close a year for good: nobody changes its rows any more. With --dry-run, 5 means that something is in the way.

    Example: ledger archive close FY2025-26 --dry-run

    Example: ledger archive close FY2025-26 --yes FY2025-26
    """
    client = Client.found()
    if dry_run:
        _tell_plan(client.get(f"{YEARS}/{label}/closing"), as_json)
        return
    _confirm(label, yes)
    operation = client.post(f"{YEARS}/{label}/close", confirm=label)
    if wait:
        operation = watched(client, operation, f"closing {label}", quiet=as_json)
        result = result_of(operation)
        if as_json:
            print_json(result)
        else:
            say(sentences(operation))
        return
    tell(operation, as_json)


@archive.command("verify")
def verify(
    label: Label,
    content: Annotated[
        bool, typer.Option("--content", help="Read every object as well: what is cold has to be restored before.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Compare the archives of a year with their signed manifests, object by object.

    Ends with 9 if something is not as it was signed, and names the object; with 11 if not all could be read.

    Example: ledger archive verify FY2025-26 --content
    """
    client = Client.found()
    operation = client.post(f"{YEARS}/{label}/verify", content=content)
    if not wait:
        tell(operation, as_json)
        return
    result = result_of(watched(client, operation, f"verifying {label}", quiet=as_json, unit="parts"))
    tell_verified(result, as_json)


@archive.command("reopen")
def reopen(label: Label, reason: Reason, as_json: AsJson = False) -> None:
    """Ask for a closed year to take adjustments again. Somebody else has to approve it.

    Example: ledger archive reopen FY2025-26 --reason "the invoices of March were missing"
    """
    tell_year(Client.found().post(f"{YEARS}/{label}/reopen", reason=reason), as_json)


@archive.command("approve")
def approve(label: Label, as_json: AsJson = False) -> None:
    """Approve that a year is reopened, as another person than who asked for it.

    Example: ledger archive approve FY2025-26
    """
    tell_year(Client.found().post(f"{YEARS}/{label}/approve"), as_json)


@archive.command("hold")
def hold(label: Label, case: Case, as_json: AsJson = False) -> None:
    """Let nothing of a year be destroyed, for a legal case.

    Example: ledger archive hold FY2025-26 --case 2026/17
    """
    _tell_held(Client.found().post(f"{YEARS}/{label}/hold", case=case), as_json)


@archive.command("lift-hold")
def lift_hold(label: Label, case: Case, reason: Reason, as_json: AsJson = False) -> None:
    """Lift a hold, as another person than who placed it.

    Example: ledger archive lift-hold FY2025-26 --case 2026/17 --reason "settled"
    """
    _tell_held(Client.found().post(f"{YEARS}/{label}/lift-hold", case=case, reason=reason), as_json)


def _next(year: dict[str, Any]) -> str:
    """The command that leads on, if anything is to be done about the year."""
    label = year["fiscal_year"]
    match year["state"]:
        case "open" | "soft_closed":
            return f"ledger archive close {label} --dry-run" if year["is_proposed"] else ""
        case "closed" | "exported":
            return f"ledger archive run {label}"
        case "verified" if not year["holds"]:
            return f"ledger archive {'run' if year['is_drop_authorized'] else 'drop'} {label}"
        case "reopened":
            return f"ledger archive close {label} --dry-run"
    return ""


def _confirm(label: str, given: str | None) -> None:
    if given is None and sys.stdin.isatty():
        say(f"This closes fiscal year {label}: nobody changes its rows until two persons reopen it.")
        given = typer.prompt(f"Type {label} to go on", default="", show_default=False, err=True)
    if given != label:
        raise CommandError(
            "Nothing was closed: it was not confirmed.", f"Type {label}, or give --yes {label}.", ExitCode.USAGE
        )


def _tell_held(year: dict[str, Any], as_json: bool) -> None:
    tell_year(year, as_json)
    if year["operation_id"] and not as_json:
        say(f"  its objects in cold storage follow: ledger operations show {year['operation_id']}")


def _how_far(progress: dict[str, int] | None) -> str:
    """Parts of an archive, or how much of the log was read; nothing if nobody has told."""
    if progress is None:
        return ""
    if "parts" in progress:
        return f", {progress['parts']:,} of {counted(progress['parts_total'], 'part')}, {progress['bytes']:,} bytes"
    return f", {progress['position']:,} of {progress['log_position']:,} read"


def tell_year(year: dict[str, Any], as_json: bool) -> None:
    """Show where a year stands."""
    if as_json:
        print_json(year)
        return
    say(f"Fiscal year {year['fiscal_year']}, from {year['start']} up to {year['end']}: {year['state']}", "bold")
    parts = f"{year['parts_stored']:,} of {counted(year['parts'], 'part')}, {year['bytes_stored']:,} bytes"
    said = {
        "generation": year["generation"] or None,
        "rows when it was closed": None if year["rows"] is None else f"{year['rows']:,}",
        "closed by": year["closed_by"],
        "in cold storage": parts if year["parts"] else None,
        "manifest": year["manifest_sha256"],
        "copy from cold storage": {"none": None, "restored": f"in schema {year['copy_schema']}"}.get(
            year["copy"], year["copy"]
        ),
        "asked to be reopened by": year["reopen_requested_by"],
    }
    for what, value in said.items():
        if value is not None:
            say(f"  {what}: {shown(value)}")
    if year["is_drop_authorized"]:
        say(f"  that its rows are dropped was allowed by {year['drop_authorized_by']}")
    for each in year.get("operations", []):
        said_of = f"{each['kind'].replace('_', ' ')}, {each['status'].lower()}{_how_far(each['progress'])}"
        say(f"  under way: {said_of}: ledger operations show {each['operation_id']}")
    if _next(year) and not year.get("operations"):
        say(f"  next: {_next(year)}")
    for held in year["holds"]:
        say(f"  held for case {held['case']} by {held['placed_by']}")
    for late in year["late_records"]:
        say(f"  late: {counted(late['records'], 'record')} of job {late['job']}: ledger jobs rejects {late['job']}")
    for posted in year["adjustments"]:
        what = f"{counted(posted['records'], 'late record')} of job {posted['job']} in {posted['posted_in']}"
        say(f"  posted: {what} by job {posted['by_job']}: {posted['reason']}")


def _tell_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
    else:
        tables = [[each["dataset"], each["name"], f"{each['rows']:,}"] for each in plan["tables"]]
        what = f"{counted(plan['rows'], 'row')} of {counted(plan['files'], 'file')}"
        say(f"Fiscal year {plan['fiscal_year']}: {what}", "bold")
        table(["DATASET", "TABLE", "ROWS"], tables)
        for each in plan["in_the_way"]:
            say(f"In the way: {each['message']} {each['remedy']}", "red")
    if plan["in_the_way"]:
        raise typer.Exit(ExitCode.CONFLICT)
