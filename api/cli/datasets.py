"""`ledger datasets`: the tables that files go into, and their contracts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.output import print_json, say, table
from api.cli.preview import preview_of, show_previews
from api.cli.sources import Source

datasets = typer.Typer(no_args_is_help=True, help="The tables that files go into, and their contracts.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@datasets.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List all datasets.

    Example: ledger datasets list
    """
    found = Client.found().get("/api/v1/datasets")["datasets"]
    if as_json:
        print_json(found)
        return
    for name in found:
        say(name)
    if not found:
        say("There is no dataset yet. It comes into being with its first file, or by `ledger datasets register`.")


@datasets.command("show")
def show_dataset(name: str, as_json: AsJson = False) -> None:
    """Show a dataset's contract.

    Example: ledger datasets show payments --json > payments.contract.json
    """
    found = Client.found().get(f"/api/v1/datasets/{name}")
    if as_json:
        print_json(found["contract"])
        return
    contract = found["contract"]
    say(f"{name}, version {found['contract_version']}, in {found['table']}", "bold")
    table(
        ["COLUMN", "TYPE", "NULLABLE"],
        [[column["name"], column["type"], "yes" if column["nullable"] else "no"] for column in contract["columns"]],
    )
    tokens = contract.get("null_tokens", [contract.get("null_token", "")])
    say(f"No value is written as {' or '.join(map(repr, tokens))}.")
    say(f"Records that may be refused: {_rejects_max(contract)}.")
    say(f"The fiscal year is decided by {contract['fiscal_date_column'] or 'the day of receipt'}.")


@datasets.command("infer")
def infer(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the contract alone, to be edited.")] = False,
) -> None:
    """Propose a contract for a file; nothing is stored.

    Example: ledger datasets infer may.csv --json > payments.contract.json
    """
    found = preview_of(Client.found(), Source(file), {})
    if as_json:
        print_json(found["contract"])
    else:
        show_previews([found], as_json=False)


@datasets.command("register")
def register(
    name: str,
    contract: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON, as `infer --json` prints it.")],
    reason: Annotated[str, typer.Option(help="Why it changes, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Declare a dataset before its first file, or give it the next version of its contract.

    Example: ledger datasets register payments payments.contract.json
    """
    try:
        wanted = json.loads(contract.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{contract} is no contract: {error}.", "Write it as JSON.", ExitCode.USAGE) from error
    found = Client.found().put(f"/api/v1/datasets/{name}", wanted, reason=reason)
    if as_json:
        print_json(found)
    else:
        say(f"Dataset {name} has version {found['contract_version']} of its contract.")


def _rejects_max(contract: dict[str, Any]) -> str:
    return str(contract.get("rejects_max", "10%"))
