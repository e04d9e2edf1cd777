"""The style is a test: imports go one way, types and lint are clean, files and functions stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("ledger", "projections", "workers", "archive", "api")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 500


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["importlinter.cli", "lint_imports"],
    ],
    ids=["lint", "format", "types", "imports"],
)
def test_the_tool_finds_nothing(command: list[str]) -> None:
    program = (
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
        if command[0] == "importlinter.cli"
        else [sys.executable, "-m", *command]
    )
    result = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_settings_look_at_the_environment(path: Path) -> None:
    if path != ROOT / "ledger" / "environment.py":
        assert not re.search(r"os\.(environ|getenv)|from os import .*environ", path.read_text())


def test_every_required_package_is_really_used() -> None:
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name or "").split(".")[0]
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if not isinstance(node, ast.ImportFrom) or node.module
    }
    required = {
        "fastapi", "celery", "eventsourcing", "pymongo", "sqlalchemy", "psycopg2", "boto3", "pydantic", "opentelemetry",
    }  # fmt: skip
    assert required <= imported
    assert "uvicorn" in (ROOT / "api" / "cli" / "serve.py").read_text()


def test_the_constraints_name_packages_and_versions_and_nothing_else() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line
