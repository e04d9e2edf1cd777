"""The `ledger` command: its verbs, and what every one of them does with an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.doctor import config, doctor
from api.cli.jobs import AsJson, jobs
from api.cli.load import load
from api.cli.output import print_json, say
from api.cli.up import up
from ledger.errors import LedgerError

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An auditable ledger of the files that teams send: what arrived, and what became of every record.",
)
cli.command()(up)
cli.command()(load)
cli.add_typer(jobs, name="jobs")
cli.command()(doctor)
cli.command()(config)


@cli.command()
def rebuild(view: Annotated[str, typer.Argument(help="The view: status.")], as_json: AsJson = False) -> None:
    """Build a view anew from the log, compare, and switch to it.

    Example: ledger rebuild status
    """
    answer = Client.found().post(f"/api/v1/views/{view}/rebuild")
    if as_json:
        print_json(answer)
        return
    compared = {
        True: "Its content equals the old one's.",
        False: "The old one had drifted from the log; the new one is right.",
        None: "Events came in too fast to compare it with the old one.",
    }[answer["equal"]]
    say(f"View {view} rebuilt from {answer['events']:,} events, up to position {answer['position']:,}. {compared}")


def run() -> None:
    """Run a command; an error of the world ends it with a sentence and its exit code, never a traceback."""
    try:
        cli()
    except CommandError as error:
        say(str(error), "red")
        sys.exit(error.exit_code)
    except LedgerError as error:
        say(str(error), "red")
        sys.exit(ExitCode.FAILED)
    except KeyboardInterrupt:
        say("Interrupted. What the ledger has received goes on: ledger jobs list")
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    run()
