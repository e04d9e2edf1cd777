"""Formats and patterns as the Open Data Contract Standard writes them, which are Java's and ECMAScript's.

Rules:
1. A format of days and times is one of Java's DateTimeFormatter. Of its letters, those are read that say what one of
   our directives says. Text among them stands in apostrophes; a bare `T`, which the standard's own examples have, is a
   T.
2. A part of a second and an offset are read into directives that take a little more (`%f`: one to six digits; `%z`:
   with or without a colon). These are not written: a reader of Java would take less than we do.
3. A pattern of the standard is looked for anywhere in a value, ours is the whole value. So ours is written between `^`
   and `$`, and another one is read with anything before and after it.
4. What RE2 has and ECMAScript has not is not written.
"""

from __future__ import annotations

import re

from ledger.domain.column import excerpt
from ledger.domain.values import DIRECTIVE
from ledger.errors import InvalidRequestError

# OURS -> theirs, where both say the same.
LETTERS = {
    "%Y": "yyyy",
    "%m": "MM",
    "%-m": "M",
    "%b": "MMM",
    "%d": "dd",
    "%-d": "d",
    "%H": "HH",
    "%M": "mm",
    "%S": "ss",
}
# THEIRS -> ours, where ours takes more, or theirs is another word for it.
READ_ONLY = (
    {"uuuu": "%Y"}
    | {"S" * digits: "%f" for digits in range(1, 7)}
    | dict.fromkeys(("X", "XX", "XXX", "x", "xx", "xxx", "Z"), "%z")
)
DIRECTIVE_OF = {theirs: ours for ours, theirs in LETTERS.items()} | READ_ONLY | {"T": "T"}
PART = re.compile(
    r"'(?P<quoted>(?:[^']|'')*)'|(?P<letters>([A-Za-z])\3*)|(?P<reserved>['\[\]{}#])|(?P<text>[^A-Za-z'\[\]{}#]+)"
)
QUOTED = re.compile(r"[A-Za-z'\[\]{}#]+")
ANCHORED = re.compile(r"\^(?P<inner>.*)\$", re.DOTALL)
WRITTEN = re.compile(r"\^\(\?:(?P<inner>.*)\)\$", re.DOTALL)
EMPTY_CLASS = re.compile(r"(?<!\\)\[\^?\]")  # in RE2 the bracket that would close it is one of its characters
RE2_ONLY = re.compile(r"\\[AzQEpPCaU]|\\x\{|\(\?[a-zA-Z-]|\[\[:")


def format_written(ours: str) -> str | None:
    """A format of days and times in Java's letters; None if they do not say it."""
    written = ""
    for part in DIRECTIVE.findall(ours):
        if not part.startswith("%") or part == "%%":
            text = part.replace("%%", "%")
            written += QUOTED.sub(lambda found: "'" + found[0].replace("'", "''") + "'", text)
        elif part in LETTERS:
            written += LETTERS[part]
        else:
            return None
    return written


def format_read(theirs: str) -> str:
    """A format of days and times in our directives.

    Raises:
        InvalidRequestError: it has letters that none of them says.
    """
    ours, end = "", 0
    while end < len(theirs):
        part = PART.match(theirs, end)
        assert part is not None, theirs
        end = part.end()
        if part["letters"] is not None and part["letters"] in DIRECTIVE_OF:
            ours += DIRECTIVE_OF[part["letters"]]
        elif part["letters"] is not None or part["reserved"] is not None:
            raise InvalidRequestError(
                f"The format {excerpt(theirs)} cannot be read: {excerpt(part[0])} is unknown.",
                f"Use {', '.join(DIRECTIVE_OF)}, and put apostrophes around text: yyyy-MM-dd'T'HH:mm:ssXXX.",
            )
        else:
            text = part["text"] if part["quoted"] is None else part["quoted"].replace("''", "'") or "'"
            ours += text.replace("%", "%%")
    return ours


def pattern_written(ours: str) -> str | None:
    """A pattern of the whole value as one that is looked for in it; None if ECMAScript does not know what it has."""
    return None if RE2_ONLY.search(ours) or EMPTY_CLASS.search(ours) else f"^(?:{ours})$"


def pattern_read(theirs: str) -> str:
    """A pattern that is looked for in a value as one of the whole value.

    Raises:
        InvalidRequestError: it would mean something else in RE2.
    """
    if EMPTY_CLASS.search(theirs):
        raise InvalidRequestError(
            f"The pattern {excerpt(theirs)} cannot be read: an empty class of characters is none in RE2.",
            "Write what it stands for, such as (?s:.) for any character.",
        )
    written, anchored = WRITTEN.fullmatch(theirs), ANCHORED.fullmatch(theirs)
    if written is not None and _is_closed(written["inner"], with_alternatives=True):
        return written["inner"]
    if anchored is not None and _is_closed(anchored["inner"], with_alternatives=False):
        return anchored["inner"]
    return rf"(?s:.*)(?:{theirs})(?s:.*)"


def _is_closed(pattern: str, *, with_alternatives: bool) -> bool:
    """Whether all that opens in a pattern closes in it, and alternatives stand within parentheses or anywhere."""
    depth, in_class, place = 0, False, 0
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            place += 1
        elif in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        if depth < 0 or (character == "|" and depth == 0 and not in_class and not with_alternatives):
            return False
        place += 1
    return depth == 0 and not in_class and place == len(pattern)
