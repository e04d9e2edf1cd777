"""Control totals: what a sender says that a file comes to, and the files beside files that say it.

Rules:
1. Control totals are JSON: `{"records": 12, "columns": {"amount": {"sum": "10.50"}}}`. They say something, and of
   numbers only what is exact: a number with a fraction keeps its text.
2. A file called `<name>.totals.json` is never one to load. It holds the control totals of `<name>`, which comes with
   it: in the same upload, the same folder or the same archive.
3. Who says totals twice may have said two things: that is refused, never settled by an order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import PurePosixPath
from typing import Any

from ledger.domain.column import excerpt
from ledger.errors import InvalidRequestError

SIDECAR_ENDING = ".totals.json"
SIDECAR_BYTES_MAX = 1 << 16
TOTALS = ("count", "sum", "min", "max")
RECORDS_MAX = 2**53 - 1  # what every reader of JSON takes exactly
EXAMPLE = 'Write it as {"records": 12, "columns": {"amount": {"sum": "10.50"}}}.'


def checked_control_totals(text: str, told_in: str = "control_totals") -> dict[str, Any]:
    """The control totals that a text says.

    Args:
        told_in: what the text is called in a refusal.

    Raises:
        InvalidRequestError: the text says none.
    """
    totals = _parsed(text, told_in)
    says_nothing = not isinstance(totals, dict) or not (totals.get("columns") or "records" in totals)
    if says_nothing or totals.keys() - {"records", "columns"}:
        raise InvalidRequestError(f"{told_in} says neither records nor columns, or something else.", EXAMPLE)
    if "records" in totals and not (type(totals["records"]) is int and 0 <= totals["records"] <= RECORDS_MAX):
        raise InvalidRequestError(f"The records of {told_in} are no whole number from 0 to {RECORDS_MAX}.", EXAMPLE)
    columns = totals.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(of, dict) and of for of in columns.values()):
        raise InvalidRequestError(f"The columns of {told_in} are no objects.", EXAMPLE)
    return {**totals, "columns": {name: _column_totals(name, of, told_in) for name, of in columns.items()}}


def is_sidecar(name: str) -> bool:
    """Whether a file of this name holds the control totals of another."""
    return name.endswith(SIDECAR_ENDING)


def sidecars_of(names: Iterable[str]) -> dict[str, str]:
    """FILE -> its sidecar, of all files with one among those that came together.

    Raises:
        InvalidRequestError: a sidecar came without its file, or it is not clear which one that is.
    """
    counts = Counter(iter(names))  # of a mapping, Counter takes the values for counts
    found = {}
    for sidecar in filter(is_sidecar, counts):
        name = sidecar.removesuffix(SIDECAR_ENDING)
        if name not in counts or is_sidecar(name):
            raise InvalidRequestError(
                f"{_shown(sidecar)} holds the control totals of {_shown(name)}, which did not come with it.",
                "Send both together, or rename it if it is a file to be loaded.",
            )
        for each in (name, sidecar):
            if counts[each] > 1:
                raise InvalidRequestError(
                    f"{counts[each]} files are called {_shown(each)}: which control totals are whose, nobody can tell.",
                    "Give files that differ names that differ.",
                )
        found[name] = sidecar
    return found


def check_sidecar_size(sidecar: str, size: int) -> None:
    """Raise InvalidRequestError for a sidecar of more than `SIDECAR_BYTES_MAX` bytes, which need not be read then."""
    if size > SIDECAR_BYTES_MAX:
        raise InvalidRequestError(
            f"{_shown(sidecar)} has {size:,} bytes; control totals have at most {SIDECAR_BYTES_MAX:,}.",
            f"{EXAMPLE} Rename it if it is a file to be loaded.",
        )


def sidecar_totals(sidecar: str, content: bytes) -> dict[str, Any]:
    """The control totals that a sidecar holds.

    Raises:
        InvalidRequestError: it holds none.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"{_shown(sidecar)} is no text in UTF-8 (byte {error.start:,}).", f"{EXAMPLE} Save it in UTF-8."
        ) from error
    return checked_control_totals(text, _shown(sidecar))


def totals_given_twice(name: str) -> InvalidRequestError:
    """The refusal of totals that are said of a file both by its sender and by a sidecar."""
    return InvalidRequestError(
        f"The control totals of {_shown(name)} are given twice: by control_totals, and by a file beside it.",
        "Nothing was taken. Leave one of them away.",
    )


def _parsed(text: str, told_in: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        [(name, times), *_] = Counter(name for name, _ in pairs).most_common(1) or [("", 0)]
        if times > 1:
            raise InvalidRequestError(f"{told_in} says {excerpt(name)} twice.", EXAMPLE)
        return dict(pairs)

    try:
        totals = json.loads(text, parse_float=str, object_pairs_hook=once)
        json.dumps(totals, ensure_ascii=False).encode()  # half a character can be written in JSON, and kept nowhere
    except json.JSONDecodeError as error:
        raise InvalidRequestError(f"{told_in} is no JSON: {error}.", EXAMPLE) from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{told_in} is no JSON that can be kept.", EXAMPLE) from error
    return totals


def _column_totals(column: str, totals: dict[str, Any], told_in: str) -> dict[str, str]:
    for name, value in totals.items():
        if name not in TOTALS or not isinstance(value, str | int) or isinstance(value, bool):
            raise InvalidRequestError(
                f"{told_in} says {excerpt(str(name))} of column {excerpt(column)}.",
                f"Use {', '.join(TOTALS)}, each a number or a text.",
            )
        if name in ("count", "sum") and not _is_number(str(value)):
            raise InvalidRequestError(f"The {name} of {excerpt(column)} in {told_in} is no number.", EXAMPLE)
    return {name: str(value) for name, value in totals.items()}


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except InvalidOperation:
        return False


def _shown(name: str) -> str:
    return excerpt(PurePosixPath(name).name)
