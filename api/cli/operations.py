"""`ledger rebuild`, `ledger replay` and `ledger operations`: what operators ask for, and what became of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.load import watch_until
from api.cli.operation_results import sentences
from api.cli.options import AsJson, Wait
from api.cli.output import Unit, bars, print_json, say, shown, table

operations = typer.Typer(no_args_is_help=True, help="What operators asked for, and what became of it.")

ENDS = ("Completed", "Failed")


def list_views(as_json: AsJson = False) -> None:
    """List what is derived from the log, and how far behind the log each of it is.

    Example: ledger views
    """
    views = Client.found().get("/api/v1/views")["views"]
    if as_json:
        print_json(views)
        return
    columns = ["view", "position", "lag", "generation"]
    table([column.upper() for column in columns], [[shown(view[column]) for column in columns] for view in views])


def rebuild(
    view: Annotated[str | None, typer.Argument(help="status, trail or data.DATASET; see `ledger views`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All views, one after the other.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only compare: is a view what the log says?")] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Switch back to what was live before the last rebuild.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Build a view anew from the log, compare it with the live one, and switch.

    A check ends with 9 if the view differs. Of several views the worst counts: one that differs, else the first that
    failed.

    Example: ledger rebuild status

    Example: ledger rebuild --all --check
    """
    client = Client.found()
    if every == (view is not None):
        raise CommandError("Name one view, or say --all.", "`ledger views` lists them.", ExitCode.USAGE)
    names = [str(view)] if view else [str(each["view"]) for each in client.get("/api/v1/views")["views"]]
    chosen = {name: True for name, given in (("check", check), ("roll_back", roll_back)) if given}
    doing = "checking" if check else "rolling back" if roll_back else "rebuilding"
    told, exit_codes = [], []
    for name in names:
        try:
            operation = client.post(f"/api/v1/views/{name}/rebuild", **chosen)
            told.append(_ended(client, operation, f"{doing} {name}", wait=wait, quiet=as_json))
            differs = check and wait and not told[-1]["equal"]
            exit_codes.append(ExitCode.DIFFERS if differs else ExitCode.OK)
        except CommandError as error:
            if not every:
                raise
            say(f"{name}: {error}", "red")
            exit_codes.append(error.exit_code)
    if as_json:
        print_json(told if every else told[0])
    raise typer.Exit(_worst(exit_codes))


def _worst(exit_codes: list[int]) -> int:
    """The exit code for all; of failures the first."""
    severity = {ExitCode.OK: 0, ExitCode.DIFFERS: 2}
    return max(exit_codes, key=lambda exit_code: severity.get(exit_code, 1))


def replay(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job: its task id.")],
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Read a job's file again as it was read, and compare all that comes of it with the log. What differs exits with 9.

    Example: ledger replay 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51
    """
    client = Client.found()
    operation = client.post(f"/api/v1/jobs/{job_id}/replay")
    result = _ended(client, operation, f"replaying {job_id}", wait=wait, quiet=as_json)
    if as_json:
        print_json(result)
    if wait and not result["equal"]:
        raise typer.Exit(ExitCode.DIFFERS)


@operations.command("show")
def show_operation(operation_id: str, as_json: AsJson = False) -> None:
    """Show one operation.

    Example: ledger operations show 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51
    """
    tell(Client.found().get(f"/api/v1/operations/{operation_id}"), as_json)


def _ended(client: Client, operation: dict[str, Any], what: str, *, wait: bool, quiet: bool) -> dict[str, Any]:
    """What an operation came to, or the operation itself if nobody waits; said unless quiet."""
    if not wait:
        if not quiet:
            tell(operation, as_json=False)
        return operation
    ended = watched(client, operation, what, quiet=quiet)
    result = result_of(ended)
    if not quiet:
        say(sentences(ended))
    return result


def watched(
    client: Client, operation: dict[str, Any], what: str, *, quiet: bool, unit: Unit = "events"
) -> dict[str, Any]:
    """Wait until an operation has ended, with a bar if somebody looks; the operation then."""
    operation_id = operation["operation_id"]
    with bars(quiet=quiet, unit=unit) as progress:
        show = None if progress is None else progress.add_share(what)

        def on_news(news: dict[str, Any]) -> None:
            told = news["progress"]
            if show is not None and told is not None:
                show(
                    *(
                        told[name]
                        for name in (("parts", "parts_total") if "parts" in told else ("position", "log_position"))
                    )
                )

        return watch_until(
            client,
            f"/api/v1/operations/{operation_id}",
            operation,
            lambda known: known["status"] in ENDS,
            name=what,
            remedy=f"It goes on without you: ledger operations show {operation_id}",
            on_news=None if show is None else on_news,
        )


def result_of(operation: dict[str, Any]) -> dict[str, Any]:
    """What an operation came to.

    Raises:
        CommandError: it has failed.
    """
    if operation["error"] is not None:
        raise CommandError(operation["error"]["message"], operation["error"]["remedy"], ExitCode.FAILED)
    result = operation["result"]
    assert isinstance(result, dict)
    return result


def tell(operation: dict[str, Any], as_json: bool) -> None:
    """Show an operation, done or not."""
    if as_json:
        print_json(operation)
        return
    kind, operation_id, status = operation["kind"], operation["operation_id"], operation["status"]
    match status:
        case "Completed":
            say(sentences(operation))
        case "Failed":
            say(f"{kind} {operation_id}: failed. {operation['error']['message']} {operation['error']['remedy']}")
        case _:
            say(f"{kind} {operation_id}: {status.lower()}. Look again: ledger operations show {operation_id}")
