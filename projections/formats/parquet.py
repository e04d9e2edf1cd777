"""Parquet: the rows of a Parquet file, row group after row group.

Rules:
1. The columns are the leaves of the schema: a structure's members are columns of their own, their names joined with
   `_`. How a value becomes text is told in `arrow_text`; a value that cannot be told is a flaw of its row.
2. A row's offset is its number in the file, counted from 1. Its length is 0.
3. What the footer says is held against the file's size and the limits before anything is read by it. Pages are read in
   batches of at most `BATCH_ROWS` rows, fewer if the footer says that these are large. What comes out is counted, and
   refused when it is more than the file's size allows: a run of equal values takes no room in the file.
4. Instants of the old kind (INT96) are read in microseconds, so that the year 9999 does not become 1816. Where Arrow
   can also count them in nanoseconds (1677 to 2262), nanoseconds that would be lost are a flaw; elsewhere they are cut
   off.
5. A file that is encrypted, cut or damaged is refused, with its row group if that is known. Damage is noticed where it
   breaks the format, or where the writer put check sums; otherwise nobody can tell a changed number from another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ledger.errors import FileRefusedError
from projections.formats.arrow_text import TOO_FINE, Texts, depth_of, is_readable, texts_of
from projections.formats.files import SteadyFile, read_up_to
from projections.formats.parquet_footer import Footer, FooterError, RowGroup, read_footer
from projections.formats.rows import Flaw, Limits, Row

MAGIC, MAGIC_ENCRYPTED = b"PAR1", b"PARE"
END_BYTES = 8  # the footer's length and the magic
FOOTER_BYTES_MAX = 64 << 20
BATCH_ROWS = 16_384
BATCH_BYTES = 32 << 20
BUFFER_BYTES = 1 << 20
RATIO_FLOOR_BYTES = 64 << 20
NANOSECOND_RANGE = 9_223_372_036_854_775  # microseconds from 1970 that can be counted in nanoseconds
WRITE_AGAIN = "Write the file again, check that a Parquet tool opens it, and send it."
# What pyarrow raises over bytes that it cannot read. A failure of the file's source is told apart by `SteadyFile`.
UNREADABLE = (pa.ArrowException, OSError, ValueError, IndexError, OverflowError, RuntimeError)


def read_parquet(file: BinaryIO, limits: Limits, options: Mapping[str, str]) -> Iterator[Row]:
    """The rows of the file. No option has a meaning.

    Raises:
        FileRefusedError: parquet_invalid, parquet_encrypted, parquet_too_large, column_type_unread, columns_too_many,
            nested_too_deep or header_duplicate.
    """
    steady = SteadyFile(file)
    return _Reading(steady, limits).rows()


@dataclass
class _Batch:
    """The columns of some rows as text, and of each flawed row what is wrong."""

    columns: list[list[str | None]]
    flaws: dict[int, Flaw]
    bytes: int


class _Reading:
    """One pass over a file."""

    def __init__(self, file: SteadyFile, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._size = file.seek(0, 2)
        self._group: int | None = None

    def rows(self) -> Iterator[Row]:
        """The rows in the order of the file."""
        footer, data_end = self._footer()
        for self._group, group in enumerate(footer.groups):
            self._check_group(group, data_end)
        self._group = None
        parquet = self._opened()
        names = self._names(self._checked_fields(parquet.schema_arrow))
        number, produced = 0, 0
        for self._group, group in enumerate(footer.groups):
            for batch in self._batches(parquet, group, names) if group.rows else ():
                produced += batch.bytes
                self._check_produced(produced)
                for place, record in enumerate(zip(*batch.columns, strict=True)):
                    number += 1
                    yield Row(dict(zip(names, record, strict=True)), number, 0, batch.flaws.get(place))
        if number != footer.rows:
            raise self._invalid(f"its footer counts {footer.rows:,} rows, but it holds {number:,}")

    def _footer(self) -> tuple[Footer, int]:
        """What the footer says, and where it starts."""
        start = self._check_ends()
        if self._size - start > FOOTER_BYTES_MAX:
            raise _too_large(f"its footer is longer than {FOOTER_BYTES_MAX:,} bytes")
        self._file.seek(start)
        try:
            footer = read_footer(read_up_to(self._file, self._size - END_BYTES - start))
        except FooterError as error:
            raise self._invalid(f"its footer cannot be read, {error}", start) from error
        if footer.encrypted:
            raise _encrypted()
        rows = sum(group.rows for group in footer.groups)
        if rows != footer.rows:
            raise self._invalid(f"its footer counts {footer.rows:,} rows, its row groups {rows:,}", start)
        return footer, start

    def _check_ends(self) -> int:
        """Check what stands at both ends of the file, and say where the footer starts."""
        self._file.seek(0)
        start = read_up_to(self._file, len(MAGIC))
        self._file.seek(max(self._size - END_BYTES, 0))
        end = read_up_to(self._file, END_BYTES)
        if start == MAGIC_ENCRYPTED or end[4:] == MAGIC_ENCRYPTED:
            raise _encrypted()
        if start != MAGIC:
            raise self._invalid("it does not start as a Parquet file", 0)
        if self._size < len(MAGIC) + END_BYTES or end[4:] != MAGIC:
            raise self._invalid("it does not end as a Parquet file, so it was probably cut", self._size)
        footer_start = self._size - END_BYTES - int.from_bytes(end[:4], "little")
        if footer_start < len(MAGIC):
            raise self._invalid("its footer is said to be longer than the file", self._size - END_BYTES)
        return footer_start

    def _opened(self, unit: str = "us") -> pq.ParquetFile:
        try:
            return pq.ParquetFile(
                self._file,
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                coerce_int96_timestamp_unit=unit,
                page_checksum_verification=True,
            )
        except MemoryError as error:  # Arrow's own is one of both kinds
            raise _too_large("its footer asks for more memory than there is") from error
        except UNREADABLE as error:
            raise self._refusal(error, "its footer cannot be read") from error

    def _checked_fields(self, schema: pa.Schema) -> list[pa.Field]:
        fields = list(schema)
        for field in fields:
            if depth_of(field.type) > self._limits.depth_max:
                what = f"Column {field.name!r} is nested more than {self._limits.depth_max} deep."
                raise FileRefusedError("nested_too_deep", what, "Send flatter columns.", column=field.name)
            if not is_readable(field.type):
                what = f"Column {field.name!r} is of a type that is not read: {str(field.type)[:100]}."
                remedy = "Write it as text, or leave it out, and send the file again."
                raise FileRefusedError("column_type_unread", what, remedy, column=field.name)
        return fields

    def _names(self, fields: list[pa.Field]) -> list[str]:
        paths = list(chain.from_iterable(_leaf_names(field.type, field.name) for field in fields))
        names = [name or f"column_{place}" for place, name in enumerate(paths, 1)]
        if not names:
            raise self._invalid("it has no columns")
        if len(names) > self._limits.columns_max:
            what = f"The file has {len(names):,} columns; at most {self._limits.columns_max:,} are read."
            raise FileRefusedError("columns_too_many", what, "Send the columns that are needed.")
        if len(set(names)) < len(names):
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise FileRefusedError(
                "header_duplicate",
                f"Two columns of the file are called {twice!r} (names in a structure are joined with _).",
                "Give every column a name of its own and send the file again.",
                column=twice,
            )
        return names

    def _check_group(self, group: RowGroup, data_end: int) -> None:
        """Check what the footer says of a row group, before a page of it is read."""
        if group.rows < 0 or group.bytes < 0:
            raise self._invalid("its footer gives a size below zero")
        if not group.rows:  # then columns are nowhere, and nothing is read
            return
        for place, column in enumerate(group.columns, 1):
            if column.start < len(MAGIC) or column.compressed < 0 or column.uncompressed < 0:
                raise self._invalid(f"its column {place:,} is said to lie outside of the data")
            if column.start + column.compressed > data_end:
                raise self._invalid(f"its column {place:,} is said to go on behind the data", column.start)
        self._check_produced(sum(column.uncompressed for column in group.columns))

    def _check_produced(self, plain_bytes: int) -> None:
        limits = self._limits
        if plain_bytes > limits.text_bytes_max:
            raise _too_large(f"it holds more than {limits.text_bytes_max:,} bytes")
        if plain_bytes > max(RATIO_FLOOR_BYTES, limits.text_ratio_max * self._size):
            raise _too_large(f"it holds more than {limits.text_ratio_max:,} bytes for each byte of its size")

    def _batches(self, parquet: pq.ParquetFile, group: RowGroup, names: list[str]) -> Iterator[_Batch]:
        """The row group's rows in batches."""
        row_bytes = max(1, group.bytes // max(group.rows, 1))
        reading = {
            "batch_size": max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes)),
            "row_groups": [self._group],
            "use_threads": False,
        }
        old_instants = _int96_columns(parquet)
        exact: Iterator[Any] = repeat(None)
        try:
            if old_instants:
                exact = self._opened("ns").iter_batches(columns=old_instants, **reading)
            for batch, instants in zip(parquet.iter_batches(**reading), exact, strict=False):
                yield self._as_text(batch, instants, names)
        except FileRefusedError:
            raise
        except MemoryError as error:
            raise _too_large("its pages ask for more memory than there is") from error
        except UNREADABLE as error:
            raise self._refusal(error, "its pages cannot be read") from error

    def _as_text(self, batch: pa.RecordBatch, instants: pa.RecordBatch | None, names: list[str]) -> _Batch:
        leaves = chain.from_iterable(map(_leaves, batch.columns))
        columns: list[list[str | None]] = []
        flaws: dict[int, Flaw] = {}
        for name, leaf in zip(names, leaves, strict=True):
            texts = texts_of(leaf)
            if instants is not None and name in instants.schema.names:
                _mark_lost_nanoseconds(texts, leaf, instants.column(name))
            columns.append(texts.values)
            for place, (code, reason) in texts.flaws.items():
                flaws.setdefault(place, Flaw(code, f"The value of column {name!r} {reason}.", name))
        # A value without room in the file takes some here.
        result = _Batch(columns, flaws, batch.nbytes + batch.num_rows * len(names))
        if result.bytes > self._limits.record_bytes_max:
            self._mark_long_records(result)
        return result

    def _mark_long_records(self, batch: _Batch) -> None:
        longest = self._limits.record_bytes_max
        for place, record in enumerate(zip(*batch.columns, strict=True)):
            if sum(len(value.encode()) for value in record if value) > longest:
                batch.flaws.setdefault(place, Flaw("record_too_long", f"The record is longer than {longest:,} bytes."))

    def _refusal(self, error: Exception, what: str) -> FileRefusedError:
        """The refusal that pyarrow's error means."""
        self._file.raise_failure()
        told = str(error).lower()
        if "decrypt" in told or "encrypt" in told:
            return _encrypted()
        return self._invalid(what)

    def _invalid(self, what: str, offset: int | None = None) -> FileRefusedError:
        place = "" if self._group is None else f" (row group {self._group + 1:,})"
        at = "" if offset is None else f" (byte {offset:,})"
        return FileRefusedError(
            "parquet_invalid", f"The Parquet file is damaged: {what}{at}{place}.", WRITE_AGAIN, byte_offset=offset
        )


