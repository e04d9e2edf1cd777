"""The `ledger` command: its verbs, and what every one of them does with an error."""

from __future__ import annotations

import sys

import typer

from api.cli import records, trail  # noqa: F401 - they add commands to those of jobs and audit
from api.cli.audit import audit
from api.cli.client import CommandError, ExitCode
from api.cli.datasets import datasets
from api.cli.doctor import config, doctor
from api.cli.erase import erase
from api.cli.jobs import jobs
from api.cli.keys import keys, whoami
from api.cli.load import load
from api.cli.operations import list_views, operations, rebuild, replay
from api.cli.output import say
from api.cli.up import up
from api.cli.years import archive
from ledger.errors import LedgerError

cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="An auditable ledger of the files that teams send: what arrived, and what became of every record.",
)
cli.command()(up)
cli.command()(load)
cli.add_typer(jobs, name="jobs")
cli.add_typer(datasets, name="datasets")
cli.command("views")(list_views)
cli.command()(rebuild)
cli.command()(replay)
cli.add_typer(operations, name="operations")
cli.add_typer(audit, name="audit")
cli.add_typer(archive, name="archive")
cli.command()(erase)
cli.add_typer(keys, name="keys")
cli.command()(whoami)
cli.command()(doctor)
cli.command()(config)


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
    except OSError as error:
        say(f"{error.filename or 'A file'} cannot be used: {error.strerror}.", "red")
        sys.exit(ExitCode.USAGE)
    except SystemExit as ended:
        if ended.code == ExitCode.INTERRUPTED:
            say("Interrupted. What the ledger has received goes on: ledger jobs list")
        raise


if __name__ == "__main__":
    run()
