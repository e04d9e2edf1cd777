"""Rejects on real PostgreSQL: they live and die with their chunk, say what was sent, and cost little."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger import failpoints
from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage, Status
from projections import loading
from projections.formats.transcript import MARK
from projections.lineage import origin_of
from projections.rejects import RAW_BYTES_MAX, Reject, rejects_of, replace_rejects
from tests.integration.place import CONTRACT, WAIT_SECONDS_MAX, Place, new_place, wait_until

ROOT = Path(__file__).parents[2]
ANY_NUMBER = replace(CONTRACT, rejects_max="100%")
HEADER = "number,paid_on\n"


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    """A dataset of its own, in files of several chunks, where a pause is short."""
    return new_place(
        ledger,
        tmp_path,
        blobs_url=(tmp_path / "blobs").as_uri(),
        chunk_bytes=2048,
        retry_seconds_min=0.05,
        retry_seconds_max=0.05,
    )


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "failpoints"
    folder.mkdir()
    yield folder
    failpoints.use(None)


def payments(count: int, bad: set[int], *, blank_before: Collection[int] = ()) -> bytes:
    """Records from 1 on, some of which are no payment; the number of a good one is that of its record."""
    lines = [
        "\n" * (record in blank_before) + (f"x{record}" if record in bad else str(record)) + ",2026-04-01\n"
        for record in range(1, count + 1)
    ]
    return (HEADER + "".join(lines)).encode()


def planned(place: Place, data: bytes, contract: Contract = ANY_NUMBER, filename: str = "payments.csv") -> UUID:
    job_id = place.send(data, contract, filename)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    assert place.ledger.job(job_id).status is Status.QUEUED
    return job_id


def load_all(place: Place, job_id: UUID) -> None:
    for chunk in range(place.ledger.job(job_id).chunks_total):
        place.perform(job_id, Stage.LOAD, chunk)


def load_until_done(place: Place, job_id: UUID, chunk: int) -> None:
    def done() -> bool:
        place.perform(job_id, Stage.LOAD, chunk)
        return chunk in place.ledger.job(job_id).chunks

    wait_until(done, "the chunk is never loaded")


def rejects(place: Place, job_id: UUID, **which: Any) -> list[Reject]:
    with place.ledger.transaction() as session:
        return rejects_of(session, job_id, **{"limit": 10_000, **which})


def records(place: Place) -> list[tuple[int, int]]:
    """The number of each row's record, and the number that the row holds."""
    return [(row[0], row[1]) for row in place.query(f"SELECT _record, number FROM data.{place.dataset} ORDER BY 1")]


def count_copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    real = loading.copy_rows

    def copy_rows(*arguments: Any, **options: Any) -> Any:
        counted.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(loading, "copy_rows", copy_rows)
    return counted


@pytest.mark.parametrize("step", ["chunk_copied", "chunk_appended"])
def test_rejects_go_with_the_transaction_of_their_chunk(place: Place, armed: Path, step: str) -> None:
    job_id = planned(place, payments(300, {2, 5, 290}))
    failpoints.use(armed)
    (armed / step).write_text("raise")
    place.perform(job_id, Stage.LOAD, 0)
    assert (armed / f"{step}.hit").exists()
    assert (rejects(place, job_id), place.rows()[0]) == ([], 0)
    load_until_done(place, job_id, 0)
    assert [reject.record for reject in rejects(place, job_id)] == [2, 5]
    assert place.rows()[0] == place.ledger.job(job_id).chunks[0].rows_loaded > 0


@pytest.mark.parametrize("step", ["chunk_copied", "chunk_appended"])
def test_of_a_worker_that_is_killed_before_the_commit_no_reject_remains(
    place: Place, armed: Path, step: str, tmp_path: Path
) -> None:
    job_id = planned(place, payments(300, {2, 5, 290}))
    (armed / step).write_text("kill")
    worker = (
        "from pathlib import Path\n"
        "from uuid import UUID\n"
        "from ledger import failpoints\n"
        "from ledger.application import Ledger\n"
        "from ledger.domain.words import Stage\n"
        "from ledger.settings import Settings\n"
        "from tests.integration.place import new_place\n"
        f"failpoints.use(Path({str(armed)!r}))\n"
        f"ledger = Ledger(Settings(database_url={place.ledger.engine.url.render_as_string(hide_password=False)!r}))\n"
        f"place = new_place(ledger, Path({str(tmp_path)!r}), lease_seconds=0.2)\n"
        f"place.perform(UUID({str(job_id)!r}), Stage.LOAD, 0)\n"
    )
    ended = subprocess.run([sys.executable, "-c", worker], cwd=ROOT, timeout=WAIT_SECONDS_MAX, check=False)
    assert ended.returncode == -9
    assert (rejects(place, job_id), place.rows()[0]) == ([], 0)
    load_until_done(place, job_id, 0)
    assert [reject.record for reject in rejects(place, job_id)] == [2, 5]


