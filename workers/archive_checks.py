"""Comparing archives in the cold store with what was signed and what the log says of them.

It is done with credentials of its own, if the settings name some: those who archive and those who verify are then not
the same, and who verifies can do nothing but look.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from archive.manifest import ObjectEntry
from archive.verifier import MANIFEST, VerifiedArchive, verify_archive
from ledger.database import rows
from ledger.errors import ConflictError
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.findings import Finding, Findings, NotCompared
from ledger.seal_key import public_keys
from workers.cold_stores import store_to_verify
from workers.workshop import Workshop

EXPORTED = f"SELECT id, state FROM {EVENTS_TABLE} WHERE topic = 'fiscal_year.exported' ORDER BY id"

Tell = Callable[[dict[str, Any]], None]


@dataclass
class VerifiedArchives(Findings):
    """What verifying archives came to, and the evidence of each."""

    archives: list[dict[str, Any]] = field(default_factory=list)

    def all(self) -> Iterator[Finding | NotCompared]:
        """What was found, as far as it is kept, and what was not compared."""
        yield from self.findings
        yield from map(NotCompared, self.not_compared)


@dataclass(frozen=True)
class _Exported:
    fiscal_year: str
    prefix: str
    manifest_sha256: str


def verify_archives(
    workshop: Workshop, tell: Tell, *, label: str | None, content: bool, sample: int | None = None
) -> VerifiedArchives:
    """Verify the archives of a year, or of all of them.

    Args:
        content: whether all objects are read as well.
        sample: how many objects of each archive are read instead, chosen by chance; none if not given.

    Raises:
        ConflictError: nothing of the year is archived.
        InvalidRequestError: there is no cold store, and something was archived.
        PartUnavailableError: the cold store is away.
    """
    found = VerifiedArchives()
    with workshop.ledger.transaction() as session:
        exported = _exported(session, found)
    chosen = [each for each in exported if label in (None, each.fiscal_year)]
    if label is not None and not chosen:
        raise ConflictError(
            f"Nothing of fiscal year {label} is archived.", f"See where it stands: `ledger archive status {label}`."
        )
    if not chosen:
        return found
    store, keys = store_to_verify(workshop.settings), public_keys(workshop.settings)
    for each in chosen:
        verified = verify_archive(
            store,
            each.prefix,
            keys,
            content=content,
            choose=None if sample is None else partial(chosen_by_chance, sample),
            manifest_sha256=each.manifest_sha256,
            scratch=workshop.settings.scratch_folder,
            tell=tell,
        )
        _take_in(found, verified)
    return found


def chosen_by_chance(count: int, objects: Sequence[ObjectEntry]) -> list[ObjectEntry]:
    """So many of some objects, or all if they are fewer: other ones each time, so that none is safe from being read."""
    return random.sample(objects, min(count, len(objects)))


def _exported(session: Session, found: Findings) -> list[_Exported]:
    """The archives that the log tells of. An event that cannot be read is a finding."""
    exported = []
    for row in rows(session, EXPORTED):
        content = content_of(bytes(row.state)) or {}
        try:
            prefix = str(content["manifest_key"]).removesuffix(f"/{MANIFEST}")
            exported.append(_Exported(content["label"], prefix, content["manifest_sha256"]))
        except KeyError:
            message = f"The event at position {row.id:,} does not say what was archived."
            found.add(Finding("event_changed", message, position=row.id))
    return exported


def _take_in(found: VerifiedArchives, verified: VerifiedArchive) -> None:
    found.extend(verified.findings)
    found.findings_total += verified.findings_total - len(verified.findings)
    found.extend(NotCompared(message) for message in verified.not_compared)
    if verified.evidence:
        found.archives.append(verified.evidence)
