"""What would become of files, shown on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.cli.client import Client
from api.cli.output import print_json, say, table
from api.cli.sources import Source
from ledger.domain.counted import counted

VALUE_CHARACTERS_SHOWN = 24


def preview_of(client: Client, source: Source, said: Mapping[str, str | None]) -> dict[str, Any]:
    """What would become of a file."""
    with source.open() as stream:
        return client.preview(stream, source.filename, said)


def show_previews(previews: list[dict[str, Any]], as_json: bool) -> None:
    """Tell what would become of files."""
    if as_json:
        print_json(previews)
        return
    for preview in previews:
        _show(preview)


def _show(preview: dict[str, Any]) -> None:
    layers = "".join(f", {layer}" for layer in preview["layers"])
    say(f"{preview['filename']}: {preview['format']}{layers}, {counted(preview['records'], 'record')}", "bold")
    for difference in preview["differences"]:
        say(difference)
    columns = preview["contract"]["columns"]
    say("A contract that fits:" if preview["proposed"] else f"The contract of {preview['dataset']}:")
    rows = preview["rows"]
    samples = [[_cut(row.get(column["name"])) for row in rows[:3]] for column in columns]
    table(
        ["COLUMN", "TYPE", "NULLABLE", "SAMPLES"],
        [
            [column["name"], column["type"], "yes" if column["nullable"] else "no", ", ".join(filter(None, of))]
            for column, of in zip(columns, samples, strict=True)
        ],
    )
    for doubt in preview["doubts"]:
        say(f"? {doubt}")
    if preview["doubts_more"]:
        say(f"? And {preview['doubts_more']:,} more doubts.")
    say(f"{preview['rejected']:,} of the first {counted(preview['records_examined'], 'record')} would be rejected.")
    for year, records in preview["late"].items():
        say(f"{records:,} of them come too late: fiscal year {year} is closed.")
    for reject in preview["rejects"]:
        column = f", column {reject['column']}" if reject["column"] else ""
        say(f"  record {reject['record']:,}{column}: {reject['reason']}")
    say("Nothing was stored.")


def _cut(value: Any) -> str:
    return "" if value is None else str(value)[:VALUE_CHARACTERS_SHOWN]
