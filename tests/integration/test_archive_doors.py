"""Archives through the doors: brought back, released, locked and listed, over HTTP and by the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner, Result

from api.cli.client import CommandError, ExitCode
from api.cli.main import cli
from archive.stores import StorageClass, open_cold_store
from ledger.domain.access import Role
from ledger.domain.words import Stage
from tests.integration.doors import Doors, running_doors
from tests.integration.place import new_place
from tests.integration.shelving import Shelf
from tests.integration.test_late_records import lines
from tests.integration.test_table_rebuild import HEADER, Yard
from workers.archives import restore_fiscal_year
from workers.operations import operate

LABEL = "FY2001-02"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("doors")


@pytest.fixture(scope="module")
def doors(folder: Path) -> Iterator[Doors]:
    with running_doors({"LEDGER_ARCHIVE_URL": (folder / "cold").as_uri(), "LEDGER_ORIGIN": "books"}) as doors:
        yield doors


@pytest.fixture(scope="module")
def shelf(doors: Doors, folder: Path) -> Shelf:
    """A year in deep archive, its rows dropped."""
    url = (folder / "cold").as_uri()
    place = new_place(doors.ledger, folder, blobs_url=(folder / "blobs").as_uri(), archive_url=url)
    shelf = Shelf(place, open_cold_store(url), folder, StorageClass.DEEP_ARCHIVE)
    Yard(place).load(HEADER + lines(2001, range(20)))
    shelf.drop(LABEL)
    return shelf


@pytest.fixture(scope="module")
def key(doors: Doors) -> str:
    return doors.key(Role.ADMIN).text


def run(doors: Doors, key: str, *arguments: str) -> Result:
    environment = {"LEDGER_URL": doors.url, "LEDGER_API_KEY": key}
    return CliRunner().invoke(cli, ["archive", *arguments], env=environment)


def test_a_year_is_priced_brought_back_and_released(doors: Doors, shelf: Shelf, key: str) -> None:
    planned = json.loads(run(doors, key, "restore", LABEL, "--tier", "Bulk", "--dry-run", "--json").stdout)
    assert (planned["rows"], planned["hours_max"], planned["classes"][0]["storage_class"]) == (
        20,
        "48.00",
        "DEEP_ARCHIVE",
    )
    assert "US dollars" in run(doors, key, "restore", LABEL, "--dry-run").stderr
    for given in (["--tier", "Expedited", "--reason", "why"], ["--tier", "Slow", "--reason", "why"], []):
        ended = run(doors, key, "restore", LABEL, *given)
        assert isinstance(ended.exception, CommandError)
        assert ended.exception.exit_code == ExitCode.REFUSED
    asked = json.loads(run(doors, key, "restore", LABEL, "--reason", "an audit", "--json").stdout)
    assert (asked["kind"], asked["status"]) == ("restore_year", "Requested")
    shelf.place.follow()
    ended = operate(
        shelf.place.workshop, restore_fiscal_year, UUID(asked["operation_id"]), Stage.RESTORE_YEAR, time.time(),
        lambda _: None,
    )  # fmt: skip
    assert ended is not None
    assert ended.error is None
    status = json.loads(run(doors, key, "status", LABEL, "--json").stdout)
    assert (status["copy"], status["copy_schema"]) == ("restored", "fy2001_02_g1")
    assert "from cold storage: in schema fy2001_02_g1" in run(doors, key, "status", LABEL).stderr
    told = CliRunner().invoke(
        cli, ["operations", "show", asked["operation_id"]], env={"LEDGER_URL": doors.url, "LEDGER_API_KEY": key}
    )
    assert "20 rows" in told.stderr
    assert json.loads(run(doors, key, "release", LABEL, "--json").stdout)["copy"] == "none"
    assert run(doors, key, "release", LABEL).exception is not None


def test_locks_and_garbage_are_told_and_what_differs_ends_with_a_code_of_its_own(
    doors: Doors, shelf: Shelf, key: str
) -> None:
    locks = run(doors, key, "locks", LABEL)
    assert (locks.exit_code, "by its manifest until" in locks.stderr) == (ExitCode.DIFFERS, True)
    assert json.loads(run(doors, key, "gc", "--json").stdout)["objects"] == []
    assert "0 objects" in run(doors, key, "gc").stderr


def test_a_plan_of_a_folder_has_bytes_and_no_price(doors: Doors, shelf: Shelf, key: str) -> None:
    planned = json.loads(run(doors, key, "plan", LABEL, "--json").stdout)
    assert (planned["state"], planned["rows"], planned["in_the_way"]) == ("dropped", 20, [])
    assert (planned["restore"], planned["prices"]) == ([], None)
    assert [(each["bytes"] > 0, each["dollars_to_put"]) for each in planned["classes"]] == [(True, None)] * 2
    told = run(doors, key, "plan", LABEL)
    assert told.exit_code == 0
    assert "a folder has no price" in told.stderr and f"Next: ledger archive restore {LABEL}" in told.stderr


def test_a_year_without_an_archive_is_refused(doors: Doors, shelf: Shelf, key: str) -> None:
    with doors.http(key) as http:
        answer = http.get("/api/v1/archive/years/FY1999-00/restore")
    assert (answer.status_code, "has no archive" in answer.json()["detail"]) == (409, True)
