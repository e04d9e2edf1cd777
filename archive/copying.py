"""The text that rows are archived as: what `COPY TO` writes, with settings that are pinned.

Rules:
1. The text of a row depends on its values alone: not on who reads it, nor on how the server is set up. The settings
   hold for the transaction.
2. Rows come in the order of their job and their number in it, of which there are no two alike.
3. However many there are, no more than a block of them is in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg2 import sql

from archive.partitions import TableColumn, column_list

# As they stand in the manifest: with the same ones, whoever has PostgreSQL reads the text back, and writes it again.
PINNED = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
}
FORMAT = "FORMAT text, ENCODING 'UTF8'"
ORDER = sql.SQL(" ORDER BY _job, _record")
BLOCK_BYTES = 1 << 20

Sink = Callable[[bytes], object]


def pin(cursor: Any) -> None:
    """Have the transaction write and read values in the one form."""
    for name, value in PINNED.items():
        cursor.execute("SELECT set_config(%s, %s, true)", (name, value))


def copy_out(
    cursor: Any,
    table: sql.Composable,
    columns: tuple[TableColumn, ...],
    sink: Sink,
    where: sql.Composable | None = None,
) -> int:
    """Give the text of a table's rows, or of those that a condition chooses, to `sink` in blocks; how many they are."""
    pin(cursor)
    query = sql.SQL("SELECT {} FROM {}{}").format(column_list(columns), table, where or sql.SQL("")) + ORDER
    statement = sql.SQL("COPY ({}) TO STDOUT ({})").format(query, sql.SQL(FORMAT)).as_string(cursor)
    blocks = _Blocks(sink)
    cursor.copy_expert(statement, blocks)
    blocks.flush()
    return int(cursor.rowcount)


class _Blocks:
    """Takes rows one by one, as the driver gives them, and passes them on in blocks."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pieces: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Take the next row."""
        self._pieces.append(data)
        self._bytes += len(data)
        if self._bytes >= BLOCK_BYTES:
            self.flush()
        return len(data)

    def flush(self) -> None:
        """Pass on what was taken."""
        if self._pieces:
            self._sink(b"".join(self._pieces))
            self._pieces.clear()
            self._bytes = 0
