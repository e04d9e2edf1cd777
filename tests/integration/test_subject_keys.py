"""The keys that names are sealed under: made once, destroyed for good, and whatever else befalls them is damage."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg2
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.domain.personal import ERASED, actor_subject, job_subject
from ledger.erased_keys import findings_about_keys
from ledger.erasures import erase_actor, erase_job
from ledger.errors import UnreadableEventError
from ledger.settings import Settings
from ledger.subject_keys import MasterKeyError, SubjectKeys
from ledger.verifier import verify_in
from tests.golden.examples import MASTER_KEY
from tests.integration.erasing import (
    WHY,
    Guest,
    completed,
    forget,
    readable_place,
)
from tests.integration.place import STAMP, WAIT_SECONDS_MAX, Place, unguard, wait_until
from tests.integration.test_seal import NOW, ORIGIN, SIGNER


@pytest.fixture
def place(ledger: Ledger, tmp_path: Path) -> Place:
    return readable_place(ledger, tmp_path)


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
    forget(place.ledger, job_id)


def key_row(place: Place, subject: str) -> list[tuple[Any, ...]]:
    return place.query("SELECT wrapped FROM subjects.keys WHERE subject = :s", s=subject)


def test_an_erasure_leaves_a_destroyed_key_also_where_the_key_was_lost(place: Place) -> None:
    guest_id = uuid4().hex
    actor = f"guest:{guest_id}"
    subject = actor_subject(actor)
    guest = Guest.see(guest_id, "Ada")
    place.ledger.save(guest)
    for _ in range(2):  # it is lost before its erasure, and after
        with place.ledger.transaction() as session:
            session.execute(text("DELETE FROM subjects.keys WHERE subject = :s"), {"s": subject})
        erasure = erase_actor(place.ledger, actor, STAMP, reason=WHY)
        assert (key_row(place, subject), erasure.repeated_at) == ([(None,)], [])
        with Session(place.ledger.engine) as session:
            assert [each for each in findings_about_keys(session) if subject in each.message] == []
    assert place.ledger.events_of(guest.id)[0].event.name == ERASED  # type: ignore[attr-defined]


def test_a_key_that_is_just_being_made_is_destroyed_too(place: Place) -> None:
    keys, subject = place.ledger.subject_keys, f"actor:{uuid4()}"
    with Session(place.ledger.engine) as writer, ThreadPoolExecutor(1) as pool:
        keys.for_writing(writer, [subject])

        def destroy() -> bool:
            with place.ledger.transaction() as session:
                return keys.destroy(session, subject)

        destroyed = pool.submit(destroy)
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
        wait_until(lambda: place.query(waiting), "nobody waits for the key")
        writer.commit()
        assert destroyed.result(WAIT_SECONDS_MAX) is True
    assert key_row(place, subject) == [(None,)]


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