def test_a_chunk_that_is_loaded_again_replaces_its_own_rejects_and_no_others(place: Place) -> None:
    job_id, other_job = planned(place, payments(300, {2, 5, 200, 290})), uuid4()
    place.perform(job_id, Stage.LOAD, 1)
    later = [reject.record for reject in rejects(place, job_id)]
    assert later, "the chunk has rejects"
    stale = [Reject(record, 1, 0, 1, b"?", None, "stale", "of an earlier attempt") for record in (1, 2, 3)]
    with place.ledger.transaction() as session:
        replace_rejects(session, job_id, 0, range(1, 10), stale)
        replace_rejects(session, other_job, 0, range(1, 10), stale)
    place.perform(job_id, Stage.LOAD, 0)
    assert [(reject.record, reject.code) for reject in rejects(place, job_id)] == [
        (record, "value_invalid") for record in (2, 5, *later)
    ]
    assert rejects(place, other_job) == stale


def test_a_reject_comes_back_as_it_was_whatever_its_texts_and_bytes_hold(place: Place) -> None:
    nasty = "tab\tnew\nline\rback\\slash\\N\\.\b\f\v'\"ü𝄞\x18"
    written = [
        Reject(7, None, 2**62, 0, bytes(range(256)) * 2, nasty, "value_invalid", nasty),
        Reject(8, 2**40, 0, 9, b"\\x00\\N\n", None, "value_invalid", ""),
        Reject(9, 1, 0, 0, b"", "\\N", "value_invalid", "\\."),
    ]
    job_id = uuid4()
    with place.ledger.transaction() as session:
        replace_rejects(session, job_id, 3, range(7, 10), written)
    assert rejects(place, job_id) == written
    assert rejects(place, job_id, after_record=7, limit=1) == written[1:2]
    assert rejects(place, job_id, before_record=written[1].record) == written[:1]


def test_each_reject_says_where_its_record_stands_in_the_file(place: Place) -> None:
    bad = {1, 4, 60, 200, 201, 300}
    data = payments(299, bad, blank_before={1, 3, 4, 200}) + b'x300,"2026-\n04-01"'
    job_id = planned(place, data)
    assert place.ledger.job(job_id).chunks_total >= 2
    load_all(place, job_id)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    found = rejects(place, job_id)
    assert {reject.record for reject in found} == bad
    for reject in found:
        assert data[reject.byte_offset : reject.byte_offset + reject.byte_length] == reject.raw
        assert reject.raw.startswith(f"x{reject.record},".encode())
        assert reject.line == data.count(b"\n", 0, reject.byte_offset) + 1
        assert (reject.column, reject.code) == ("number", "value_invalid")


def test_rows_keep_the_numbers_of_their_records_where_others_were_taken_out(place: Place) -> None:
    bad = {1, 2, 77, 150, 151, 300}
    data = payments(300, bad, blank_before={2, 3, 78, 300})
    job_id = planned(place, data)
    load_all(place, job_id)
    assert records(place) == [(record, record) for record in range(1, 301) if record not in bad]
    for record in (3, 78, 152, 299):
        origin = origin_of(place.workshop.blobs, place.ledger.job(job_id), record)
        assert origin.text == f"{record},2026-04-01\n".encode()
        assert data[origin.byte_offset : origin.byte_offset + origin.byte_length] == origin.text


@pytest.mark.parametrize(("bad", "copies"), [(set(), 1), (set(range(1, 80)), 1), (set(range(1, 101)), 0)])
def test_records_that_the_check_refuses_cost_no_copy(
    place: Place, monkeypatch: pytest.MonkeyPatch, bad: set[int], copies: int
) -> None:
    place = place.with_settings(chunk_bytes=1 << 20)
    job_id = planned(place, payments(100, bad))
    load_all(place, planned(place, payments(1, set())))  # so that the table has its partition
    counted = count_copies(monkeypatch)
    load_all(place, job_id)
    assert len(counted) == copies
    assert place.ledger.job(job_id).chunks[0].rows_rejected == len(bad) == len(rejects(place, job_id))


WIDE = 1_100  # columns of eight bytes: together more than a page of PostgreSQL takes


def wide_contract() -> Contract:
    columns = tuple(Column(f"c{number}", ColumnType.BIGINT) for number in range(WIDE))
    return Contract(columns, rejects_max="100%")


def wide_record(record: int, *, full: bool) -> str:
    return f"{record}" + (",1" if full else ",") * (WIDE - 1) + "\n"


