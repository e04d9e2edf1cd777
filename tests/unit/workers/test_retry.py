"""What is worth another attempt, and after which pause."""

from __future__ import annotations

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.reconciliation import CountsDoNotCloseError
from ledger.domain.words import Stage
from ledger.errors import FileRefusedError, NotFoundError, PartUnavailableError
from ledger.settings import Settings
from workers.retry import RetryPolicy, error_fields, is_worth_retrying

POLICY = RetryPolicy(attempts_max=10, pause_seconds_min=1.0, pause_seconds_max=60.0, jitter_share=0.25)


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (FileRefusedError("value_invalid", "Record 7 is refused.", "Correct it."), False),
        (CountsDoNotCloseError("There is a gap."), False),
        (PartUnavailableError("PostgreSQL is away."), True),
        (NotFoundError("The blob store has no blob."), True),
        (psycopg2.OperationalError("deadlock detected"), True),
        (ZeroDivisionError(), True),
        (AssertionError(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_the_files_own_fault_is_not_worth_another_attempt(error: Exception, worth: bool) -> None:
    assert is_worth_retrying(error) is worth


def test_the_pause_doubles_up_to_its_maximum() -> None:
    assert [POLICY.pause_seconds(attempt, 0.0) for attempt in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
def test_chance_takes_off_no_more_than_its_share(attempt: int, chance: float) -> None:
    whole = POLICY.pause_seconds(attempt, 0.0)
    assert 0.75 * whole <= POLICY.pause_seconds(attempt, chance) <= whole <= POLICY.pause_seconds_max


def test_each_stage_has_its_own_number_of_attempts() -> None:
    settings = Settings(plan_attempts_max=2, load_attempts_max=7)
    assert RetryPolicy.of(settings, Stage.PLAN).attempts_max == 2
    assert RetryPolicy.of(settings, Stage.LOAD).attempts_max == 7


def test_a_shortest_pause_above_the_longest_is_refused() -> None:
    with pytest.raises(ValueError, match="retry_seconds_min is above retry_seconds_max"):
        Settings(retry_seconds_min=3, retry_seconds_max=2)


def test_an_error_of_our_own_does_not_tell_its_text() -> None:
    told = error_fields(ValueError("could not convert 'SECRET-4711'"))
    assert told["code"] == "internal_error"
    assert "ValueError" in told["message"]
    assert "SECRET-4711" not in str(told)


def test_an_error_of_the_file_says_where() -> None:
    place = {"record": 7, "line": 8, "byte_offset": 99}
    told = error_fields(FileRefusedError("value_invalid", "Refused.", "Correct it.", column="amount", **place))
    assert (told["code"], told["record"], told["line"], told["byte_offset"], told["column"]) == (
        "value_invalid",
        7,
        8,
        99,
        "amount",
    )
