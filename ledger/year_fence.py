"""The triggers by which PostgreSQL itself refuses every change of rows that have come to a rest.

They are put when a fiscal year is closed, and on whatever takes the place of such a table: the empty one that is left
when its rows are dropped, the one that a rebuild makes, the copy that is brought back.
"""

from __future__ import annotations

from psycopg2 import sql
from sqlalchemy.orm import Session

from ledger.database import driver_cursor
from ledger.domain.fiscal_calendar import Year

YEAR_CLOSED = "LG001"
FENCE = ("fiscal_year_fence_of_rows", "fiscal_year_fence_of_all")
CLOSED, ARCHIVED = "is closed", "is archived, and no longer here"


def put_fence(session: Session, table: sql.Composable, year: Year, what: str) -> None:
    """Have every change of a table refused, by whoever it is made. `what` says what has become of the year."""
    with driver_cursor(session) as cursor:
        for name, event in zip(FENCE, ("INSERT OR UPDATE OR DELETE", "TRUNCATE"), strict=True):
            each = "STATEMENT" if event == "TRUNCATE" else "ROW"
            cursor.execute(
                sql.SQL(
                    f"CREATE OR REPLACE TRIGGER {{}} BEFORE {event} ON {{}} FOR EACH {each}"
                    " EXECUTE FUNCTION ledger.refuse_change_of_year({}, {})"
                ).format(sql.Identifier(name), table, sql.Literal(year.label), sql.Literal(what))
            )
            cursor.execute(sql.SQL("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}").format(table, sql.Identifier(name)))
