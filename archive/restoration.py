"""Restoration: the rows of a year out of its archive, in a schema of their own, shown equal before anybody reads them.

Rules:
1. What is restored is made by the statement that was archived. It does not depend on what the dataset's table has
   become since, and does not touch it.
2. What was read back is written again, in the same form and order, and has to come to the same SHA-256, number of rows
   and fingerprint. Nothing else counts as restored. Only the fingerprint is left out where another major version of
   PostgreSQL computed it: its hash functions are its own, and an archive outlives them.
3. All happens in the caller's transaction: others see a restored year that was shown equal, or none. A trial is rolled
   back, so that nothing of it is left, whenever it ends.
4. Nobody changes what was restored: the fence of a closed year refuses it, and the permission is gone.
5. Rows are put back into the table that they were dropped from only for a year that is reopened, and only if they are
   the same there, by the SHA-256 of their text. What the table has become since may not allow it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import psycopg2
import zstandard
from psycopg2 import errors, sql
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from archive.copying import BLOCK_BYTES, FORMAT, copy_out, pin
from archive.fence import ClosedPartition, Fingerprint, fingerprint, hold_alone, waiting
from archive.partitions import TableColumn, column_list, columns_of, cursor_of, identifier_of
from archive.stores import ObjectDamagedError
from ledger import telemetry
from ledger.database import rows
from ledger.domain.fiscal_calendar import Year
from ledger.errors import ConflictError, LedgerError
from ledger.year_fence import put_fence

RESTORED = "was restored to be read"


@dataclass(frozen=True)
class ArchivedTable:
    """What an archive says of a table.

    `content_sha256` is of the text of all its parts, in their order. `is_digest_comparable` says whether this server
    computes the digest of a fingerprint as the one that closed the year did.
    """

    dataset: str
    ddl: str
    columns: tuple[TableColumn, ...]
    content_sha256: str
    fingerprint: Fingerprint
    is_digest_comparable: bool = True


@dataclass(frozen=True)
class ArchivedPart:
    """What an archive says of a part, and how its bytes are read, as they are kept: compressed."""

    name: str
    raw_bytes: int
    raw_sha256: str
    sha256: str
    read: Callable[[], Iterator[bytes]]


class RestorationDiffersError(LedgerError):
    """What was restored is not what was archived."""

    code = "restoration_differs"


def schema_of(year: Year, generation: int) -> str:
    """`fy2025_26_g1`: where a year is restored to, as it was archived for the first, the second ... time."""
    return f"{identifier_of(year)}_g{generation}"


def restore(
    session: Session,
    year: Year,
    generation: int,
    archived: Iterable[tuple[ArchivedTable, Iterable[ArchivedPart]]],
) -> str:
    """Restore the tables of a year for reading; the schema that they are in.

    Raises:
        ConflictError: it is restored already.
        ObjectDamagedError: a part is not what was archived.
        RestorationDiffersError: the parts are, and what PostgreSQL makes of them is not.
    """
    schema = schema_of(year, generation)
    if _exists(session, schema):
        raise ConflictError(
            f"{year.label} is restored already, in schema {schema}.",
            f"Read it there, or release it first: `ledger archive release {year.label}`.",
        )
    cursor = cursor_of(session)
    cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    about = {telemetry.FISCAL_YEAR: year.label}
    for table, parts in archived:
        name = sql.Identifier(schema, table.dataset)
        _create(session, schema, table)
        for part in parts:
            with telemetry.span(telemetry.SPAN_RESTORE_COPY, {**about, telemetry.PART: part.name}) as span:
                rows_copied = _copy_in(cursor, name, table, part)
                span.set_attributes({telemetry.PART_TEXT_BYTES: part.raw_bytes, telemetry.PART_ROWS: rows_copied})
        with telemetry.span(telemetry.SPAN_RESTORE_COMPARE, {**about, telemetry.TABLE: table.dataset}) as span:
            _put_in_order(cursor, name, table)
            _compare(session, name, table)
            span.set_attribute(telemetry.TABLE_ROWS, table.fingerprint.rows)
        put_fence(session, name, year, RESTORED)
        cursor.execute(sql.SQL("REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {} FROM PUBLIC, CURRENT_USER").format(name))
    return schema


def try_restoring(
    engine: Engine,
    year: Year,
    generation: int,
    archived: Iterable[tuple[ArchivedTable, Iterable[ArchivedPart]]],
) -> None:
    """Show that a year can be restored from these very bytes. Raises what `restore` does."""
    with Session(engine) as session:
        restore(session, year, generation, archived)
        session.rollback()


def release(session: Session, year: Year, generation: int, *, wait_seconds: float) -> None:
    """Drop what was restored, if it is there. The archive is as it was.

    Raises:
        ConflictError: something was made of it, or put beside it, that would go with it.
        TableInUseError: somebody read it for longer than `wait_seconds`.
    """
    schema = schema_of(year, generation)
    if not _exists(session, schema):
        return
    found = rows(
        session,
        "SELECT relname AS name FROM pg_class"
        " WHERE relnamespace = to_regnamespace(:schema) AND relkind = 'r' ORDER BY 1",
        schema=schema,
    )
    tables = [sql.Identifier(schema, row.name) for row in found]
    cursor = cursor_of(session)
    with waiting(session, wait_seconds):
        hold_alone(session, tables, wait_seconds)
        for table in tables:
            cursor.execute(sql.SQL("DROP TABLE {}").format(table))
        cursor.execute(sql.SQL("DROP SCHEMA {}").format(sql.Identifier(schema)))


def put_back(
    session: Session, year: Year, generation: int, closed: Iterable[ClosedPartition], contents: Mapping[str, str]
) -> None:
    """Put the rows of a restored year back into the partitions that they were dropped from, whose fence is lifted.

    Args:
        contents: DATASET -> the SHA-256 of the text of its rows, as the Restored event tells it.

    Raises:
        ConflictError: a table does not take them any more.
        RestorationDiffersError: what stands there then is not what was closed.
    """
    cursor = cursor_of(session)
    for each in closed:
        partition = each.partition
        statement = sql.SQL("INSERT INTO {} ({columns}) SELECT {columns} FROM {}").format(
            partition.table,
            sql.Identifier(schema_of(year, generation), partition.dataset),
            columns=column_list(partition.columns),
        )
        try:
            cursor.execute(statement)
        except (errors.ProgrammingError, errors.IntegrityError, errors.DataError) as error:
            raise ConflictError(
                f"The table of {partition.dataset!r} does not take its rows of {year.label} any more:"
                f" {error.diag.message_primary}.",
                "Nothing was changed. Read them in the copy, and post what is missing in a year that is open.",
            ) from error
        if _content_sha256(session, partition.table, partition.columns)[0] != contents[partition.dataset]:
            raise RestorationDiffersError(
                f"The rows of {year.label} come out as other ones in the table of {partition.dataset!r}, whose columns"
                " have other types now, or which has rows of that year.",
                "Nothing was changed. Read them in the copy, and post what is missing in a year that is open.",
            )


def _exists(session: Session, schema: str) -> bool:
    return session.execute(text("SELECT to_regnamespace(:schema)"), {"schema": schema}).scalar() is not None


def _create(session: Session, schema: str, table: ArchivedTable) -> None:
    cursor = cursor_of(session)
    before = session.execute(text("SELECT current_setting('search_path')")).scalar_one()
    cursor.execute("SELECT set_config('search_path', quote_ident(%s), true)", (schema,))
    cursor.execute(table.ddl)
    cursor.execute("SELECT set_config('search_path', %s, true)", (before,))
    cursor.execute("SELECT to_regclass(%s)::oid", (f'"{schema}"."{table.dataset}"',))
    made = columns_of(session, cursor.fetchone()[0])
    if made != table.columns:
        raise RestorationDiffersError(
            f"The archived statement made {table.dataset!r} with other columns than the archive says it had.",
            "Nothing was restored. Verify the archive: `ledger archive verify`.",
        )


def _copy_in(cursor: Any, name: sql.Composable, table: ArchivedTable, part: ArchivedPart) -> int:
    """Copy a part into its table; of how many rows it is."""
    pin(cursor)
    reader = _PartReader(part)
    # FREEZE: nobody sees the rows before all of them are there, and no vacuum has to come by.
    statement = sql.SQL("COPY {} ({}) FROM STDIN ({}, FREEZE)").format(
        name, column_list(table.columns), sql.SQL(FORMAT)
    )
    try:
        cursor.copy_expert(statement.as_string(cursor), reader, size=BLOCK_BYTES)
    except psycopg2.Error as error:
        if reader.failure is not None:
            raise reader.failure from error  # the driver tells it only as a text
        if not isinstance(error, errors.DataError | errors.IntegrityError):
            raise
        # PostgreSQL says so only at the end of the text, which the reader has found to be what was archived.
        raise RestorationDiffersError(
            f"PostgreSQL does not take part {part.name}, which is as it was archived: {error.diag.message_primary}.",
            "Nothing was restored. Try with the version of PostgreSQL that the archive's manifest names.",
        ) from error
    return int(cursor.rowcount)


def _put_in_order(cursor: Any, name: sql.Composable, table: ArchivedTable) -> None:
    try:
        cursor.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (_job, _record)").format(name))
    except errors.UniqueViolation as error:
        raise RestorationDiffersError(
            f"Rows of table {table.dataset!r} came twice: {error.diag.message_detail}",
            "Nothing was restored. Each part is given once.",
        ) from error
    cursor.execute(sql.SQL("ANALYZE {} (_job, _record)").format(name))


def _compare(session: Session, name: sql.Composable, table: ArchivedTable) -> None:
    content_sha256, count = _content_sha256(session, name, table.columns)
    is_other = table.is_digest_comparable and fingerprint(session, name, table.columns) != table.fingerprint
    differences = [
        what
        for what, is_equal in (
            (f"it has {count:,} rows, not {table.fingerprint.rows:,}", count == table.fingerprint.rows),
            ("its text has another SHA-256", content_sha256 == table.content_sha256),
            ("its fingerprint is another", not is_other),
        )
        if not is_equal
    ]
    if differences:
        raise RestorationDiffersError(
            f"Table {table.dataset!r}, read back, is not what was archived: {', '.join(differences)}.",
            "Nothing was restored. Verify the archive, and see that all of its parts were given, in their order.",
        )


def _content_sha256(session: Session, name: sql.Composable, columns: tuple[TableColumn, ...]) -> tuple[str, int]:
    """The SHA-256 of the text of a table's rows, as they are archived, and how many they are."""
    content = hashlib.sha256()
    count = copy_out(cursor_of(session), name, columns, content.update)
    return content.hexdigest(), count


