"""What a command ends with: one table for errors, one for answers, one in the README, and all say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from api.cli.audit import tell_verified
from api.cli.client import EXIT_CODE_OF_STATUS, Client, CommandError, ExitCode
from api.cli.main import EXIT_CODE_OF, exit_code_of
from api.cli.operations import rebuild
from api.cli.output import whole_file
from api.errors import STATUS_OF
from ledger.errors import BlobCutError, UnreadableEventError

README = (Path(__file__).parents[3] / "README.md").read_text()
TABLE = README.split("| exit code | meaning |\n")[1].split("\n\n")[0]
CODES = {code for name, code in vars(ExitCode).items() if name.isupper()}


def test_the_table_of_exit_codes_is_the_one_that_holds() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)} == CODES


def test_an_error_here_ends_as_the_same_error_told_by_the_server() -> None:
    assert {status.value for status in STATUS_OF.values()} == set(EXIT_CODE_OF_STATUS)
    for kind, code in EXIT_CODE_OF.items():
        if kind in STATUS_OF:
            assert EXIT_CODE_OF_STATUS[STATUS_OF[kind].value] == code, kind


def test_a_kind_of_an_error_ends_as_the_error_does() -> None:
    assert exit_code_of(BlobCutError("It is cut.")) == ExitCode.UNREACHABLE
    assert exit_code_of(UnreadableEventError("It cannot be read.")) == ExitCode.FAILED
    assert exit_code_of(FileNotFoundError()) == ExitCode.USAGE
    assert exit_code_of(CommandError("No.", exit_code=ExitCode.TIMEOUT)) == ExitCode.TIMEOUT


def test_a_file_that_cannot_be_written_is_a_mistake_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be written") as refused, whole_file(tmp_path / "none" / "file"):
        pass
    assert refused.value.exit_code == ExitCode.USAGE


class Checked:
    """A ledger each of whose views comes to what is told: equal, not, or an error."""

    def __init__(self, found: list[Any]) -> None:
        self.found = {f"data.d{number}": each for number, each in enumerate(found)}

    def get(self, path: str) -> dict[str, Any]:
        return {"views": [{"view": name} for name in self.found]}

    def post(self, path: str, **_: Any) -> dict[str, Any]:
        name = path.split("/")[-2]
        equal = self.found[name]
        if isinstance(equal, CommandError):
            raise equal
        result = {"view": name, "events": 1, "position": 1, "equal": equal}
        arguments = {"view": name, "check": True}
        ended = {"operation_id": "x", "kind": "rebuild", "status": "Completed", "error": None}
        return {**ended, "arguments": arguments, "result": result}


AWAY = CommandError("It is away.", exit_code=ExitCode.UNREACHABLE)
FAILED = CommandError("It failed.", exit_code=ExitCode.FAILED)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([True, True], 0),
        ([True, False, True], ExitCode.DIFFERS),
        ([AWAY, False], ExitCode.DIFFERS),
        ([True, AWAY, FAILED, True], ExitCode.UNREACHABLE),
    ],
)
def test_a_check_of_all_views_ends_as_the_worst_of_them(
    found: list[Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Client, "found", lambda: Checked(found))
    with pytest.raises(typer.Exit) as ended:
        rebuild(view=None, every=True, check=True, roll_back=False, wait=True, as_json=False)
    assert ended.value.exit_code == code


@pytest.mark.parametrize(
    ("holds", "code", "words"),
    [
        (None, ExitCode.NOT_COMPARED, "Not everything was looked at, so ask again:\n  The view status is in use."),
        (False, ExitCode.DIFFERS, "1 finding"),
    ],
)
def test_what_was_not_compared_is_told_so_and_not_as_what_differs(
    holds: bool | None, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {
        **{"level": "views", "events": 1, "leaves": 1, "checkpoints": 1, "anchors": 1, "events_not_sealed": 0},
        **{"holds": holds, "findings": [] if holds is None else [{"message": "x"}]},
        **{"findings_total": 0 if holds is None else 1, "not_compared": ["The view status is in use."]},
    }
    with pytest.raises(typer.Exit) as ended:
        tell_verified(result, False)
    assert ended.value.exit_code == code
    assert words in capsys.readouterr().err
