"""Workbook: the rows of one sheet of an .xlsx, .xlsb, .xls or .ods file.

Rules:
1. The sheet is the one that `options["sheet"]` names, else the only one that is not empty. Hidden sheets count: what is
   hidden is not less there.
2. The first row that is not empty is the header. A column without a name that has values below is called `column_N`, by
   its number in the sheet; one without values is none. Rows that are empty are no records.
3. A row's offset is the number that the program shows beside it. Its length is 0.
4. A number is told with the fewest digits that name it, without an exponent; a whole one without a decimal point. Empty
   text is no value, because a workbook does not tell them apart.
5. Days, times and instants are ISO 8601. A workbook keeps all three as numbers, and only the cell's format says which
   it is; a midnight is told as a day, so a column of instants can hold some days. A length of time is `H:MM:SS`.
6. An error (#N/A) and a formula whose result was not saved are flaws of their row. Macros are never run, nor formulas.
7. A workbook is loaded as a whole. How large it is, is found out before: see `workbook_survey`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, BinaryIO

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, PasswordError

from ledger.errors import FileRefusedError
from projections.formats.archive import SIGNATURES, Member, is_workbook, members_of
from projections.formats.files import SteadyFile, read_up_to
from projections.formats.rows import Flaw, Limits, Row
from projections.formats.workbook_binary import survey_xls, survey_xlsb
from projections.formats.workbook_ods import survey_ods
from projections.formats.workbook_survey import (
    Package,
    Survey,
    check_cells,
    encrypted,
    invalid,
    survey_xlsx,
    too_large,
)

OLE_SIGNATURE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ROOT_RELATIONS = ""
BYTES_PER_CELL = 64  # of a binary workbook, which is read as a whole
SHEETS_NAMED = 20

Cell = str | float | bool | date | datetime | time | timedelta
NOT_FINITE = ("number_not_finite", "is not a number, or infinite")
NUL = ("nul_character", "holds a NUL character, which text has not")


def read_workbook(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
    """The rows of a sheet.

    Args:
        options: `sheet`, the name of the sheet.

    Raises:
        FileRefusedError: workbook_invalid, workbook_encrypted, workbook_too_large, sheet_unknown, sheet_ambiguous,
            file_empty, header_duplicate, header_unreadable or columns_too_many.
    """
    steady = SteadyFile(file)
    surveys, whole = _surveys(file, steady, limits)
    survey = _chosen(surveys, options.get("sheet"))
    check_cells(surveys if whole else [survey], limits)
    sheet = _loaded(steady, surveys.index(survey), survey, len(surveys))
    yield from _rows(sheet, survey, limits)


def _surveys(file: BinaryIO, steady: SteadyFile, limits: Limits) -> tuple[list[Survey], bool]:
    """The sheets of the workbook, and whether all of them are loaded at once."""
    size = steady.seek(0, 2)
    steady.seek(0)
    start = read_up_to(steady, len(OLE_SIGNATURE))
    steady.seek(0)
    if start == OLE_SIGNATURE:
        if size > limits.cells_max * BYTES_PER_CELL:
            raise too_large(f"it has {size:,} bytes")
        return survey_xls(steady.read(size)), True
    if not start.startswith(SIGNATURES):
        raise invalid("its first bytes are not those of a workbook")
    try:
        return _zipped_surveys(file, size, members_of(file, size, limits), limits)
    except FileRefusedError as error:
        if error.code == "archive_encrypted":
            raise encrypted() from error
        if error.code.startswith(("archive_", "compressed_")):
            raise invalid(error.message.rstrip(".")) from error
        raise


def _zipped_surveys(
    file: BinaryIO, size: int, members: tuple[Member, ...], limits: Limits
) -> tuple[list[Survey], bool]:
    package = Package(file, size, members, limits)
    if not is_workbook(members):
        raise invalid("it is a zip file, but no workbook")
    if "[Content_Types].xml" not in package:
        surveys, whole = survey_ods(package, limits), True
    else:
        relations = package.relations(ROOT_RELATIONS).values()
        main = next((part for kind, part in relations if kind.endswith("/officeDocument")), "")
        if main not in package:
            raise invalid("it does not say where its sheets are")
        survey = survey_xlsb if main.endswith(".bin") else survey_xlsx
        surveys, whole = survey(package, main), False
    package.read_rest()
    return surveys, whole


def _chosen(surveys: list[Survey], name: str | None) -> Survey:
    """The sheet that is meant."""
    names = ", ".join(repr(survey.name) for survey in surveys[:SHEETS_NAMED])
    if name is not None:
        named = next((survey for survey in surveys if survey.name == name), None)
        if named is None:
            raise FileRefusedError(
                "sheet_unknown", f"The workbook has no sheet {name[:100]!r}, but {names}.", "Name one of these."
            )
        filled = [named] if named.rows else []
    else:
        filled = [survey for survey in surveys if survey.rows]
    if not filled:
        what = "Every sheet of the workbook is empty" if name is None else f"The sheet {name!r} is empty"
        raise FileRefusedError("file_empty", f"{what}.", "Send a workbook with content.")
    if len(filled) > 1:
        names = ", ".join(repr(survey.name) for survey in filled[:SHEETS_NAMED])
        raise FileRefusedError(
            "sheet_ambiguous",
            f"The workbook has {len(filled):,} sheets with content: {names}.",
            "Name the one that is meant, or send a workbook with that sheet alone.",
        )
    return filled[0]


def _loaded(file: SteadyFile, index: int, survey: Survey, sheets: int) -> CalamineSheet:
    """The sheet, read by calamine."""
    file.seek(0)
    try:
        workbook = CalamineWorkbook.from_filelike(file)
        if len(workbook.sheet_names) == sheets:
            return workbook.get_sheet_by_index(index)
    except PasswordError as error:
        raise encrypted() from error
    except (CalamineError, OSError, ValueError, IndexError, OverflowError) as error:
        file.raise_failure()
        raise invalid(f"sheet {survey.name!r}: {str(error)[:100] or 'it is damaged'}") from error
    except BaseException as error:
        # What a failed assertion of the library becomes is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise invalid(f"sheet {survey.name!r} is damaged") from error
    raise invalid("its list of sheets is damaged")


def _rows(sheet: CalamineSheet, survey: Survey, limits: Limits) -> Iterator[Row]:
    cells = _numbered_cells(sheet, survey)
    start = sheet.start[1] if sheet.start else 0
    header_row, header = next(
        ((number, row) for number, row in cells if any(_is_filled(cell) for cell in row)), (0, [])
    )
    if not header:
        raise FileRefusedError("file_empty", f"The sheet {survey.name!r} has no values.", "Send a sheet with values.")
    columns = _columns(sheet, survey, header_row, header, limits)
    for number, row in cells:
        flaws = survey.flaws.get(number, {})
        values: dict[str, str | None] = {}
        found: dict[int, tuple[str, str]] = dict(flaws)
        for place, name in columns:
            cell = row[place - start] if start <= place < start + len(row) else ""
            values[name], wrong = _text(cell)
            if wrong is not None:
                found.setdefault(place, wrong)
        if found or any(value is not None for value in values.values()):
            yield Row(values, number, 0, _flaw(found, columns, values, limits))


def _numbered_cells(sheet: CalamineSheet, survey: Survey) -> Iterator[tuple[int, list[Any]]]:
    """The rows with their numbers, to the last one that has a cell or a flaw."""
    number = 0
    for number, row in enumerate(sheet.iter_rows(), 1):
        yield number, row
    for last in range(number + 1, max(survey.flaws, default=0) + 1):
        yield last, []


def _columns(
    sheet: CalamineSheet, survey: Survey, header_row: int, header: list[Any], limits: Limits
) -> list[tuple[int, str]]:
    """The columns' places in the sheet, from 0, and their names."""
    flawed_row = min(survey.flaws, default=header_row + 1)
    if flawed_row <= header_row:  # above the header stands something else than a header
        column = min(survey.flaws[flawed_row])
        reason = survey.flaws[flawed_row][column][1]
        what = f"The header cannot be told: row {flawed_row:,}, column {column + 1:,} {reason}."
        raise FileRefusedError(
            "header_unreadable", what, "Write the column's name there and send it again.", line=flawed_row
        )
    start = sheet.start[1] if sheet.start else 0
    names = {start + index: _text(cell)[0] for index, cell in enumerate(header)}
    nameless = {place for place, name in names.items() if name is None}
    used = {place for row, flaws in survey.flaws.items() if row > header_row for place in flaws}
    if nameless - used:
        used |= _filled_places(sheet, header_row, start)
    places = sorted(place for place in {*names, *used} if names.get(place) is not None or place in used)
    columns = [(place, names.get(place) or f"column_{place + 1}") for place in places]
    if len(columns) > limits.columns_max:
        what = f"The sheet {survey.name!r} has {len(columns):,} columns; at most {limits.columns_max:,} are read."
        raise FileRefusedError("columns_too_many", what, "Send the columns that are needed.")
    seen: set[str] = set()
    for _, name in columns:
        if name in seen:
            raise FileRefusedError(
                "header_duplicate",
                f"Two columns are called {name!r} in the header, row {header_row:,} of sheet {survey.name!r}.",
                "Give every column a name of its own and send it again.",
                line=header_row,
                column=name,
            )
        seen.add(name)
    return columns