class _PartReader:
    """What COPY reads a part's text from. What is not what was archived is an error, at the latest at its end."""

    def __init__(self, part: ArchivedPart) -> None:
        self._part = part
        self._compressed, self._raw = hashlib.sha256(), hashlib.sha256()
        self._raw_bytes = 0
        blocks = _Blocks(part.read(), self._compressed)
        self._source = zstandard.ZstdDecompressor().stream_reader(cast("Any", blocks))
        self.failure: Exception | None = None

    def read(self, size: int) -> bytes:
        """The next text, empty at the end."""
        try:
            return self._next(size)
        except Exception as error:  # the driver hands no exception on
            self.failure = error
            raise

    def _next(self, size: int) -> bytes:
        try:
            block = self._source.read(size)
        except zstandard.ZstdError as error:
            raise self._damaged() from error
        self._raw.update(block)
        self._raw_bytes += len(block)
        if self._raw_bytes > self._part.raw_bytes:
            raise self._damaged()
        if not block and self._digests() != (self._part.raw_sha256, self._part.sha256):
            raise self._damaged()
        return bytes(block)

    def _digests(self) -> tuple[str, str]:
        return self._raw.hexdigest(), self._compressed.hexdigest()

    def _damaged(self) -> ObjectDamagedError:
        return ObjectDamagedError(
            f"Part {self._part.name} is not what was archived.",
            "Nothing was restored. Read it again from the store; if that does not help, verify the archive.",
        )


class _Blocks:
    """Gives blocks of bytes as a file does, and hashes them."""

    def __init__(self, blocks: Iterator[bytes], digest: Any) -> None:
        self._blocks = blocks
        self._digest = digest
        self._left = b""

    def read(self, size: int) -> bytes:
        """At most `size` bytes, empty at the end."""
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._digest.update(block)
            self._left = block
        given, self._left = self._left[:size], self._left[size:]
        return given
