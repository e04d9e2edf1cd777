"""`ledger rebuild`, `ledger replay` and `ledger operations`: what operators ask for, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.jobs import AsJson, shown
from api.cli.load import watch_until
from api.cli.output import bars, print_json, say, table

operations = typer.Typer(no_args_is_help=True, help="What operators asked for, and what became of it.")

ENDS = ("Completed", "Failed")


Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")]


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
    view: Annotated[str | None, typer.Argument(help="The view: status, or data.DATASET; see `ledger views`.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All views, one after the other.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only compare: is a view what the log says?")] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Switch back to what was live before the last rebuild.")
    ] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Build a view anew from the log, compare it with the live one, and switch. A check that differs exits with 9.

    Example: ledger rebuild status

    Example: ledger rebuild --all --check
    """
    client = Client.found()
    if every == (view is not None):
        raise CommandError("Name one view, or say --all.", "`ledger views` lists them.", ExitCode.USAGE)
    names = [str(view)] if view else [str(each["view"]) for each in client.get("/api/v1/views")["views"]]
    chosen = {name: True for name, given in (("check", check), ("roll_back", roll_back)) if given}
    doing = "checking" if check else "rolling back" if roll_back else "rebuilding"
    told, exit_code = [], ExitCode.OK
    for name in names:
        try:
            operation = client.post(f"/api/v1/views/{name}/rebuild", **chosen)
            told.append(_ended(client, operation, f"{doing} {name}", wait=wait, quiet=as_json))
        except CommandError as error:
            if not every:
                raise
            say(f"{name}: {error}", "red")
            exit_code = error.exit_code
    if as_json:
        print_json(told if every else told[0])
    if check and wait and any(result["equal"] is not True for result in told):
        exit_code = exit_code or ExitCode.DIFFERS
    raise typer.Exit(exit_code)


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
    _tell(Client.found().get(f"/api/v1/operations/{operation_id}"), as_json)


def _ended(client: Client, operation: dict[str, Any], what: str, *, wait: bool, quiet: bool) -> dict[str, Any]:
    """What an operation came to, or the operation itself if nobody waits; said unless quiet."""
    if not wait:
        if not quiet:
            _tell(operation, as_json=False)
        return operation
    ended = _watched(client, operation, what, quiet=quiet)
    result = _result(ended)
    if not quiet:
        say(_sentences(ended))
    return result


def _watched(client: Client, operation: dict[str, Any], what: str, *, quiet: bool) -> dict[str, Any]:
    """Wait until an operation has ended, with a bar if somebody looks; the operation then."""
    operation_id = operation["operation_id"]
    with bars(quiet=quiet, unit="events") as progress:
        show = None if progress is None else progress.add_share(what)

        def on_news(news: dict[str, Any]) -> None:
            if show is not None and news["progress"] is not None:
                show(news["progress"]["position"], news["progress"]["log_position"])

        return watch_until(
            client,
            f"/api/v1/operations/{operation_id}",
            operation,
            lambda known: known["status"] in ENDS,
            name=what,
            remedy=f"It goes on without you: ledger operations show {operation_id}",
            on_news=None if show is None else on_news,
        )


def _result(operation: dict[str, Any]) -> dict[str, Any]:
    if operation["error"] is not None:
        raise CommandError(operation["error"]["message"], operation["error"]["remedy"], ExitCode.FAILED)
    result = operation["result"]
    assert isinstance(result, dict)
    return result


def _tell(operation: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(operation)
        return
    kind, operation_id, status = operation["kind"], operation["operation_id"], operation["status"]
    match status:
        case "Completed":
            say(_sentences(operation))
        case "Failed":
            say(f"{kind} {operation_id}: failed. {operation['error']['message']} {operation['error']['remedy']}")
        case _:
            say(f"{kind} {operation_id}: {status.lower()}. Look again: ledger operations show {operation_id}")


def _sentences(operation: dict[str, Any]) -> str:
    """What an operation came to, in plain sentences."""
    result = operation["result"]
    if operation["kind"] == "replay":
        return _replayed(result)
    if operation["arguments"].get("roll_back"):
        return f"View {result['view']} is what it was before the last rebuild: generation {result['generation']}."
    compared = {
        True: "Its content equals the old one's.",
        False: "The old one had drifted from the log; the new one is right.",
        None: "Events came in too fast to compare it with the old one.",
    }
    if operation["arguments"].get("check"):
        compared = {
            True: "The live one equals what the log says.",
            False: "The live one differs from what the log says. `ledger rebuild` puts it right.",
            None: "Events came in too fast to compare it with the live one.",
        }
    done = "built beside the live one" if operation["arguments"].get("check") else "rebuilt"
    return "\n".join(
        [
            f"View {result['view']} {done} from {result['events']:,} events, up to position {result['position']:,}. "
            f"{compared[result['equal']]}",
            *_listed(result, _difference),
        ]
    )


def _replayed(result: dict[str, Any]) -> str:
    lines = [
        f"Job {result['job_id']}: {result['records']:,} records in {result['chunks']:,} chunks were read again. "
        + ("All is as the log says." if result["equal"] else "Not all is as the log says:"),
        *_listed(result, _difference_of_replay),
    ]
    now = result["parser_version_now"]
    if now not in (None, result["parser_version"]):
        lines.append(f"The reader was {result['parser_version']} then, and is {now} now.")
    return "\n".join(lines)


def _listed(result: dict[str, Any], line: Callable[[dict[str, Any]], str]) -> list[str]:
    found = result.get("differences", [])
    more = result.get("differences_total", 0) - len(found)
    return [*(f"  {line(each)}" for each in found), *([f"  and {more:,} more"] if more else [])]


def _difference(found: dict[str, Any]) -> str:
    if "what" in found:
        return f"job {found['job_id']}: {found['what']}"
    rows = ", ".join(
        f"{name}: {rows['rows']:,} rows, by the log {rows['rows_in_log']:,}"
        for name, rows in found["partitions"].items()
    )
    records = "; ".join(
        f"{what} {', '.join(map(str, found[f'records_{what}']))}"
        for what in ("missing", "unknown", "changed")
        if found[f"records_{what}"]
    )
    job = found["job_id"] or f"nobody knows (_job {found['job_position']})"
    return f"job {job}: {rows}" + (f"; records {records}" if records else "")


def _difference_of_replay(found: dict[str, Any]) -> str:
    where = "" if found["chunk"] is None else f"chunk {found['chunk']}: "
    return f"{where}{found['what']} is {found['got']}, by the log {found['expected']}"
