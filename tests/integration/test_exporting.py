"""A closed year becomes objects under one signed manifest, whoever is killed on the way."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from archive import export_texts
from archive.books import BooksDoNotBalanceError
from archive.export_run import alone
from archive.exporting import export
from archive.manifest import Manifest, TextEntry, parse_manifest
from archive.restoration import RestorationDiffersError
from archive.snapshots import plain
from archive.text_files import raw_blocks
from archive.volume import Volume, prefix_of
from ledger.application import Ledger
from ledger.domain.dataset import dataset_id
from ledger.domain.year_states import YearState
from ledger.errors import ConflictError, PartUnavailableError
from tests.integration.archiving import ORIGIN, Archive, label_of, new_archive
from tests.integration.place import unguard

YEARS = iter(range(2000, 2024, 2))


@pytest.fixture
def year() -> int:
    return next(YEARS)


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Archive:
    return new_archive(ledger, tmp_path)


def volume_of(archive: Archive, label: str) -> Volume:
    return Volume(archive.archiving.store, prefix_of(ORIGIN, label, archive.year(label).generation), None)


def manifest_of(archive: Archive, label: str) -> Manifest:
    """The manifest that the event names."""
    [found] = [each for each in versions(archive, label) if each[0].endswith("/MANIFEST.json")]
    data = b"".join(archive.archiving.store.read(*found))
    assert hashlib.sha256(data).hexdigest() == archive.year(label).manifest_sha256
    return parse_manifest(data)


def versions(archive: Archive, label: str) -> list[tuple[str, str]]:
    """The keys and versions that the store has of a year."""
    return [(each.key, each.version) for each in archive.archiving.store.versions("") if f"/{label}/" in each.key]


def lines_of(archive: Archive, label: str, entry: TextEntry) -> list[Any]:
    raw = b"".join(raw_blocks(volume_of(archive, label).read(entry), entry.key))
    return [json.loads(line) for line in raw.splitlines()]


def test_a_closed_year_is_exported_whole_and_nothing_else_lies_there(archive: Archive, year: int) -> None:
    jobs = archive.fill(year)
    label = archive.close(year)
    exported = export(archive.archiving, label)
    manifest, volume = manifest_of(archive, label), volume_of(archive, label)
    prefix = prefix_of(ORIGIN, label, 1)
    named = {(f"{prefix}/{each.key}", each.version) for each in manifest.objects()}
    assert set(versions(archive, label)) - named == {
        (f"{prefix}/MANIFEST.json", exported.manifest_sha256[:32] if exported.manifest_sha256 else "")
    }
    for entry in manifest.objects():
        there = volume.head(entry)
        assert (there.size_bytes, there.sha256, there.storage_class) == (
            entry.bytes,
            entry.sha256,
            entry.storage_class,
        )
        assert there.lock is not None
    own = [each.dataset for each in manifest.tables if each.rows]
    assert own == sorted(place.dataset for place in archive.places)
    assert {each.rows for each in manifest.tables} - {0} == {90}
    books = lines_of(archive, label, manifest.reconciliation)
    assert {line["job_id"]: line["rows"] for line in books if line["rows"]} == {
        str(job): rows for job, rows in zip(jobs, [60, 20, 10] * 2, strict=True)
    }
    events = [line for part in manifest.events.parts for line in lines_of(archive, label, part)]
    assert (events[-1]["id"], events[-1]["topic"]) == (manifest.closed.position, "fiscal_year.closed")
    assert len(events) == manifest.events.count
    assert archive.told[-1]["parts"] == archive.told[-1]["parts_total"] == len(exported.parts)


def test_the_archived_definitions_make_the_tables_that_were_closed_and_say_what_stands_in_them(
    archive: Archive, year: int
) -> None:
    archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    manifest = manifest_of(archive, label)
    [told] = lines_of(archive, label, manifest.definitions)
    assert told["calendar"] == {"definition": "04-01", "zone": "UTC"}
    assert [table["dataset"] for table in told["tables"]] == [table.dataset for table in manifest.tables]
    columns = (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attcollation FROM pg_attribute"
        " WHERE attrelid = to_regclass(:name) AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    for table in told["tables"]:
        registered = [each.event.contract for each in archive.ledger.events_of(dataset_id(table["dataset"]))]
        assert table["contracts"] == [plain(contract) for contract in registered] != []
        with archive.ledger.transaction() as session:
            session.execute(text("CREATE SCHEMA scratch"))
            session.execute(text("SET LOCAL search_path = scratch"))
            session.connection().exec_driver_sql(table["ddl"])
            made = session.execute(text(columns), {"name": f"scratch.{table['dataset']}"}).all()
            session.rollback()
        assert [tuple(each) for each in made] == archive.query(columns, name=f"data.{table['name']}") != []
        assert [each["type"] for each in table["columns"]] == [each[1] for each in made]


def test_a_table_is_tried_by_the_statement_that_is_archived(
    archive: Archive, year: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.fill(year)
    label = archive.close(year)
    original = export_texts.definitions_of
    monkeypatch.setattr(
        export_texts, "definitions_of", lambda *about: original(*about).replace(b'\\"note\\" text', b'\\"note\\" bytea')
    )
    with pytest.raises(RestorationDiffersError, match="with other columns"):
        export(archive.archiving, label)
    assert archive.year(label).state is YearState.CLOSED
    assert not any("/data/" in key for key, _ in versions(archive, label))


def test_what_was_sent_comes_out_of_the_packs(archive: Archive, year: int) -> None:
    jobs = archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    manifest, volume = manifest_of(archive, label), volume_of(archive, label)
    packs = {each.key.rpartition("-")[0]: b"".join(volume.read(each)) for each in manifest.files.packs}
    found: dict[str, bytes] = {}
    for line in lines_of(archive, label, manifest.files.index):
        piece = packs[line["pack"]][line["offset"] : line["offset"] + line["size"]]
        found[line["sha256"]] = found.get(line["sha256"], b"") + piece
    assert all(hashlib.sha256(data).hexdigest() == sha256 for sha256, data in found.items())
    assert len(found) == manifest.files.count
    told = [archive.ledger.job(job) for job in jobs]
    assert {digest for job in told for digest in (job.sha256, job.plan)} <= found.keys()


def test_snapshots_say_where_jobs_stood_and_name_nobody(archive: Archive, year: int) -> None:
    jobs = archive.fill(year)
    label = archive.close(year)
    export(archive.archiving, label)
    manifest = manifest_of(archive, label)
    found = [line for part in manifest.snapshots for line in lines_of(archive, label, part)]
    by_id = {line["id"]: line for line in found}
    for job in map(archive.ledger.job, jobs):
        line = by_id[str(job.id)]
        assert (line["version"], line["state"]["status"]) == (job.version, "Completed")
        assert set(line["state"]["filename"]) == {"subject", "nonce", "sealed"}
    assert "payments.csv" not in json.dumps(found)
    assert by_id[str(archive.year(label).id)]["state"]["state"] == "closed"


def test_of_two_archivers_at_once_one_is_told_and_changes_nothing(archive: Archive, year: int) -> None:
    archive.fill(year)
    label = archive.close(year)
    before = archive.ledger.position()
    with alone(archive.archiving, label):
        with pytest.raises(ConflictError, match="being archived already"), alone(archive.archiving, label):
            export(archive.archiving, label)
        with alone(archive.archiving, label_of(year + 1)):
            pass
    assert (archive.ledger.position(), versions(archive, label)) == (before, [])


def test_nothing_is_put_of_a_year_whose_books_do_not_balance(archive: Archive, year: int) -> None:
    archive.fill(year)
    label = archive.close(year)
    table = f"data.{archive.places[0].dataset}__{label.lower().replace('-', '_')}"
    with archive.ledger.transaction() as session:
        unguard(session)
        session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER ALL"))
        session.execute(text(f"UPDATE {table} SET amount = amount + CASE _record WHEN 1 THEN 1 ELSE -1 END"
                             " WHERE _record IN (1, 2)"))  # fmt: skip
    with pytest.raises(BooksDoNotBalanceError, match=archive.places[0].dataset):
        export(archive.archiving, label)
    assert versions(archive, label) == []
    assert archive.year(label).state is YearState.CLOSED


def test_a_log_that_is_not_sealed_is_waited_for(archive: Archive, year: int) -> None:
    archive.fill(year)
    label = archive.close(year)
    with archive.ledger.transaction() as session:
        unguard(session)
        session.execute(text("DELETE FROM ledger.checkpoints"))
    with pytest.raises(PartUnavailableError, match="not sealed yet"):
        export(replace(archive.archiving, wait_seconds=0), label)
    assert versions(archive, label) == []


def test_an_archive_names_the_one_before_it_and_goes_on_behind_its_log(archive: Archive, year: int) -> None:
    archive.fill(year)
    first = archive.close(year)
    export(archive.archiving, first)
    before = manifest_of(archive, first)
    second = archive.close(year + 1)
    export(archive.archiving, second)
    found = manifest_of(archive, second)
    assert found.previous is not None
    assert (found.previous.fiscal_year, found.previous.manifest_sha256) == (first, archive.year(first).manifest_sha256)
    assert found.events.first_position == before.closed.position + 1
    assert found.supersedes is None
