"""An erased name is gone for whoever reads, in every process; the log keeps its bytes, and its proofs hold."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg2
import pytest
from eventsourcing.domain import CanInitAggregate
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger import failpoints, verify_proof
from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.base import Aggregate, Stamp
from ledger.domain.erasure import Erasure, erasure_id
from ledger.domain.filejob import FileJob
from ledger.domain.personal import ERASED, Personal, actor_subject, job_subject
from ledger.domain.words import OnDuplicate, Stage, Status
from ledger.erasures import erase_actor, erase_job
from ledger.errors import ConflictError, InvalidRequestError, NotFoundError, UnreadableEventError
from ledger.proofs import prove_stream
from ledger.seal import seal
from ledger.settings import Settings
from ledger.subject_keys import MasterKeyError, SubjectKeys
from ledger.verifier import verify_in
from projections.status import fold_all, task
from tests.golden.examples import FOLDER, MASTER_KEY, from_text
from tests.integration.place import CONTRACT, STAMP, Place, new_place, patient_place, unguard
from tests.integration.test_seal import NOW, ORIGIN, SIGNER
from tests.unit.projections.workbooks import zipped
from workers.commands import cancel

MARKER = "Zebulon-Pfefferminz"
ARCHIVE_MEMBER = f"{MARKER}/payroll.csv"
WHY = "the person asked for it"
OK = b"number,paid_on\n1,2026-04-01\n"


class Guest(Aggregate):
    """Somebody who acts, in an event of the tests' own."""

    TOPIC = "guest"

    class Event(Aggregate.Event):
        """Something that is known of a guest."""

    class Seen(CanInitAggregate[UUID], Event):
        """The guest came."""

        TOPIC = "guest.seen"
        PERSONAL: ClassVar[Personal] = {"name": lambda event: actor_subject(f"guest:{event.guest_id}")}
        originator_topic: str
        guest_id: str
        name: str

    def __init__(self, *, guest_id: str, name: str) -> None:
        self.guest_id = guest_id
        self.name = name

    @classmethod
    def see(cls, guest_id: str, name: str) -> Guest:
        return cls._create(cls.Seen, id=uuid4(), guest_id=guest_id, name=name, **STAMP.fields())


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    # Readers are processes of their own, which find the bytes by the settings.
    return patient_place(ledger, tmp_path).with_settings(blobs_url=(tmp_path / "blobs").as_uri())


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Path]:
    """The folder in which a file arms a failpoint."""
    folder = tmp_path / "failpoints"
    folder.mkdir()
    failpoints.use(folder)
    yield folder
    failpoints.use(None)


def completed(place: Place, filename: str = f"{MARKER}.csv") -> UUID:
    job_id = place.send(OK, filename=filename)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    place.perform(job_id, Stage.LOAD)
    assert place.ledger.job(job_id).status is Status.COMPLETED
    return job_id


def failed(place: Place, data: bytes = b"number,paid_on\n", filename: str = f"{MARKER}.csv") -> UUID:
    job_id = place.send(data, filename=filename)
    place.perform(job_id, Stage.PLAN)
    place.follow()
    if place.ledger.job(job_id).status is Status.QUEUED:
        place.perform(job_id, Stage.LOAD)
    assert place.ledger.job(job_id).status is Status.FAILED
    return job_id


def archived_member(place: Place, *, receive: OnDuplicate = OnDuplicate.ALLOW, member: str = ARCHIVE_MEMBER) -> UUID:
    """The job of one of two files in an archive."""
    data = zipped({member: OK, "other.csv": OK})
    reading = {"member": member}
    arrival = Arrival(
        uuid4(), put(place.workshop.blobs, data), len(data), f"{MARKER}.zip/{member}", "application/zip", place.dataset,
        reading=reading,
    )  # fmt: skip
    if place.ledger.dataset(place.dataset) is None:
        place.ledger.register_dataset(place.dataset, CONTRACT, STAMP)
    [answer] = place.ledger.receive([arrival], STAMP, door="http", on_duplicate=receive)
    place.follow()
    return answer.job_id


def names(ledger: Ledger, job_id: UUID) -> tuple[Any, ...]:
    document = fold_all(ledger.events_of(job_id))
    assert document is not None
    return ledger.job(job_id).filename, task(document)["filename"], (document["error"] or {}).get("message")


