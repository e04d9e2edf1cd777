"""The `ledger` command: its verbs, and what every one of them does with an error."""

from __future__ import annotations

import sys

import typer

from api.cli import adjustments, archives, archiving, records, trail  # noqa: F401 - they add commands to those of others
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
from ledger.errors import ConflictError, InvalidRequestError, LedgerError, NotFoundError, PartUnavailableError

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

# ERROR -> what the process ends with: the same as if the server had told it (`api.errors`, `EXIT_CODE_OF_STATUS`).
EXIT_CODE_OF: dict[type[Exception], int] = {
    InvalidRequestError: ExitCode.REFUSED,
    NotFoundError: ExitCode.NOT_FOUND,
    ConflictError: ExitCode.CONFLICT,
    PartUnavailableError: ExitCode.UNREACHABLE,
    LedgerError: ExitCode.FAILED,
    OSError: ExitCode.USAGE,
}


def exit_code_of(error: Exception) -> int:
    """What the process ends with after an error of the world."""
    if isinstance(error, CommandError):
        return error.exit_code
    return next(EXIT_CODE_OF[kind] for kind in type(error).__mro__ if kind in EXIT_CODE_OF)


def run() -> None:
    """Run a command; an error of the world ends it with a sentence and its exit code, never a traceback."""
    try:
        cli()
    except LedgerError as error:
        say(str(error), "red")
        sys.exit(exit_code_of(error))
    except OSError as error:
        say(f"{error.filename or 'A file'} cannot be used: {error.strerror}.", "red")
        sys.exit(exit_code_of(error))
    except SystemExit as ended:
        if ended.code == ExitCode.INTERRUPTED:
            say("Interrupted. What the ledger has received goes on: ledger jobs list")
        raise


if __name__ == "__main__":
    run()
