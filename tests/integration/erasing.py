"""What tests of erasures share: jobs whose files have a name that is easily found, and a look for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

from eventsourcing.domain import CanInitAggregate
from sqlalchemy import text

from ledger.application import Arrival, Ledger
from ledger.blobs import put
from ledger.domain.base import Aggregate
from ledger.domain.personal import Personal, actor_subject
from ledger.domain.words import OnDuplicate, Stage, Status
from projections.status import fold_all, task
from tests.integration.place import CONTRACT, STAMP, Place, patient_place, unguard
from tests.unit.projections.workbooks import zipped

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


def readable_place(ledger: Ledger, folder: Path) -> Place:
    """A place whose readers, which are processes of their own, find the bytes by the settings."""
    return patient_place(ledger, folder).with_settings(blobs_url=(folder / "blobs").as_uri())


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


def forget(ledger: Ledger, job_id: UUID) -> None:
    """Take out a job that a test has bent, for those that read everything."""
    with ledger.transaction() as session:
        unguard(session)
        session.execute(text("DELETE FROM ledger.stored_events WHERE originator_id = :id"), {"id": job_id})
        session.execute(text("DELETE FROM ledger.arrivals WHERE job_id = :id"), {"id": job_id})