def _leaf_names(kind: pa.DataType, name: str) -> Iterator[str]:
    if not pa.types.is_struct(kind):
        yield name
        return
    for index in range(kind.num_fields):
        field = kind.field(index)
        yield from _leaf_names(field.type, f"{name}_{field.name}")


def _leaves(array: pa.Array) -> Iterator[pa.Array]:
    if not pa.types.is_struct(array.type):
        yield array
        return
    for member in array.flatten():
        yield from _leaves(member)


def _int96_columns(parquet: pq.ParquetFile) -> list[str]:
    """The columns, other than nested ones, that hold instants of the old kind."""
    columns = (parquet.schema.column(index) for index in range(len(parquet.schema)))
    return [column.path for column in columns if column.physical_type == "INT96" and column.path == column.name]


def _mark_lost_nanoseconds(texts: Texts, microseconds: pa.Array, nanoseconds: pa.Array) -> None:
    counts = zip(microseconds.view(pa.int64()).to_pylist(), nanoseconds.view(pa.int64()).to_pylist(), strict=True)
    if not pc.any(pc.is_valid(nanoseconds)).as_py():
        return
    for place, (coarse, fine) in enumerate(counts):
        if coarse is not None and abs(coarse) < NANOSECOND_RANGE and fine % 1000:
            texts.values[place] = None
            texts.flaws[place] = TOO_FINE


def _encrypted() -> FileRefusedError:
    return FileRefusedError(
        "parquet_encrypted",
        "The Parquet file is encrypted, wholly or in some columns.",
        "Write it without encryption and send it again.",
    )


def _too_large(why: str) -> FileRefusedError:
    return FileRefusedError(
        "parquet_too_large",
        f"The Parquet file is too large when it is read: {why}.",
        "If the file is what it should be, send it in parts, or as CSV.",
    )
