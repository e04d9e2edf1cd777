"""Data tables built anew when some of their years are closed, or in cold storage: what guards them stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ledger.application import Ledger
from ledger.domain.words import Stage
from ledger.errors import ConflictError
from projections import data_view
from tests.integration.place import STAMP, new_place
from tests.integration.test_late_records import label_of, lines, numbers, years
from tests.integration.test_table_rebuild import HEADER, Yard
from tests.integration.views import new_order
from tests.integration.years import archive, close, decide, drop, reopen
from workers.commands import cancel

# The guard of the log does for a year what matters here: it refuses, and is on the partition itself.
GUARD = (
    "CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON {0}"
    " FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();"
    " ALTER TABLE {0} ENABLE ALWAYS TRIGGER fence"
)


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    return Yard(new_place(ledger, tmp_path, chunk_bytes=256, blobs_url=(tmp_path / "blobs").as_uri()))


@pytest.fixture
def year() -> int:
    return next(years)


def partition_of(yard: Yard, year: int) -> str:
    return f"data.{yard.place.dataset}__{label_of(year).lower().replace('-', '_')}"


def execute(yard: Yard, *statements: str) -> None:
    with yard.place.ledger.transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def fence(yard: Yard, year: int) -> None:
    """Close a year, and have its partition refuse every change."""
    decide(yard.place, label_of(year), close)
    execute(yard, GUARD.format(partition_of(yard, year)))


def take_away(yard: Yard, year: int) -> None:
    """Have a year in cold storage: its rows are gone, and an empty partition that refuses every change is left."""
    name, parent = partition_of(yard, year), f"data.{yard.place.dataset}"
    [(bounds,)] = yard.place.query(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = CAST(:name AS regclass)", name=name
    )
    execute(
        yard,
        f"ALTER TABLE {parent} DETACH PARTITION {name}",
        f"DROP TABLE {name}",
        f"CREATE TABLE {name} (LIKE {parent} INCLUDING DEFAULTS)",
        f"ALTER TABLE {parent} ATTACH PARTITION {name} {bounds}",
        GUARD.format(name),
    )
    decide(yard.place, label_of(year), archive, drop)


def refuses(yard: Yard, year: int, *, even_as_replica: bool = False) -> bool:
    """Whether a row of the year is refused by its partition."""
    columns = "number, paid_on, _job, _record"
    try:
        with yard.place.ledger.transaction() as session:
            if even_as_replica:
                session.execute(text("SET LOCAL ROLE NONE"))
                session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text(f"INSERT INTO data.{yard.place.dataset} ({columns}) VALUES (1, '{year}-05-01', 1, 1)"))
            session.rollback()
    except DBAPIError as error:
        assert isinstance(error.orig, psycopg2.errors.InsufficientPrivilege)
        return True
    return False


def test_a_closed_year_is_still_guarded_in_a_table_that_was_built_anew_and_after_a_roll_back(
    yard: Yard, year: int
) -> None:
    yard.load(HEADER + lines(year, range(9)) + lines(year + 1, range(9, 12)))
    fence(yard, year)
    before = yard.content()
    for act in (yard.rebuild, yard.rebuild, lambda: yard.view.roll_back(new_order())):
        act()
        assert yard.content() == before
        assert (refuses(yard, year), refuses(yard, year, even_as_replica=True), refuses(yard, year + 1)) == (
            True,
            True,
            False,
        )


def test_a_closed_year_without_rows_is_still_guarded_in_a_table_that_was_built_anew(yard: Yard, year: int) -> None:
    cancelled = yard.place.send((HEADER + lines(year, range(40))).encode())
    yard.place.perform(cancelled, Stage.PLAN)
    yard.place.follow()
    yard.place.perform(cancelled, Stage.LOAD, 0)
    cancel(yard.place.ledger, cancelled, STAMP, reason="sent by mistake")
    yard.load(HEADER + lines(year + 1, range(3)))
    fence(yard, year)
    assert (yard.rebuild()["equal"], refuses(yard, year)) == (True, True)


def test_rows_in_cold_storage_are_left_out_of_a_table_that_is_built_anew(yard: Yard, year: int) -> None:
    yard.load(HEADER + lines(year, range(40)) + lines(year + 1, range(40, 50)))  # a chunk has rows of both
    yard.load(HEADER + lines(year, range(50, 53)))
    take_away(yard, year)
    assert numbers(yard) == list(range(40, 50))
    before = yard.content()
    assert (yard.check()["equal"], yard.rebuild()["equal"], yard.content()) == (True, True, before)
    assert (refuses(yard, year), refuses(yard, year + 1)) == (True, False)


def test_the_file_of_a_year_in_cold_storage_need_not_be_there_for_that(yard: Yard, year: int, tmp_path: Path) -> None:
    yard.load(HEADER + lines(year, range(3)))
    sha256 = yard.place.query("SELECT sha256 FROM ledger.arrivals WHERE dataset = :dataset", dataset=yard.place.dataset)
    yard.load(HEADER + lines(year + 1, range(3)))
    take_away(yard, year)
    (tmp_path / "blobs" / sha256[0][0][:2] / sha256[0][0]).unlink()
    assert yard.rebuild()["equal"] is True


def test_a_year_that_is_taken_away_while_its_table_is_built_does_not_come_back(
    yard: Yard, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(HEADER + lines(year, range(3)) + lines(year + 1, range(3, 5)))
    real = data_view.failpoint

    def arrive(name: str) -> None:
        if name == "rebuild_compared":
            take_away(yard, year)
        real(name)

    monkeypatch.setattr(data_view, "failpoint", arrive)
    with pytest.raises(ConflictError, match="in cold storage now"):
        yard.rebuild()
    monkeypatch.undo()
    assert numbers(yard) == [3, 4]
    assert (yard.rebuild()["equal"], numbers(yard)) == (True, [3, 4])


@pytest.mark.parametrize("happened", ["taken away", "reopened"])
def test_a_table_is_not_rolled_back_to_rows_of_a_year_that_was_taken_away_or_reopened_since(
    yard: Yard, year: int, happened: str
) -> None:
    yard.load(HEADER + lines(year, range(3)))
    yard.rebuild()
    acts: dict[str, Callable[[], None]] = {
        "taken away": lambda: take_away(yard, year),
        "reopened": lambda: decide(yard.place, label_of(year), close, reopen),
    }
    acts[happened]()
    with pytest.raises(ConflictError, match="have changed since the switch"):
        yard.view.roll_back(new_order())
