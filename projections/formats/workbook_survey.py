"""Workbook survey: what the sheets of a workbook hold, before a library loads one of them.

calamine is fast, but a sheet of two cells far apart takes memory for all that lie between, and a cell that holds an
error, or a formula whose result was never computed, looks empty. So the sheets are looked through here first.

Rules:
1. A sheet is as large as the rectangle from its first cell to the last filled one; a cell with a format alone is empty.
2. An error (#N/A, #DIV/0!) and a formula without a result are flaws of their row.
3. Every part of a zipped workbook is unpacked once, within the limits, and thrown away: only then is it handed on.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO
from xml.parsers import expat

from ledger.errors import FileRefusedError
from projections.formats.archive import Member, member_pieces
from projections.formats.rows import Limits
from projections.formats.streams import Source

ERROR = ("cell_error", "holds an error, such as #N/A or #DIV/0!, instead of a value")
NOT_COMPUTED = ("formula_not_computed", "holds a formula whose result was not saved")
BYTES_PER_CELL = 128  # of XML; what a workbook of `cells_max` cells can need
RATIO_FLOOR_BYTES = 64 << 20
SAVE_AS_CSV = "Save the sheet as CSV and send that, or send it in parts."
SAVE_AGAIN = "Open it in the program that made it, save it again, and send it."

Attributes = dict[str, str]
CellFlaws = dict[int, tuple[str, str]]


@dataclass
class Survey:
    """A sheet: how many rows and columns it has, counted from its first cell, and the flaws by row and column.

    Rows count from 1, columns from 0.
    """

    name: str
    rows: int = 0
    columns: int = 0
    flaws: dict[int, CellFlaws] = field(default_factory=dict)

    def fill(self, row: int, column: int, flaw: tuple[str, str] | None = None) -> None:
        """Note a filled cell."""
        self.rows = max(self.rows, row)
        self.columns = max(self.columns, column + 1)
        if flaw is not None:
            self.flaws.setdefault(row, {})[column] = flaw


def invalid(what: str) -> FileRefusedError:
    """The refusal of a workbook that cannot be read."""
    return FileRefusedError("workbook_invalid", f"The workbook cannot be read: {what}.", SAVE_AGAIN)


def encrypted() -> FileRefusedError:
    """The refusal of a workbook with a password."""
    return FileRefusedError(
        "workbook_encrypted",
        "The workbook is protected by a password, so that nothing of it can be read.",
        "Save it without a password (in Excel: File, Info, Protect Workbook) and send it again.",
    )


def too_large(what: str) -> FileRefusedError:
    """The refusal of a workbook beyond the limits."""
    return FileRefusedError("workbook_too_large", f"The workbook is too large: {what}.", SAVE_AS_CSV)


def check_cells(surveys: list[Survey], limits: Limits) -> None:
    """Refuse sheets that have more cells together than may be loaded."""
    if sum(survey.rows * survey.columns for survey in surveys) > limits.cells_max:
        names = ", ".join(repr(survey.name) for survey in surveys[:20])
        sizes = ", ".join(f"{survey.rows:,} × {survey.columns:,}" for survey in surveys[:20])  # noqa: RUF001
        raise too_large(f"it has more than {limits.cells_max:,} cells (rows and columns of {names}: {sizes})")


class Package:
    """The parts of a zipped workbook. Reading one counts what comes out of it."""

    def __init__(self, file: BinaryIO, size: int, members: tuple[Member, ...], limits: Limits) -> None:
        self._file = file
        self._members = {_part_name(member.name): member for member in members}
        self._unread = set(self._members)
        self._bytes = 0
        ratio_bytes = max(RATIO_FLOOR_BYTES, limits.text_ratio_max * size)
        self._bytes_max = min(limits.text_bytes_max, ratio_bytes, limits.cells_max * BYTES_PER_CELL + RATIO_FLOOR_BYTES)
        if sum(member.size for member in members) > self._bytes_max:
            raise self._too_large()

    def __contains__(self, name: str) -> bool:
        return _part_name(name) in self._members

    def size(self, name: str) -> int:
        """How many bytes a part has."""
        return self._members[_part_name(name)].size

    def pieces(self, name: str) -> Iterator[bytes]:
        """The bytes of a part."""
        name = _part_name(name)
        member = self._members.get(name)
        if member is None:
            raise invalid(f"its part {name!r} is missing")
        self._unread.discard(name)
        source = Source(self._file, "zip", member.offset, member.offset + member.compressed_size)
        for piece in member_pieces(source, member):
            self._bytes += len(piece)
            if self._bytes > self._bytes_max:
                raise self._too_large()
            yield piece

    def read_rest(self) -> None:
        """Read the parts that were not read, for their size."""
        for name in sorted(self._unread):
            for _ in self.pieces(name):
                pass

    def parse(self, name: str, start: Callable[[str, Attributes], None], **handlers: Callable[..., None]) -> None:
        """Tell `start` every element of an XML part, by its name without the prefix, with its attributes."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = start
        parser.StartDoctypeDeclHandler = _refuse_declaration
        for handler, function in handlers.items():
            setattr(parser, handler, function)
        try:
            for piece in self.pieces(name):
                parser.Parse(piece, False)
            parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise invalid(f"its part {name!r} is damaged ({error})") from error

    def relations(self, part: str) -> dict[str, tuple[str, str]]:
        """The parts that a part refers to, by the name it gives them: their type and their place."""
        folder, name = posixpath.split(part)
        found: dict[str, tuple[str, str]] = {}

        def start(element: str, attributes: Attributes) -> None:
            if local_name(element) == "Relationship":
                target = posixpath.normpath(posixpath.join("/", folder, attributes.get("Target", "")))
                found[attributes.get("Id", "")] = (attributes.get("Type", ""), target)

        self.parse(posixpath.join(folder, "_rels", f"{name}.rels"), start)
        return found

    def _too_large(self) -> FileRefusedError:
        return too_large(f"more than {self._bytes_max:,} bytes come out of it when it is unpacked")


