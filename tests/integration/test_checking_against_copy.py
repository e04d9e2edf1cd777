"""What the check accepts, COPY takes too and as the same value: texts made to break that, on a real PostgreSQL.

The values come back from the server as text, and what they come to is worked out there by a query of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow
import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from psycopg2 import sql

from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.reconciliation import digest_text
from ledger.domain.values import ColumnType
from ledger.errors import FileRefusedError
from ledger.row_sets import canonical
from projections.chunk import ChunkContent, read_chunk
from projections.data_tables import DataTable, add_partition, copy_rows, create
from projections.fields import Reading
from projections.formats.dialect import LINE_DELIMITER, LINE_QUOTE, Dialect
from projections.formats.splitter import split
from tests.thorough import thorough

CALENDAR = FiscalCalendar.parse("04-01", "UTC")
RECEIVED = date(2026, 4, 1)
LF = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\n")
CRLF = Dialect("delimited", ";", header=False, byte_order_mark=False, line_end="\r\n")
TABS = Dialect("delimited", "\t", header=False, byte_order_mark=False, line_end="\n")
LINES = Dialect("lines", LINE_DELIMITER, False, False, "\n", LINE_QUOTE)
FIRST_RECORD = 1


@dataclass
class Loaded:
    """A chunk that was checked, and what PostgreSQL made of its good records."""

    content: ChunkContent
    rows: dict[int, tuple[str | None, ...]]  # the values as text, by the number of the record
    digest: str
    totals: dict[str, dict[str, Any]]


def table_of(ledger: Ledger, contract: Contract) -> DataTable:
    """A table for this contract, which is made once."""
    table = DataTable(f"t_{contract.digest()[:16]}", contract)
    with ledger.transaction() as session:
        create(session, table)
    add_partition(ledger.engine, table, CALENDAR, CALENDAR.of_day(RECEIVED))
    return table


# TYPE -> the canonical form of a value in PostgreSQL's own words.
IN_SQL = {
    ColumnType.TEXT: "{0}",
    ColumnType.BOOLEAN: "{0}::text",
    ColumnType.BIGINT: "{0}::text",
    ColumnType.NUMERIC: "trim_scale({0})::text",
    ColumnType.DATE: "{0}::text",
    ColumnType.TIMESTAMP: "{0}::text",
    ColumnType.TIMESTAMPTZ: r"regexp_replace({0}::text, '\+00$', 'Z')",
}


def query(session: Any, statement: str, table: DataTable) -> list[tuple[Any, ...]]:
    with session.connection().connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(table.name))
        return list(cursor.fetchall())


def digest_in_sql(session: Any, table: DataTable) -> str:
    fields = [
        rf"coalesce(convert_to({IN_SQL[column.type].format(column.name)}, 'UTF8'), '\xff'::bytea)"
        for column in table.contract.columns
    ]
    row = r" || '\x00'::bytea || ".join(fields)
    hexadecimal = f"'0x' || encode(sha256({row}), 'hex')"
    [(total,)] = query(session, f"SELECT coalesce(sum(({hexadecimal})::numeric), 0) FROM {{}}", table)
    return digest_text(int(total))


def totals_in_sql(session: Any, table: DataTable) -> dict[str, dict[str, Any]]:
    found = {}
    for column in table.contract.columns:
        name, form = column.name, IN_SQL[column.type]
        if column.type in (ColumnType.TEXT, ColumnType.BOOLEAN):
            continue
        is_number = column.type in (ColumnType.BIGINT, ColumnType.NUMERIC)
        total = f"trim_scale(sum({name}::numeric))::text" if is_number else "NULL"
        statement = (
            f"SELECT count({name}), {total}, {form.format(f'min({name})')}, {form.format(f'max({name})')} FROM {{}}"
        )
        [values] = query(session, statement, table)
        found[name] = dict(zip(("count", "sum", "min", "max"), values, strict=True))
    return found


def load(ledger: Ledger, data: bytes, dialect: Dialect, contract: Contract) -> Loaded | None:
    """Check a text and copy its good records as a worker does, look at them, and undo it; None if it is refused."""
    try:
        plan = split(
            lambda start, length: data[start : start + length],
            len(data),
            dialect,
            chunk_bytes=1 << 20,
            record_bytes_max=1 << 20,
        )
    except FileRefusedError:
        return None
    if not plan.records:
        return None
    [chunk] = plan.chunks
    content = read_chunk(data, chunk, dialect, Reading(contract, contract.columns, CALENDAR))
    table = table_of(ledger, contract)
    names, form, whole = [column.name for column in contract.columns], content.form, content.whole()
    with ledger.transaction() as session:
        copied = copy_rows(
            session,
            table,
            content.some(content.good) if whole is None else whole,
            dialect=form.dialect,
            columns=form.columns,
            null_token=form.null_token,
            job=1,
            first_record=None if whole is None else FIRST_RECORD,
            received=RECEIVED,
        )
        selected = ", ".join(f"{name}::text" for name in names)
        rows = {row[0]: row[1:] for row in query(session, f"SELECT _record, {selected} FROM {{}}", table)}
        found = Loaded(content, rows, digest_in_sql(session, table), totals_in_sql(session, table))
        assert copied.rows == len(rows) == plan.records - len(content.flaws)
        session.rollback()
    return found


def canonical_rows(contract: Contract, rows: list[tuple[str | None, ...]]) -> list[tuple[str | None, ...]]:
    columns = []
    for place, column in enumerate(contract.columns):
        values = pyarrow.array([row[place] for row in rows], pyarrow.string())
        columns.append(canonical(column, pyarrow.chunked_array([values], pyarrow.string())).to_pylist())
    return list(zip(*columns, strict=True))


def assert_loaded_as_checked(found: Loaded, contract: Contract) -> None:
    numbers = [FIRST_RECORD + index for index in found.content.good.tolist()]
    assert sorted(found.rows) == numbers
    sent = [tuple(row.values()) for _, checked in found.content.pieces for row in checked.values.to_pylist()]
    assert canonical_rows(contract, sent) == canonical_rows(contract, [found.rows[number] for number in numbers])
    totals, digest = found.content.came_to()
    assert digest == found.digest
    assert totals == found.totals


NASTY = [
    "", " ", "0", "-0", "+0", "00", "007", "-", "+1", " 1", "1 ", "1_000", "1__0", "0x1F", "0b1", "0o17", "1e5",
    "1E-3", ".5", "5.", "1,5", "infinity", "-Infinity", "inf", "NaN", "nan", "now", "today", "tomorrow", "yesterday",
    "epoch", "allballs", "true", "TRUE", "t", "f", "yes", "on", "off", "1", "tRuE", "fal\u017fe", "2024-02-29",
    "2023-02-29", "0000-01-01", "0001-01-01", "9999-12-31", "10000-01-01", "01/02/2024", "31.12.2024", "20240102",
    "2024-1-2", "2024-01-02 BC", "2024-01-02 03:04", "2024-01-02 24:00:00", "2024-01-02 23:59:60",
    "2024-01-02 03:04:05.1234567", "2024-01-02 03:04:05.1234565", "2024-01-02 03:04:05.9999999",
    "2024-01-02T03:04:05Z", "2024-01-02 03:04:05+15:59", "2024-01-02 03:04:05-15:59", "2024-01-02 03:04:05+16:00",
    "2024-01-02 03:04:05+05:30:30", "2024-01-02 03:04:05+0530", "0001-01-01 00:00:00+00:01",
    "9999-12-31 23:59:59.999999-00:01", "0001-01-01 00:00:00-15:59", "2024-01-02 03:04:05 UTC",
    "0999-06-01 00:00:00+02", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809", "9" * 1000 + "." + "1" * 1000, "9" * 1001, "0." + "0" * 1000, "-0.000", "100.00",
    "1" * 20, "\u0663", "\uff11", "\u2212" + "1", "\ufeff1", "1\u00a0", "\\.", "\\N", "NA", '"', '""', "'1'", "\x18",
    "\t1", "1\n", "1\r\n", "a\r", "NULL",
]  # fmt: skip
VALID: dict[ColumnType, st.SearchStrategy[str]] = {
    ColumnType.BIGINT: st.integers(-(2**64), 2**64).map(str) | st.integers(-9, 9).map(str),
    ColumnType.NUMERIC: st.from_regex(
        r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?", fullmatch=True, alphabet="0123456789-."
    ),
    ColumnType.BOOLEAN: st.sampled_from(["true", "false", "TRUE", "False"]),
    ColumnType.DATE: st.dates().map(str),
    ColumnType.TIMESTAMP: st.datetimes().map(str) | st.datetimes().map(lambda moment: moment.isoformat("T")),
    ColumnType.TIMESTAMPTZ: st.builds(
        "{}{}".format,
        st.datetimes(),
        st.sampled_from(["Z", "+00", "-00:00", "+05:30", "-11", "+15:59", "-15:59", "+1"]),
    ),
    ColumnType.TEXT: st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8),
}  # fmt: skip
PIECES = st.sampled_from(
    ["0", "1", "9", "-", "+", ".", " ", "_", "e", "x", ":", "Z", "T", "\n", "\u0661", ",", '"', "BC", "00"]
)


@st.composite
def damaged(draw: st.DrawFn, valid: st.SearchStrategy[str]) -> str:
    """A good value into which something was put, or out of which something was taken."""
    text = draw(valid)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(PIECES | st.just("")) + text[at + draw(st.integers(0, 2)) :]


def values_of(kind: ColumnType) -> st.SearchStrategy[str | None]:
    """Values to be put into a column, good and bad; None for one that is left out."""
    return st.one_of(VALID[kind], VALID[kind], damaged(VALID[kind]), st.sampled_from(NASTY), st.none())


def field(value: str | None, dialect: Dialect, null_token: str, quoted: bool) -> str:
    if value is None:
        return null_token
    special = set(value) & {'"', "\r", "\n", dialect.delimiter}
    return '"' + value.replace('"', '""') + '"' if quoted or special else value


@pytest.mark.parametrize("kind", ColumnType)
@thorough(examples=120, steps=1)
@given(data=st.data())
def test_what_the_check_accepts_is_copied_as_the_same_value_and_comes_to_the_same(
    ledger: Ledger, kind: ColumnType, data: st.DataObject
) -> None:
    dialect = data.draw(st.sampled_from([LF, CRLF, TABS]))
    null_token = data.draw(st.sampled_from(["", "NA", "\\N", "-"]))
    contract = Contract((Column("a", kind), Column("b", ColumnType.TEXT), Column("c", kind)), (null_token,))
    cells = st.tuples(values_of(kind), st.booleans())
    records = data.draw(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=12))
    lines = [
        dialect.delimiter.join(field(value, dialect, null_token, quoted) for value, quoted in record)
        for record in records
    ]
    found = load(ledger, (dialect.line_end.join(lines) + dialect.line_end).encode(), dialect, contract)
    assert found is not None
    event(f"good records: {len(found.rows)}")
    assert_loaded_as_checked(found, contract)


@pytest.mark.parametrize("kind", ColumnType)
def test_of_every_nasty_text_the_accepted_ones_are_copied_as_the_same_value(ledger: Ledger, kind: ColumnType) -> None:
    contract = Contract((Column("a", kind), Column("b", ColumnType.BIGINT)))
    data = "".join(f"{field(text, LF, '', quoted)},1\n" for text in NASTY for quoted in (True, False)).encode()
    found = load(ledger, data, LF, contract)
    assert found is not None
    assert found.rows
    assert_loaded_as_checked(found, contract)


# What the splitter lets through, and what a csv reader may stumble over.
TEXTS = st.lists(
    st.sampled_from(
        ["a", "1", "NA", ",", '"', '""', '"\n"', '"\r"', '"\r\n"', '"NA"', '""""', "\n", " ", "\\.", "\\", "\ufeff",
         '"\\."\n', "\x18", "\x01", ',"', '",', '"\n', '\n"', "\u2028", "\x0b", "\x1a", "'", "#"]
    ),
    min_size=1,
    max_size=30,
).map("".join)  # fmt: skip


