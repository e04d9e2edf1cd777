"""The README is a test: its table of what is read names what there is, and its commands exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from api.cli.datasets import datasets
from api.cli.keys import keys
from api.cli.records import jobs
from api.cli.trail import audit
from api.contract_text import YAML_TYPE, read_contract_text
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