def local_name(name: str) -> str:
    """The name of an element without its prefix."""
    return name[name.find(":") + 1 :]


def survey_xlsx(package: Package, workbook: str) -> list[Survey]:
    """The sheets of an .xlsx workbook whose main part is `workbook`."""
    relations = package.relations(workbook)
    for kind, part in relations.values():
        if kind.endswith("/sharedStrings") and part in package:
            _check_shared_texts(package, part)
    surveys = []
    for name, relation in _sheets(package, workbook):
        kind, part = relations.get(relation, ("", ""))
        survey = Survey(name)
        surveys.append(survey)
        if kind.endswith("/worksheet"):
            cells = _SheetCells(survey)
            package.parse(part, cells.start, CharacterDataHandler=cells.text)
            cells.end_cell()
    return surveys


def _check_shared_texts(package: Package, part: str) -> None:
    """Refuse a number of texts that is not possible: calamine makes room for as many as a workbook says."""

    def start(element: str, attributes: Attributes) -> None:
        if local_name(element) == "sst":
            for name in ("count", "uniqueCount"):
                said = attributes.get(name, "0")
                if not _is_number(said) or (name == "uniqueCount" and int(said) > package.size(part)):
                    raise invalid(f"it says that it has {said[:20]} texts, in {package.size(part):,} bytes")

    package.parse(part, start)


def _sheets(package: Package, workbook: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def start(element: str, attributes: Attributes) -> None:
        if local_name(element) == "sheet":
            relation = next((value for key, value in attributes.items() if key.endswith(":id")), "")
            found.append((attributes.get("name", ""), relation))

    package.parse(workbook, start)
    return found


class _SheetCells:
    """What the elements of a worksheet say about its cells. It sees every one of them, so it is written for speed."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._row, self._column = 0, -1
        self._row_text = ""  # how the row's cells end
        self._kind: str | None = None
        self._formula = self._computed = self._in_value = False
        self._columns: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def start(self, name: str, attributes: Attributes) -> None:
        """An element starts."""
        name = self._names.get(name) or self._names.setdefault(name, local_name(name))
        if name == "c":
            if self._formula:
                self.end_cell()
            self._kind = attributes.get("t")
            reference = attributes.get("r")
            if reference is None:
                self._column += 1
                return
            column = self._columns.get(reference[: -len(self._row_text)])
            if column is None or not reference.endswith(self._row_text):
                self._find(reference)
            else:
                self._column = column
        elif name == "v":
            self._in_value = True
            self._filled(ERROR if self._kind == "e" else None)
        elif name == "f":
            self._formula, self._in_value = True, False
        elif name == "is":
            self._filled(None)
        elif name == "row":
            self.end_cell()
            number = attributes.get("r", "")
            self._row, self._column = int(number) if _is_number(number) else self._row + 1, -1
            self._row_text = str(self._row)

    def text(self, text: str) -> None:
        """Some text stands in the current element."""
        if self._formula and self._in_value and text.strip():
            self._computed = True

    def end_cell(self) -> None:
        """Whatever belongs to the current cell was seen."""
        if self._formula and not self._computed and self._kind not in ("str", "e"):
            self._filled(NOT_COMPUTED)
        self._formula = self._computed = self._in_value = False

    def _filled(self, flaw: tuple[str, str] | None) -> None:
        survey = self._survey
        if flaw is not None or self._row > survey.rows or self._column >= survey.columns:
            survey.fill(self._row, self._column, flaw)

    def _find(self, reference: str) -> None:
        """Note where a cell is that is not in its row, or in a column that was not seen."""
        letters = reference.rstrip("0123456789")
        number = reference[len(letters) :]
        if not _is_number(number):
            raise invalid(f"a cell is called {reference[:20]!r}")
        self._row, self._column = int(number), _column_number(letters)
        self._columns[letters] = self._column
        self._row_text = number


def _column_number(letters: str) -> int:
    """The number, from 0, of a column that is called A to XFD."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    if not (0 < len(letters) <= 3 and letters.isascii() and letters.isalpha()):
        raise invalid(f"a column is called {letters[:20]!r}")
    return number - 1


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def _refuse_declaration(*_: object) -> None:
    raise invalid("it declares a document type, which workbooks have not")


def _part_name(name: str) -> str:
    return name.replace("\\", "/").lstrip("/").lower()
