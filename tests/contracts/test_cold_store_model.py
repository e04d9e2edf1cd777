"""Anything done in any order to a folder and to a bucket of our double: both answer as a small model does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from archive.stores import Lock, LockMode, NotRestoredError, Restoration, StorageClass, Tier
from ledger.errors import ConflictError, InvalidRequestError, LedgerError, NotFoundError
from tests.contracts.cold_places import ColdPlace, bucket_place, folder_place, sha256_of
from tests.strict_s3.server import StrictS3
from tests.thorough import thorough

KEYS = ("a", "a.sig", "b/c")
CONTENTS = (b"", b"one", b"another one")
LOCKS = [Lock(mode, datetime(year, 1, 1, tzinfo=UTC)) for mode in LockMode for year in (2040, 2050)]
UNTIL_RESTORED = timedelta(hours=48)
DAYS = 3_650  # longer than any run

keys = st.sampled_from(KEYS)
contents = st.sampled_from(CONTENTS)
classes = st.sampled_from(list(StorageClass))
locks = st.sampled_from(LOCKS)


@dataclass
class ObjectModel:
    """What an object is, whichever store it is in."""

    content: bytes
    storage_class: StorageClass
    lock: Lock | None
    is_on_hold: bool = False
    restoration: Restoration = Restoration.NONE


class ColdStoreMachine(RuleBasedStateMachine):
    """A folder, a bucket, and the model of both."""

    double: StrictS3

    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="cold-stores-"))
        self.model: dict[str, ObjectModel] = {}
        self.found: dict[tuple[str, str], str] = {}

    @initialize()
    def open(self) -> None:
        self.places = [folder_place(self.scratch), bucket_place("double", self.scratch, self.double)]

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    @rule(key=keys, content=contents, storage_class=classes, lock=st.none() | locks)
    def put(self, key: str, content: bytes, storage_class: StorageClass, lock: Lock | None) -> None:
        there = self.model.get(key)
        error: type[LedgerError] | None = None
        if there is None:
            self.model[key] = ObjectModel(content, storage_class, lock)
        elif there.content != content:
            error = ConflictError
        elif lock is not None and not (there.lock is not None and there.lock.covers(lock)):
            error = self._lock(there, lock)
        for place in self.places:
            if there is None:
                self.found[place.kind, key] = place.put(key, content, storage_class, lock).version
            else:
                self._check(error, lambda place=place: place.put(key, content, storage_class, lock))

    @rule(key=keys, lock=locks)
    def lock(self, key: str, lock: Lock) -> None:
        there = self.model.get(key)
        error = NotFoundError if there is None else self._lock(there, lock)
        for place in self.places:
            self._check(error, lambda place=place: place.store.lock(key, self._version(place, key), lock))

    @rule(key=keys, is_on_hold=st.booleans())
    def hold(self, key: str, is_on_hold: bool) -> None:
        there = self.model.get(key)
        if there is not None:
            there.is_on_hold = is_on_hold
        for place in self.places:
            self._check(
                NotFoundError if there is None else None,
                lambda place=place: place.store.hold(key, self._version(place, key), is_on_hold),
            )

    @rule(key=keys, start=st.integers(0, 12), size=st.none() | st.integers(0, 12))
    def read(self, key: str, start: int, size: int | None) -> None:
        there = self.model.get(key)
        for place in self.places:
            error: type[LedgerError] | None = None
            if there is None:
                error = NotFoundError
            elif self._is_cold(place, there) and there.content[start:][:size]:
                error = NotRestoredError
            read = self._check(
                error, lambda place=place: b"".join(place.store.read(key, self._version(place, key), start, size))
            )
            if error is None and there is not None:
                assert read == there.content[start : None if size is None else start + size]

    @rule(key=keys, tier=st.sampled_from(list(Tier)))
    def restore(self, key: str, tier: Tier) -> None:
        there = self.model.get(key)
        error: type[LedgerError] | None = NotFoundError if there is None else None
        if there is not None and there.storage_class == StorageClass.DEEP_ARCHIVE and tier == Tier.EXPEDITED:
            error = InvalidRequestError
        elif there is not None and there.storage_class.is_cold and there.restoration == Restoration.NONE:
            there.restoration = Restoration.UNDER_WAY
        for place in self.places:
            answer = self._check(
                error, lambda place=place: place.store.restore(key, self._version(place, key), tier, DAYS)
            )
            if error is None and there is not None:
                is_cold = self._is_cold(place, there)
                assert answer == (Restoration.UNDER_WAY if is_cold else Restoration.READY)

    @rule()
    def let_time_pass(self) -> None:
        self.double.clock.advance(UNTIL_RESTORED)
        for each in self.model.values():
            if each.restoration == Restoration.UNDER_WAY:
                each.restoration = Restoration.READY

    @invariant()
    def both_say_what_the_model_is(self) -> None:
        for place in getattr(self, "places", ()):
            assert [key for key, _ in place.versions()] == sorted(self.model)
            for key, there in self.model.items():
                told = place.store.head(key, self.found[place.kind, key])
                assert (told.sha256, told.size_bytes) == (sha256_of(there.content), len(there.content))
                assert (told.storage_class, told.lock, told.is_on_hold) == (
                    there.storage_class, there.lock, there.is_on_hold,
                )  # fmt: skip
                if place.has_restores:
                    assert told.restoration == there.restoration

    def _lock(self, there: ObjectModel, lock: Lock) -> type[LedgerError] | None:
        if there.lock is not None and not lock.covers(there.lock):
            return ConflictError
        there.lock = lock
        return None

    def _is_cold(self, place: ColdPlace, there: ObjectModel) -> bool:
        return place.has_restores and there.storage_class.is_cold and there.restoration != Restoration.READY

    def _version(self, place: ColdPlace, key: str) -> str:
        return self.found.get((place.kind, key), "v000000000000")

    def _check(self, error: type[LedgerError] | None, call: Callable[[], object]) -> object:
        if error is None:
            return call()
        with pytest.raises(error):
            call()
        return None


def test_a_folder_and_a_bucket_answer_as_the_model_does(s3_environment: Callable[[str], None]) -> None:
    with StrictS3() as double:
        s3_environment(double.url)
        machine = type("Machine", (ColdStoreMachine,), {"double": double})
        run_state_machine_as_test(machine, settings=thorough(examples=25, steps=20, slow=True))
