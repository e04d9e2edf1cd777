"""`ledger audit`, its questions: what happened, who did it, and a file of it for others to check."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.audit import audit, public_keys
from api.cli.client import Client, CommandError, ExitCode
from api.cli.options import AsJson
from api.cli.output import bars, print_json, say, shown, table, whole_file
from ledger.domain.counted import counted
from ledger.domain.words import ExportFormat
from ledger.errors import LedgerError

SIGNED_SECONDS_MAX = 30.0
POLL_SECONDS = 0.2

# OPTION -> what it asks for, of everything that asks the trail.
QUESTION: dict[str, Any] = {
    "job": Annotated[str | None, typer.Option(help="A job, and what others have to do with it.")],
    "sha256": Annotated[str | None, typer.Option(help="Jobs of these bytes.")],
    "filename": Annotated[str | None, typer.Option(help="Jobs of files with exactly this name.")],
    "actor": Annotated[str | None, typer.Option(help="What this actor did.")],
    "dataset": Annotated[str | None, typer.Option(help="What is about this dataset.")],
    "fiscal_year": Annotated[str | None, typer.Option(help="What touched rows of this year, such as FY2025-26.")],
    "topic": Annotated[
        str | None, typer.Option(help="One kind of event (filejob.received), or a beginning (filejob).")
    ],
    "since": Annotated[str | None, typer.Option(help="From this day (in the ledger's zone) or instant on.")],
    "until": Annotated[str | None, typer.Option(help="Up to this day or instant, with all of it.")],
    "text": Annotated[str | None, typer.Option(help="Somewhere in a reason, a message or a file's name.")],
}


def with_question(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of a question besides its own. What they say comes to it as `asked`."""
    own = inspect.signature(command, eval_str=True).parameters.values()

    @wraps(command)
    def asking(**given: Any) -> None:
        command({name: given.pop(name) for name in QUESTION}, **given)

    question = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=option) for name, option in QUESTION.items()
    ]
    options = [*question, *(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own if each.name != "asked")]
    asking.__signature__ = Signature(options)  # type: ignore[attr-defined]
    asking.__annotations__ = {each.name: each.annotation for each in options}
    return asking


@audit.command("trail")
@with_question
def show_trail(
    asked: dict[str, str | None],
    before: Annotated[int | None, typer.Option(min=0, help="Only before this position.")] = None,
    after: Annotated[int | None, typer.Option(min=0, help="After this position, the oldest first.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Tell what happened, newest first. Everything that is asked for must hold.

    Examples:
      ledger audit trail --filename june.csv

      ledger audit trail --actor admin --since 2026-04-01 --until 2026-04-30

      ledger audit trail --dataset payments --fiscal-year FY2025-26 --topic filejob.completed
    """
    answer = Client.found().get("/api/v1/audit", **asked, before=before, after=after, limit=limit)
    if as_json:
        print_json(answer)
        return
    table(
        ["POSITION", "AT", "ACTOR", "EVENT", "DATASET", "FILE", "JOB", "WHAT"],
        [
            [
                str(entry["position"]),
                entry["at"],
                entry["actor"],
                entry["topic"],
                shown(entry["dataset"]),
                shown(entry["filename"]),
                shown(entry["job"]),
                entry["text"].replace("\n", " "),
            ]
            for entry in answer["entries"]
        ],
    )
    if answer["next"] is not None:
        say(f"There are more: --{'before' if after is None else 'after'} {answer['next']}")
    if answer["view"]["lag"]:
        say(f"The trail is {counted(answer['view']['lag'], 'event')} behind the log.")


@audit.command("event")
def show_event(position: int, as_json: AsJson = False) -> None:
    """Show one event of the log with all that it says.

    Example: ledger audit event 17
    """
    event = Client.found().get(f"/api/v1/audit/{position}")
    if as_json:
        print_json(event)
        return
    told = {**{name: value for name, value in event.items() if name != "data"}, **event["data"]}
    table(["FIELD", "VALUE"], [[name, shown(value)] for name, value in told.items()])


@audit.command("export")
@with_question
def export(
    asked: dict[str, str | None],
    to: Annotated[Path, typer.Option("--output", "-o", help="The file; its manifest is FILE.manifest.")],
    format: Annotated[ExportFormat, typer.Option(help="How it is written; ndjson is exact.")] = ExportFormat.NDJSON,
    as_json: AsJson = False,
) -> None:
    """Write everything that is asked for into a file, in the order of the log, and its signed manifest beside it.

    Example: ledger audit export --fiscal-year FY2025-26 --format csv -o fy2025-26.csv
    """
    client = Client.found()
    with whole_file(to) as file, bars(quiet=as_json) as progress:
        on_progress = None if progress is None else progress.add(to.name, None)
        manifest_path = client.save("/api/v1/audit/export", file, on_progress, format=format.value, **asked)
        manifest = _signed(client, manifest_path)
        with whole_file(manifest_file_of(to)) as beside:
            beside.write(manifest)
    if as_json:
        print_json({"file": str(to), "manifest": str(manifest_file_of(to)), "size": to.stat().st_size})
    else:
        say(f"{to} is written, and signed in {manifest_file_of(to)}. Check it with: ledger audit check-export {to}")


@audit.command("check-export")
def check(
    file: Annotated[Path, typer.Argument(help="The file; its manifest stands beside it.", exists=True, dir_okay=False)],
    key: Annotated[str, typer.Option(help="The ledger's public key (name+id+key), or a file that holds it.")],
    as_json: AsJson = False,
) -> None:
    """Check that an export is, to the last byte, what the ledger signed. Needs no ledger; ends with 9 if it is not.

    Example: ledger audit check-export fy2025-26.csv --key ledger.pub
    """
    from ledger.manifests import check_export

    known = public_keys(key)
    try:
        values = check_export(file, manifest_file_of(file).read_bytes(), known)
    except OSError as error:
        raise CommandError(
            f"{error.filename} cannot be read: {error.strerror}.",
            "The manifest belongs beside the file.",
            ExitCode.USAGE,
        ) from error
    except LedgerError as error:
        raise CommandError(error.message, error.remedy, ExitCode.DIFFERS) from error
    if as_json:
        print_json(values)
    else:
        say(
            f"{file} is what {known[0].name} signed: {values['entries']:,} entries, taken at {values['taken_at']} "
            f"by {values['taken_by']}."
        )


def manifest_file_of(file: Path) -> Path:
    """Where the manifest of an export stands."""
    return file.with_name(f"{file.name}.manifest")


def _signed(client: Client, path: str) -> bytes:
    """The manifest at that path, as soon as it is signed."""
    deadline = time.monotonic() + SIGNED_SECONDS_MAX
    while True:
        try:
            return client.read(path)
        except CommandError as error:
            if error.exit_code != ExitCode.UNREACHABLE or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)
