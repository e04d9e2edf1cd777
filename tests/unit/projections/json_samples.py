"""Values of JSON as they are written, and the columns that they must come to."""

from __future__ import annotations

import json

from hypothesis import strategies as st

NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,5})?([eE][-+]?[0-9]{1,3})?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
# An underscore is left out: `a_b` beside `a: {b}` has its own test.
NAMES = st.text(st.sampled_from('abcü"\\ €𝄞{[:,'), max_size=4)


class Literal:
    """A value that stands in the file as this text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Literal({self.text!r})"


LEAVES = st.builds(Literal, NUMBERS) | st.builds(Literal, st.sampled_from(["true", "false", "null"])) | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(NAMES, VALUES, max_size=5)
BLANKS = st.sampled_from(["", " ", "\t", " \r"])


def written(value, blank: str = "", ascii_only: bool = False) -> str:
    """The value as JSON text, with blanks wherever they may be."""
    if isinstance(value, Literal):
        text = value.text
    elif isinstance(value, str):
        text = json.dumps(value, ensure_ascii=ascii_only)
    elif isinstance(value, list):
        text = "[" + ",".join(written(item, blank, ascii_only) for item in value) + blank + "]"
    else:
        members = (
            f"{written(name, blank, ascii_only)}:{written(item, blank, ascii_only)}" for name, item in value.items()
        )
        text = "{" + ",".join(members) + blank + "}"
    return blank + text + blank


def expected(record: dict) -> dict[str, str | None]:
    """The columns of a record, none of whose columns are the same."""
    columns: dict[str, str | None] = {}
    for name, value in record.items():
        for rest, text in _flat(value, 1):
            columns["_".join([name, *rest])] = text
    return columns


def _flat(value, parts: int):
    if isinstance(value, dict) and parts < 3:
        for name, inner in value.items():
            for rest, text in _flat(inner, parts + 1):
                yield [name, *rest], text
    elif isinstance(value, dict | list):
        yield [], written(_sorted(value))
    else:
        text = value if isinstance(value, str) else value.text
        yield [], None if text == "null" and isinstance(value, Literal) else text


def _sorted(value):
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    return value