@pytest.mark.parametrize("columns", [1, 2, 3])
@thorough(examples=400, steps=1)
@given(text=TEXTS, null_token=st.sampled_from(["", "NA"]), windows=st.booleans())
def test_quotes_line_ends_and_null_tokens_mean_the_same_to_the_check_and_to_copy(
    ledger: Ledger, columns: int, text: str, null_token: str, windows: bool
) -> None:
    contract = Contract(tuple(Column(name, ColumnType.TEXT) for name in "abc"[:columns]), (null_token,))
    dialect = LF
    if windows:
        dialect = Dialect("delimited", ",", header=False, byte_order_mark=False, line_end="\r\n")
        parts = text.split('"')
        text = '"'.join(part if number % 2 else part.replace("\n", "\r\n") for number, part in enumerate(parts))
    found = load(ledger, text.encode(), dialect, contract)
    event("refused" if found is None else f"good records: {len(found.rows)}")
    if found is not None:
        assert_loaded_as_checked(found, contract)


@thorough(examples=200, steps=1)
@given(text=TEXTS.map(lambda text: text.replace("\r", "").replace("\x01", "")).filter(bool))
def test_every_line_of_plain_text_is_copied_as_it_stands(ledger: Ledger, text: str) -> None:
    contract = Contract((Column("line", ColumnType.TEXT),))
    found = load(ledger, text.encode(), LINES, contract)
    assert found is not None
    assert found.content.flaws == {}
    assert_loaded_as_checked(found, contract)
    lines = text.removesuffix("\n").split("\n")
    assert [found.rows[number] for number in sorted(found.rows)] == [(line,) for line in lines]
