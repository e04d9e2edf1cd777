"""What a sender says of a file besides its bytes, by form field or query.

dataset          the dataset that it goes into; by default made from its name
on_duplicate     return, reject or allow
record           the path or the element that is one record, of JSON and XML
sheet            the sheet of a workbook
encoding         the encoding of a text that does not prove its own
delimiter        the character between the fields of a text, if its content does not tell; `tab` for the tabulator
quote            the character around fields that may hold anything, if it is not "
escape           the character that takes their meaning from quotes and delimiters
header           yes or no: whether the first record of a text names the columns
member           the file in an archive; by default each of its files becomes a job
corrects         the job whose rejects the file brings again
control_totals   what it has to come to, as JSON: {"records": 12, "columns": {"amount": {"sum": "10.50"}}}; a file
                 `<name>.totals.json` that comes with it says the same: see `ledger.domain.control_totals`
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from api.state import id_of
from ledger.domain.column import excerpt
from ledger.domain.contract import check_dataset_name
from ledger.domain.control_totals import checked_control_totals
from ledger.domain.words import OnDuplicate
from ledger.errors import InvalidRequestError

READING = ("record", "sheet", "encoding", "member", "delimiter", "quote", "escape", "header")
CHARACTERS = ("delimiter", "quote", "escape")
READING_CHARACTERS_MAX = 255


@dataclass(frozen=True)
class Choices:
    """What the sender of files says, checked."""

    dataset: str | None
    on_duplicate: OnDuplicate
    reading: dict[str, str]
    corrects: UUID | None
    control_totals: dict[str, Any]


def checked_choices(dataset: str | None, on_duplicate: str, said: Mapping[str, str]) -> Choices:
    """The choices of a sender.

    Raises:
        InvalidRequestError: one of them cannot be.
        NotFoundError: what is corrected has no id of a job.
    """
    if dataset is not None:
        check_dataset_name(dataset)
    if on_duplicate not in list(OnDuplicate):
        raise InvalidRequestError(f"on_duplicate is {excerpt(on_duplicate)}.", f"Use one of: {', '.join(OnDuplicate)}.")
    reading = {name: said[name] for name in READING if said.get(name)}
    _check_characters(reading)
    for name, value in reading.items():
        if len(value) > READING_CHARACTERS_MAX:
            raise InvalidRequestError(f"{name} has {len(value)} characters; the most is {READING_CHARACTERS_MAX}.")
        if "\0" in value:  # no name in a file has one, and PostgreSQL keeps none
            raise InvalidRequestError(f"{name} holds a NUL character.", "Give it as it stands in the file.")
    corrects = id_of(said["corrects"]) if said.get("corrects") else None
    told = said.get("control_totals")
    totals = checked_control_totals(told) if told else {}
    return Choices(dataset, OnDuplicate(on_duplicate), reading, corrects, totals)


def _check_characters(reading: dict[str, str]) -> None:
    """Check what is said of delimited text, and put the tabulator in the place of its name."""
    for name in CHARACTERS:
        if name in reading:
            character = "\t" if reading[name] == "tab" else reading[name]
            if len(character) != 1 or not character.isascii() or character.isalnum() or character in "\r\n\0 ":
                raise InvalidRequestError(
                    f"{name} is {excerpt(reading[name])}.", "Use one character that is neither a letter nor a digit."
                )
            reading[name] = character
    if len({reading[name] for name in CHARACTERS if name in reading}) < sum(name in reading for name in CHARACTERS):
        raise InvalidRequestError("Delimiter, quote and escape character are not different from each other.")
    if reading.get("header", "yes") not in ("yes", "no"):
        raise InvalidRequestError(f"header is {excerpt(reading['header'])}.", "Use yes or no.")
