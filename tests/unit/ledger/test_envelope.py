"""An envelope gives back what was sealed, where it was sealed, to whoever has its key: nothing else, to nobody else."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.base import LedgerEvent
from ledger.domain.filejob import FileJob
from ledger.domain.personal import ERASED, Personal, job_subject, personal_values, with_values
from ledger.envelope import EnvelopeDamagedError, open_event, seal_event, subjects_sealed, subjects_told
from tests.golden.examples import examples

JOB_ID, OTHER_ID = UUID(int=1), UUID(int=2)
KEYS: dict[str, bytes | None] = {
    job_subject(JOB_ID): b"a" * 32,
    job_subject(OTHER_ID): b"b" * 32,
    "person:1": b"c" * 32,
}
SECRET_FIELDS = ("filename", "reading.member", "reading.sheet")
ids = st.sampled_from([JOB_ID, OTHER_ID])
# Every text that UTF-8 has: a name with half a character never comes in.
texts = st.text(st.characters(exclude_categories=["Cs"]))


@dataclass(frozen=True)
class Noted(LedgerEvent):
    """An event of the test's own, about somebody whom another field names."""

    TOPIC = "test.noted"
    PERSONAL: ClassVar[Personal] = {"name": lambda event: f"person:{event.person}"}
    person: str
    name: str | None


def nonces() -> Any:
    return (number.to_bytes(12, "big") for number in count()).__next__


def received(name: str, job_id: UUID = JOB_ID, **reading: str) -> Any:
    stamp = {"timestamp": datetime(2026, 4, 1, tzinfo=UTC), "actor": "admin", "correlation": "1", "traceparent": None}
    return FileJob.Received(
        originator_id=job_id,
        originator_version=1,
        originator_topic="filejob",
        sha256="ab" * 32,
        size=1,
        filename=name,
        content_type="text/csv",
        door="http",
        dataset="payments",
        reading=reading,
        corrects=None,
        control_totals={},
        may_adjust=False,
        adjustment={},
        **stamp,
    )


def noted(person: str, name: str | None) -> Noted:
    return Noted(JOB_ID, 7, datetime(2026, 4, 1, tzinfo=UTC), "admin", "1", None, person, name)


@given(name=texts, member=texts, job_id=ids)
def test_any_text_comes_back_as_it_was_sealed(name: str, member: str, job_id: UUID) -> None:
    event = received(name, job_id, member=member, encoding="utf-8")
    sealed = seal_event(event, KEYS, nonces())
    assert subjects_told(event) == subjects_sealed(sealed) == {job_subject(job_id)}
    assert sealed.reading["encoding"] == "utf-8"
    assert open_event(sealed, KEYS) == event


@given(name=st.text(min_size=4), job_id=ids)
def test_a_sealed_event_does_not_have_the_text(name: str, job_id: UUID) -> None:
    sealed = seal_event(received(name, job_id), KEYS, nonces())
    assert set(sealed.filename) == {"subject", "nonce", "sealed"}
    assert name.encode("utf-8", "surrogatepass") not in base64.b64decode(sealed.filename["sealed"])


