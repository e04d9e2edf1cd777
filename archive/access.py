"""Access copies: a part of a table as Parquet, to be read with whatever reads that, without a database.

Rules:
1. An access copy is no evidence, and says so in its own metadata. It is made of the text of a part, which is that.
2. A column has a type of Parquet's if every value of it in the year keeps its value there; else it is text, as it is in
   the part. Which it is is found once for all parts of a table: they are read together.
3. It is made in batches: memory does not grow with the part.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from psycopg2 import sql
from sqlalchemy.orm import Session

from archive.copying import pin
from archive.partitions import Partition, TableColumn, cursor_of
from archive.text_files import file_blocks, raw_blocks, spooling

ROW_GROUP_BYTES = 2 << 20
NULL = "\\N"
DECIMAL_DIGITS_MAX = 38
PLAIN = {
    "smallint": pyarrow.int16(),
    "integer": pyarrow.int32(),
    "bigint": pyarrow.int64(),
    "real": pyarrow.float32(),
    "double precision": pyarrow.float64(),
    "boolean": pyarrow.bool_(),
}
# A condition that all values have to meet, since Parquet knows neither the ends of time nor, by most of its readers,
# what was before Christ; and the type that they then have.
DAYS = "{0} BETWEEN '0001-01-01' AND '9999-12-31'"
DATED = {
    "date": (DAYS, pyarrow.date32()),
    "timestamp without time zone": (DAYS, pyarrow.timestamp("us")),
    "timestamp with time zone": (DAYS, pyarrow.timestamp("us", "UTC")),
}
# Of a numeric without precision Parquet keeps the value, though not how many zeros end it.
NUMERIC = re.compile(r"numeric(?:\((?P<digits>\d+),(?P<scale>-?\d+)\))?")
UNBOUNDED_DIGITS, UNBOUNDED_SCALE = 38, 10
# What PostgreSQL writes after a backslash, and for which character; besides these only the backslash itself.
ONE_BACKSLASH = "\0"  # stands for it meanwhile: no text of PostgreSQL has this character
ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True)
class AccessColumn:
    """A column of an access copy: what PostgreSQL has, and what Parquet has."""

    column: TableColumn
    type: Any


def access_columns(session: Session, partition: Partition) -> list[AccessColumn]:
    """What the columns of a closed partition are in its access copies. It reads all rows."""
    checks = {column.name: check for column in partition.columns if (check := _check_of(column)) is not None}
    fits = {}
    if checks:
        cursor = cursor_of(session)
        pin(cursor)
        conditions = sql.SQL(", ").join(
            sql.SQL("coalesce(bool_and({}), true)").format(condition) for condition, _ in checks.values()
        )
        cursor.execute(sql.SQL("SELECT {} FROM {}").format(conditions, partition.table))
        fits = dict(zip(checks, cursor.fetchone(), strict=True))
    return [
        AccessColumn(
            column,
            PLAIN.get(column.type) or (checks[column.name][1] if fits.get(column.name) else pyarrow.string()),
        )
        for column in partition.columns
    ]


def write_access_copy(columns: list[AccessColumn], part: Path, path: Path, source: str) -> None:
    """Write the access copy of a part, a file of the spool folder, to another file of it.

    Args:
        source: what it is a copy of, for whoever finds it alone: the name of the part.

    Raises:
        SpoolError: the disk is full or broken.
    """
    aside = path.with_name(f"{path.name}.part")
    with spooling(path):
        with pyarrow.OSFile(str(aside), "wb") as sink:
            _write(columns, raw_blocks(file_blocks(part), part.name), sink, source)
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(aside, path)


def take_over(copy: Path, kept: Iterator[bytes]) -> bool:
    """Have another access copy take the place of one, if it has the same columns and values; whether it has.

    Raises:
        SpoolError: the disk is full or broken.
    """
    aside = copy.with_name(f"{copy.name}.kept")
    with spooling(aside), aside.open("wb") as file:
        for block in kept:
            file.write(block)
    try:
        (schema, values), (own_schema, own_values) = map(_content, (aside, copy))
    except pyarrow.ArrowException:
        return False
    is_same = values == own_values and schema.equals(own_schema, check_metadata=True)
    if is_same:
        os.replace(aside, copy)
    return is_same


def writer_of(copy: Path) -> str:
    """What has written an access copy, as it says itself."""
    with pyarrow.parquet.ParquetFile(copy) as file:
        return str(file.metadata.created_by)


def _content(copy: Path) -> tuple[Any, str]:
    """The columns of an access copy, and a digest of its values that does not depend on how they are kept."""
    digest = hashlib.sha256()
    with pyarrow.parquet.ParquetFile(copy) as file:
        for batch in file.iter_batches():
            text = pyarrow.BufferOutputStream()
            pyarrow.csv.write_csv(batch, text, pyarrow.csv.WriteOptions(include_header=False))
            digest.update(text.getvalue())
        return file.schema_arrow, digest.hexdigest()


def _write(columns: list[AccessColumn], blocks: Iterator[bytes], sink: Any, source: str) -> None:
    schema = pyarrow.schema(
        [
            pyarrow.field(each.column.name, each.type, each.column.nullable, {"postgresql_type": each.column.type})
            for each in columns
        ],
        {"authoritative": "false", "copy_of": source},
    )
    names = [str(number) for number in range(len(columns))]  # in the text columns have no names
    read = pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=1 << 30)
    parse = pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False, escape_char=False, ignore_empty_lines=False)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pyarrow.string()), null_values=[NULL], strings_can_be_null=True
    )
    with pyarrow.parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        for text in _whole_rows(blocks):
            table = pyarrow.csv.read_csv(
                pyarrow.py_buffer(text), read_options=read, parse_options=parse, convert_options=convert
            )
            arrays = [
                _converted(array.combine_chunks(), each) for array, each in zip(table.columns, columns, strict=True)
            ]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))


def _check_of(column: TableColumn) -> tuple[sql.Composable, Any] | None:
    """A condition on a value, by which it has a type of Parquet's if it has one at all."""
    name = sql.Identifier(column.name)
    if (numeric := NUMERIC.fullmatch(column.type)) is not None:
        digits, scale = int(numeric["digits"] or UNBOUNDED_DIGITS), int(numeric["scale"] or UNBOUNDED_SCALE)
        if not 0 <= scale <= digits <= DECIMAL_DIGITS_MAX:
            return None
        # NaN is greater than every number, and infinity has no scale.
        fits = sql.SQL("abs({0}) < 1e{1} AND scale({0}) <= {2}")
        return fits.format(name, sql.Literal(digits - scale), sql.Literal(scale)), pyarrow.decimal128(digits, scale)
    if column.type in DATED:
        condition, kind = DATED[column.type]
        return sql.SQL(condition).format(name), kind
    return None


