"""What becomes of rejects: each is settled once, and the record of it is ranges."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.base import Stamp
from ledger.domain.settlement import Settlement, numbers_in, ranges_of, settled_as, settlement_id
from ledger.errors import ConflictError, InvalidRequestError

JOB_ID = UUID("0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51")
BY_JOB = UUID("5d1f0e6c-1b6e-4a92-9c1b-0f6a7d1c2e34")
STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "ann", "request-1")


@given(st.sets(st.integers(1, 200)))
def test_ranges_hold_the_numbers_that_they_were_made_of_and_none_touches_another(numbers: set[int]) -> None:
    ranges = ranges_of(sorted(numbers))
    assert list(numbers_in(ranges)) == sorted(numbers)
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(ranges))


def test_a_job_has_one_settlement() -> None:
    assert Settlement.open(JOB_ID, STAMP).id == settlement_id(JOB_ID) != settlement_id(BY_JOB)


def test_what_is_settled_stays_as_it_is() -> None:
    settlement = Settlement.open(JOB_ID, STAMP)
    assert settlement.correct(STAMP, by_job=BY_JOB, records=[3, 1, 2]) == [1, 2, 3]
    assert settlement.waive(STAMP, reason="tests", records=[3, 4]) == [4]
    assert settlement.correct(STAMP, by_job=JOB_ID, records=[1, 4]) == []
    found = settled_as(settlement.pending_events)
    assert {record: told["state"] for record, told in found.items()} == {
        1: "corrected",
        2: "corrected",
        3: "corrected",
        4: "waived",
    }
    assert (found[1]["settled_by_job"], found[4]["settled_because"]) == (str(BY_JOB), "tests")
    assert found[4]["settled_by"] == "ann"


def test_a_waiver_says_why_and_waives_something() -> None:
    settlement = Settlement.open(JOB_ID, STAMP)
    with pytest.raises(InvalidRequestError, match="why"):
        settlement.waive(STAMP, reason=" ", records=[1])
    settlement.waive(STAMP, reason="tests", records=[1])
    with pytest.raises(ConflictError, match="open"):
        settlement.waive(STAMP, reason="tests", records=[1])
