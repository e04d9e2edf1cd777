"""`ledger audit`: who did what, and the proof that it was so."""

from __future__ import annotations

import typer

audit = typer.Typer(no_args_is_help=True, help="Who did what, and the proof that it was so.")