def _whole_rows(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The text in pieces that end where a row does."""
    pieces: list[bytes] = []
    size = 0
    for block in blocks:
        pieces.append(block)
        size += len(block)
        end = block.rfind(b"\n") + 1
        if size >= ROW_GROUP_BYTES and end:
            pieces[-1] = block[:end]
            yield b"".join(pieces)
            pieces, size = [block[end:]], len(block) - end
    if size:
        yield b"".join(pieces)


def _converted(array: Any, column: AccessColumn) -> Any:
    kind = column.type
    if pyarrow.types.is_string(kind):
        return _unescaped(array)
    if pyarrow.types.is_boolean(kind):
        return pyarrow.compute.equal(array, "t")
    if pyarrow.types.is_timestamp(kind) and kind.tz is not None:  # it is written `2025-04-01 12:00:00+00`
        array = pyarrow.compute.replace_substring_regex(array, r"\+00$", "Z")
    return array.cast(kind)


def _unescaped(array: Any) -> Any:
    compute = pyarrow.compute
    if not compute.any(compute.match_substring(array, "\\")).as_py():
        return array
    array = compute.replace_substring(array, "\\\\", ONE_BACKSLASH)
    for letter, character in ESCAPES.items():
        array = compute.replace_substring(array, f"\\{letter}", character)
    return compute.replace_substring(array, ONE_BACKSLASH, "\\")