@given(name=texts, place=st.integers(0), which=st.sampled_from(["nonce", "sealed"]))
def test_every_bit_that_is_flipped_is_refused(name: str, place: int, which: str) -> None:
    sealed = seal_event(received(name), KEYS, nonces())
    data = bytearray(base64.b64decode(sealed.filename[which]))
    data[place // 8 % len(data)] ^= 1 << place % 8
    changed = {**sealed.filename, which: base64.b64encode(data).decode()}
    with pytest.raises(EnvelopeDamagedError, match="its filename is not the one that was sealed"):
        open_event(with_values(sealed, {"filename": changed}), KEYS)


@given(name=texts, other=texts)
def test_an_envelope_opens_in_its_own_place_only(name: str, other: str) -> None:
    here, there = (
        seal_event(received(name, JOB_ID, member=name), KEYS, nonces()),
        seal_event(received(other, OTHER_ID), KEYS, nonces()),
    )
    later = with_values(here, {})
    vars(later)["originator_version"] = 2
    moved = [
        with_values(here, {"filename": there.filename}),  # from another job
        with_values(here, {"filename": here.reading["member"]}),  # from another field
        later,  # to another event
    ]
    for event in moved:
        with pytest.raises(EnvelopeDamagedError, match="its filename is"):
            open_event(event, KEYS)


def test_a_destroyed_key_reads_as_erased_in_every_field_and_in_no_other_job() -> None:
    keys = {**KEYS, job_subject(JOB_ID): None}
    event = received("march.zip/a.csv", member="a.csv", sheet="Payments")
    opened = open_event(seal_event(event, KEYS, nonces()), keys)
    assert {field: value for field, _, value in personal_values(opened)} == dict.fromkeys(SECRET_FIELDS, ERASED)
    other = received("april.csv", OTHER_ID)
    assert open_event(seal_event(other, KEYS, nonces()), keys) == other


@given(envelope=st.dictionaries(st.sampled_from(["subject", "nonce", "sealed", "key"]), st.text(max_size=3)))
def test_what_is_no_envelope_of_its_subject_is_damage_even_if_the_subject_is_erased(envelope: dict[str, str]) -> None:
    event = with_values(received("march.csv"), {"filename": envelope})
    with pytest.raises(EnvelopeDamagedError):
        open_event(event, {**KEYS, job_subject(JOB_ID): None})


def test_an_envelope_of_an_erased_job_does_not_erase_another_one() -> None:
    erased = seal_event(received("march.csv", OTHER_ID), KEYS, nonces())
    here = with_values(seal_event(received("april.csv"), KEYS, nonces()), {"filename": erased.filename})
    with pytest.raises(EnvelopeDamagedError, match="about another subject"):
        open_event(here, {**KEYS, job_subject(OTHER_ID): None})


def test_a_key_that_is_lost_is_damage_and_no_erasure() -> None:
    with pytest.raises(EnvelopeDamagedError, match="none was destroyed"):
        open_event(seal_event(received("march.csv"), KEYS, nonces()), {})


def test_another_key_does_not_open_it() -> None:
    with pytest.raises(EnvelopeDamagedError, match="not the one that was sealed"):
        open_event(seal_event(received("march.csv"), KEYS, nonces()), {job_subject(JOB_ID): b"x" * 32})


def test_what_is_stored_after_the_erasure_is_erased_from_the_start_and_cannot_be_passed_off_for_that() -> None:
    event = received("march.csv")
    sealed = seal_event(event, {job_subject(JOB_ID): None}, nonces())
    assert sealed.filename == {"subject": job_subject(JOB_ID)}
    assert open_event(sealed, {job_subject(JOB_ID): None}).filename == ERASED
    with pytest.raises(EnvelopeDamagedError, match="the key of its subject is there"):
        open_event(sealed, KEYS)


def test_what_was_stored_before_there_were_envelopes_is_read_as_it_stands() -> None:
    event = received("march.csv", member="a.csv")
    assert open_event(event, {}) == event
    assert subjects_sealed(event) == set()


def test_an_event_may_be_about_somebody_whom_another_of_its_fields_names() -> None:
    event = noted("1", "Ada Lovelace")
    sealed = seal_event(event, KEYS, nonces())
    assert sealed.name["subject"] == "person:1"  # type: ignore[index]
    assert open_event(sealed, KEYS) == event
    assert open_event(sealed, {"person:1": None}).name == ERASED
    assert seal_event(noted("1", None), {}, nonces()).name is None


@pytest.mark.parametrize("event", examples().values(), ids=examples())
def test_every_event_that_there_is_comes_back_as_it_was(event: LedgerEvent) -> None:
    keys = dict.fromkeys(subjects_told(event), b"k" * 32)
    assert open_event(seal_event(event, keys, nonces()), keys) == event
