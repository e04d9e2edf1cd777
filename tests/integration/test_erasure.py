"""An erased name is gone for whoever reads, in every process; the log keeps its bytes, and its proofs hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import failpoints, verify_proof
from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.base import Stamp
from ledger.domain.erasure import Erasure, erasure_id
from ledger.domain.filejob import FileJob
from ledger.domain.personal import ERASED, job_subject
from ledger.domain.words import OnDuplicate, Stage, Status
from ledger.erasures import erase_actor, erase_job
from ledger.errors import ConflictError, InvalidRequestError, NotFoundError
from ledger.proofs import prove_stream
from ledger.seal import seal
from ledger.verifier import verify_in
from projections.status import fold_all
from tests.golden.examples import FOLDER, from_text
from tests.integration.erasing import (
    ARCHIVE_MEMBER,
    MARKER,
    OK,
    WHY,
    Guest,
    archived_member,
    completed,
    everything_stored,
    failed,
    forget,
    names,
    readable_place,
)
from tests.integration.place import CONTRACT, STAMP, Place, new_place, unguard
from tests.integration.test_seal import NOW, ORIGIN, SIGNER
from tests.unit.projections.workbooks import zipped
from workers.commands import cancel


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return readable_place(ledger, tmp_path)


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    """The folder in which a file arms a failpoint."""
    folder = tmp_path / "failpoints"
    folder.mkdir()
    failpoints.use(folder)
    yield folder
    failpoints.use(None)


def test_no_stored_byte_has_a_file_name(ledger: Ledger, tmp_path: Path) -> None:
    place = new_place(ledger, tmp_path, chunk_bytes=2048, blobs_url=(tmp_path / "blobs").as_uri())
    jobs = [
        completed(place),
        failed(place),
        failed(place, b"number,paid_on\nx,y\nx,y\n"),  # too many rejects
        failed(place, b"number;paid_on\n1;2\n"),  # no such columns
        failed(place, b"PK\x03\x04" + bytes(40)),  # a broken archive
        failed(place, zipped({ARCHIVE_MEMBER: b"a,b\n1,2\n"})),
        archived_member(place),
    ]
    cancelled = place.send(OK, filename=f"{MARKER}.csv")
    cancel(ledger, cancelled, STAMP, reason="sent by mistake")
    for job_id in jobs[1:3]:
        ledger.retry(job_id, STAMP, reason="again")
        place.follow()
        place.perform(job_id, Stage.PLAN)
        place.follow()
        if ledger.job(job_id).status is Status.QUEUED:
            place.perform(job_id, Stage.LOAD)
    with pytest.raises(ConflictError):
        archived_member(place, receive=OnDuplicate.REJECT)
    place.perform(jobs[-1], Stage.PLAN)
    stored = everything_stored(ledger)
    assert "filejob.failed" in stored
    assert MARKER not in stored
    assert MARKER.encode().hex() not in stored
    assert all(MARKER in names(ledger, job_id)[0] for job_id in jobs)
    assert any(MARKER in str(names(ledger, job_id)[2]) for job_id in jobs)


def test_an_erased_name_reads_so_everywhere_and_those_of_other_jobs_as_ever(place: Place) -> None:
    ledger = place.ledger
    job_id, other_id = failed(place), failed(place)
    before = fold_all(ledger.events_of(job_id))
    erasure = erase_job(ledger, job_id, STAMP, reason=WHY)
    assert names(ledger, job_id) == (ERASED, ERASED, ERASED)
    assert names(ledger, other_id)[0] == f"{MARKER}.csv"
    assert MARKER in names(ledger, other_id)[2]
    [received] = [logged.event for logged in ledger.events_of(job_id) if isinstance(logged.event, FileJob.Received)]
    assert received.filename == ERASED
    assert place.events(job_id)[-1] == "name_erased"
    assert before is not None
    after = fold_all(ledger.events_of(job_id))
    assert after is not None
    differing = {name for name in before if before[name] != after[name]}
    assert differing == {"filename", "error", "version", "position"}
    assert (after["error"]["code"], after["error"]["line"]) == (before["error"]["code"], before["error"]["line"])
    assert erasure.subject == job_subject(job_id)


def test_an_error_of_copy_names_no_file(place: Place) -> None:
    job_id = place.send(OK, filename=f"{MARKER}.csv")
    place.perform(job_id, Stage.PLAN)
    place.follow()
    with place.ledger.engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE NONE")
        connection.exec_driver_sql(
            "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER refuse BEFORE INSERT ON data.{place.dataset} FOR EACH ROW EXECUTE FUNCTION public.refuse()"
        )
    place.perform(job_id, Stage.LOAD)
    message = names(place.ledger, job_id)[2]
    assert message == "COPY of a chunk failed (P0001: not now)."


def test_the_certificate_says_what_was_covered_by_whom_and_why(place: Place) -> None:
    job_id = failed(place)
    stamp = replace(STAMP, actor="user:1f")
    erase_job(place.ledger, job_id, stamp, reason=WHY)
    erasure = place.ledger.erasure(erasure_id(job_subject(job_id)))
    assert isinstance(erasure, Erasure)
    covered = {"filejob.received": {"filename": 1}, "filejob.failed": {"error.message": 1, "error.remedy": 1}}
    assert (erasure.fields, erasure.streams) == (covered, 1)
    assert (erasure.reason, erasure.carried_out_by, erasure.created_on) == (WHY, "user:1f", STAMP.at)
    assert MARKER not in everything_stored(place.ledger)


def test_the_same_again_changes_nothing(place: Place) -> None:
    job_id = completed(place)
    first = erase_job(place.ledger, job_id, STAMP, reason=WHY)
    position = place.ledger.position()
    again = erase_job(place.ledger, job_id, STAMP, reason="something else")
    assert (again.id, again.reason, place.ledger.position()) == (first.id, WHY, position)


@pytest.mark.parametrize("point", ["erasure_key_destroyed", "erasure_appended"])
def test_a_death_before_the_commit_leaves_key_and_log_as_they_were(place: Place, armed: Path, point: str) -> None:
    job_id = completed(place)
    position = place.ledger.position()
    (armed / point).write_text("kill")
    url = place.ledger.engine.url.render_as_string(hide_password=False)
    program = (
        "import sys; from pathlib import Path; from uuid import UUID; from ledger import failpoints\n"
        "from ledger.application import Ledger; from ledger.settings import Settings\n"
        "from ledger.erasures import erase_job; from tests.integration.place import STAMP\n"
        "failpoints.use(Path(sys.argv[1]))\n"
        f"erase_job(Ledger(Settings(database_url={url!r})), UUID(sys.argv[2]), STAMP, reason='why')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(armed), str(job_id)], check=False)
    assert ended.returncode == -9
    assert (armed / f"{point}.hit").exists()
    assert place.ledger.position() == position
    assert place.ledger.job(job_id).filename == f"{MARKER}.csv"
    assert erase_job(place.ledger, job_id, STAMP, reason=WHY).repeated_at == []


def test_another_process_that_read_the_name_before_cannot_read_it_after(place: Place) -> None:
    job_id = completed(place)
    url = place.ledger.engine.url.render_as_string(hide_password=False)
    program = (
        "import sys; from uuid import UUID\n"
        "from ledger.application import Ledger; from ledger.settings import Settings\n"
        f"ledger = Ledger(Settings(database_url={url!r}))\n"
        "for line in sys.stdin:\n"
        f"    job_id = UUID({str(job_id)!r})\n"
        "    told = [ledger.job(job_id).filename, ledger.events_of(job_id)[0].event.filename]\n"
        "    told += [each.event.filename for each in ledger.events_after(0, 10_000)\n"
        "             if each.event.originator_id == job_id and each.topic == 'filejob.received']\n"
        "    print(*told, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask() -> list[str]:
            other.stdin.write("\n")
            other.stdin.flush()
            return other.stdout.readline().split()

        assert ask() == [f"{MARKER}.csv"] * 3
        erase_job(place.ledger, job_id, STAMP, reason=WHY)
        assert ask() == [ERASED] * 3
        other.stdin.close()


def test_the_log_and_its_proofs_hold_after_an_erasure(place: Place, tmp_path: Path) -> None:
    ledger, job_id = place.ledger, failed(place)

    def sealed_proof() -> bytes:
        with Session(ledger.engine) as session, session.begin():
            while seal(session, SIGNER, ORIGIN, NOW):
                pass
            return prove_stream(session, job_id)

    before = sealed_proof()
    stored = place.query("SELECT * FROM ledger.stored_events ORDER BY id")
    erase_job(ledger, job_id, STAMP, reason=WHY)
    assert place.query("SELECT * FROM ledger.stored_events ORDER BY id")[: len(stored)] == stored
    after = sealed_proof()
    with Session(ledger.engine) as session:
        found = verify_in(session, [SIGNER.public], ORIGIN)
    assert (found.findings, found.unsealed) == ([], 0)
    for name, proof, events in (("before", before, 2), ("after", after, 3)):
        (tmp_path / name).write_bytes(proof)
        ended = subprocess.run(
            [sys.executable, "-I", verify_proof.__file__, tmp_path / name, str(SIGNER.public)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, f"{events} events" in ended.stdout) == (0, True), ended
        assert MARKER not in proof.decode()


def test_the_name_of_a_file_that_is_still_to_be_read_is_not_erased(place: Place) -> None:
    received, planned = place.send(OK), place.plan()
    for job_id in (received, planned):
        with pytest.raises(ConflictError, match="NameErased is possible only from"):
            erase_job(place.ledger, job_id, STAMP, reason=WHY)
        assert place.ledger.job(job_id).filename == "payments.csv"
    with pytest.raises(NotFoundError):
        erase_job(place.ledger, uuid4(), STAMP, reason=WHY)
    with pytest.raises(InvalidRequestError, match="Nothing says why"):
        erase_job(place.ledger, completed(place), STAMP, reason=" ")


def test_a_job_without_a_name_is_not_tried_again(place: Place) -> None:
    job_id = failed(place)
    erase_job(place.ledger, job_id, STAMP, reason=WHY)
    with pytest.raises(ConflictError, match=r"name of the file of job .* was erased\. Send the file again"):
        place.ledger.retry(job_id, STAMP, reason="")
    assert place.events(job_id)[-1] == "name_erased"


def test_a_name_from_before_names_were_sealed_is_read_as_ever_and_its_erasure_is_refused(place: Place) -> None:
    job_id = completed(place)
    old = from_text((FOLDER / "filejob.received.2.json").read_text())
    with place.ledger.transaction() as session:
        unguard(session)
        session.execute(
            text("UPDATE ledger.stored_events SET state = :state WHERE originator_id = :id AND originator_version = 1"),
            {"state": old.state, "id": job_id},
        )
    assert place.ledger.job(job_id).filename == "payments-März.csv"
    with pytest.raises(ConflictError, match="before names were sealed"):
        erase_job(place.ledger, job_id, STAMP, reason=WHY)
    assert place.ledger.job(job_id).filename == "payments-März.csv"


def test_a_file_of_an_archive_is_recognised_by_a_digest_also_when_its_name_is_erased(place: Place) -> None:
    job_id = archived_member(place)
    [(part,)] = place.query("SELECT part FROM ledger.arrivals WHERE job_id = :id", id=job_id)
    assert len(part) == 64
    assert archived_member(place, receive=OnDuplicate.RETURN, member="other.csv") != job_id
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    erase_job(place.ledger, job_id, STAMP, reason=WHY)
    erasure = place.ledger.erasure(erasure_id(job_subject(job_id)))
    assert erasure is not None
    assert erasure.fields == {"filejob.received": {"filename": 1, "reading.member": 1}}
    assert archived_member(place, receive=OnDuplicate.RETURN) == job_id


def test_a_file_of_an_archive_from_before_is_recognised_by_its_name(place: Place) -> None:
    job_id = archived_member(place)
    with place.ledger.transaction() as session:
        session.execute(
            text("UPDATE ledger.arrivals SET part = :part WHERE job_id = :id"),
            {"part": json.dumps({"member": ARCHIVE_MEMBER}), "id": job_id},
        )
    assert archived_member(place, receive=OnDuplicate.RETURN) == job_id
    forget(place.ledger, job_id)


def test_an_erased_actor_is_nobody_any_more_and_everything_else_stays(place: Place) -> None:
    ledger = place.ledger
    one, other = uuid4().hex, uuid4().hex
    ada, later, grace = Guest.see(one, "Ada"), Guest.see(one, "Ada, later"), Guest.see(other, "Grace")
    for guest in (ada, later, grace):
        ledger.save(guest)
    stamp = Stamp(STAMP.at, f"guest:{one}", "request-2")
    place.ledger.register_dataset(place.dataset, CONTRACT, STAMP)
    arrival = Arrival(uuid4(), put(place.workshop.blobs, OK), len(OK), "of-ada.csv", "text/csv", place.dataset)
    ledger.receive([arrival], stamp, door="http", on_duplicate=OnDuplicate.ALLOW)
    erasure = erase_actor(ledger, f"guest:{one}", STAMP, reason=WHY)
    assert (erasure.fields, erasure.streams) == ({"guest.seen": {"name": 2}}, 2)

    def name_of(guest: Guest) -> str:
        return ledger.events_of(guest.id)[0].event.name  # type: ignore[attr-defined,no-any-return]

    assert [name_of(guest) for guest in (ada, later, grace)] == [ERASED, ERASED, "Grace"]
    assert ledger.job(arrival.job_id).filename == "of-ada.csv"
    assert ledger.events_of(arrival.job_id)[0].event.actor == f"guest:{one}"
    position = ledger.position()
    assert erase_actor(ledger, f"guest:{one}", STAMP, reason=WHY).id == erasure.id
    assert ledger.position() == position
    with pytest.raises(NotFoundError):
        erase_actor(ledger, "guest:nobody", STAMP, reason=WHY)


def test_who_comes_again_after_being_erased_is_not_named(place: Place) -> None:
    guest_id = uuid4().hex
    place.ledger.save(Guest.see(guest_id, "Ada"))
    erase_actor(place.ledger, f"guest:{guest_id}", STAMP, reason=WHY)
    again = Guest.see(guest_id, f"{MARKER} again")
    place.ledger.save(again)
    assert place.ledger.events_of(again.id)[0].event.name == ERASED  # type: ignore[attr-defined]
    assert MARKER not in everything_stored(place.ledger)
