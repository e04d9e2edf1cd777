"""Nobody changes the record by accident: neither the ledger's own processes, nor whoever owns the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.domain.words import Stage, Status
from ledger.settings import Settings
from tests.integration.place import new_place, running_ledger
from tests.stack import GUARDED
from workers.tasks import prepare_all

COLUMN = {"stored_events": "topic", "leaves": "hash", "nodes": "hash", "checkpoints": "note"}
CHANGES = ("UPDATE ledger.{0} SET {1} = {1}", "DELETE FROM ledger.{0}", "TRUNCATE ledger.{0}")


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        yield ledger


def role_of(ledger: Ledger) -> str:
    with Session(ledger.engine) as session:
        return str(session.execute(text("SELECT current_user")).scalar_one())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("table", GUARDED)
def test_the_ledgers_own_processes_have_no_right_to_change_the_record(ledger: Ledger, table: str, change: str) -> None:
    with Session(ledger.engine) as session, pytest.raises(DBAPIError, match="permission denied"):
        session.execute(text(change.format(table, COLUMN[table])))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("table", GUARDED)
def test_who_owns_the_database_does_not_change_the_record_by_accident(ledger: Ledger, table: str, change: str) -> None:
    with Session(ledger.engine) as session, pytest.raises(DBAPIError, match=f"{table} is only added to"):
        session.execute(text("SET LOCAL ROLE NONE"))
        session.execute(text(change.format(table, COLUMN[table])))


@pytest.mark.parametrize("table", GUARDED)
def test_a_session_that_takes_itself_for_a_replica_is_refused_as_well(ledger: Ledger, table: str) -> None:
    with Session(ledger.engine) as session, pytest.raises(DBAPIError, match=f"{table} is only added to"):
        session.execute(text("SET LOCAL ROLE NONE"))
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(f"DELETE FROM ledger.{table}"))


def test_all_but_the_record_belongs_to_the_ledgers_own_role_and_what_is_somebody_elses_does_not(ledger: Ledger) -> None:
    with Session(ledger.engine) as session, session.begin():
        session.execute(text("SET LOCAL ROLE NONE"))
        session.execute(text("CREATE SCHEMA theirs CREATE TABLE books ()"))
    prepare_all(ledger)
    theirs = "nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')"
    owners = (
        f"SELECT nspname, pg_get_userbyid(nspowner) = '{role_of(ledger)}' FROM pg_namespace WHERE {theirs} UNION"
        f" SELECT nspname, pg_get_userbyid(relowner) = '{role_of(ledger)}' FROM pg_class"
        f" JOIN pg_namespace n ON n.oid = relnamespace WHERE {theirs} AND relkind IN ('r', 'p', 'S', 'v')"
    )
    with Session(ledger.engine) as session:
        found = session.execute(text(owners)).all()
    assert {row[0] for row in found if not row[1]} == {"ledger", "theirs"}
    assert {row[0] for row in found if row[1]} >= {"data", "work", "trail", "subjects", "rejects", "views"}


def test_a_database_of_before_the_guards_is_handed_over_and_files_are_loaded_into_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    place = new_place(ledger, tmp_path)
    place.send(b"number,paid_on\n1,2026-04-01\n")
    app = role_of(ledger)
    with Session(ledger.engine) as session, session.begin():
        session.execute(text("SET LOCAL ROLE NONE"))
        [owner] = session.execute(text("SELECT current_user")).scalars()
        session.execute(text(f"REASSIGN OWNED BY {app} TO {owner}"))
        session.execute(text(f"DROP OWNED BY {app}"))
        session.execute(text(f"DROP ROLE {app}"))
        for table in GUARDED:
            session.execute(text(f"DROP TRIGGER only_added_to ON ledger.{table}"))
    ledger.engine.dispose()
    prepare_all(ledger)
    [(role, owner_of_work)] = place.query(
        "SELECT current_user, (SELECT relowner::regrole::text FROM pg_class WHERE oid = 'work.items'::regclass)"
    )
    assert (role, owner_of_work) == (app, app)
    job_id = place.send(b"number,paid_on\n2,2026-04-02\n")
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    assert ledger.job(job_id).status is Status.COMPLETED
    with Session(ledger.engine) as session, pytest.raises(DBAPIError, match="is only added to"):
        session.execute(text("SET LOCAL ROLE NONE"))
        session.execute(text("DELETE FROM ledger.stored_events"))


@pytest.mark.parametrize("name", ["books", "b" * 63], ids=["short", "as long as a name can be"])
def test_two_ledgers_on_one_server_have_a_role_each_that_can_do_nothing_in_the_other(ledger: Ledger, name: str) -> None:
    url = ledger.engine.url
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    other = Ledger(Settings(database_url=url.set(database=name).render_as_string(hide_password=False)))
    try:
        prepare_all(other)
        assert role_of(other) not in (role_of(ledger), str(url.username))
        assert role_of(other).startswith("ledger_app_")
        with Session(ledger.engine) as session, pytest.raises(DBAPIError, match="permission denied"):
            session.execute(text("SET LOCAL ROLE NONE"))
            session.execute(text(f"SET LOCAL ROLE {role_of(other)}"))
            session.execute(text("SELECT count(*) FROM ledger.stored_events"))
    finally:
        other.engine.dispose()


def test_who_may_not_work_as_the_ledgers_own_role_connects_as_himself(ledger: Ledger) -> None:
    with Session(ledger.engine) as session, session.begin():
        session.execute(text("SET LOCAL ROLE NONE"))
        session.execute(text("CREATE ROLE auditor LOGIN PASSWORD 'auditor'"))
    url = ledger.engine.url.set(username="auditor", password="auditor")
    auditor = Ledger(Settings(database_url=url.render_as_string(hide_password=False)))
    try:
        assert role_of(auditor) == "auditor"
    finally:
        auditor.engine.dispose()
