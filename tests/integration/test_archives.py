"""Files of one archive in the record: told apart by name, received together or not at all, retried each alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from ledger.application import Arrival, Ledger, Received
from ledger.blobs import put
from ledger.domain.words import OnDuplicate, Stage, Status
from ledger.errors import ConflictError
from tests.integration.place import CONTRACT, STAMP, Place, patient_place
from tests.unit.projections.test_containers import a_zip

GOOD = b"number,paid_on\n1,2026-04-01\n"
BAD = b"number,paid_on\nx,2026-04-01\n"


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    # Readers are processes of their own, which find the bytes by the settings.
    place = patient_place(ledger, tmp_path).with_settings(blobs_url=(tmp_path / "blobs").as_uri())
    ledger.register_dataset(place.dataset, CONTRACT, STAMP)
    return place


def arrivals(place: Place, files: dict[str, bytes]) -> list[Arrival]:
    """One for each file of an archive, all into one dataset."""
    data = a_zip(files)
    sha256 = put(place.workshop.blobs, data)
    return [
        Arrival(uuid4(), sha256, len(data), f"june.zip/{name}", "", place.dataset, reading={"member": name})
        for name in files
    ]


def receive(place: Place, arrivals: list[Arrival], choice: OnDuplicate = OnDuplicate.RETURN) -> list[Received]:
    answers = place.ledger.receive(
        [replace(arrival, job_id=uuid4()) for arrival in arrivals], STAMP, door="http", on_duplicate=choice
    )
    place.follow()
    return answers


def jobs_of(place: Place) -> int:
    [(count,)] = place.query("SELECT count(*) FROM ledger.arrivals WHERE dataset = :name", name=place.dataset)
    return int(count)


def end(place: Place, job_id: UUID, status: Status) -> None:
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    assert place.ledger.job(job_id).status is status


def test_files_of_one_archive_are_different_content_in_one_dataset(place: Place) -> None:
    files = arrivals(place, {"a.csv": GOOD, "b.csv": GOOD, "c.csv": GOOD})
    first = receive(place, files)
    assert [answer.duplicate for answer in first] == [False] * 3
    assert receive(place, files) == [Received(answer.job_id, True) for answer in first]
    assert receive(place, [*files[1:], files[1]]) == [Received(first[each].job_id, True) for each in (1, 2, 1)]
    assert jobs_of(place) == 3
    assert not any(answer.duplicate for answer in receive(place, files, OnDuplicate.ALLOW))


def test_an_archive_of_which_one_file_is_known_is_refused_as_a_whole(place: Place) -> None:
    files = arrivals(place, {"a.csv": GOOD, "b.csv": GOOD})
    receive(place, files[1:])
    with pytest.raises(ConflictError, match=r"'june\.zip/b\.csv' before"):
        receive(place, files, OnDuplicate.REJECT)
    assert jobs_of(place) == 1
    assert [answer.duplicate for answer in receive(place, files)] == [False, True]


def test_a_job_that_names_no_file_is_about_all_of_its_bytes(place: Place) -> None:
    [named] = arrivals(place, {"a.csv": GOOD})
    [whole] = receive(place, [replace(named, reading={})])
    assert receive(place, [named]) == [Received(whole.job_id, True)]
    [other] = arrivals(place, {"b.csv": GOOD})
    [first] = receive(place, [other])
    assert receive(place, [replace(other, reading={})]) == [Received(first.job_id, True)]


def test_a_failed_file_is_tried_again_though_its_siblings_were_loaded(place: Place) -> None:
    files = arrivals(place, {"good.csv": GOOD, "bad.csv": BAD})
    good, bad = (answer.job_id for answer in receive(place, files))
    end(place, good, Status.COMPLETED)
    end(place, bad, Status.FAILED)
    place.ledger.retry(bad, STAMP, reason="again")
    place.follow()
    end(place, bad, Status.FAILED)
    [again] = receive(place, files[1:])
    assert not again.duplicate
    with pytest.raises(ConflictError, match=str(again.job_id)):
        place.ledger.retry(bad, STAMP, reason="again")
    assert place.rows() == (1, 1)


def test_a_database_of_before_knows_its_jobs_as_whole_files(place: Place) -> None:
    [arrival] = arrivals(place, {"a.csv": GOOD})
    [known] = receive(place, [replace(arrival, reading={})])
    with place.ledger.transaction() as session:
        session.execute(text("SET LOCAL ROLE NONE"))
        session.execute(text("ALTER TABLE ledger.arrivals DROP COLUMN part"))
    place.ledger.prepare()
    assert receive(place, [arrival]) == [Received(known.job_id, True)]


def test_another_sheet_or_another_record_of_the_same_bytes_is_other_content(place: Place) -> None:
    sha256 = put(place.workshop.blobs, b"whatever")
    first = Arrival(uuid4(), sha256, 8, "june.xlsx", "", place.dataset, reading={"sheet": "A"})
    readings = [{"sheet": "B"}, {"sheet": "A", "record": "x"}, {"record": "x"}, {"sheet": "A"}, {}]
    answers = [receive(place, [replace(first, reading=reading)])[0] for reading in [first.reading, *readings]]
    assert [answer.duplicate for answer in answers] == [False, False, False, False, True, True]
    other_header = replace(first, reading={"sheet": "A", "header": "no"})
    assert receive(place, [other_header]) == [Received(answers[0].job_id, True)]