def _filled_places(sheet: CalamineSheet, header_row: int, start: int) -> set[int]:
    """The columns in which something stands below the header."""
    filled: set[int] = set()
    for number, row in enumerate(sheet.iter_rows(), 1):
        if number > header_row:
            filled.update(start + index for index, cell in enumerate(row) if _is_filled(cell))
    return filled


def _flaw(
    found: dict[int, tuple[str, str]], columns: list[tuple[int, str]], values: dict[str, str | None], limits: Limits
) -> Flaw | None:
    if found:
        place = min(found)
        code, reason = found[place]
        name = next(name for at, name in columns if at == place)
        return Flaw(code, f"The value of column {name!r} {reason}.", name)
    # A character has at most four bytes.
    texts = [value for value in values.values() if value]
    longest = limits.record_bytes_max
    if sum(map(len, texts)) * 4 > longest and sum(len(text.encode()) for text in texts) > longest:
        return Flaw("record_too_long", f"The record is longer than {limits.record_bytes_max:,} bytes.")
    return None


def _is_filled(cell: Cell) -> bool:
    return cell != "" or not isinstance(cell, str)


def _text(cell: Cell) -> tuple[str | None, tuple[str, str] | None]:
    """A cell's text, None for no value, and what is wrong with it (code and reason)."""
    if isinstance(cell, str):
        return (None, NUL) if "\0" in cell else (cell or None, None)
    if isinstance(cell, bool):
        return ("true" if cell else "false"), None
    if isinstance(cell, float):
        return (_number_text(cell), None) if math.isfinite(cell) else (None, NOT_FINITE)
    if isinstance(cell, timedelta):
        return _duration_text(cell), None
    if isinstance(cell, datetime):
        return cell.isoformat(" ") if cell.time() != time() else cell.date().isoformat(), None
    return (str(cell) if isinstance(cell, int) else cell.isoformat()), None


def _number_text(number: float) -> str:
    if number == 0:
        return "0"
    text = repr(number)
    return format(Decimal(text), "f") if "e" in text else text.removesuffix(".0")


def _duration_text(duration: timedelta) -> str:
    """Hours, minutes and seconds; the hours can be more than a day's."""
    microseconds = round(duration / timedelta(microseconds=1))
    sign = "-" if microseconds < 0 else ""
    seconds, rest = divmod(abs(microseconds), 10**6)
    fraction = f".{rest:06}" if rest else ""
    return f"{sign}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"
