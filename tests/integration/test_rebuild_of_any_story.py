"""Whatever happened to files, in whatever order: a table that is built anew equals the one that it happened to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.application import Ledger
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.values import ColumnType
from ledger.domain.words import Stage
from ledger.erasures import erase_job
from ledger.errors import ConflictError
from projections import data_view
from tests.integration.place import STAMP, Place, new_place
from tests.integration.test_table_rebuild import Yard
from tests.integration.views import new_order
from tests.thorough import thorough
from workers.commands import cancel

KEYED = Contract(
    (Column("number", ColumnType.BIGINT, nullable=False), Column("paid_on", ColumnType.DATE, nullable=False)),
    fiscal_date_column="paid_on",
    key=("number",),
    rejects_max="40%",
)
WHICH = st.integers(0, 9)
# What can happen: a file comes in (its first number, so many records, how many of them no payment, of how many years),
# a job is worked on, as a whole or one chunk of it, cancelled or retried, its name is erased, or the contract gets a
# column.
STEPS = st.one_of(
    st.tuples(
        st.just("receive"), st.tuples(st.integers(0, 30), st.integers(1, 12), st.integers(0, 3), st.integers(1, 3))
    ),
    st.tuples(st.just("work"), WHICH),
    st.tuples(st.just("work"), WHICH),
    st.tuples(st.just("load_one"), st.tuples(WHICH, WHICH)),
    st.tuples(st.just("cancel"), WHICH),
    st.tuples(st.just("retry"), WHICH),
    st.tuples(st.just("erase"), WHICH),
    st.tuples(st.just("widen"), st.just(0)),
)


@dataclass
class Telling:
    """One story, told step by step."""

    yard: Yard
    contract: Contract = KEYED
    jobs: list[UUID] = field(default_factory=list)

    def step(self, name: str, about: Any) -> None:
        if name == "receive":
            self.jobs.append(self.yard.place.send(self._file(*about), self.contract))
        elif name == "widen":
            more = Column(f"note_{len(self.contract.columns)}", ColumnType.TEXT)
            self.contract = replace(self.contract, columns=(*self.contract.columns, more))
            self.yard.place.ledger.register_dataset(self.yard.place.dataset, self.contract, STAMP)
        elif self.jobs:
            with suppress(ConflictError):  # it is not in a state for that
                getattr(self, name)(about)
        self.yard.place.follow()

    def work(self, which: int) -> None:
        self.yard.work(self._job(which))

    def load_one(self, which: tuple[int, int]) -> None:
        job_id = self._job(which[0])
        self.yard.place.perform(job_id, Stage.PLAN)
        self.yard.place.follow()
        self.yard.place.perform(job_id, Stage.LOAD, which[1] % max(1, self.yard.place.ledger.job(job_id).chunks_total))

    def cancel(self, which: int) -> None:
        cancel(self.yard.place.ledger, self._job(which), STAMP, reason="by chance")

    def retry(self, which: int) -> None:
        self.yard.place.ledger.retry(self._job(which), STAMP, reason="by chance")

    def erase(self, which: int) -> None:
        erase_job(self.yard.place.ledger, self._job(which), STAMP, reason="by chance")

    def _job(self, which: int) -> UUID:
        return self.jobs[which % len(self.jobs)]

    def _file(self, first: int, records: int, bad: int, years: int) -> bytes:
        names = [column.name for column in self.contract.columns]
        lines = [
            f"{'x' if number < first + bad else ''}{number},{2023 + number % years}-06-01" + ",n" * (len(names) - 2)
            for number in range(first, first + records)
        ]
        return "\n".join([",".join(names), *lines, ""]).encode()


@pytest.fixture
def new_yard(ledger: Ledger, tmp_path: Path) -> Callable[[], Yard]:
    def make() -> Yard:
        place: Place = new_place(
            ledger, tmp_path, chunk_bytes=64, retry_seconds_min=0.001, retry_seconds_max=0.001, load_attempts_max=1
        )
        place.ledger.register_dataset(place.dataset, KEYED, STAMP)
        return Yard(place)

    return make


def test_a_rebuilt_table_equals_the_live_one_after_any_story(
    new_yard: Callable[[], Yard], monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile: list[Callable[[], None]] = []

    def arrive(name: str) -> None:
        while name == "rebuild_compared" and meanwhile:
            meanwhile.pop(0)()

    monkeypatch.setattr(data_view, "failpoint", arrive)

    @thorough(examples=20, steps=1)
    @given(st.lists(STEPS, min_size=3, max_size=14), st.lists(STEPS, max_size=5))
    def tell(before: list[tuple[str, Any]], while_it_is_built: list[tuple[str, Any]]) -> None:
        telling = Telling(new_yard())
        for step in before:
            telling.step(*step)
        meanwhile[:] = [lambda step=step: telling.step(*step) for step in while_it_is_built]  # type: ignore[misc]
        rebuilt = telling.yard.view.rebuild(new_order())
        assert rebuilt["equal"] is True, rebuilt
        assert rebuilt["rows"] == len(telling.yard.content())
        for job_id in telling.jobs:  # what has not ended goes on in the new table
            telling.work(telling.jobs.index(job_id))
        checked = telling.yard.check()
        assert checked["equal"] is True, checked

    tell()
