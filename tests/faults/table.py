"""`python -m tests.faults.table` writes README.md beside this file: each fault, what must happen, who tests it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.faults import MUST_HAPPEN, NOT_HERE

FOLDER = Path(__file__).parent
TESTS = FOLDER.parent
README = FOLDER / "README.md"

INTRODUCTION = """\
# Faults

What is done to the ledger, what must happen, which test does it, and what that test said when the protection was
taken out of the code by hand. After each of them `assert_ledger_sound` (see `oracle.py`) looks at everything.
Written by `python -m tests.faults.table`; do not edit.

| # | what is done | what must happen | protection | test | seen without the protection |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class MarkedTest:
    """A test that says which fault it is about."""

    number: int
    what: str
    protection: str
    seen: str
    place: str  # relative to the folder of all tests
    name: str


def marked_tests() -> list[MarkedTest]:
    """All of them, in the order of the faults' numbers, then of files and lines."""
    found = [marked for path in sorted(TESTS.rglob("test_*.py")) for marked in _marked_in(path)]
    return sorted(found, key=lambda marked: marked.number)


def _marked_in(path: Path) -> Iterator[MarkedTest]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", None) == "fault":
                    yield MarkedTest(**_arguments(mark), place=str(path.relative_to(TESTS)), name=node.name)


def _arguments(mark: ast.Call) -> dict[str, Any]:
    by_position = dict(zip(("number", "what"), map(ast.literal_eval, mark.args), strict=True))
    return by_position | {str(given.arg): ast.literal_eval(given.value) for given in mark.keywords}


def table() -> str:
    """The whole of README.md."""
    tests = marked_tests()
    lines: list[str] = []
    for number, must_happen in MUST_HAPPEN.items():
        of_number = [marked for marked in tests if marked.number == number]
        for marked in of_number:
            test = f"[{marked.name}](../{marked.place})"
            lines.append(_line(number, marked.what, must_happen, marked.protection, test, marked.seen))
        if not of_number:
            lines.append(_line(number, "", must_happen, "", NOT_HERE[number], ""))
    return INTRODUCTION + "".join(lines)


def _line(*cells: object) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    README.write_text(table())
