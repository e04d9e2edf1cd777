"""The life of a fiscal year: what may happen when, by whom, and what the events tell afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.year_states import ALLOWED, WANTED, Ground, YearState
from ledger.errors import ConflictError, InvalidRequestError
from tests.thorough import thorough

CALENDAR = FiscalCalendar.parse("04-01", "Europe/Berlin")
STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "key:anna", "request-1")
BY = {name: replace(STAMP, actor=f"key:{name}") for name in ("anna", "bert")}
JOB = UUID(int=7)
MANIFEST: dict[str, Any] = {
    "manifest_key": "v1/MANIFEST.json",
    "manifest_version": "v8",
    "objects": 2,
    "size_bytes": 4_711,
    "previous_manifest_sha256": None,
}


def opened() -> FiscalYear:
    return FiscalYear.open(STAMP, year=CALENDAR.named("FY2024-25"), calendar=CALENDAR)


def closed(by: str = "anna") -> FiscalYear:
    year = opened()
    year.close(STAMP, position=41, tables=[], requested_by=BY[by].actor)
    return year


def exported(year: FiscalYear, manifest: str = "34" * 32) -> FiscalYear:
    year.plan(STAMP, parts=[{"name": "a"}], pinned={})
    year.store_parts(STAMP, objects=[{"name": "a", "key": "k"}])
    year.export(STAMP, manifest_sha256=manifest, **MANIFEST)
    return year


def verified() -> FiscalYear:
    year = exported(closed())
    year.verify(STAMP, evidence={})
    return year


def rebuilt(year: FiscalYear) -> Any:
    found: Any = None
    for event in year.pending_events:
        found = event.mutate(found)  # type: ignore[union-attr]
    return found


def test_the_days_of_a_year_are_pinned_when_its_story_begins() -> None:
    year = opened()
    assert (year.start, year.end) == (date(2024, 4, 1), date(2025, 4, 1))
    assert (year.calendar, year.zone, year.state, year.generation) == ("04-01", "Europe/Berlin", YearState.OPEN, 0)


def test_a_refusal_names_the_year_its_state_and_what_to_do() -> None:
    with pytest.raises(ConflictError) as refused:
        opened().verify(STAMP, evidence={})
    assert refused.value.message == "Fiscal year FY2024-25 is open, and so cannot be verified."
    assert refused.value.remedy == "Close it first: `ledger archive close FY2024-25`."


def test_there_are_words_for_whatever_a_state_can_forbid() -> None:
    assert WANTED.keys() == {event for event, states in ALLOWED.items() if states != frozenset(YearState)}


def test_who_asked_for_a_reopening_cannot_approve_it() -> None:
    year = closed()
    year.request_reopen(BY["anna"], reason="an invoice was missing")
    with pytest.raises(ConflictError, match="second person"):
        year.reopen(BY["anna"])
    year.reopen(BY["bert"])
    assert (year.state, year.generation) == (YearState.REOPENED, 1)


def test_who_placed_a_hold_cannot_lift_it() -> None:
    year = opened()
    year.place_hold(BY["anna"], case="2026/17")
    with pytest.raises(ConflictError, match="second person"):
        year.lift_hold(BY["anna"], case="2026/17", reason="settled")
    year.lift_hold(BY["bert"], case="2026/17", reason="settled")
    assert year.holds == {}


def test_who_asked_for_the_closing_cannot_approve_the_drop_but_time_can_pass() -> None:
    year = verified()
    with pytest.raises(ConflictError, match="second person"):
        year.authorize_drop(BY["anna"], ground=Ground.APPROVAL)
    year.authorize_drop(BY["anna"], ground=Ground.GRACE)
    year.drop(STAMP, tables=[])
    assert year.state is YearState.DROPPED


def test_nothing_is_dropped_while_a_hold_stands_even_if_it_came_after_the_approval() -> None:
    year = verified()
    year.authorize_drop(BY["bert"], ground=Ground.APPROVAL)
    year.place_hold(BY["anna"], case="2026/17")
    with pytest.raises(ConflictError, match="held for '2026/17'"):
        year.drop(STAMP, tables=[])


def test_an_approval_of_one_generation_does_not_count_for_the_next() -> None:
    year = verified()
    year.authorize_drop(BY["bert"], ground=Ground.APPROVAL)
    year.request_reopen(BY["anna"], reason="an invoice was missing")
    year.reopen(BY["bert"])
    year.close(STAMP, position=99, tables=[], requested_by="key:anna")
    exported(year, "56" * 32).verify(STAMP, evidence={})
    with pytest.raises(ConflictError, match="may not be dropped yet"):
        year.drop(STAMP, tables=[])


def test_the_next_generation_supersedes_the_manifest_of_the_one_before() -> None:
    year = exported(closed())
    year.request_reopen(BY["anna"], reason="an invoice was missing")
    year.reopen(BY["bert"])
    year.close(STAMP, position=99, tables=[], requested_by="key:anna")
    exported(year, "56" * 32)
    told: Any = [event for event in year.pending_events if isinstance(event, FiscalYear.Exported)]
    assert [(event.generation, event.supersedes) for event in told] == [(1, None), (2, "34" * 32)]


def test_nothing_is_exported_before_each_part_is_stored_and_no_part_twice() -> None:
    year = closed()
    with pytest.raises(ConflictError, match="lacks all parts"):
        year.export(STAMP, manifest_sha256="34" * 32, **MANIFEST)
    year.plan(STAMP, parts=[{"name": "a"}, {"name": "b"}], pinned={})
    with pytest.raises(ConflictError, match="is planned"):
        year.plan(STAMP, parts=[{"name": "c"}], pinned={})
    year.store_parts(STAMP, objects=[{"name": "a"}])
    with pytest.raises(ConflictError, match="lacks 1 part of"):
        year.export(STAMP, manifest_sha256="34" * 32, **MANIFEST)
    for name in ("a", "c"):
        with pytest.raises(ConflictError, match=f"does not wait for {name}"):
            year.store_parts(STAMP, objects=[{"name": name}])


def test_a_year_whose_rows_were_dropped_is_reopened_from_a_copy_that_is_there() -> None:
    year = verified()
    year.authorize_drop(STAMP, ground=Ground.GRACE)
    year.drop(STAMP, tables=[])
    year.request_reopen(BY["anna"], reason="an invoice was missing")
    year.request_restore(STAMP, tier="Bulk", days=7, reason="to reopen it")
    with pytest.raises(ConflictError, match="in cold storage"):
        year.reopen(BY["bert"])
    year.restore(STAMP, proof={})
    year.reopen(BY["bert"])
    assert year.state is YearState.REOPENED


def test_no_more_late_records_are_posted_than_were_found() -> None:
    year = closed()
    year.find_late(STAMP, job=JOB, dataset="payments", records=3)
    posted: dict[str, Any] = {"job": JOB, "dataset": "payments", "posted_in": "FY2025-26", "by_job": UUID(int=8)}
    year.post_adjustment(STAMP, records=2, reason="as agreed", **posted)
    with pytest.raises(ConflictError, match="1 late record of"):
        year.post_adjustment(STAMP, records=2, reason="as agreed", **posted)


@pytest.mark.parametrize("ask", ["reopen", "restore", "lift", "hold"])
def test_what_has_to_be_explained_is_refused_without_words(ask: str) -> None:
    year = exported(closed())
    year.place_hold(BY["anna"], case="2026/17")
    with pytest.raises(InvalidRequestError, match="Nothing says"):
        {
            "reopen": lambda: year.request_reopen(STAMP, reason=" "),
            "restore": lambda: year.request_restore(STAMP, tier="Bulk", days=7, reason=""),
            "lift": lambda: year.lift_hold(BY["bert"], case="2026/17", reason="\n"),
            "hold": lambda: year.place_hold(STAMP, case=" "),
        }[ask]()


@dataclass
class YearModel:
    """A year told a second time, from the rules and not from the code."""

    state: str = "open"
    generation: int = 0
    parts: str = "none"  # none, planned, stored
    may_drop: bool = False
    copy: str = "none"
    asked_by: str | None = None
    holds: dict[str, str] = field(default_factory=dict)
    late: int = 0
    proposed: bool = False

    def can(self, event: str, by: str, case: str) -> bool:
        away = self.state in {"exported", "verified", "dropped"}
        return {
            "propose": self.state in {"open", "soft_closed"} and not self.proposed,
            "soft_close": self.state == "open",
            "close": self.state in {"open", "soft_closed", "reopened"},
            "plan": self.state == "closed" and self.parts == "none",
            "store": self.state == "closed" and self.parts == "planned",
            "export": self.state == "closed" and self.parts == "stored",
            "verify": self.state == "exported",
            "approve_drop": self.state == "verified" and not self.holds and not self.may_drop and by != "anna",
            "drop": self.state == "verified" and not self.holds and self.may_drop,
            "request_restore": away and self.copy == "none",
            "restore": away and self.copy == "requested",
            "release": self.state != "open" and self.copy != "none",
            "request_reopen": self.state not in {"open", "reopened"} and self.asked_by is None,
            "reopen": self.state not in {"open", "reopened"}
            and self.asked_by not in {None, by}
            and (self.state != "dropped" or self.copy == "restored"),
            "hold": case not in self.holds,
            "lift": case in self.holds and self.holds[case] != by,
            "find_late": self.state != "open",
            "post": self.state != "open" and self.late > 0,
        }[event]

    def do(self, event: str, by: str, case: str) -> None:
        state = {"soft_close": "soft_closed", "close": "closed", "export": "exported", "verify": "verified"}
        self.state = {**state, "drop": "dropped", "reopen": "reopened"}.get(event, self.state)
        self.generation += event == "close"
        self.parts = {"plan": "planned", "store": "stored", "reopen": "none"}.get(event, self.parts)
        self.may_drop = {"approve_drop": True, "reopen": False}.get(event, self.may_drop)
        copy_after = {"request_restore": "requested", "restore": "restored", "release": "none"}
        self.copy = copy_after.get(event, self.copy)
        self.asked_by = {"request_reopen": by, "reopen": None}.get(event, self.asked_by)
        self.late += {"find_late": 1, "post": -1}.get(event, 0)
        self.proposed |= event == "propose"
        if event == "hold":
            self.holds[case] = by
        if event == "lift":
            del self.holds[case]


def commands(year: FiscalYear, by: Stamp, case: str) -> dict[str, Callable[[], None]]:
    posted: dict[str, Any] = {"posted_in": "FY2025-26", "by_job": JOB, "reason": "as agreed"}
    return {
        "propose": lambda: year.propose(by, grace_days=30, closes_by_itself=False),
        "soft_close": lambda: year.soft_close(by),
        "close": lambda: year.close(by, position=1, tables=[], requested_by="key:anna"),
        "plan": lambda: year.plan(by, parts=[{"name": "a"}], pinned={}),
        "store": lambda: year.store_parts(by, objects=[{"name": "a"}]),
        "export": lambda: year.export(by, manifest_sha256="34" * 32, **MANIFEST),
        "verify": lambda: year.verify(by, evidence={}),
        "approve_drop": lambda: year.authorize_drop(by, ground=Ground.APPROVAL),
        "drop": lambda: year.drop(by, tables=[]),
        "request_restore": lambda: year.request_restore(by, tier="Bulk", days=1, reason="why"),
        "restore": lambda: year.restore(by, proof={}),
        "release": lambda: year.release(by),
        "request_reopen": lambda: year.request_reopen(by, reason="why"),
        "reopen": lambda: year.reopen(by),
        "hold": lambda: year.place_hold(by, case=case),
        "lift": lambda: year.lift_hold(by, case=case, reason="why"),
        "find_late": lambda: year.find_late(by, job=JOB, dataset="payments", records=1),
        "post": lambda: year.post_adjustment(by, job=JOB, dataset="payments", records=1, **posted),
    }


EVENTS = sorted(commands(opened(), STAMP, ""))


class YearMachine(RuleBasedStateMachine):
    """One year, its model, and the year that its events tell of."""

    def __init__(self) -> None:
        super().__init__()
        self.year = opened()
        self.model = YearModel()

    @rule(event=st.sampled_from(EVENTS), by=st.sampled_from(["anna", "bert"]), case=st.sampled_from(["1", "2"]))
    def ask(self, event: str, by: str, case: str) -> None:
        """Ask for anything; what cannot be is refused, and nothing has changed."""
        before = copy.deepcopy(vars(self.year))
        allowed = self.model.can(event, by, case)
        try:
            commands(self.year, BY[by], case)[event]()
        except ConflictError as error:
            assert not allowed, f"{event} by {by}: {error}"
            assert error.remedy
            assert vars(self.year) == before
            return
        assert allowed, f"{event} by {by} was not refused"
        self.model.do(event, by, case)
        self.compare()

    @precondition(lambda machine: machine.model.state not in {"open", "reopened"})
    @rule(by=st.sampled_from(["anna", "bert"]))
    def lead_on(self, by: str) -> None:
        """Go on with the archive: what is asked for at random seldom comes to its end."""
        for event in ("close", "plan", "store", "export", "verify", "approve_drop", "drop"):
            if self.model.can(event, by, ""):
                self.ask(event, by, "")
                return

    def compare(self) -> None:
        for year in (self.year, rebuilt(self.year)):
            asked_by = None if year.reopen_requested_by is None else year.reopen_requested_by.removeprefix("key:")
            found = (year.state.value, year.generation, year.copy.value, asked_by, year.late[str(JOB)])
            assert found == tuple(
                getattr(self.model, name) for name in ("state", "generation", "copy", "asked_by", "late")
            )
            assert {case: by.removeprefix("key:") for case, by in year.holds.items()} == self.model.holds


def test_any_commands_in_any_order_do_what_the_rules_say() -> None:
    run_state_machine_as_test(YearMachine, settings=thorough(examples=100, steps=40))
