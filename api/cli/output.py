"""What a command prints: data to standard output, everything else to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

ERRORS = Console(stderr=True, highlight=False)
OUTPUT = Console(highlight=False)

COLOUR_OF_STATUS = {"Completed": "green", "Failed": "red", "Cancelled": "yellow", "Archived": "blue"}


def print_json(value: Any) -> None:
    """Machines read this."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(sentence: str, style: str | None = None) -> None:
    """People read this."""
    ERRORS.print(sentence, style=style, markup=False, soft_wrap=True)


def table(columns: list[str], rows: list[list[str]]) -> None:
    """Rows for people; piped, they are tab-separated for other programs."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            sys.stdout.write("\t".join(row) + "\n")
        return
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(column)
    for row in rows:
        shown.add_row(*row)
    OUTPUT.print(shown)


def sentence_of(task: dict[str, Any]) -> str:
    """What became of a task, in a plain sentence."""
    name, dataset, status = task["filename"], task["dataset"], task["status"]
    match status:
        case "Completed":
            return (
                f"{name}: {task['rows_loaded']:,} of {task['records']:,} records loaded into data.{dataset}, "
                f"{task['rows_rejected']:,} rejected."
            )
        case "Failed":
            error = task["error"]
            return f"{name}: failed. {error['message']} {error['remedy']}"
        case "Processing" | "Retried":
            return f"{name}: {task['chunks_loaded']} of {task['chunks_total']} chunks loaded."
        case _:
            return f"{name}: {status.lower()}, for dataset {dataset}."
