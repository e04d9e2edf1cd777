"""What was ever stored is readable for ever: one stored example of every version of every event, kept byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from eventsourcing.utils import get_topic

from ledger.domain.api_key import ApiKey
from ledger.domain.audit import AuditExport, AuditRead
from ledger.domain.base import LedgerEvent
from ledger.domain.dataset import Dataset
from ledger.domain.dead_letter import DeadLetter
from ledger.domain.denial import Denial
from ledger.domain.erasure import Erasure
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.operation import Operation
from ledger.domain.settlement import Settlement
from ledger.domain.user import User
from tests.golden.examples import FOLDER, examples, from_text, golden_path, read, stored, to_text

# Names that stand in the log of every installation. Add to them; never change or remove one.
TOPICS_FOR_EVER = {
    "audit.exported",
    "audit.read",
    "auditexport",
    "auditread",
    "access",
    "access.denied",
    "dataset",
    "dataset.contract_changed",
    "dataset.registered",
    "deadletter",
    "deadletter.recorded",
    "filejob",
    "erasure",
    "erasure.carried_out",
    "erasure.repeated",
    "filejob.archived",
    "filejob.cancelled",
    "filejob.chunk_loaded",
    "filejob.completed",
    "filejob.failed",
    "filejob.name_erased",
    "filejob.queued",
    "filejob.received",
    "filejob.restored",
    "filejob.retried",
    "fiscal_year",
    "fiscal_year.adjustment_posted",
    "fiscal_year.closed",
    "fiscal_year.drop_authorized",
    "fiscal_year.dropped",
    "fiscal_year.exported",
    "fiscal_year.hold_lifted",
    "fiscal_year.hold_placed",
    "fiscal_year.late_records_found",
    "fiscal_year.opened",
    "fiscal_year.parts_stored",
    "fiscal_year.planned",
    "fiscal_year.proposed",
    "fiscal_year.released",
    "fiscal_year.reopen_requested",
    "fiscal_year.reopened",
    "fiscal_year.restore_requested",
    "fiscal_year.restored",
    "fiscal_year.soft_closed",
    "fiscal_year.verified",
    "key",
    "key.created",
    "key.revoked",
    "operation",
    "operation.completed",
    "operation.failed",
    "operation.requested",
    "settlement",
    "settlement.corrected",
    "settlement.opened",
    "settlement.waived",
    "user",
    "user.seen",
}
GOLDEN_FILES = sorted(FOLDER.glob("*.json"))
EXAMPLES = examples()


def event_classes() -> list[type[LedgerEvent]]:
    """Every class of an event that an aggregate can trigger; the bases named `Event` are none."""

    def below(base: type[LedgerEvent]) -> Iterator[type[LedgerEvent]]:
        for found in base.__subclasses__():
            yield found
            yield from below(found)

    return sorted(
        {found for found in below(LedgerEvent) if found.__module__.startswith("ledger.") and found.__name__ != "Event"},
        key=lambda found: found.__qualname__,
    )


# GOLDEN FILE -> what its upcast says of the fields that its version did not have.
ADDED_LATER: dict[str, dict[str, Any]] = {
    "filejob.received.1.json": {
        "reading": {},
        "corrects": None,
        "control_totals": {},
        "may_adjust": False,
        "adjustment": {},
    },
    "filejob.received.2.json": {"may_adjust": False, "adjustment": {}},
    "filejob.received.3.json": {"may_adjust": False, "adjustment": {}},
    "filejob.received.4.json": {"adjustment": {}},
    "filejob.queued.1.json": {"transcript": None, "text_size": None, "trailer": {}},
    "filejob.chunk_loaded.1.json": {"totals": {}, "row_set_digest": None, "late": {}},
    "filejob.chunk_loaded.2.json": {"late": {}},
    "filejob.completed.1.json": {"totals": {}, "row_set_digest": None},
    "filejob.archived.1.json": {"rows": None, "row_set_digest": None, "totals": {}, "years_left": []},
    "fiscal_year.planned.1.json": {"pinned": {}},
}


def named(values: list[Any]) -> dict[str, Any]:
    return {"argvalues": values, "ids": [getattr(value, "__qualname__", None) or value.name for value in values]}


def test_there_is_no_topic_that_is_not_on_the_list_and_none_was_lost() -> None:
    classes: list[type] = [
        *event_classes(),
        FileJob,
        Dataset,
        DeadLetter,
        Erasure,
        Operation,
        Settlement,
        AuditRead,
        AuditExport,
    ]
    classes += [ApiKey, User, Denial, FiscalYear]
    assert {get_topic(found) for found in classes} == TOPICS_FOR_EVER


@pytest.mark.parametrize("event_class", **named(event_classes()))
def test_every_event_has_a_golden_file_for_its_present_version(event_class: type[LedgerEvent]) -> None:
    assert golden_path(event_class).exists(), "python -m tests.golden.write adds it"
    assert get_topic(event_class) in EXAMPLES


@pytest.mark.parametrize("path", **named(GOLDEN_FILES))
def test_a_stored_event_of_any_version_is_read_with_every_field(path: Path) -> None:
    there_for_ever = from_text(path.read_text(encoding="utf-8"))
    event = read(there_for_ever)
    example = EXAMPLES[there_for_ever.topic]
    assert type(event) is type(example)
    for field in fields(example):
        there, expected = getattr(event, field.name), getattr(example, field.name)
        if field.name in ADDED_LATER.get(path.name, {}):
            assert there == ADDED_LATER[path.name][field.name], field.name
            continue
        assert there == expected, field.name
        assert type(there) is type(expected), field.name
    assert set(vars(event)) == {field.name for field in fields(example)}


@pytest.mark.parametrize("topic", sorted(EXAMPLES))
def test_the_present_code_writes_the_bytes_that_are_stored(topic: str) -> None:
    event = EXAMPLES[topic]
    expected = golden_path(type(event)).read_text(encoding="utf-8")
    assert to_text(stored(event)) == expected, "stored bytes changed: raise class_version and upcast"


@pytest.mark.parametrize("path", **named(GOLDEN_FILES))
def test_a_golden_file_belongs_to_a_version_that_is_or_was(path: Path) -> None:
    topic, _, version = path.name.removesuffix(".json").rpartition(".")
    assert from_text(path.read_text(encoding="utf-8")).topic == topic
    assert 1 <= int(version) <= getattr(type(EXAMPLES[topic]), "class_version", 1)


@pytest.mark.parametrize("versions", [(1, 1, 1, 1), (2, 2, 2, 2), (4, 2, 3, 2)])
def test_an_aggregate_is_rebuilt_from_golden_events(versions: tuple[int, ...]) -> None:
    kinds = ("received", "queued", "chunk_loaded", "completed")
    names = [f"filejob.{kind}.{version}" for kind, version in zip(kinds, versions, strict=True)]
    job: Any = None
    for name in names:
        event: Any = read(from_text((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
        job = event.mutate(job)
    assert isinstance(job, FileJob)
    assert (job.status, job.version, job.filename) == ("Completed", 4, "payments-März.csv")
    assert (job.chunks[0].end, job.chunks[0].fiscal_years) == (70, ["FY2024-25", "FY2025-26"])
