"""`ledger up`: a whole ledger on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def up(
    home: Annotated[Path | None, typer.Option(help="The folder that holds everything.")] = None,
    port: Annotated[int | None, typer.Option(help="The port of the API; by default 8000 if it is free.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="How many worker processes.")] = 2,
    demo: Annotated[bool, typer.Option("--demo", help="Load a sample file and tell what happened.")] = False,
) -> None:
    """Start everything a ledger needs, and keep it running until Ctrl-C.

    Examples:
      ledger up

      ledger up --home /data/ledger --port 9000 --workers 4
    """
    from api.cli.serve import serve

    serve(home, port, workers, demo=demo)
