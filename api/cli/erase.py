"""`ledger erase`: names that nobody shall be able to read any more."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.options import AsJson, Reason
from api.cli.output import print_json, say

WORD = "erase"


def erase(
    reason: Reason,
    job: Annotated[str | None, typer.Argument(help="The job whose file's name is to be erased.")] = None,
    actor: Annotated[str | None, typer.Option(help="Erase who is behind this pseudonym instead.")] = None,
    confirm: Annotated[str | None, typer.Option(help=f"The word {WORD}, for scripts: nothing is asked.")] = None,
    as_json: AsJson = False,
) -> None:
    """Erase the name of a job's file, or of an actor, from the log. It cannot be taken back.

    Examples:
      ledger erase 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --reason "the customer asked for it"

      ledger erase --actor user:3f2a9c0d11e84b7a --reason "has left the company" --confirm erase
    """
    if (job is None) == (actor is None):
        raise CommandError("It has to be either a job or --actor.", "See ledger erase --help.", ExitCode.USAGE)
    client = Client.found()
    asked = {"actor_id": actor} if job is None else {"job_id": job}
    _confirm(f"the file's name of job {job}" if job else f"the name of {actor}", confirm)
    certificate = client.post("/api/v1/erasures", reason=reason, **asked)
    if as_json:
        print_json(certificate)
        return
    _tell(certificate)


def _confirm(what: str, given: str | None) -> None:
    if given is None and sys.stdin.isatty():
        say(f"This erases {what} for ever: no backup of the log brings it back.")
        given = typer.prompt(f"Type {WORD} to go on", default="", show_default=False, err=True)
    if given != WORD:
        raise CommandError(
            "Nothing was erased: it was not confirmed.", f"Type {WORD}, or give --confirm {WORD}.", ExitCode.USAGE
        )


def _tell(certificate: dict[str, Any]) -> None:
    times = sum(count for fields in certificate["fields"].values() for count in fields.values())
    say(f"Erased: {certificate['subject']}, at {certificate['erased_at']} by {certificate['erased_by']}.", "bold")
    say(f"Certificate {certificate['erasure_id']}. Fields that read (erased) from now on: {times:,}")
    for topic, fields in certificate["fields"].items():
        say(f"  {topic}: " + ", ".join(f"{name} ({count:,})" for name, count in fields.items()))
    say("Not erased:")
    for sentence in certificate["not_erased"]:
        say(f"  - {sentence}")
