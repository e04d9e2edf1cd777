"""The file of an adjustment: late records of a job, written down once more to be posted (`ledger.domain.adjustment`).

Rules:
1. The values are read again from the text that was loaded, by the code, the plan and the contract that read them when
   they came, and written in the plain form: of whatever format the file was, an adjustment is CSV. Every value is
   quoted, and no value is an empty field that is not.
2. It is a correction (`projections.formats.correction`): behind its fields each record has the number that it had.
3. The same records posted on the same day always make the same bytes.
4. What they come to is told beside it: the file has to come to the same when it is loaded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy
import pyarrow
import pyarrow.csv
from numpy.typing import NDArray

from ledger.blobs import BlobStore
from ledger.domain.adjustment import Posting, adjustment_contract
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.reconciliation import add_totals
from ledger.fiscal_years import FISCAL_YEAR_CLOSED
from ledger.row_sets import canonical, control_totals
from projections.chunk import WITHOUT_HEADER
from projections.formats.correction import ERROR_COLUMNS
from projections.loading import LoadedFile, checked_content, chunk_bytes_of

READING = {"delimiter": ",", "header": "yes"}  # so that nothing about it is guessed


def write_adjustment(
    write: Callable[[bytes], object],
    blobs: BlobStore,
    file: LoadedFile,
    contract: Contract,
    records: list[int],
    posting: Posting,
    tell: Callable[[int], None],
) -> dict[str, Any]:
    """Write down the late records of a file that have these numbers; the control totals of what was written.

    Args:
        contract: that by which the file was loaded.
        tell: told the offset up to which the file's text was read.

    Raises:
        PartUnavailableError: the blob store cannot be reached.
    """
    columns = adjustment_contract(contract).columns
    write(_header([*(column.name for column in columns), *ERROR_COLUMNS]))
    wanted, totals = numpy.array(records), []
    for chunk in file.plan.chunks:
        numbers = chunk.record_numbers
        there = wanted[(wanted >= numbers.start) & (wanted < numbers.stop)]
        if not there.size:
            continue
        content = checked_content(file, contract, chunk, chunk_bytes_of(blobs, file, chunk))
        found = 0
        for start, checked in content.pieces:
            numbered = checked.good + start + chunk.first_record
            chosen = numpy.isin(numbered, there)
            table = _rows(checked.values.filter(pyarrow.array(chosen)), columns, posting)
            _write_rows(write, table, numbered[chosen])
            forms = {column.name: canonical(column, table[column.name]) for column in columns}
            totals.append({name: total.to_dict() for name, total in control_totals(columns, forms).items()})
            found += len(table)
        assert found == there.size, f"{found} of {there.size} late records of chunk {chunk.number} were good"
        tell(chunk.end)
    come_to = {
        name: {what: str(value) for what, value in total.items() if value is not None}
        for name, total in add_totals(totals).items()
    }
    return {"records": len(records), "columns": come_to}


def _rows(values: pyarrow.Table, columns: tuple[Column, ...], posting: Posting) -> pyarrow.Table:
    """The values of records, behind those of the adjustment's own columns."""
    about, posted, *others = columns
    own = {about.name: posting.fiscal_year, posted.name: posting.posted_on.isoformat()}
    return pyarrow.table(
        {name: pyarrow.chunked_array([[value] * len(values)], pyarrow.string()) for name, value in own.items()}
        | {column.name: values[column.name] for column in others}
    )


def _write_rows(write: Callable[[bytes], object], table: pyarrow.Table, numbers: NDArray[numpy.int64]) -> None:
    nothing = pyarrow.nulls(len(table), pyarrow.string())
    code = pyarrow.array([FISCAL_YEAR_CLOSED] * len(table), pyarrow.string())
    for name, values in zip(ERROR_COLUMNS, (pyarrow.array(numbers), nothing, nothing, code, nothing), strict=True):
        table = table.append_column(name, values)
    text = io.BytesIO()
    pyarrow.csv.write_csv(table, text, WITHOUT_HEADER)
    write(text.getvalue())


def _header(names: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(names)
    return text.getvalue().encode()
