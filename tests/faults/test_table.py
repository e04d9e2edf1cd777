"""Every fault has a test or a reason, and the table says so."""

from __future__ import annotations

from tests.faults.faults import MUST_HAPPEN, NOT_HERE
from tests.faults.table import README, marked_tests, table


def test_the_table_is_what_the_marks_say() -> None:
    assert README.read_text() == table(), "python -m tests.faults.table writes it"


def test_every_fault_has_a_test_or_a_reason() -> None:
    tested = {marked.number for marked in marked_tests()}
    assert tested | NOT_HERE.keys() == MUST_HAPPEN.keys()
    assert not tested & NOT_HERE.keys()


def test_every_fault_test_has_been_seen_to_fail() -> None:
    for marked in marked_tests():
        assert marked.what and marked.protection and marked.seen, marked
        assert "not yet" not in marked.seen and "fail yet" not in marked.seen, marked
