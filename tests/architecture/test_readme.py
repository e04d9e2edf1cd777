"""The README is a test: its table of what is read names what there is, and its commands exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

from api.cli.datasets import datasets
from api.cli.keys import keys
from api.cli.main import cli
from api.cli.records import jobs
from api.cli.trail import audit
from api.contract_text import YAML_TYPE, read_contract_text
from api.permissions import ROUTES
from api.tokens import ALGORITHMS
from ledger.domain.access import PERMISSIONS_OF
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.odcs import to_odcs
from ledger.domain.odcs_import import from_odcs
from ledger.settings import Settings
from projections.formats.containers import ContainerKind
from projections.formats.dialect import DELIMITED_NAMES
from projections.formats.recognise import FORMATS
from projections.trail.questions import Question
from tests.e2e.formats import COMPRESSORS, WRITERS
from tests.fuzz.samples import SOUND

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.split("\n## What it reads\n")[1].split("\n## ")[0]
ACCESS = README.split("\n## Who may do what\n")[1].split("\n## ")[0]
CONTRACTS = README.split("\n## Contracts\n")[1].split("\n## ")[0]
TRAIL = README.split("\n## The audit trail\n")[1].split("\n## ")[0]
CELLS = [[cell.strip() for cell in row.strip("|").split("|")] for row in SECTION.splitlines() if row.startswith("|")]
HEAD, _, *ROWS = CELLS
SYNOPSIS = README.split("\n## The command line\n")[1].split("\n`ledger COMMAND")[0]
TEXTS = {"delimited text", "plain lines", "compression", "encodings"}


def label(cell: str) -> str:
    """What a first cell names, without its extensions."""
    return re.split(r" \(`|:", cell, maxsplit=1)[0].casefold()


def test_the_table_has_a_line_for_each_format_and_for_nothing_else() -> None:
    formats = {each.name_for_people.removeprefix("a ").casefold() for each in FORMATS.values()}
    named = [label(row[0]) for row in ROWS]
    assert len(named) == len(set(named))
    assert set(named) == formats | TEXTS


def test_every_line_says_all_of_it() -> None:
    assert HEAD == ["format", "recognised by", "a record", "columns, nesting", "refused"]
    assert [row for row in ROWS if len(row) != len(HEAD) or not all(row)] == []


def test_the_table_names_every_compression() -> None:
    [cell] = [row[0] for row in ROWS if label(row[0]) == "compression"]
    assert set(re.findall(r"(\w+) \(`", cell)) == set(get_args(ContainerKind))


def test_the_table_names_the_extensions_that_tests_write() -> None:
    written = {f".{name.rpartition('.')[2]}" for name in (*WRITERS, *COMPRESSORS)}
    workbooks = {f".{reader}" for reader in SOUND if reader.startswith("xls") or reader == "ods"}
    named = re.findall(r"`(\.\w+)`", " ".join(row[0] for row in ROWS))
    assert len(named) == len(set(named))
    assert set(named) == written | workbooks | set(DELIMITED_NAMES)


@pytest.mark.parametrize("command", ["rejects", "reconciliation", "row"])
def test_the_section_tells_how_to_see_what_became_of_records(command: str) -> None:
    assert f"ledger jobs {command} " in SECTION
    assert command in {known.name for known in jobs.registered_commands}


def test_the_contract_that_is_shown_can_be_registered_and_has_every_field_that_there_is() -> None:
    text = CONTRACTS.split("```yaml\n")[1].split("```")[0]
    values = read_contract_text(text.encode(), YAML_TYPE)
    contract = Contract.from_dict(values)
    assert set(values) == {each.name for each in fields(Contract)}
    told_beside = {"maximum", "width"}
    assert all(f"`{name}`" in CONTRACTS or name in text for name in told_beside)
    assert {name for column in values["columns"] for name in column} | told_beside == {
        each.name for each in fields(Column)
    }
    assert from_odcs("payments", to_odcs("payments", contract, 1)) == (contract, [])


@pytest.mark.parametrize("command", ["infer", "register", "show", "export"])
def test_the_section_on_contracts_names_commands_that_exist(command: str) -> None:
    assert f"ledger datasets {command} " in CONTRACTS
    assert command in {known.name for known in datasets.registered_commands}


@pytest.mark.parametrize("command", ["trail", "event", "export", "check-export"])
def test_the_section_on_the_trail_names_commands_that_exist(command: str) -> None:
    assert f"ledger audit {command} " in TRAIL
    assert command in {known.name for known in audit.registered_commands}


def test_the_section_on_the_trail_asks_for_what_can_be_asked_for() -> None:
    asked = {name.replace("-", "_") for line in TRAIL.splitlines() for name in re.findall(r" --([a-z0-9-]+)", line)}
    assert asked - {"at", "format", "key"} == {each.name for each in fields(Question)}


def test_the_table_of_roles_is_the_one_that_holds() -> None:
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in ACCESS.splitlines() if row.startswith("|")]
    assert {role: set(re.findall(r"`(\w+)`", may)) for role, may in rows[2:]} == {
        role.value: {permission.value for permission in allowed} for role, allowed in PERMISSIONS_OF.items()
    }


def test_the_section_on_access_names_commands_and_settings_that_exist() -> None:
    assert {known.name for known in keys.registered_commands} == set(re.findall(r"ledger keys (\w+)", ACCESS))
    named = set(re.findall(r"LEDGER_(OIDC_\w+)", ACCESS))
    assert {name.lower() for name in named} == {name for name in Settings.model_fields if name.startswith("oidc_")}
    assert all(algorithm in ACCESS for algorithm in ALGORITHMS)


def without_names(route: str) -> str:
    """A route whatever its parameters are called, without its query."""
    return re.sub(r"\{[^}]*\}", "{}", route.partition("?")[0])


def test_the_table_of_routes_names_each_route_and_no_other() -> None:
    lines = README.split("| route | what |\n")[1].split("\n\n")[0].splitlines()[1:]
    named = [route for line in lines for route in re.findall(r"`([A-Z]+ /[^`]*)`", line.split(" | ")[0])]
    assert all(line.count("`") >= 2 for line in lines)
    assert {without_names(route) for route in named} == {without_names(route) for route in ROUTES}


def commands() -> dict[str, set[str]]:
    """Each command with the names of its options."""

    def found(group: Any, above: str) -> Iterator[tuple[str, set[str]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from found(command, f"{above}{name} ")
            else:
                options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
                yield f"{above}{name}", options

    return dict(found(typer.main.get_command(cli), ""))


COMMANDS = commands()


def shown(text: str) -> Iterator[tuple[str, set[str]]]:
    """The commands in lines that show some, each with the options that are shown with it."""
    for line in re.findall(r"^    (ledger [a-z].*)$", text, re.MULTILINE):
        for one in re.split(r" (?=ledger [a-z])", line.partition("#")[0]):
            words = re.match(r"ledger ([a-z|-]+)(?: ([a-z|-]+)(?![\w./:]))?", one)
            assert words is not None, one
            options = set(re.findall(r"(?<=[ \[|])(--[a-z-]+|-o)(?![\w-])", one))
            for name in words[1].split("|"):
                is_group = any(known.startswith(f"{name} ") for known in COMMANDS)
                for below in words[2].split("|") if is_group else [None]:
                    yield name if below is None else f"{name} {below}", options


def test_each_command_that_is_shown_exists_with_the_options_that_are_shown() -> None:
    told = list(shown(README))
    assert len(told) > len(COMMANDS)
    assert [(name, options) for name, options in told if not options <= COMMANDS.get(name, set())] == []


def test_the_list_of_commands_is_whole_and_says_of_each_whether_it_prints_json() -> None:
    told = dict(shown(SYNOPSIS))
    assert set(told) == set(COMMANDS)
    assert {name for name, options in told.items() if "--json" in options} == {
        name for name, options in COMMANDS.items() if "--json" in options
    }
