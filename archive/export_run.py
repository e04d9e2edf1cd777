"""A run of an export: what its steps share, and how what they make comes into cold storage.

Rules:
1. One run at a time works on a year (`alone`). Whoever comes second is told so, and has changed nothing.
2. A part is noted in the log after the store has it, some parts in one event. A run that was killed makes the parts
   again that are not noted; the same content under the same key is the same object (`archive.volume`).
3. What lies in the spool folder is nobody's: each run begins with an empty one of its own, and takes it away.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from archive.manifest import ObjectEntry
from archive.stores import ColdStore, Lock, LockMode, NotRestoredError, StorageClass
from archive.volume import Volume, prefix_of
from archive.year_story import YearStory, story_of
from ledger import telemetry
from ledger.application import Ledger
from ledger.blobs import BlobStore
from ledger.database import lock_at_once, unavailable_as_error
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.fiscal_year import FiscalYear
from ledger.errors import ConflictError
from ledger.failpoints import failpoint
from ledger.notes import PublicKey
from ledger.year_records import save_year, year_to_decide_about

NOTED_AT_ONCE = 8

Part = dict[str, Any]


@dataclass(frozen=True)
class Policy:
    """How archives are kept.

    Attributes:
        storage_class: that of rows, events, snapshots and files. What tells about them is in STANDARD.
        access_class: that of access copies; None if none are made.
        mode: that of the locks of an archive that is sealed.
        run_days: how long what a run has put is locked until the archive is sealed.
        part_bytes: about how many bytes of text a part of a table has.
    """

    storage_class: StorageClass
    access_class: StorageClass | None
    mode: LockMode
    retention_years: int
    run_days: int
    part_bytes: int


@dataclass(frozen=True)
class Archiving:
    """What archiving needs besides the year.

    Attributes:
        spool: the folder that parts lie in until the store has them.
        keys: whose checkpoints and manifests are believed.
        stamp: when and by whom something happens now.
        tell: says how far it is, as JSON values.
        wait_seconds: how long whoever seals is waited for, and whoever reads a table that is to be dropped.
        verifying: the store as whoever verifies sees it, if he is another one.
    """

    ledger: Ledger
    calendar: FiscalCalendar
    store: ColdStore
    blobs: BlobStore
    spool: Path
    origin: str
    keys: Sequence[PublicKey]
    policy: Policy
    stamp: Callable[[], Stamp]
    tell: Callable[[dict[str, Any]], None]
    wait_seconds: float
    verifying: ColdStore | None = None

    def decide(self, label: str, act: Callable[[Session, FiscalYear], None]) -> FiscalYear:
        """Have something happen to a year, in one transaction. Raises what the act does."""
        with self.ledger.transaction() as session:
            year = year_to_decide_about(self.ledger, session, label, self.stamp(), self.calendar)
            act(session, year)
            save_year(self.ledger, session, year)
        return year


@contextmanager
def alone(archiving: Archiving, label: str) -> Iterator[None]:
    """Be the only one who archives a year. Raises ConflictError: somebody does already."""
    with unavailable_as_error(), Session(archiving.ledger.engine) as session:
        if not lock_at_once(session, f"archiving {label}"):
            raise ConflictError(
                f"Fiscal year {label} is being archived already.",
                f"Nothing was changed. See how far it is: `ledger archive status {label}`.",
            )
        yield


class Run:
    """A run over a year that is closed and planned."""

    def __init__(self, archiving: Archiving, year: FiscalYear, story: YearStory, spool: Path) -> None:
        self.archiving = archiving
        self.year = year
        self.story = story
        self.spool = spool
        until = datetime.now(UTC) + timedelta(days=archiving.policy.run_days)
        self.lock = Lock(LockMode.GOVERNANCE, until)
        self.prefix = prefix_of(archiving.origin, year.label, year.generation)
        self.volume = Volume(archiving.store, self.prefix, self.lock)
        self._unnoted: list[dict[str, Any]] = []
        self._bytes = sum(each["bytes"] for each in year.stored.values())

    @property
    def ledger(self) -> Ledger:
        """The record."""
        return self.archiving.ledger

    def wait_for_others(self) -> None:
        """Raise NotRestoredError while what a killed run left is on its way out of cold storage, to be taken over."""
        if self.volume.are_others_under_way(self._names()):
            raise NotRestoredError(
                f"What an interrupted run has put of {self.year.label} is not restored yet.",
                "It goes on when it is: it is then taken over, if it is the same.",
            )

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note in the end what was put meanwhile.

        Where something that a killed run left has to be restored before it can be taken over, all of that is asked for.
        """
        try:
            yield
        except NotRestoredError:
            self.note()
            self.volume.restore_others(self._names())
            raise
        self.note()

    @property
    def storage_class(self) -> StorageClass:
        """That of what only has to be read when the archive is, as it was planned."""
        return StorageClass(self.year.pinned["storage_class"])

    def is_missing(self, part: Part) -> bool:
        """Whether a part is neither noted nor about to be."""
        return part["name"] in self.year.missing_parts and part["name"] not in {each["name"] for each in self._unnoted}

    def keep(self, part: Part, entry: ObjectEntry, **facts: Any) -> None:
        """Note that the store has a part: its entry of the manifest, and what else has to be known then."""
        failpoint("part_put")
        self._unnoted.append({"name": part["name"], **entry.model_dump(mode="json"), **facts})
        self._bytes += entry.bytes
        done = len(self.year.stored) + len(self._unnoted)
        self.archiving.tell({"parts": done, "parts_total": len(self.year.parts), "bytes": self._bytes})
        if len(self._unnoted) >= NOTED_AT_ONCE:
            self.note()

    def note(self) -> None:
        """Write down which parts the store has."""
        if self._unnoted:
            stamp = self.archiving.stamp()
            self.year = self.archiving.decide(
                self.year.label, lambda session, year: year.store_parts(stamp, objects=self._unnoted)
            )
            self._unnoted = []
            failpoint("parts_noted")

    def _names(self) -> set[str]:
        """The objects that are noted."""
        return {each["key"] for each in self.year.stored.values()}


@contextmanager
def run_of(archiving: Archiving, label: str) -> Iterator[Run]:
    """A run over a year, with an empty spool folder, which is gone when it ends."""
    year = archiving.ledger.fiscal_year(label)
    assert year is not None, "it was closed"
    with archiving.ledger.transaction() as session:
        story = story_of(archiving.ledger, session, year)
    spool = archiving.spool / f"archive-{label}-g{year.generation:04}"
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    try:
        yield Run(archiving, year, story, spool)
    finally:
        shutil.rmtree(spool, ignore_errors=True)


@contextmanager
def step(name: str, label: str, part: Part | None = None) -> Iterator[Any]:
    """A span around a step, or around what is done with a part."""
    about = {} if part is None else {telemetry.PART: part["name"]}
    with telemetry.span(name, {telemetry.FISCAL_YEAR: label, **about}) as span:
        yield span
