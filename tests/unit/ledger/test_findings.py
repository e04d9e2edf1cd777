"""Of what a verification finds the first are kept, all are counted, and nothing holds that was not compared."""

from __future__ import annotations

from ledger.findings import FINDINGS_TOLD, Finding, NotCompared, Verified


def test_the_first_findings_are_kept_and_all_are_counted() -> None:
    found = Verified()
    found.extend(Finding("x", f"{number}.") for number in range(FINDINGS_TOLD + 7))
    assert (len(found.findings), found.findings_total) == (FINDINGS_TOLD, FINDINGS_TOLD + 7)
    found.put_first([Finding("first", "0.")])
    assert (len(found.findings), found.findings_total) == (FINDINGS_TOLD, FINDINGS_TOLD + 8)
    assert [finding.code for finding in found.findings[:2]] == ["first", "x"]


def test_a_record_holds_only_if_nothing_was_found_and_everything_compared() -> None:
    found = Verified()
    assert found.holds is True
    found.add(NotCompared("A view."))
    assert (found.holds, found.findings_total, found.not_compared) == (None, 0, ["A view."])
    found.add(Finding("x", "y."))
    assert found.holds is False
