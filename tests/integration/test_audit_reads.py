"""Every read of the trail is on record, and no flood of reads fills the record."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from ledger import audit_reads
from ledger.application import Ledger
from ledger.audit_reads import GATHERED, KINDS_MAX, gather_reads, keep_gathering, record_read
from ledger.domain.audit import AuditRead, ReadKind, Told
from ledger.domain.base import Stamp
from ledger.errors import PartUnavailableError
from ledger.settings import Settings
from tests.integration.place import running_ledger, wait_until

START = datetime(2026, 4, 1, tzinfo=UTC)
ASKED = {"dataset": "payments"}


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture
def stamp() -> Stamp:
    """Of somebody who has not read before."""
    return Stamp(START, f"user:{uuid4().hex[:8]}", "request-1", None)


def later(stamp: Stamp, seconds: float) -> Stamp:
    return replace(stamp, at=stamp.at + timedelta(seconds=seconds))


def read(ledger: Ledger, stamp: Stamp, *positions: int, **asked: str) -> None:
    record_read(ledger, stamp, ReadKind.QUESTION, asked or ASKED, Told.of(list(positions)))


def reads(ledger: Ledger, stamp: Stamp) -> list[Any]:
    """The events about reads of this actor."""
    return [
        logged.event
        for logged in ledger.events_after(0, 10_000)
        if isinstance(logged.event, AuditRead.Recorded) and logged.event.actor == stamp.actor
    ]


def test_a_read_is_an_event_before_its_answer_leaves(ledger: Ledger, stamp: Stamp) -> None:
    read(ledger, stamp, 9, 7, 8)
    [event] = reads(ledger, stamp)
    assert (event.kind, event.asked, event.reads) == ("question", ASKED, 1)
    assert (event.entries, event.first_position, event.last_position) == (3, 7, 9)
    assert (event.timestamp, event.correlation) == (START, "request-1")


def test_a_minute_of_the_same_reads_is_two_events_and_none_is_lost(ledger: Ledger, stamp: Stamp) -> None:
    for second in range(0, 60):
        read(ledger, later(stamp, second), second + 1)
    assert len(reads(ledger, stamp)) == 1
    read(ledger, later(stamp, 60), 100)
    first, repeated, following = reads(ledger, stamp)
    assert [event.reads for event in (first, repeated, following)] == [1, 59, 1]
    assert (repeated.entries, repeated.first_position, repeated.last_position) == (59, 2, 60)
    assert datetime.fromisoformat(repeated.first_read_at) == later(stamp, 1).at


def test_what_was_counted_is_gathered_when_nobody_asks_again(ledger: Ledger, stamp: Stamp) -> None:
    read(ledger, stamp, 1)
    read(ledger, later(stamp, 1), 2)
    assert gather_reads(ledger, later(stamp, 59).at) == 0
    assert gather_reads(ledger, stamp.at + GATHERED) >= 1
    assert [event.reads for event in reads(ledger, stamp)] == [1, 1]
    gather_reads(ledger, stamp.at + 2 * GATHERED)
    assert len(reads(ledger, stamp)) == 2
    read(ledger, later(stamp, 61), 3)
    assert [event.reads for event in reads(ledger, stamp)] == [1, 1, 1]


def test_another_actor_or_question_is_another_read(ledger: Ledger, stamp: Stamp) -> None:
    other = replace(stamp, actor=f"{stamp.actor}x")
    read(ledger, stamp, 1)
    read(ledger, stamp, 1, dataset="refunds")
    read(ledger, other, 1)
    assert [event.asked["dataset"] for event in reads(ledger, stamp)] == ["payments", "refunds"]
    assert len(reads(ledger, other)) == 1


def test_no_name_of_a_file_and_no_word_gets_into_the_log(ledger: Ledger, stamp: Stamp) -> None:
    read(ledger, stamp, 1, filename="jane-doe.csv", actor="admin")
    read(ledger, stamp, 1, text="jane-doe")
    read(ledger, stamp, 1, text="jane-doe")
    gather_reads(ledger, stamp.at + GATHERED)
    assert [event.asked for event in reads(ledger, stamp)] == [
        {"filename": "(not kept)", "actor": "admin"},
        {"text": "(not kept)"},
        {"text": "(not kept)"},
    ]
    with ledger.transaction() as session:
        found = session.connection().exec_driver_sql(
            "SELECT count(*) FROM ledger.stored_events WHERE strpos(convert_from(state, 'UTF8'), 'jane-doe') > 0"
        )
        assert found.scalar_one() == 0


def test_a_flood_of_different_questions_is_bounded_and_none_is_lost(ledger: Ledger, stamp: Stamp) -> None:
    for number in range(KINDS_MAX + 50):
        read(ledger, stamp, number + 1, text=f"word {number}")
    gather_reads(ledger, stamp.at + GATHERED)
    events = reads(ledger, stamp)
    assert len(events) == KINDS_MAX + 2
    assert sum(event.reads for event in events) == KINDS_MAX + 50
    assert [(event.kind, event.reads) for event in events[-2:]] == [("various", 1), ("various", 49)]


def test_reads_at_the_same_time_are_counted_once_each(ledger: Ledger, stamp: Stamp) -> None:
    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(read, ledger, later(stamp, number / 100), number) for number in range(1, 41)]:
            each.result()
    gather_reads(ledger, stamp.at + 2 * GATHERED)
    assert [event.reads for event in reads(ledger, stamp)] == [1, 39]


def test_two_who_gather_at_once_do_not_count_twice(ledger: Ledger) -> None:
    stamps = [Stamp(START, f"user:{uuid4().hex[:8]}", "request-1", None) for _ in range(30)]
    for stamp in stamps:
        read(ledger, stamp, 1)
        read(ledger, stamp, 1)
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(gather_reads, ledger, START + GATHERED) for _ in range(8)]:
            each.result()
    assert [len(reads(ledger, stamp)) for stamp in stamps] == [2] * 30


def test_whoever_keeps_gathering_does_so_by_himself(
    ledger: Ledger, stamp: Stamp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_reads, "GATHER_SECONDS", 0.01)
    read(ledger, stamp, 1)
    read(ledger, stamp, 2)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        gathering = pool.submit(keep_gathering, ledger, stop)
        try:
            wait_until(lambda: len(reads(ledger, stamp)) == 2, "nobody gathers")
        finally:
            stop.set()
        gathering.result()


def test_without_the_record_there_is_no_answer() -> None:
    away = Ledger(Settings(database_url="postgresql+psycopg2://ledger@127.0.0.1:1/ledger"))
    with pytest.raises(PartUnavailableError):
        read(away, Stamp(START, "admin", "request-1", None), 1)
