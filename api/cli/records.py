"""`ledger jobs`, continued: what became of a file's records."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from api.cli.client import Client, CommandError, ExitCode
from api.cli.jobs import jobs
from api.cli.options import AsJson
from api.cli.output import print_json, say, shown, table
from ledger.domain.counted import counted

REJECTS_AT_ONCE = 1_000
RAW_CHARACTERS_SHOWN = 60


@jobs.command("rejects")
def show_rejects(
    task_id: str,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the records as they were sent.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the records of a job that were refused, and why.

    Example: ledger jobs rejects 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --csv > corrections.csv
    """
    client = Client.found()
    if as_csv:
        client.download(f"/api/v1/jobs/{task_id}/rejects.csv", sys.stdout.buffer)
        return
    rejects = list(_all_rejects(client, task_id))
    if as_json:
        print_json(rejects)
        return
    if not rejects:
        say("No record of this job was refused.")
        return
    table(
        ["RECORD", "LINE", "COLUMN", "STATE", "REASON", "AS SENT"],
        [
            [
                str(reject["record"]),
                shown(reject["line"]),
                shown(reject["column"]),
                reject["state"],
                reject["reason"],
                reject["raw"].rstrip("\r\n")[:RAW_CHARACTERS_SHOWN],
            ]
            for reject in rejects
        ],
    )


def _all_rejects(client: Client, task_id: str) -> Iterator[dict[str, Any]]:
    after: int | None = 0
    while after is not None:
        page = client.get(f"/api/v1/jobs/{task_id}/rejects", after=after, limit=REJECTS_AT_ONCE)
        yield from page["rejects"]
        after = page["next"]


@jobs.command("waive")
def waive_rejects(
    task_id: str,
    reason: Annotated[str, typer.Option(help="Why they are not wanted, for the record.")],
    record: Annotated[list[int] | None, typer.Option(help="Only this record; may be given more than once.")] = None,
    as_json: AsJson = False,
) -> None:
    """Decide that refused records are not wanted: they are no longer open.

    Example: ledger jobs waive 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51 --record 17 --reason "a test payment"
    """
    answer = Client.found().post(f"/api/v1/jobs/{task_id}/rejects/waive", reason=reason, records=record or None)
    if as_json:
        print_json(answer)
    else:
        say(f"{len(answer['waived']):,} rejects are waived.")


@jobs.command("reconciliation")
def show_reconciliation(task_id: str, as_json: AsJson = False) -> None:
    """Show what a completed file came to: its bytes, records and control totals.

    Example: ledger jobs reconciliation 0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51
    """
    found = Client.found().get(f"/api/v1/jobs/{task_id}/reconciliation")
    if as_json:
        print_json(found)
        return
    say(
        f"{counted(found['records'], 'record')} = {found['rows_loaded']:,} loaded + {found['rows_rejected']:,} rejected"
        f" + {found['rows_skipped']:,} skipped, from {found['bytes_covered']:,} bytes"
        f" in {counted(len(found['chunks']), 'chunk')}."
    )
    say(f"Row-set digest: {found['row_set_digest']}")
    totals = found["totals"].items()
    table(
        ["COLUMN", "VALUES", "SUM", "SMALLEST", "GREATEST"],
        [[name, str(of["count"]), shown(of["sum"]), shown(of["min"]), shown(of["max"])] for name, of in totals],
    )


@jobs.command("row")
def find_rows(
    dataset: str,
    where: Annotated[list[str], typer.Option(help="COLUMN=VALUE; may be given more than once.")],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many rows.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Find rows by their values, and show the bytes that each was made of.

    Example: ledger jobs row flights --where carrier=UA --where flight=1545 --where month=1 --where day=1
    """
    values = dict(_condition(text) for text in where)
    rows = Client.found().get(f"/api/v1/lineage/{dataset}", limit=limit, **values)["rows"]
    if as_json:
        print_json(rows)
        return
    if not rows:
        say("No row has these values.")
    for found in rows:
        origin = found["origin"]
        line = "" if origin["line"] is None else f", line {origin['line']:,}"
        say(
            f"Record {origin['record']:,}{line} of {origin['filename']}: bytes {origin['byte_offset']:,} to "
            f"{origin['byte_offset'] + origin['byte_length']:,}, chunk {origin['chunk']}, task {origin['task_id']}",
            "bold",
        )
        say(origin["text"].rstrip("\r\n"))


def _condition(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise CommandError(f"{text!r} is no condition.", "Give COLUMN=VALUE.", ExitCode.USAGE)
    return name, value
