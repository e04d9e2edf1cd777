"""What `ledger load` sends: files with the control totals beside them, all looked at before the first is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.sources import sources
from ledger.errors import InvalidRequestError

SIDECAR = json.dumps({"records": 1})
SAME = '{"records":1,"columns":{}}'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id\n1\n")
    (tmp_path / "a.csv.totals.json").write_text(SIDECAR)
    return tmp_path


def told(found: list[str], option: str | None = None) -> list[tuple[str, str | None]]:
    return [(source.filename, source.control_totals) for source in sources(found, option)]


def test_a_folder_is_its_files_each_with_the_totals_beside_it(folder: Path) -> None:
    assert told([str(folder)]) == [("a.csv", SAME), ("b.csv", None)]


def test_totals_that_are_named_on_the_command_line_belong_to_the_file_beside_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert told(["a.csv.totals.json", str(folder / "a.csv"), "-"]) == [("a.csv", SAME), ("standard-input", None)]
    assert told(["a.csv"]) == [("a.csv", None)], "what is not sent with it says nothing"


def test_a_file_that_is_named_twice_is_one_file(folder: Path) -> None:
    assert told([str(folder), str(folder / "a.csv")]) == [("a.csv", SAME), ("b.csv", None), ("a.csv", SAME)]


def test_the_option_holds_for_each_file(folder: Path) -> None:
    (folder / "a.csv.totals.json").unlink()
    assert told([str(folder)], SIDECAR) == [("a.csv", SIDECAR), ("b.csv", SIDECAR)]


def test_totals_that_are_not_clear_are_refused(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "b.csv.totals.json").write_text(SIDECAR)
    (other / "c.csv").write_text("id\n1\n")
    cases = [
        ([str(folder)], SIDECAR, "given twice"),
        ([str(folder / "a.csv.totals.json")], None, "did not come with it"),
        ([str(folder / "b.csv"), str(other / "b.csv.totals.json")], None, "did not come with it"),
    ]
    for arguments, option, words in cases:
        with pytest.raises(InvalidRequestError, match=words) as caught:
            sources(arguments, option)
        assert caught.value.remedy


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "no JSON"),
        (b"\xff", "no text in UTF-8"),
        (b" " * 70_000, "has 70,000 bytes"),
        (json.dumps({"columns": {f"c{n}": {"sum": "1"} for n in range(2_600)}}).encode(), "too long"),
    ],
)
def test_totals_that_cannot_be_sent_are_refused(folder: Path, content: bytes, words: str) -> None:
    (folder / "b.csv.totals.json").write_bytes(content)
    with pytest.raises(InvalidRequestError, match=words):
        sources([str(folder)], None)
