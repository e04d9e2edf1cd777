"""Patterns: whether those of a contract can be read. `python -m projections.patterns` tells it to a door.

RE2 comes with Arrow, which takes more memory than a door may have: it asks a process of its own.
"""

from __future__ import annotations

import json
import sys

import pyarrow
import pyarrow.compute

from ledger.domain.column import excerpt
from ledger.domain.contract import Contract
from ledger.errors import InvalidRequestError


def whole(pattern: str) -> str:
    """A pattern that matches what another matches from the first to the last character."""
    return rf"\A(?:{pattern})\z"


def check_patterns(contract: Contract) -> None:
    """Check the patterns of a contract.

    Raises:
        InvalidRequestError: one cannot be read.
    """
    for column in contract.columns:
        try:
            if column.pattern is not None:
                pyarrow.compute.match_substring_regex(pyarrow.array([""]), whole(column.pattern))
        except pyarrow.ArrowInvalid as error:
            raise InvalidRequestError(
                f"The pattern of column {excerpt(column.name)} cannot be read: {error}."
            ) from None


def main() -> None:
    """Read a contract from standard input; what is wrong with it, or nothing, goes to standard output."""
    try:
        check_patterns(Contract.from_dict(json.load(sys.stdin)))
    except InvalidRequestError as error:
        sys.stdout.write(error.message)


if __name__ == "__main__":
    main()
