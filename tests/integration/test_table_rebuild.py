"""Data tables built anew on real PostgreSQL: what comes of it equals what was loaded, whatever had happened."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.filejob import FileJob
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage, Status
from ledger.erasures import erase_job
from ledger.errors import ConflictError, UnreadableEventError
from projections import data_view, plans
from projections.data_view import DataView
from projections.table_build import RULES
from projections.views import RebuildStoppedError
from tests.integration.place import CONTRACT, STAMP, Place, new_place, unguard
from tests.integration.views import new_order, parts_of
from workers.commands import cancel

HEADER = "number,paid_on\n"
KEYED = Contract(
    (
        Column("number", ColumnType.BIGINT, nullable=False),
        Column("paid_on", ColumnType.DATE, nullable=False),
        Column("note", ColumnType.TEXT),
    ),
    fiscal_date_column="paid_on",
    key=("number",),
    rejects_max="100%",
)


@dataclass
class Yard:
    """A dataset, its files, and the view of its rows."""

    place: Place

    @property
    def view(self) -> DataView:
        workshop = self.place.workshop
        return DataView(parts_of(workshop.ledger, workshop.blobs, calendar=workshop.calendar), self.place.dataset)

    def rebuild(self) -> dict[str, Any]:
        return self.view.rebuild(new_order())

    def check(self) -> dict[str, Any]:
        return self.view.check(new_order())

    def load(self, text: str, contract: Contract = CONTRACT, filename: str = "payments.csv") -> UUID:
        """A file that is received, planned, and loaded as far as it can be."""
        return self.load_bytes(text.encode(), contract, filename)

    def load_bytes(self, data: bytes, contract: Contract = CONTRACT, filename: str = "payments.csv") -> UUID:
        job_id = self.place.send(data, contract, filename)
        self.work(job_id)
        return job_id

    def work(self, job_id: UUID) -> None:
        """All that there is to do for a job."""
        self.place.perform(job_id, Stage.PLAN)
        self.place.follow()
        for chunk in range(self.place.ledger.job(job_id).chunks_total):
            self.place.perform(job_id, Stage.LOAD, chunk)
        self.place.follow()

    def status(self, job_id: UUID) -> Status:
        return self.place.ledger.job(job_id).status

    def content(self) -> list[tuple[Any, ...]]:
        """Every row, with its lineage, and the partition that it stands in."""
        columns = "number, paid_on, _job, _record, tableoid::regclass::text"
        return self.place.query(f"SELECT {columns} FROM data.{self.place.dataset} ORDER BY _job, _record")

    def schema(self) -> list[tuple[Any, ...]]:
        """Columns, constraints and indexes of the table and its partitions."""
        tables = (
            "(SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'data'::regnamespace AND"
            " (c.relname = :dataset OR c.relname LIKE :dataset || '\\_\\_fy%') AND c.relkind IN ('r', 'p'))"
        )
        return self.place.query(
            "SELECT relname, 'column', attname, format_type(atttypid, atttypmod), attnotnull::text,"
            f" pg_get_expr(adbin, adrelid) FROM {tables} t JOIN pg_attribute a ON attrelid = t.oid AND attnum > 0"
            " LEFT JOIN pg_attrdef d ON adrelid = t.oid AND adnum = attnum"
            " UNION ALL SELECT relname, 'constraint', pg_get_constraintdef(k.oid), '', '', ''"
            f" FROM {tables} t JOIN pg_constraint k ON conrelid = t.oid"
            " UNION ALL SELECT relname, 'index', pg_get_indexdef(indexrelid), '', '', ''"
            f" FROM {tables} t JOIN pg_index i ON indrelid = t.oid"
            " UNION ALL SELECT relname, 'bounds', pg_get_partition_constraintdef(oid), '', '', '' FROM"
            f" {tables} t ORDER BY 1, 2, 3",
            dataset=self.place.dataset,
        )

    def names_in(self, schema: str) -> list[str]:
        """The tables of the dataset in a schema."""
        found = self.place.query(
            "SELECT relname FROM pg_class WHERE relnamespace = CAST(:schema AS regnamespace) AND relkind IN ('r', 'p')"
            " ORDER BY 1",
            schema=schema,
        )
        return [name for (name,) in found if name.partition("__")[0] == self.place.dataset]

    def change(self, statement: str) -> None:
        """What somebody does by hand."""
        self.place.query(f"WITH done AS ({statement} RETURNING 1) SELECT count(*) FROM done".format(self.place.dataset))


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    return Yard(
        new_place(
            ledger,
            tmp_path,
            chunk_bytes=2048,
            blobs_url=(tmp_path / "blobs").as_uri(),
            scratch_folder=tmp_path,
            retry_seconds_min=0.001,
            retry_seconds_max=0.001,
        )
    )


def payments(count: int, first: int = 1, *, years: int = 1) -> str:
    """Payments of so many fiscal years."""
    lines = [f"{number},{2024 + number % years}-05-{1 + number % 28:02}\n" for number in range(first, first + count)]
    return HEADER + "".join(lines)


def test_a_rebuilt_table_equals_the_live_one_in_rows_lineage_and_shape(yard: Yard) -> None:
    yard.load(payments(400, years=3))
    yard.load(payments(300, 1_000, years=2))
    content, schema = yard.content(), yard.schema()
    rebuilt = yard.rebuild()
    assert (rebuilt["equal"], rebuilt["rows"], rebuilt["switched"], rebuilt["generation"]) == (True, 700, True, 2)
    assert rebuilt["digest"] == rebuilt["digest_before"]
    assert (yard.content(), yard.schema()) == (content, schema)
    assert yard.names_in("rebuilding") == []
    assert len(yard.names_in("superseded")) == 3
    yard.load(payments(10, 5_000, years=4))  # and it takes what comes in later
    assert len(yard.content()) == 710


def test_what_was_taken_out_again_is_not_there_and_what_was_loaded_again_is_there_once(yard: Yard) -> None:
    kept = yard.load(payments(200))
    failed = yard.load(payments(200, 500) + "x,2024-05-01\n")
    cancelled = yard.place.send(payments(200, 1_000).encode())
    yard.place.perform(cancelled, Stage.PLAN)
    yard.place.follow()
    yard.place.perform(cancelled, Stage.LOAD, 0)
    cancel(yard.place.ledger, cancelled, STAMP, reason="the wrong month")
    assert [yard.status(job) for job in (kept, failed, cancelled)] == [
        Status.COMPLETED,
        Status.FAILED,
        Status.CANCELLED,
    ]
    again = yard.load(payments(200, 1_500) + "x,2024-05-01\n")
    yard.place.ledger.register_dataset(yard.place.dataset, replace(CONTRACT, rejects_max="100%"), STAMP)
    yard.place.ledger.retry(again, STAMP, reason="the contract allows it now")
    yard.place.follow()
    yard.work(again)
    assert yard.status(again) is Status.COMPLETED
    content = yard.content()
    assert len(content) == 400
    rebuilt = yard.rebuild()
    assert (rebuilt["equal"], rebuilt["rows"]) == (True, 400)
    assert yard.content() == content


def test_a_key_that_was_repeated_and_columns_that_came_later_are_as_they_were(yard: Yard) -> None:
    first = Contract(KEYED.columns[:2], fiscal_date_column="paid_on", key=("number",), rejects_max="100%")
    yard.load(payments(100), first)
    yard.load(payments(100, 51), first)
    yard.place.ledger.register_dataset(yard.place.dataset, KEYED, STAMP)
    yard.load("number,paid_on,note\n" + "".join(f"{number},2024-06-01,x\n" for number in range(120, 180)))
    yard.load("number,paid_on,note\nx,2024-06-01,\n500,2024-06-01,\n120,2024-06-01,\n")
    assert len(yard.content()) == 100 + 50 + 29 + 1
    content, notes = yard.content(), f"SELECT count(note) FROM data.{yard.place.dataset}"
    rebuilt = yard.rebuild()
    assert rebuilt["equal"] is True
    assert yard.content() == content
    assert yard.place.query(notes) == [(29,)]


def test_a_row_changed_deleted_or_added_by_hand_is_found_and_healed(yard: Yard) -> None:
    job_id = yard.load(payments(100, years=2))
    content = yard.content()
    yard.change("UPDATE data.{} SET number = 7777 WHERE _record = 5")
    yard.change("DELETE FROM data.{} WHERE _record IN (10, 11)")
    yard.change("INSERT INTO data.{} (number, paid_on, _job, _record) VALUES (1, '2024-05-01', 99999999, 1)")
    checked = yard.check()
    assert (checked["equal"], checked["switched"], checked["differences_total"]) == (False, False, 2)
    ours, nobodys = checked["differences"]
    assert ours["job_id"] == str(job_id)
    assert (ours["records_changed"], ours["records_missing"], ours["records_unknown"]) == ([5], [10, 11], [])
    assert (nobodys["job_id"], nobodys["records_unknown"]) == (None, [1])
    assert "7777" not in str(checked)
    assert yard.names_in("rebuilding") == yard.names_in("superseded") == []
    rebuilt = yard.rebuild()
    assert (rebuilt["equal"], rebuilt["differences_total"]) == (False, 2)
    assert yard.content() == content
    assert yard.check()["equal"] is True


@pytest.mark.parametrize("lost", ["DROP TABLE data.{}", "DROP TABLE data.{}__fy2024_25"])
def test_a_table_or_a_partition_that_was_dropped_comes_back(yard: Yard, lost: str) -> None:
    yard.load(payments(100, years=2))
    content, schema = yard.content(), yard.schema()
    with yard.place.ledger.engine.begin() as connection:
        connection.exec_driver_sql(lost.format(yard.place.dataset))
    assert yard.check()["equal"] is False
    assert yard.rebuild()["equal"] is False
    assert (yard.content(), yard.schema()) == (content, schema)


def test_views_and_grants_that_others_made_go_on_to_hold(yard: Yard) -> None:
    yard.load(payments(100))
    dataset = yard.place.dataset
    with yard.place.ledger.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE NONE")
        connection.exec_driver_sql(f"CREATE ROLE reader_{dataset}")
        connection.exec_driver_sql(f"GRANT SELECT ON data.{dataset} TO reader_{dataset}")
        connection.exec_driver_sql(f"CREATE VIEW public.totals_{dataset} AS SELECT sum(number) FROM data.{dataset}")
        connection.exec_driver_sql(f"GRANT SELECT ON public.totals_{dataset} TO PUBLIC")
    yard.rebuild()
    yard.load(payments(1, 1_000))
    assert yard.place.query(f"SELECT * FROM public.totals_{dataset}") == [(sum(range(1, 101)) + 1_000,)]
    [(allowed,)] = yard.place.query(f"SELECT has_table_privilege('reader_{dataset}', 'data.{dataset}', 'SELECT')")
    assert allowed


def test_a_rebuild_can_be_rolled_back_and_forward_until_rows_change(yard: Yard) -> None:
    yard.load(payments(100, years=2))
    yard.change("UPDATE data.{} SET number = 7777 WHERE _record = 5")
    drifted = yard.content()
    assert yard.rebuild()["equal"] is False
    right, schema = yard.content(), yard.schema()
    assert yard.view.roll_back(new_order())["generation"] == 1
    assert (yard.content(), yard.schema()) == (drifted, schema)
    assert yard.view.roll_back(new_order())["generation"] == 2
    assert yard.content() == right
    yard.load(payments(1, 1_000))
    with pytest.raises(ConflictError, match="changed since the switch"):
        yard.view.roll_back(new_order())
    assert len(yard.content()) == 101
    assert yard.rebuild()["generation"] == 3
    assert len(yard.names_in("superseded")) == 2


def test_a_column_that_came_after_the_switch_is_no_reason_against_a_roll_back(yard: Yard) -> None:
    yard.load(payments(100))
    yard.rebuild()
    wider = replace(CONTRACT, columns=(*CONTRACT.columns, Column("note", ColumnType.TEXT)))
    yard.place.ledger.register_dataset(yard.place.dataset, wider, STAMP)
    job_id = yard.place.send(b"number,paid_on,note\n1,2024-05-01,x\n")
    yard.place.perform(job_id, Stage.PLAN)
    yard.view.roll_back(new_order())
    yard.work(job_id)
    yard.place.follow()
    yard.place.perform(job_id, Stage.LOAD, 0)
    assert len(yard.content()) == 101


def by_hand(yard: Yard, statement: str) -> None:
    """What somebody does who owns the database."""
    with yard.place.ledger.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE NONE")
        connection.exec_driver_sql(statement.format(yard.place.dataset))


def test_what_was_kept_and_is_dropped_by_hand_is_told_at_a_roll_back_and_stops_no_rebuild(yard: Yard) -> None:
    yard.load(payments(100, years=2))
    yard.rebuild()
    content = yard.content()
    by_hand(yard, "DROP TABLE superseded.{}__fy2024_25")
    with pytest.raises(ConflictError, match=f"dropped superseded.{yard.place.dataset}__fy2024_25"):
        yard.view.roll_back(new_order())
    assert yard.content() == content
    assert yard.rebuild()["generation"] == 3
    assert (yard.content(), len(yard.names_in("superseded"))) == (content, 2)
    assert yard.names_in("discarded") == []


@pytest.mark.parametrize(
    ("made", "told", "dropped"),
    [
        (
            "CREATE VIEW public.of_year_{0} AS SELECT number FROM data.{0}__fy2024_25",
            r"the view of_year_{0} on data.{0}__fy2024_25",
            "DROP VIEW public.of_year_{0}",
        ),
        (
            "CREATE TABLE public.notes_{0} (number bigint REFERENCES data.{0}__fy2024_25 (number))",
            r"the foreign key notes_{0}_number_fkey of notes_{0} on data.{0}__fy2024_25",
            "DROP TABLE public.notes_{0}",
        ),
    ],
    ids=["view", "foreign key"],
)
def test_what_others_have_made_of_a_partition_is_told_before_anything_is_changed(
    yard: Yard, made: str, told: str, dropped: str
) -> None:
    yard.load(payments(100, years=2), replace(KEYED, columns=KEYED.columns[:2]))
    yard.rebuild()
    content = yard.content()
    by_hand(yard, made)
    for act in (yard.rebuild, lambda: yard.view.roll_back(new_order())):
        with pytest.raises(ConflictError, match=told.format(yard.place.dataset)):
            act()
        assert yard.content() == content
        assert yard.names_in("rebuilding") == []
    assert yard.check()["equal"] is True
    by_hand(yard, dropped)
    assert yard.rebuild()["generation"] == 3


def test_a_view_that_is_made_of_a_partition_while_the_table_is_built_is_told_and_nothing_is_switched(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.load(payments(100))
    content = yard.content()
    made = "CREATE VIEW public.late_{0} AS SELECT number FROM data.{0}__fy2024_25"
    monkeypatch.setattr(data_view, "failpoint", lambda name: name == "rebuild_compared" and by_hand(yard, made))
    with pytest.raises(ConflictError, match="the view late_"):
        yard.rebuild()
    assert (yard.content(), yard.view.standing().generation) == (content, 1)


def test_indexes_that_others_have_made_are_there_after_a_rebuild(yard: Yard) -> None:
    yard.load(payments(100, years=2))
    by_hand(yard, "CREATE INDEX ON data.{} (number) WHERE number > 5")
    by_hand(yard, "CREATE UNIQUE INDEX ON data.{0}__fy2024_25 (_job, _record)")
    before = yard.schema()
    yard.rebuild()
    assert yard.schema() == before


def test_an_index_that_the_rows_of_the_log_do_not_allow_is_told(yard: Yard) -> None:
    yard.load(payments(10))
    yard.load(payments(10), filename="again.csv")
    yard.change("DELETE FROM data.{0} WHERE _job = (SELECT max(_job) FROM data.{0})")
    by_hand(yard, "CREATE UNIQUE INDEX only_{0} ON data.{0}__fy2024_25 (number)")
    with pytest.raises(ConflictError, match=f"only_{yard.place.dataset}"):
        yard.rebuild()
    assert yard.names_in("rebuilding") == []


def test_without_a_rebuild_there_is_nothing_to_roll_back_to(yard: Yard) -> None:
    yard.load(payments(10))
    with pytest.raises(ConflictError, match="Nothing is kept"):
        yard.view.roll_back(new_order())


def test_a_table_whose_columns_were_changed_by_hand_is_told_and_left_alone(yard: Yard) -> None:
    yard.load(payments(10))
    with yard.place.ledger.engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE data.{yard.place.dataset} ALTER COLUMN number TYPE numeric")
    with pytest.raises(ConflictError, match="'number'"):
        yard.rebuild()


def forget_plans() -> None:
    """Those that are kept in memory, as in a process that has just been started."""
    plans._plans.clear()


@pytest.mark.parametrize("damage", ["lost", "changed", "cut", "plan"])
def test_a_file_that_is_lost_or_changed_stops_the_rebuild_at_its_event(yard: Yard, tmp_path: Path, damage: str) -> None:
    yard.load(payments(10))
    job = yard.place.ledger.job(yard.load(payments(100, 500)))
    sha256 = job.plan if damage == "plan" else job.sha256
    blob = tmp_path / "blobs" / str(sha256)[:2] / str(sha256)
    data = blob.read_bytes()
    blob.chmod(0o640)
    if damage == "lost":
        blob.unlink()
    elif damage == "cut":
        blob.write_bytes(data[:50])
    else:
        blob.write_bytes(data[:50] + bytes([data[50] ^ 0x80]) + data[51:])
    forget_plans()
    content = yard.content()
    [position] = [
        logged.position for logged in yard.place.ledger.events_of(job.id) if logged.topic == "filejob.chunk_loaded"
    ][:1]
    with pytest.raises(RebuildStoppedError, match=f"position {position} of the log \\(filejob.chunk_loaded, chunk 0"):
        yard.rebuild()
    assert yard.content() == content
    assert yard.names_in("rebuilding") == []
    blob.write_bytes(data)
    assert yard.rebuild()["equal"] is True


def test_rejects_that_were_changed_stop_the_rebuild(yard: Yard) -> None:
    yard.load(payments(100), Contract(KEYED.columns[:2], key=("number",), rejects_max="100%"))
    yard.load(payments(100, 51))
    yard.place.query(
        "WITH gone AS (DELETE FROM rejects.records WHERE record = 7 AND code = 'key_repeated' RETURNING 1)"
        " SELECT count(*) FROM gone"
    )
    # Without the note the table refuses the record again: what was loaded is what the log says.
    assert yard.rebuild()["equal"] is True
    yard.place.query(
        "WITH more AS (INSERT INTO rejects.records SELECT job_id, 70, chunk, line, byte_offset, byte_length, raw,"
        " column_name, code, reason FROM rejects.records WHERE code = 'key_repeated' AND record = 8 RETURNING 1)"
        " SELECT count(*) FROM more"
    )
    with pytest.raises(RebuildStoppedError, match="rows_loaded"):
        yard.rebuild()


def test_a_name_that_was_erased_changes_no_row_and_stops_no_rebuild(yard: Yard) -> None:
    kept, failed = yard.load(payments(10)), yard.load(payments(10, 500) + "x,2024-05-01\n")
    for job_id in (kept, failed):
        erase_job(yard.place.ledger, job_id, STAMP, reason="somebody asked for it")
    content = yard.content()
    assert yard.rebuild()["equal"] is True
    assert (yard.content(), len(content)) == (content, 10)


def test_every_event_of_a_job_has_a_rule() -> None:
    events = {kind for kind in vars(FileJob).values() if isinstance(kind, type) and issubclass(kind, FileJob.Event)}
    assert events - RULES.keys() == {FileJob.Event}


def test_an_event_that_cannot_be_read_or_has_no_rule_stops_the_rebuild_and_is_never_skipped(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = yard.place.ledger.job(yard.load(payments(10)))
    [(unknown,)] = yard.place.query(
        "INSERT INTO ledger.stored_events (originator_id, originator_version, topic, state)"
        " VALUES (:stream, 1, 'filejob.teleported', '{}') RETURNING id",
        stream=uuid4(),
    )
    try:
        with pytest.raises(UnreadableEventError, match=f"position {unknown} of the log"):
            yard.rebuild()
    finally:
        with yard.place.ledger.transaction() as session:
            unguard(session)
            session.execute(text("DELETE FROM ledger.stored_events WHERE id = :id"), {"id": unknown})
    assert yard.rebuild()["generation"] == 2
    monkeypatch.delitem(RULES, FileJob.Archived)
    job.archive(STAMP, fiscal_year="FY2024-25", manifest="34" * 32, rows=1, row_set_digest="78" * 32, totals={})
    yard.place.ledger.save(job)
    archived = yard.place.ledger.position()
    with pytest.raises(RebuildStoppedError, match=f"position {archived} of the log \\(filejob.archived.*no rule"):
        yard.rebuild()
    assert yard.view.standing().generation == 2