@pytest.mark.parametrize("full", [{3}, {1, 16}, set(range(1, 17))], ids=["one", "first and last", "all"])
def test_a_record_that_only_postgresql_refuses_is_a_reject_and_the_others_are_loaded(
    place: Place, monkeypatch: pytest.MonkeyPatch, full: set[int]
) -> None:
    place = place.with_settings(chunk_bytes=1 << 20)
    count = 16
    header = ",".join(f"c{number}" for number in range(WIDE)) + "\n"
    lines = [wide_record(record, full=record in full) for record in range(1, count + 1)]
    first = planned(place, (header + wide_record(1, full=False)).encode(), wide_contract())
    load_all(place, first)  # so that the table has its partition
    job_id = planned(place, (header + "".join(lines)).encode(), wide_contract())
    counted = count_copies(monkeypatch)
    load_all(place, job_id)
    found = rejects(place, job_id)
    assert [(reject.record, reject.column, reject.code) for reject in found] == [
        (record, None, "record_too_long") for record in sorted(full)
    ]
    assert [reject.raw for reject in found] == [lines[record - 1].encode() for record in sorted(full)]
    job = place.ledger.job(job_id)
    assert (job.status, job.chunks[0].rows_loaded) == (Status.COMPLETED, count - len(full))
    [(position,)] = place.query("SELECT position FROM ledger.arrivals WHERE job_id = :job_id", job_id=job_id)
    rows = place.query(f"SELECT _record, c0 FROM data.{place.dataset} WHERE _job = :job ORDER BY 1", job=position)
    assert rows == [(record, record) for record in range(1, count + 1) if record not in full]
    assert job.chunks[0].totals["c0"]["count"] == count - len(full)
    # The whole, then one with numbers; each refused record halves what is left at most four times.
    assert len(counted) <= min(2 + 2 * 4 * len(full), 2 * count)


@pytest.mark.parametrize(("bad", "status"), [({5, 6, 299}, Status.COMPLETED), ({5, 6, 298, 299}, Status.FAILED)])
def test_one_reject_too_many_fails_the_job_withdraws_its_rows_and_keeps_its_rejects(
    place: Place, bad: set[int], status: Status
) -> None:
    job_id = planned(place, payments(300, bad), replace(CONTRACT, rejects_max="3"))
    before = planned(place, payments(4, set()))
    load_all(place, before)
    load_all(place, job_id)
    job = place.ledger.job(job_id)
    assert job.status is status
    assert {reject.record for reject in rejects(place, job_id)} == bad
    assert place.rows()[0] == 4 + (297 if status is Status.COMPLETED else 0)
    if status is Status.FAILED:
        event: Any = place.ledger.events_of(job_id)[-1].event
        assert event.error["code"] == "rejects_too_many"
        assert (event.error["record"], event.error["line"], event.error["column"]) == (5, 6, "number")
        assert event.retry_at is None
        assert event.rows_withdrawn > 0
        assert place.work(job_id) == []


def test_of_a_long_record_a_reject_keeps_the_beginning(place: Place) -> None:
    long = f'x,"{"y" * (RAW_BYTES_MAX + 5)}"\n'
    job_id = planned(place, (HEADER + "1,2026-04-01\n" + long).encode())
    load_all(place, job_id)
    [reject] = rejects(place, job_id)
    assert (reject.raw, reject.byte_length) == (long.encode()[:RAW_BYTES_MAX], len(long))


def test_a_reject_of_a_transcript_has_the_place_and_the_bytes_of_its_record_in_the_file(place: Place) -> None:
    lines = [f'{{"number": {record}, "paid_on": "2026-04-01"}}' for record in range(1, 101)]
    lines[2], lines[49], lines[98] = '{"number": 3x}', '{"number": null, "paid_on": null}', '{"number": "y"}'
    data = ("\n".join(lines) + "\n").encode()
    place = place.with_settings(chunk_bytes=512)
    job_id = planned(place, data, ANY_NUMBER, "payments.jsonl")
    assert place.ledger.job(job_id).chunks_total > 1
    load_all(place, job_id)
    found = rejects(place, job_id)
    assert [(reject.record, reject.line, reject.column) for reject in found] == [
        (3, None, None),
        (50, None, "paid_on"),
        (99, None, "number"),
    ]
    for reject in found:
        line = lines[reject.record - 1].encode()
        assert data[reject.byte_offset : reject.byte_offset + reject.byte_length].rstrip() == line
    assert found[0].raw == lines[2].encode()
    assert records(place) == [(record, record) for record in range(1, 101) if record not in (3, 50, 99)]
    origin = origin_of(place.workshop.blobs, place.ledger.job(job_id), 100)
    assert data[origin.byte_offset : origin.byte_offset + origin.byte_length].rstrip() == lines[99].encode()


def test_what_no_fiscal_year_holds_or_looks_like_a_mark_is_a_reject_and_no_crash(place: Place) -> None:
    odd = ["1,1900-03-31", "2,2200-04-01", "3,0001-01-01", f'"{MARK}[]",2026-04-01', f'"{MARK}"', MARK]
    job_id = planned(place, (HEADER + "\n".join(odd) + "\n7,2026-04-01\n").encode())
    load_all(place, job_id)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    assert [reject.code for reject in rejects(place, job_id)] == [
        *["fiscal_date_invalid"] * 3,
        "value_invalid",
        *["record_malformed"] * 2,
    ]
    assert records(place) == [(7, 7)]
