"""Imported where commands are forked (see `commands`): the libraries of the command line, by a command that fails.

Libraries import much only when they are used. What our own code imports late is for each command to find.
"""

from __future__ import annotations

import os
from contextlib import suppress

import rich.console
import rich.table  # noqa: F401

from api.cli.main import cli
from ledger.errors import LedgerError

os.environ |= {"LEDGER_URL": "http://127.0.0.1:1", "LEDGER_API_KEY": "nobody's"}
with suppress(LedgerError):
    cli(["jobs", "list"], standalone_mode=False)