def everything_stored(ledger: Ledger) -> str:
    """Every value of every table in which the record and its work stand, bytes in both of their writings."""
    with ledger.transaction() as session:
        tables = session.execute(
            text(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables"
                " WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'data', 'rejects')"
            )
        ).scalars()
        found = [str(row) for table in tables for row in session.execute(text(f"SELECT t::text FROM {table} t"))]
        states = session.execute(text("SELECT encode(state, 'escape') FROM ledger.stored_events")).scalars()
        return "\n".join([*found, *states])


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


def test_a_key_that_came_back_is_destroyed_again_and_that_is_on_record(place: Place) -> None:
    job_id = completed(place)
    kept = place.query("SELECT wrapped FROM subjects.keys WHERE subject = :s", s=job_subject(job_id))[0][0]
    erase_job(place.ledger, job_id, STAMP, reason=WHY)
    with place.ledger.transaction() as session:
        session.execute(
            text("UPDATE subjects.keys SET wrapped = :kept WHERE subject = :s"),
            {"kept": bytes(kept), "s": job_subject(job_id)},
        )
    later = replace(STAMP, at=NOW.replace(hour=1))
    erasure = erase_job(place.ledger, job_id, later, reason="a backup was restored")
    assert erasure.repeated_at == [later.at]
    assert place.ledger.job(job_id).filename == ERASED
    assert place.query("SELECT wrapped FROM subjects.keys WHERE subject = :s", s=job_subject(job_id)) == [(None,)]
    assert place.events(job_id)[-2:] == ["completed", "name_erased"]


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


@pytest.mark.parametrize("code", ["key_restored", "key_destroyed"])
def test_the_verifier_finds_a_key_that_came_back_and_one_that_nobody_erased(place: Place, code: str) -> None:
    ledger, job_id = place.ledger, completed(place)
    if code == "key_restored":
        erase_job(ledger, job_id, STAMP, reason=WHY)
    with Session(ledger.engine) as session:
        assert verify_in(session, [SIGNER.public], ORIGIN).findings == []
        wrapped = bytes(60) if code == "key_restored" else None
        session.execute(
            text("UPDATE subjects.keys SET wrapped = :wrapped WHERE subject = :s"),
            {"wrapped": wrapped, "s": job_subject(job_id)},
        )
        [finding] = verify_in(session, [SIGNER.public], ORIGIN).findings
        assert (finding.code, job_subject(job_id) in finding.message) == (code, True)
        session.execute(text("DROP SCHEMA subjects CASCADE"))
        assert verify_in(session, [SIGNER.public], ORIGIN).findings == []
        session.rollback()


def test_another_master_key_is_told_as_that_and_never_as_an_erasure(place: Place) -> None:
    job_id, erased_id = completed(place), completed(place)
    erase_job(place.ledger, erased_id, STAMP, reason=WHY)
    url = SecretStr(place.ledger.engine.url.render_as_string(hide_password=False))
    other = Ledger(Settings(database_url=url, subject_key=SecretStr("another master key, as long as it has to be")))
    for ask in (other.prepare, lambda: other.job(job_id), lambda: other.events_of(job_id)):
        with pytest.raises(MasterKeyError, match=r"another master key.* not erased.*LEDGER_SUBJECT_KEY_FILE"):
            ask()
    with pytest.raises(MasterKeyError):
        other.events_after(0, 10_000)
    assert other.job(erased_id).filename == ERASED
    other.engine.dispose()


@pytest.mark.parametrize("key", [None, "", "too short to be one"])
def test_no_ledger_without_a_master_key(key: str | None) -> None:
    with pytest.raises(MasterKeyError, match=r"openssl rand .*LEDGER_SUBJECT_KEY_FILE"):
        Ledger(Settings(subject_key=None if key is None else SecretStr(key)))


def test_the_master_key_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "subjects.key"
    path.write_text(f"{MASTER_KEY}\n")
    assert Settings(subject_key=None, subject_key_file=path).master_key() == MASTER_KEY


