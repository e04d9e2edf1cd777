"""XML elements: the columns of a record that is an element.

Rules:
1. An attribute is a column by its name, a child element by its own, what is in a child by both joined with `_`. A name
   has at most three parts; an element below them, and elements that are repeated, are JSON text as `flattening` has it.
2. A namespace's prefix is no part of a name. Declarations of namespaces and the attributes of XML Schema (`xsi:`) are
   no values.
3. The text in an element is kept as it stands. The text beside other elements is the column of the element that holds
   both, and of the record the column `text`; if it is blank it only sets things out, and is no value.
4. An element without content is an empty text; with `xsi:nil` it is no value; with attributes, these are all it holds.
5. In JSON text an element with attributes or elements is an object, in which its own text is the member `text`.
"""

from __future__ import annotations

from typing import Any

from projections.formats.flattening import NAME_PARTS, check_count, column_text, put
from projections.formats.xml_parser import NAMESPACE_END

TEXT = "text"
SCHEMA_INSTANCE = "http://www.w3.org/2001/XMLSchema-instance" + NAMESPACE_END
BLANKS = " \t\r\n"


class Element:
    """An element of a record. Attributes are names and values in turn, as they stand in the file."""

    __slots__ = ("attributes", "children", "name", "nil", "texts")

    def __init__(self, name: str, attributes: list[str]) -> None:
        self.name = local_name(name)
        self.nil = False
        self.attributes = self._values(attributes) if attributes else ()
        self.children: list[Element] = []
        self.texts: list[str] = []

    @property
    def is_text(self) -> bool:
        """Whether the element holds nothing but text."""
        return not (self.attributes or self.children)

    def text(self) -> str | None:
        """The element's own text. Without any, it is None if something else is there instead."""
        text = "".join(self.texts)
        if self.children and not text.strip(BLANKS):
            text = ""
        return text or (None if self.nil or not self.is_text else "")

    def _values(self, attributes: list[str]) -> tuple[tuple[str, str], ...]:
        pairs = tuple(zip(attributes[::2], attributes[1::2], strict=True))
        self.nil = any(name == f"{SCHEMA_INSTANCE}nil" and value.strip() in ("true", "1") for name, value in pairs)
        return tuple((local_name(name), value) for name, value in pairs if not name.startswith(SCHEMA_INSTANCE))


def local_name(name: str) -> str:
    """The name without its namespace."""
    return name[name.rfind(NAMESPACE_END) + 1 :]


def columns_of(record: Element, columns_max: int) -> dict[str, str | None]:
    """The columns of a record.

    Raises:
        FlawedError: column_twice or columns_too_many.
    """
    columns: dict[str, Any] = {}
    _put_content(columns, record, "", 1)
    text = "".join(record.texts)
    if text.strip(BLANKS):
        put(columns, TEXT, text)
    check_count(columns, columns_max)
    return {column: column_text(value) for column, value in columns.items()}


def _put_content(columns: dict[str, Any], element: Element, prefix: str, parts: int) -> None:
    """Add what is in an element, whose columns start with `prefix`, which has `parts` - 1 parts."""
    for name, value in element.attributes:
        put(columns, prefix + name, value)
    for name, children in _by_name(element).items():
        child = children[0]
        if len(children) > 1:
            put(columns, prefix + name, [_json(each) for each in children])
        elif child.is_text:
            put(columns, prefix + name, child.text())
        elif parts == NAME_PARTS:
            put(columns, prefix + name, _json(child))
        else:
            text = child.text()
            if text is not None or child.nil:
                put(columns, prefix + name, text)
            _put_content(columns, child, f"{prefix}{name}_", parts + 1)


def _json(element: Element) -> Any:
    text = element.text()
    if element.is_text:
        return text
    members: dict[str, Any] = {}
    for name, value in element.attributes:
        put(members, name, value)
    for name, children in _by_name(element).items():
        values = [_json(child) for child in children]
        put(members, name, values if len(values) > 1 else values[0])
    if text is not None:
        put(members, TEXT, text)
    return members


def _by_name(element: Element) -> dict[str, list[Element]]:
    groups: dict[str, list[Element]] = {}
    for child in element.children:
        groups.setdefault(child.name, []).append(child)
    return groups
