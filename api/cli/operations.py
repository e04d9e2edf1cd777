"""`ledger rebuild` and `ledger operations`: what operators ask for, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.jobs import AsJson
from api.cli.load import watch_until
from api.cli.output import bars, print_json, say

operations = typer.Typer(no_args_is_help=True, help="What operators asked for, and what became of it.")

ENDS = ("Completed", "Failed")


def rebuild(
    view: Annotated[str, typer.Argument(help="The view: status.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is done.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build a view anew from the log, compare, and switch to it.

    Example: ledger rebuild status
    """
    client = Client.found()
    operation = client.post(f"/api/v1/views/{view}/rebuild")
    if not wait:
        _tell(operation, as_json)
        return
    result = result_of(watched(client, operation, f"rebuilding {view}", quiet=as_json))
    if as_json:
        print_json(result)
    else:
        say(_rebuilt(result))


@operations.command("show")
def show_operation(operation_id: str, as_json: AsJson = False) -> None:
    """Show one operation.

    Example: ledger operations show 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51
    """
    _tell(Client.found().get(f"/api/v1/operations/{operation_id}"), as_json)


def watched(client: Client, operation: dict[str, Any], what: str, *, quiet: bool) -> dict[str, Any]:
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


def _tell(operation: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(operation)
        return
    kind, operation_id, status = operation["kind"], operation["operation_id"], operation["status"]
    match status:
        case "Completed":
            say(SENTENCES[kind](operation["result"]))
        case "Failed":
            say(f"{kind} {operation_id}: failed. {operation['error']['message']} {operation['error']['remedy']}")
        case _:
            say(f"{kind} {operation_id}: {status.lower()}. Look again: ledger operations show {operation_id}")


def _rebuilt(result: dict[str, Any]) -> str:
    """What a rebuild came to, in plain sentences."""
    compared = {
        True: "Its content equals the old one's.",
        False: "The old one had drifted from the log; the new one is right.",
        None: "Events came in too fast to compare it with the old one.",
    }[result["equal"]]
    return (
        f"View {result['view']} rebuilt from {result['events']:,} events, up to position {result['position']:,}. "
        f"{compared}"
    )


def verified(result: dict[str, Any]) -> str:
    """What a verification came to, in plain sentences."""
    read = [f"{result[name]:,} {name}" for name in ("events", "leaves", "checkpoints") if result[name]]
    elsewhere = f"and {result['anchors']:,} checkpoints that are kept elsewhere"
    what = f"Verified ({result['level']}): {', '.join(read) or 'nothing'}, {elsewhere}."
    waiting = f" {result['events_not_sealed']:,} events are not sealed yet." if result["events_not_sealed"] else ""
    if result["holds"]:
        return f"{what}{waiting} Nothing was changed."
    listed = "\n".join(f"  {finding['message']}" for finding in result["findings"])
    return f"{what}{waiting} {result['findings_total']:,} findings:\n{listed}"


# KIND of operation -> what it came to, for people.
SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {"rebuild": _rebuilt, "verify": verified}
