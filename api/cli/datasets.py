"""`ledger datasets`: the tables that files go into, and their contracts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.options import AsJson
from api.cli.output import print_json, print_yaml, say, table
from api.cli.preview import preview_of, show_previews
from api.cli.sources import Source
from ledger.errors import InvalidRequestError

datasets = typer.Typer(no_args_is_help=True, help="The tables that files go into, and their contracts.")

ContractAsJson = Annotated[bool, typer.Option("--json", help="Print the contract alone, as JSON to be edited.")]
ContractAsYaml = Annotated[bool, typer.Option("--yaml", help="Print the contract alone, as YAML to be edited.")]


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
def show_dataset(name: str, as_json: ContractAsJson = False, as_yaml: ContractAsYaml = False) -> None:
    """Show a dataset's contract.

    Example: ledger datasets show payments --yaml > payments.yaml
    """
    found = Client.found().get(f"/api/v1/datasets/{name}")
    contract = found["contract"]
    if as_json or as_yaml:
        _print_contract(contract, as_yaml)
        return
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
    as_json: ContractAsJson = False,
    as_yaml: ContractAsYaml = False,
) -> None:
    """Propose a contract for a file; nothing is stored.

    Example: ledger datasets infer may.csv --yaml > payments.yaml
    """
    found = preview_of(Client.found(), Source(file), {})
    if as_json or as_yaml:
        _print_contract(found["contract"], as_yaml)
    else:
        show_previews([found], as_json=False)


@datasets.command("register")
def register(
    name: str,
    contract: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="YAML or JSON, as `infer`, `show` and `export` print it."),
    ],
    reason: Annotated[str, typer.Option(help="Why it changes, for the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Declare a dataset before its first file, or give it the next version of its contract.

    The file may also be a data contract by the Open Data Contract Standard; what is not kept of it is told.

    Example: ledger datasets register payments payments.yaml
    """
    text, media_type = _contract_text(contract)
    found = Client.found().put(f"/api/v1/datasets/{name}", text, media_type, reason=reason)
    if as_json:
        print_json(found)
    else:
        for note in found["notes"]:
            say(note)
        say(f"Dataset {name} has version {found['contract_version']} of its contract.")


@datasets.command("export")
def export(
    name: str,
    odcs: Annotated[
        bool, typer.Option("--odcs", help="By the Open Data Contract Standard, which is what there is.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Print a dataset's contract for other tools, by a standard that they know; `register` takes it back.

    Example: ledger datasets export payments --odcs > payments.odcs.yaml
    """
    assert odcs
    found = Client.found().get(f"/api/v1/datasets/{name}", format="odcs")
    if as_json:
        print_json(found)
    else:
        print_yaml(found)


def _contract_text(path: Path) -> tuple[bytes, str]:
    """A file that can be read as a contract, and what it is. The server reads it again, from the same text."""
    from api.contract_text import media_type_of, read_contract_text

    try:
        text = path.read_bytes()
        media_type = media_type_of(path.name, text)
        read_contract_text(text, media_type)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.", "Check the path.", ExitCode.USAGE) from error
    except InvalidRequestError as error:
        raise CommandError(f"{path} is no contract. {error.message}", error.remedy, ExitCode.USAGE) from error
    return text, media_type


def _print_contract(contract: dict[str, Any], as_yaml: bool) -> None:
    if as_yaml:
        print_yaml(contract)
    else:
        print_json(contract)


def _rejects_max(contract: dict[str, Any]) -> str:
    return str(contract.get("rejects_max", "10%"))