def _swapped(session: Session, here: UUID, there: UUID) -> int:
    """Put what is sealed in one job's first event into another's; the position of that."""
    [state] = session.execute(
        text("SELECT state FROM ledger.stored_events WHERE originator_id = :id AND originator_version = 1"),
        {"id": there},
    ).scalars()
    [(position, own)] = session.execute(
        text("SELECT id, state FROM ledger.stored_events WHERE originator_id = :id AND originator_version = 1"),
        {"id": here},
    )
    mixed = {**json.loads(bytes(own)), "filename": json.loads(bytes(state))["filename"]}
    unguard(session)
    session.execute(
        text("UPDATE ledger.stored_events SET state = :state WHERE id = :id"),
        {"state": json.dumps(mixed).encode(), "id": position},
    )
    return int(position)


@pytest.mark.parametrize("erased", ["neither", "here", "there"])
def test_a_swapped_envelope_is_told_as_damage_with_its_position(place: Place, erased: str) -> None:
    here, there = completed(place, "here.csv"), completed(place, "there.csv")
    for name, job_id in (("here", here), ("there", there)):
        if erased == name:
            erase_job(place.ledger, job_id, STAMP, reason=WHY)
    [(before,)] = place.query(
        "SELECT state FROM ledger.stored_events WHERE originator_id = :id AND originator_version = 1", id=here
    )
    with place.ledger.transaction() as session:
        position = _swapped(session, here, there)
    try:
        with pytest.raises(UnreadableEventError, match=rf"position {position} of the log.*filename is"):
            place.ledger.events_of(here)
        with pytest.raises(UnreadableEventError, match=rf"position {position} of the log.*filename is"):
            place.ledger.events_after(position - 1, 1)
        with pytest.raises(UnreadableEventError, match=rf"Version 1 of {here}.*filename is"):
            place.ledger.job(here)
        assert place.ledger.job(there).filename == (ERASED if erased == "there" else "there.csv")
    finally:
        with place.ledger.transaction() as session:
            unguard(session)
            session.execute(
                text("UPDATE ledger.stored_events SET state = :state WHERE id = :id"),
                {"state": bytes(before), "id": position},
            )


def test_a_key_that_is_lost_or_changed_is_damage_and_no_erasure(place: Place) -> None:
    job_id = completed(place)
    for change in ("DELETE FROM subjects.keys", "UPDATE subjects.keys SET wrapped = set_byte(wrapped, 20, 1)"):
        with Session(place.ledger.engine) as session:
            rolled_back = session.begin()
            session.execute(text(f"{change} WHERE subject = :s"), {"s": job_subject(job_id)})
            found = place.ledger.subject_keys.for_reading(session, [job_subject(job_id)])
            assert found == {}
            rolled_back.rollback()
    with place.ledger.transaction() as session:
        session.execute(text("DELETE FROM subjects.keys WHERE subject = :s"), {"s": job_subject(job_id)})
    with pytest.raises(UnreadableEventError, match="no key for its filename, and none was destroyed"):
        place.ledger.events_of(job_id)
    _forget(place.ledger, job_id)


def _forget(ledger: Ledger, job_id: UUID) -> None:
    """Take out a job that a test has bent, for those that read everything."""
    with ledger.transaction() as session:
        unguard(session)
        session.execute(text("DELETE FROM ledger.stored_events WHERE originator_id = :id"), {"id": job_id})
        session.execute(text("DELETE FROM ledger.arrivals WHERE job_id = :id"), {"id": job_id})


def test_no_key_is_destroyed_under_an_event_that_is_being_written_with_it(place: Place) -> None:
    keys, subject = place.ledger.subject_keys, job_subject(completed(place))
    with Session(place.ledger.engine) as writer, Session(place.ledger.engine) as eraser:
        assert keys.for_writing(writer, [subject])[subject] is not None
        eraser.execute(text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(DBAPIError) as refused:
            keys.destroy(eraser, subject)
        assert isinstance(refused.value.orig, psycopg2.errors.LockNotAvailable)
        writer.rollback()


def test_two_who_need_the_key_of_a_new_subject_get_one(place: Place) -> None:
    subject = f"actor:{uuid4()}"
    with place.ledger.transaction() as session:
        first = place.ledger.subject_keys.for_writing(session, [subject])
    with place.ledger.transaction() as session:
        assert place.ledger.subject_keys.for_writing(session, [subject, "ledger:names"])[subject] == first[subject]
        assert SubjectKeys(MASTER_KEY).for_reading(session, [subject]) == first


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
    _forget(place.ledger, job_id)


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
