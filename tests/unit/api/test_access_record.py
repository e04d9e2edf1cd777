"""The access record's memory: every attempt is counted once, and no flood makes it large."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from api.access_record import ACTOR_KINDS_MAX, ADDRESSES_MAX, GATHER_SECONDS, KINDS_MAX, Attempt, Gathering

AT = datetime(2026, 4, 1, tzinfo=UTC)


def attempt(actor: str = "anonymous", route: str | None = "/task/{task_id}", dataset: str | None = None) -> Attempt:
    return Attempt(actor, "GET", route, "read_jobs", dataset, "wrong_key")


def test_the_first_of_a_kind_is_due_at_once_and_what_follows_after_a_minute() -> None:
    gathering = Gathering()
    assert gathering.seconds_until_due(0) is None
    gathering.add(attempt(), "10.0.0.1", AT, 0)
    assert gathering.seconds_until_due(0) == 0
    [first] = gathering.take(0)
    assert (first.count, first.first_at, first.addresses) == (1, AT, {"10.0.0.1"})
    for second in (1, 2, 3):
        gathering.add(attempt(), "10.0.0.2", AT + timedelta(seconds=second), second)
    assert gathering.take(3) == []
    assert gathering.seconds_until_due(3) == GATHER_SECONDS - 3
    [rest] = gathering.take(GATHER_SECONDS)
    assert (rest.count, rest.first_at, rest.addresses) == (3, AT + timedelta(seconds=1), {"10.0.0.2"})
    gathering.add(attempt(route="/livez"), "", AT, 3 * GATHER_SECONDS)
    assert len(gathering) == 1, "a kind that does not come again is forgotten"


def test_what_could_not_be_written_is_kept_with_what_came_meanwhile() -> None:
    gathering = Gathering()
    gathering.add(attempt(), "a", AT, 0)
    taken = gathering.take(0)
    gathering.add(attempt(), "b", AT + timedelta(seconds=1), 1)
    gathering.give_back(taken, 2)
    [again] = gathering.take(2)
    assert (again.count, again.first_at, again.addresses) == (2, AT, {"a", "b"})


def test_one_actor_fills_neither_the_memory_nor_the_log_nor_hides_another() -> None:
    gathering = Gathering()
    for number in range(1_000):
        gathering.add(attempt("key:1", dataset=f"d{number}"), "a", AT, 0)
    gathering.add(attempt("key:2", dataset="salaries"), "b", AT, 0)
    taken = gathering.take(0)
    assert len(taken) == ACTOR_KINDS_MAX + 2
    [more] = [each for each in taken if each.attempt.reason == "more_kinds"]
    assert (more.attempt.actor, more.count) == ("key:1", 1_000 - ACTOR_KINDS_MAX)
    assert [each.attempt.dataset for each in taken if each.attempt.actor == "key:2"] == ["salaries"]


def test_many_actors_do_not_fill_the_memory() -> None:
    gathering = Gathering()
    for number in range(3 * KINDS_MAX):
        gathering.add(attempt(f"key:{number}"), str(number), AT, 0)
    assert len(gathering) == KINDS_MAX + 1
    [rest] = [each for each in gathering.take(0) if each.attempt.actor == "various"]
    assert (rest.count, len(rest.addresses)) == (2 * KINDS_MAX, ADDRESSES_MAX)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "fail"]), st.integers(0, 30), st.integers(0, 40), st.floats(0, 90, width=16)
    ),
    max_size=80,
)


@given(STEPS)
def test_every_attempt_is_written_exactly_once(steps: list[tuple[str, int, int, float]]) -> None:
    gathering, tried, written, now = Gathering(), Counter[str](), Counter[str](), 0.0
    for step, actor, dataset, pause in steps:
        now += pause
        if step == "add":
            gathering.add(attempt(f"key:{actor}", dataset=f"d{dataset}"), "a", AT, now)
            tried[f"key:{actor}"] += 1
            continue
        taken = gathering.take(now)
        if step == "fail":
            gathering.give_back(taken, now)
        else:
            written.update(dict.fromkeys(tried, 0))
            for each in taken:
                written[each.attempt.actor] += each.count
    for each in gathering.take(now, all_of_them=True):
        written[each.attempt.actor] += each.count
    assert +written == +tried
    assert gathering.seconds_until_due(now) is None
