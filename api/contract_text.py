"""Contracts as text: JSON or YAML, read without a guess and written so that they are read again the same.

Rules:
1. YAML is read as JSON would say it. A plain word is a number, true, false or null only if JSON writes it so; `no`,
   `2024-01-31`, `NULL` and `007` are texts, and nothing is until it is quoted that JSON does not know.
2. A fraction is a `Decimal`: 0.10 stays 0.10.
3. What could mean two things is refused with its line: a name that stands twice, a second document, a tag. An anchor or
   an alias is refused too: a few lines of them can stand for more than any memory holds.
4. YAML is written so that readers of YAML 1.1 and of YAML 1.2 take every text for a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NoReturn

from ledger.domain.column import excerpt
from ledger.errors import InvalidRequestError

NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<rest>(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)", re.ASCII)
# What YAML 1.2 takes for a number and YAML 1.1, which the library knows, does not.
NUMBER_OF_YAML_12 = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+|0x[0-9a-fA-F]+", re.ASCII
)
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
DIGITS_MAX = 1_000
DEPTH_MAX = 50
YAML_TYPES = frozenset({"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"})
JSON_TYPE = "application/json"
YAML_TYPE = "application/yaml"


def media_type_of(filename: str, data: bytes) -> str:
    """What a file holds: by its extension, else JSON if it starts as an object does."""
    extension = filename.lower().rpartition(".")[2]
    if extension in ("yaml", "yml"):
        return YAML_TYPE
    return JSON_TYPE if extension == "json" or data.lstrip()[:1] == b"{" else YAML_TYPE


def read_contract_text(data: bytes, media_type: str) -> dict[str, Any]:
    """What a text says, as JSON values; fractions are decimals.

    Args:
        media_type: one of `YAML_TYPES`, or else JSON.

    Raises:
        InvalidRequestError: it cannot be read; with its line.
    """
    name = "YAML" if media_type in YAML_TYPES else "JSON"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(name, data[: error.start].count(b"\n"), "it is not UTF-8") from None
    values = _read_yaml(text) if name == "YAML" else _read_json(text)
    if not isinstance(values, dict):
        raise InvalidRequestError(f"The {name} is no object with names and values.", "See `ledger datasets infer`.")
    return values


def write_yaml(values: Any) -> str:
    """JSON values as YAML."""
    # Read when it is needed: most commands and most requests never are about YAML.
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what any reader could take for something else than a text."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def quoted_if_it_must(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        # The library writes some line separators as they are, and readers make other ones of them.
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')

    Dumper.add_representer(str, quoted_if_it_must)
    Dumper.add_implicit_resolver("number of YAML 1.2", re.compile(f"^(?:{NUMBER_OF_YAML_12.pattern})$"), None)
    written = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
    assert isinstance(written, str)
    return written


def _read_json(text: str) -> Any:
    try:
        return json.loads(
            text, parse_int=_number, parse_float=_number, parse_constant=_no_number, object_pairs_hook=_named_once
        )
    except json.JSONDecodeError as error:
        raise _unreadable("JSON", error.lineno - 1, f"{error.msg.lower()} in column {error.colno}") from None
    except RecursionError:
        raise InvalidRequestError("The JSON is nested too deep to be a contract.") from None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidRequestError(
                f"The JSON has the name {excerpt(name)} twice in one object.", "Keep one of them."
            )
        found[name] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise InvalidRequestError(f"The JSON has {text}, which is no number.")


def _number(text: str) -> int | Decimal:
    found = NUMBER.fullmatch(text)
    assert found is not None, text
    number = Decimal(text)
    if len(text) > DIGITS_MAX or abs(number.adjusted()) > DIGITS_MAX:
        raise InvalidRequestError(f"The number {excerpt(text)} has too many digits.", f"Use up to {DIGITS_MAX:,}.")
    return number if found["rest"] else int(text)


def _read_yaml(text: str) -> Any:
    import yaml

    events: Iterator[Any] = yaml.parse(text, Loader=yaml.CBaseLoader if yaml.__with_libyaml__ else yaml.BaseLoader)
    try:
        next(events)  # the stream starts
        if isinstance(next(events), yaml.StreamEndEvent):
            return None
        values = _value(events, next(events), 0)
        next(events)  # the document ends
        if not isinstance(after := next(events), yaml.StreamEndEvent):
            raise _unreadable("YAML", after.start_mark.line, "a second document starts there")
        return values
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read")
        line = text[: getattr(error, "position", 0)].count("\n") if mark is None else mark.line
        raise _unreadable("YAML", line, problem) from None


def _value(events: Iterator[Any], event: Any, depth: int) -> Any:
    """The value that starts with an event."""
    import yaml

    line = event.start_mark.line
    if depth > DEPTH_MAX:
        raise _unreadable("YAML", line, "it is nested too deep to be a contract")
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _unreadable("YAML", line, f"{event.anchor[:20]!r} is an anchor or an alias; write the values out")
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if event.tag is not None:
        raise _unreadable("YAML", line, f"{event.tag[:40]!r} is a tag; leave it away")
    if isinstance(event, yaml.SequenceStartEvent):
        found = []
        while not isinstance(inner := next(events), yaml.SequenceEndEvent):
            found.append(_value(events, inner, depth + 1))
        return found
    return _mapping(events, depth)


def _mapping(events: Iterator[Any], depth: int) -> dict[str, Any]:
    import yaml

    named: dict[str, Any] = {}
    while not isinstance(inner := next(events), yaml.MappingEndEvent):
        name, line = getattr(inner, "value", None), inner.start_mark.line if inner.start_mark else 0
        if name is None:
            raise _unreadable("YAML", line, "a name is no text")
        if name in named:
            raise _unreadable("YAML", line, f"the name {excerpt(name)} stands there again")
        named[name] = _value(events, next(events), depth + 1)
    return named


def _scalar(event: Any) -> Any:
    """A scalar by rule 1."""
    if event.tag not in TEXT_TAGS:
        raise _unreadable("YAML", event.start_mark.line, f"{event.tag[:40]!r} is a tag; leave it away")
    text = event.value
    plain, _ = event.implicit  # neither quoted nor tagged
    if not plain:
        return text
    if text in WORDS:
        return WORDS[text]
    return _number(text) if NUMBER.fullmatch(text) else text


def _unreadable(name: str, line: int, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"The {name} cannot be read in line {line + 1}: {problem}.", "Correct it there.")
