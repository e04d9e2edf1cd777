"""Workbook survey of OpenDocument spreadsheets (.ods): see `workbook_survey`.

Rows and cells that are equal are written once, with how often they are repeated; the repeated ones count.
"""

from __future__ import annotations

from projections.formats.rows import Limits
from projections.formats.workbook_survey import (
    ERROR,
    Attributes,
    Package,
    Survey,
    check_cells,
    encrypted,
    invalid,
    local_name,
)

CONTENT, MANIFEST = "content.xml", "META-INF/manifest.xml"
REPEATED_MAX = 10**7  # more than any sheet has
CELLS = ("table-cell", "covered-table-cell")


def survey_ods(package: Package, limits: Limits) -> list[Survey]:
    """The tables of a spreadsheet.

    Raises:
        FileRefusedError: workbook_encrypted, workbook_invalid or workbook_too_large.
    """
    if MANIFEST in package:
        package.parse(MANIFEST, _refuse_encryption)
    tables = _Tables(limits)
    package.parse(CONTENT, tables.start, EndElementHandler=tables.end)
    return tables.surveys


def _refuse_encryption(name: str, _: Attributes) -> None:
    if local_name(name) == "encryption-data":
        raise encrypted()


class _Tables:
    """What the elements of the content say about the cells of its tables."""

    def __init__(self, limits: Limits) -> None:
        self.surveys: list[Survey] = []
        self._limits = limits
        self._row = self._column = 0  # how many are complete
        self._row_repeated = self._cell_repeated = 1
        self._filled = 0  # columns of the row up to the last filled one
        self._errors: list[tuple[int, int]] = []  # columns of the row, from and to
        self._in_cell = False

    def start(self, name: str, attributes: Attributes) -> None:
        """An element starts."""
        name = local_name(name)
        if name in CELLS:
            self._in_cell = True
            self._cell_repeated = _repeated(attributes, "table:number-columns-repeated")
            if "office:value-type" in attributes:
                self._fill()
            if attributes.get("calcext:value-type") == "error":
                self._fill()
                self._errors.append((self._column, self._column + self._cell_repeated))
        elif name == "p" and self._in_cell:
            self._fill()
        elif name == "table-row":
            self._row_repeated = _repeated(attributes, "table:number-rows-repeated")
            self._column = self._filled = 0
            self._errors = []
        elif name == "table":
            self.surveys.append(Survey(attributes.get("table:name", "")))
            self._row = 0

    def end(self, name: str) -> None:
        """An element ends."""
        name = local_name(name)
        if name in CELLS:
            self._in_cell = False
            self._column += self._cell_repeated
        elif name == "table-row":
            self._end_row()

    def _fill(self) -> None:
        self._filled = max(self._filled, self._column + self._cell_repeated)

    def _end_row(self) -> None:
        first = self._row + 1
        self._row += self._row_repeated
        if not self._filled or not self.surveys:
            return
        survey = self.surveys[-1]
        survey.fill(self._row, self._filled - 1)
        check_cells(self.surveys, self._limits)
        for row in range(first, self._row + 1) if self._errors else ():
            for start, end in self._errors:
                for column in range(start, end):
                    survey.fill(row, column, ERROR)


def _repeated(attributes: Attributes, name: str) -> int:
    text = attributes.get(name, "1")
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= REPEATED_MAX):
        raise invalid("a row or a cell is repeated an impossible number of times")
    return int(text)
