"""What operations came to, in plain sentences: one table from the kind of an operation to the words for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ledger.domain.counted import counted


def sentences(operation: dict[str, Any]) -> str:
    """What an operation that is completed came to."""
    return SENTENCES[operation["kind"]](operation["arguments"], operation["result"])


def _rebuilt(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    if arguments.get("roll_back"):
        return f"View {result['view']} is what it was before the last rebuild: generation {result['generation']}."
    compared = {
        True: "Its content equals the old one's.",
        False: "The old one had drifted from the log; the new one is right.",
    }
    if arguments.get("check"):
        compared = {
            True: "The live one equals what the log says.",
            False: "The live one differs from what the log says. `ledger rebuild` puts it right.",
        }
    done = "built beside the live one" if arguments.get("check") else "rebuilt"
    read = f"{counted(result['events'], 'event')}, up to position {result['position']:,}"
    return "\n".join(
        [
            f"View {result['view']} {done} from {read}. {compared[result['equal']]}",
            *_listed(result, _difference),
        ]
    )


def _replayed(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    what = f"{counted(result['records'], 'record')} in {counted(result['chunks'], 'chunk')}"
    lines = [
        f"Job {result['job_id']} was read again: {what}. "
        + ("All is as the log says." if result["equal"] else "Not all is as the log says:"),
        *_listed(result, _difference_of_replay),
    ]
    now = result["parser_version_now"]
    if now not in (None, result["parser_version"]):
        lines.append(f"The reader was {result['parser_version']} then, and is {now} now.")
    if result.get("name_erased"):  # operations of before there were erasures do not say
        lines.append("The file's name is erased, and it was read by that: no text was made of it again.")
    return "\n".join(lines)


def _listed(result: dict[str, Any], line: Callable[[dict[str, Any]], str]) -> list[str]:
    found = result.get("differences", [])
    more = result.get("differences_total", 0) - len(found)
    return [*(f"  {line(each)}" for each in found), *([f"  and {more:,} more"] if more else [])]


def _difference(found: dict[str, Any]) -> str:
    if "view_position" in found:
        return f"the view itself, at position {found['view_position']:,}: {found['what']}"
    if "position" in found:
        return f"the entry of position {found['position']:,}: {found['what']}"
    if "what" in found:
        return f"job {found['job_id']}: {found['what']}"
    rows = ", ".join(
        f"{name}: {counted(rows['rows'], 'row')}, by the log {rows['rows_in_log']:,}"
        for name, rows in found["partitions"].items()
    )
    records = "; ".join(
        f"{what} {', '.join(map(str, found[f'records_{what}']))}"
        for what in ("missing", "unknown", "changed")
        if found[f"records_{what}"]
    )
    job = found["job_id"] or f"nobody knows (_job {found['job_position']})"
    return f"job {job}: {rows}" + (f"; records {records}" if records else "")


def _difference_of_replay(found: dict[str, Any]) -> str:
    where = "" if found["chunk"] is None else f"chunk {found['chunk']}: "
    return f"{where}{found['what']} is {found['got']}, by the log {found['expected']}"


def verified(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    """What a verification came to."""
    return _verified(result) + _sampled(result.get("archives", []))


def _verified(result: dict[str, Any]) -> str:
    what = _verified_archives(result) if "fiscal_year" in result else _verified_log(result)
    unsealed = result.get("events_not_sealed")
    waiting = f" Not sealed yet: {counted(unsealed, 'event')}." if unsealed else ""
    if result["holds"]:
        return f"{what}{waiting} Nothing was changed."
    missed = "".join(f"\n  {each}" for each in result["not_compared"])
    if missed:
        missed = f"\nNot everything was looked at, so ask again:{missed}"
    if result["holds"] is None:
        return f"{what}{waiting} Nothing was found.{missed}"
    listed = "\n".join(f"  {finding['message']}" for finding in result["findings"])
    return f"{what}{waiting} {counted(result['findings_total'], 'finding')}:\n{listed}{missed}"


def _verified_log(result: dict[str, Any]) -> str:
    numbers = [
        (result["events"], "event", "events"),
        (result["leaves"], "leaf", "leaves"),
        (result["checkpoints"], "checkpoint", "checkpoints"),
        (len(result.get("archives") or []), "archive", "archives"),
    ]
    read = [counted(*each) for each in numbers if each[0]]
    elsewhere = f"and {counted(result['anchors'], 'checkpoint')} kept elsewhere"
    return f"Verified ({result['level']}): {', '.join(read) or 'nothing'}, {elsewhere}."


def _sampled(archives: list[dict[str, Any]]) -> str:
    """Which objects were read of archives of which a sample was wanted."""
    lines = [
        f"  {archive['fiscal_year']}, generation {archive['generation']}: {', '.join(archive['sample']) or 'nothing'}"
        for archive in archives
        if "sample" in archive
    ]
    return "\n".join(["\nChosen by chance, and read as well:", *lines]) if lines else ""


def _verified_archives(result: dict[str, Any]) -> str:
    objects = sum(each["objects"] for each in result["archives"])
    size = sum(each["bytes"] for each in result["archives"])
    how = "with their content" if any(each["content"] for each in result["archives"]) else "by what the store says"
    return f"Verified the archives of {result['fiscal_year']}: {counted(objects, 'object')}, {size:,} bytes, {how}."


def _closed(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    what = f"{counted(result['rows'], 'row')} in {counted(len(result['tables']), 'table')}"
    return f"Fiscal year {result['fiscal_year']} is closed, as generation {result['generation']}, with {what}."


def _archived(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    label = result["fiscal_year"]
    what = f"Fiscal year {label}, generation {result['generation']}, is {result['state']}"
    kept = f"{counted(result['objects'], 'object')} of {result['bytes']:,} bytes in cold storage"
    stays = ""
    if result["state"] == "verified":
        stays = f" Its rows stay until somebody else has them dropped: ledger archive drop {label}"
        if result.get("holds"):  # operations of before did not say
            stays = f" Its rows stay: it is on hold for case {', '.join(result['holds'])}."
    return f"{what}: {kept}, under the manifest {result['manifest_sha256']}.{stays}"


def _restored(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    label, tables = result["fiscal_year"], counted(len(result["tables"]), "table")
    return (
        f"Fiscal year {label} is back to be read: {counted(result['rows'], 'row')} in {tables} of schema"
        f" {result['schema']}, equal to what was closed. Release it when you are done: ledger archive release {label}"
    )


def _held(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    how = "on hold" if result["is_on_hold"] else "not on hold any more"
    what = f"every object of fiscal year {result['fiscal_year']} is {how}"
    return f"Of {counted(result['objects'], 'object')}, {result['changed']:,} changed: {what}."


def _posted(arguments: dict[str, Any], result: dict[str, Any]) -> str:
    return (
        f"Posted into {result['dataset']}: {counted(result['records'], 'late record')} of fiscal year"
        f" {result['fiscal_year']}, on {result['posted_on']} in {result['posted_in']}, by job {result['by_job']}."
    )


# KIND of operation -> what it came to.
SENTENCES: dict[str, Callable[[dict[str, Any], dict[str, Any]], str]] = {
    "rebuild": _rebuilt,
    "replay": _replayed,
    "verify": verified,
    "close_year": _closed,
    "archive_year": _archived,
    "restore_year": _restored,
    "hold_year": _held,
    "post_adjustment": _posted,
}
