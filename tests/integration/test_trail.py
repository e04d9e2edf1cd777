"""The audit trail says of every event what it is about, answers what is asked, and misses nothing, whatever happens."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from api.cli.operation_results import sentences
from ledger.application import Ledger
from ledger.database import prepare
from ledger.errors import UnreadableEventError
from projections import runner
from projections.rebuild import view_of
from projections.trail import store
from projections.trail.entries import Entry
from projections.trail.questions import Question, newest_first, oldest_first
from projections.trail.store import TRAIL, TrailStore, generations, live, live_trail, new_generation, switch
from projections.views import Live
from tests.integration.place import running_ledger, unguard, wait_until
from tests.integration.trail_model import (
    ACTORS,
    DATASETS,
    FILENAMES,
    START,
    WORDS,
    YEARS,
    Meant,
    Storyteller,
    answers,
)
from tests.integration.views import new_order, parts_of
from tests.thorough import thorough

EVENTS = 400
Told = tuple[Ledger, list[Meant]]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture(scope="module")
def storyteller(ledger: Ledger) -> Storyteller:
    storyteller = Storyteller(ledger, random.Random(11))
    storyteller.tell(EVENTS)
    return storyteller


def catch_up(trail: TrailStore) -> None:
    while trail.apply_batch():
        pass


@pytest.fixture
def told(ledger: Ledger, storyteller: Storyteller) -> list[Meant]:
    """What was told so far, all of it in the live trail."""
    catch_up(live_trail(ledger))
    return storyteller.told


def ask(ledger: Ledger, question: Question, *, limit: int = 10_000) -> list[Entry]:
    with ledger.transaction() as session:
        return oldest_first(session, question, after=0, limit=limit).entries


def test_every_event_is_an_entry_that_says_what_it_is_about(ledger: Ledger, told: list[Meant]) -> None:
    entries = ask(ledger, Question())
    assert len(entries) == len(told) > EVENTS / 2
    for entry, meant in zip(entries, told, strict=True):
        said = {name: value for name, value in asdict(entry).items() if hasattr(meant, name)}
        expected = {**vars(meant), "fiscal_years": list(meant.fiscal_years)}
        texts = expected.pop("texts")
        assert said == expected
        assert set(texts) == {line for line in entry.text.split("\n") if line}
    assert {entry.topic.split(".")[0] for entry in entries} >= {
        "filejob", "dataset", "operation", "settlement", "deadletter", "audit",
    }  # fmt: skip


MOMENTS = st.integers(0, 60_000).map(lambda minutes: START + timedelta(minutes=minutes))
WAYS: dict[str, st.SearchStrategy[Any]] = {
    "job": st.integers(0, 30),  # of the jobs that there are
    "sha256": st.integers(0, 6).map(lambda number: f"{number:064x}"),
    "filename": st.sampled_from((*FILENAMES, "june.csv")),
    "actor": st.sampled_from((*ACTORS, "nobody")),
    "dataset": st.sampled_from(DATASETS),
    "fiscal_year": st.sampled_from(YEARS),
    "topic": st.sampled_from(
        ("filejob", "filejob.received", "filejob.re", "dataset.contract_changed", "operation", "audit")
    ),
    "since": MOMENTS,
    "until": MOMENTS,
    "text": st.sampled_from((*WORDS, "JUNE", "%", "_", "\\", "month", "mä", "MÄ", "anew", "zzz")),
}


@st.composite
def asked(draw: st.DrawFn) -> dict[str, Any]:
    """Few ways at once: what is asked for in many has no answer."""
    ways = draw(st.lists(st.sampled_from(sorted(WAYS)), max_size=3, unique=True))
    return {way: draw(WAYS[way]) for way in ways}


@thorough(examples=150, steps=1)
@given(asked=asked(), limit=st.integers(1, 40))
def test_a_question_is_answered_with_what_was_told_and_nothing_else(
    ledger: Ledger, storyteller: Storyteller, asked: dict[str, Any], limit: int
) -> None:
    catch_up(live_trail(ledger))
    if "job" in asked:
        asked["job"] = [told.stream for told in storyteller.told if told.topic == "filejob.received"][asked["job"]]
    question = Question(**asked)
    expected = [told.position for told in storyteller.told if answers(told, asked)]
    upwards: list[int] = []
    downwards: list[int] = []
    with ledger.transaction() as session:
        more = True
        while more:
            page = oldest_first(session, question, after=max(upwards, default=0), limit=limit)
            upwards += [entry.position for entry in page.entries]
            more = page.more
            assert len(page.entries) == limit or not more
        more = True
        while more:
            page = newest_first(session, question, before=min(downwards, default=None), limit=limit)
            downwards += [entry.position for entry in page.entries]
            more = page.more
    assert upwards == expected
    assert downwards == expected[::-1]


@pytest.mark.parametrize("topic", ["filejob.re", "filejo", "oper", "filejob_", "%", "filejob.received.again"])
def test_a_topic_begins_with_whole_words(ledger: Ledger, told: list[Meant], topic: str) -> None:
    assert ask(ledger, Question(topic=topic)) == []


def test_a_moment_is_in_the_period_that_begins_with_it_and_not_in_the_one_that_ends_with_it(
    ledger: Ledger, told: list[Meant]
) -> None:
    at, microsecond = told[7].at, timedelta(microseconds=1)
    position = told[7].position
    within = [Question(since=at), Question(until=at + microsecond), Question(since=at, until=at + microsecond)]
    without = [Question(since=at + microsecond), Question(until=at), Question(since=at, until=at)]
    assert all(position in [entry.position for entry in ask(ledger, question)] for question in within)
    assert not any(position in [entry.position for entry in ask(ledger, question)] for question in without)


def test_no_page_shifts_while_events_come_in(ledger: Ledger, storyteller: Storyteller) -> None:
    catch_up(live_trail(ledger))
    before = [told.position for told in storyteller.told]
    last, walked, more = None, list[int](), True
    while more:
        with ledger.transaction() as session:
            page = newest_first(session, Question(), before=last, limit=50)
        walked += [entry.position for entry in page.entries]
        last, more = walked[-1], page.more
        storyteller.tell(3)
        catch_up(live_trail(ledger))
    assert walked == before[::-1]


def test_a_rebuild_gives_the_same_content_and_the_switch_shows_it(ledger: Ledger, told: list[Meant]) -> None:
    old = live_trail(ledger)
    new = TrailStore(ledger, new_generation(ledger))
    for _ in range(2):
        catch_up(new)
    assert new.generation > old.generation
    assert generations(ledger) == {old.generation, new.generation}
    assert (new.position(), new.digest()) == (old.position(), old.digest())
    assert len(ask(ledger, Question())) == len(told), "a generation that is not live is not asked"
    switch(ledger, new.generation, previous=old.generation, by="operation-1")
    assert live(ledger) == Live(new.generation, old.generation, "operation-1")
    old.drop()
    assert generations(ledger) == {live_trail(ledger).generation} == {new.generation}
    assert len(ask(ledger, Question())) == len(told)


def test_a_check_tells_what_was_changed_and_a_rebuild_puts_it_right_and_can_be_rolled_back(
    ledger: Ledger, told: list[Meant]
) -> None:
    view = view_of(parts_of(ledger), TRAIL)
    damaged = live_trail(ledger)
    changed, deleted = told[5].position, told[7].position
    with ledger.transaction() as session:
        session.execute(text("UPDATE trail.entries SET actor = 'nobody' WHERE position = :at"), {"at": changed})
        session.execute(text("DELETE FROM trail.entries WHERE position = :at"), {"at": deleted})
    found = view.check(new_order())
    assert (found["equal"], found["differences_total"], generations(ledger)) == (False, 2, {damaged.generation})
    said = sentences({"kind": "rebuild", "arguments": {"view": TRAIL, "check": True}, "result": found}).splitlines()
    assert said[1:] == [
        f"  the entry of position {changed:,}: changed",
        f"  the entry of position {deleted:,}: missing",
    ]
    assert found["differences"] == [
        {"position": changed, "what": "changed"},
        {"position": deleted, "what": "missing"},
    ]
    rebuilt = view.rebuild(new_order())
    assert (rebuilt["equal"], rebuilt["switched"]) == (False, True)
    assert view.check(new_order())["equal"] is True
    assert view.roll_back(new_order())["generation"] == damaged.generation
    assert view.check(new_order())["equal"] is False
    assert view.rebuild(new_order())["equal"] is False
    assert view.standing().position == ledger.position()


def test_what_a_job_is_called_otherwise_from_now_on_is_told_of_its_earlier_events_as_well(
    ledger: Ledger, storyteller: Storyteller, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "TOLD_ANEW_AFTER", {"filejob.archived"})
    names = "UPDATE trail.entries SET filename = 'old name', text = 'old name' WHERE job IS NOT NULL"
    trail = TrailStore(ledger, new_generation(ledger))
    while trail.apply_batch(until=told[-1].position):
        pass
    with ledger.transaction() as session:
        session.execute(text(f"{names} AND generation = :generation"), {"generation": trail.generation})
    before = len(told)
    while "filejob.archived" not in {each.topic for each in told[before:]}:
        storyteller.tell(5)
    catch_up(trail)
    anew = {each.job for each in told[before:] if each.topic == "filejob.archived"}
    meant = {each.position: each.filename for each in told}
    entries = [entry for entry in trail.in_order() if entry.job in anew]
    assert len(entries) > len(anew)
    assert all(entry.filename == meant[entry.position] and entry.text != "old name" for entry in entries)
    trail.drop()
    catch_up(live_trail(ledger))


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE trail.entries SET actor = 'nobody' WHERE position = :position",
        "UPDATE trail.entries SET at = at + interval '1 microsecond' WHERE position = :position",
        "UPDATE trail.entries SET fiscal_years = fiscal_years || 'FY2000-01'::text WHERE position = :position",
        "DELETE FROM trail.entries WHERE position = :position",
    ],
)
def test_the_digest_tells_a_trail_that_was_changed(ledger: Ledger, told: list[Meant], tampering: str) -> None:
    trail = live_trail(ledger)
    sound = trail.digest()
    with ledger.transaction() as session:
        session.execute(text(tampering), {"position": told[5].position})
    assert trail.digest() != sound
    trail.drop()
    catch_up(trail)
    assert trail.digest() == sound


def test_a_trail_whose_table_was_dropped_comes_to_the_same(ledger: Ledger, told: list[Meant]) -> None:
    digest = live_trail(ledger).digest()
    with ledger.transaction() as session:
        session.execute(text("DROP TABLE trail.entries"))
    prepare(ledger.engine, "projections")
    assert live_trail(ledger).position() == 0
    catch_up(live_trail(ledger))
    assert live_trail(ledger).digest() == digest


def test_batches_of_any_size_and_an_end_in_between_make_no_difference(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    new = TrailStore(ledger, new_generation(ledger))
    middle = told[len(told) // 2].position
    for size in (1, 7, 1000):
        monkeypatch.setattr(store, "BATCH_EVENTS", size)
        assert new.apply_batch(until=middle) in (size, len([t for t in told if t.position <= middle]) - 8)
    assert new.position() == middle
    assert new.apply_batch(until=middle) == 0
    catch_up(new)
    assert new.digest() == live_trail(ledger).digest()
    new.drop()


def test_a_batch_is_entered_as_a_whole_or_not_at_all(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    class CrashError(Exception):
        pass

    def crash(name: str) -> None:
        raise CrashError(name)

    monkeypatch.setattr(store, "BATCH_EVENTS", 50)
    new = TrailStore(ledger, new_generation(ledger))
    assert new.apply_batch() == 50
    position = new.position()
    monkeypatch.setattr(store, "failpoint", crash)
    with pytest.raises(CrashError, match="trail_written"):
        new.apply_batch()
    assert new.position() == position
    monkeypatch.undo()
    catch_up(new)
    assert new.digest() == live_trail(ledger).digest()
    new.drop()


def test_two_followers_at_once_enter_no_event_twice_and_miss_none(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH_EVENTS", 5)
    new = TrailStore(ledger, new_generation(ledger))
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(catch_up, TrailStore(ledger, new.generation)) for _ in range(4)]:
            each.result()
    assert new.digest() == live_trail(ledger).digest()
    new.drop()


def test_no_question_fails_and_none_sees_half_a_trail_while_it_is_rebuilt_again_and_again(
    ledger: Ledger, told: list[Meant]
) -> None:
    stop = threading.Event()

    def read() -> set[int]:
        seen = set()
        while not stop.is_set():
            seen.add(len(ask(ledger, Question())))
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for _ in range(5):
                old, new = live_trail(ledger), TrailStore(ledger, new_generation(ledger))
                catch_up(new)
                switch(ledger, new.generation)
                old.drop()
        finally:
            stop.set()
        assert [reader.result() for reader in readers] == [{len(told)}] * 2


@pytest.mark.parametrize(
    ("topic", "state"),
    [("filejob.teleported", b"{}"), ("filejob.received", b"no JSON"), ("filejob.received", b"{}")],
    ids=["unknown kind", "no content", "fields missing"],
)
def test_the_trail_goes_up_to_an_unreadable_event_and_tells_where_it_is(
    ledger: Ledger, storyteller: Storyteller, topic: str, state: bytes
) -> None:
    storyteller.tell(10)
    before = ledger.position()
    unreadable = put(ledger, topic, state)
    storyteller.tell(10)
    trail = live_trail(ledger)
    try:
        with pytest.raises(UnreadableEventError, match=f"position {unreadable} of the log"):
            catch_up(trail)
        assert trail.position() == before
    finally:
        take_out(ledger, unreadable)
    catch_up(trail)
    assert trail.position() == ledger.position()
    assert len(ask(ledger, Question())) == len(storyteller.told)


def put(ledger: Ledger, topic: str, state: bytes) -> int:
    insert = "INSERT INTO ledger.stored_events (originator_id, originator_version, topic, state)"
    with ledger.transaction() as session:
        found = session.execute(
            text(f"{insert} VALUES (:stream, 1, :topic, :state) RETURNING id"),
            {"stream": uuid4(), "topic": topic, "state": state},
        )
        return int(found.scalar_one())


def take_out(ledger: Ledger, position: int) -> None:
    with ledger.transaction() as session:
        unguard(session)
        session.execute(text("DELETE FROM ledger.stored_events WHERE id = :id"), {"id": position})


def test_a_follower_that_stops_does_not_stop_the_other_and_goes_on_where_it_was(
    ledger: Ledger, storyteller: Storyteller, caplog: pytest.LogCaptureFixture
) -> None:
    catch_up(live_trail(ledger))
    storyteller.tell(5)
    unreadable = put(ledger, "filejob.teleported", b"{}")
    storyteller.tell(5)
    stop, other = threading.Event(), threading.Event()

    def follow_another_view(stop: threading.Event) -> None:
        other.set()
        stop.wait()

    followers = {"trail": lambda stop: runner.run_trail(ledger, stop), "other": follow_another_view}
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(runner.follow_all, followers, stop)
        try:
            wait_until(lambda: f"position {unreadable} of the log" in caplog.text, "it does not tell where it stops")
            assert other.is_set()
            assert not following.done()
            assert live_trail(ledger).position() < unreadable
            take_out(ledger, unreadable)
            wait_until(lambda: live_trail(ledger).position() == ledger.position(), "it does not go on")
        finally:
            stop.set()
        following.result()
    assert len(ask(ledger, Question())) == len(storyteller.told)


def test_when_no_follower_can_go_on_all_end_with_what_the_last_one_stopped_at() -> None:
    def stops(stop: threading.Event) -> None:
        raise KeyError("unknown")

    with pytest.raises(KeyError, match="unknown"):
        runner.follow_all({"trail": stops, "status": stops}, threading.Event())


def test_a_nul_in_a_text_does_not_stop_the_trail(ledger: Ledger, storyteller: Storyteller) -> None:
    catch_up(live_trail(ledger))
    storyteller.tell(1)
    state = (
        '{"timestamp":{"_type_":"datetime_iso","_data_":"2026-04-01T09:30:00+00:00"},"actor":"a\\u0000b",'
        '"correlation":"c","traceparent":null,"originator_topic":"operation","kind":"rebuild",'
        '"arguments":{"view":"x\\u0000y"}}'
    )
    position = put(ledger, "operation.requested", state.encode())
    try:
        catch_up(live_trail(ledger))
        [entry] = [entry for entry in ask(ledger, Question()) if entry.position == position]
        assert (entry.actor, entry.text) == ("a\N{REPLACEMENT CHARACTER}b", "rebuild\nx\N{REPLACEMENT CHARACTER}y")
    finally:
        take_out(ledger, position)
        with ledger.transaction() as session:
            session.execute(text("DELETE FROM trail.entries WHERE position = :id"), {"id": position})


def test_words_are_looked_for_by_their_trigrams(ledger: Ledger, told: list[Meant]) -> None:
    with ledger.transaction() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.execute(text("SET LOCAL enable_indexscan = off"))
        plan = session.execute(
            text("EXPLAIN SELECT position FROM trail.entries WHERE text ILIKE '%month%' OR filename ILIKE '%month%'")
        )
        assert "entries_words" in "\n".join(row[0] for row in plan)


def test_an_entry_of_an_unknown_job_says_so_much_as_is_known(ledger: Ledger, storyteller: Storyteller) -> None:
    letter = ("deadletter.recorded", '"queue":"q","reason":"r","task":null,"job_id":"not an id","body_sha256":"x"')
    state = (
        '{"timestamp":{"_type_":"datetime_iso","_data_":"2026-04-01T09:30:00+00:00"},"actor":"a","correlation":"c",'
        '"traceparent":null,"originator_topic":"deadletter",' + letter[1] + "}"
    )
    position = put(ledger, letter[0], state.encode())
    catch_up(live_trail(ledger))
    [entry] = [entry for entry in ask(ledger, Question()) if entry.position == position]
    assert (entry.job, entry.dataset, entry.text) == (None, None, "r")
    assert isinstance(entry.stream, UUID)
    take_out(ledger, position)
    with ledger.transaction() as session:
        session.execute(text("DELETE FROM trail.entries WHERE position = :id"), {"id": position})
