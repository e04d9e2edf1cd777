"""An export is the log to the last event, and its manifest refuses every other file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from ledger import manifests as manifests_module
from ledger.application import Ledger
from ledger.domain.audit import AuditExport, Told
from ledger.domain.base import Stamp
from ledger.domain.words import ExportFormat
from ledger.errors import ConflictError, NotFoundError, PartUnavailableError
from ledger.manifests import (
    FORM,
    ExportRefusedError,
    check_export,
    digest_of,
    keep_manifest,
    manifest_text,
    sign_manifests,
    signed_manifest,
)
from ledger.notes import Checkpoint, NoteRefusedError, Signer, open_note
from ledger.seal import seal
from projections.trail import export as export_module
from projections.trail.export import COLUMNS, Export
from projections.trail.questions import Question
from projections.trail.store import TrailStore, live_trail, new_generation, switch
from tests.integration.place import running_ledger, unguard
from tests.integration.trail_model import Meant, Storyteller, answers

ORIGIN = "ledger.example/books"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(32)))
IMPOSTOR = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "user:auditor", "request-1")
LARGE_ENTRIES = 10_000


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    with running_ledger() as ledger:
        yield ledger


@pytest.fixture(scope="module")
def told(ledger: Ledger) -> list[Meant]:
    """What was told: the first part of it is sealed."""
    storyteller = Storyteller(ledger, random.Random(7))
    storyteller.tell(120)
    with ledger.transaction() as session:
        assert seal(session, SIGNER, ORIGIN, STAMP.at)
    storyteller.tell(60)
    catch_up(live_trail(ledger))
    return storyteller.told


def catch_up(trail: TrailStore) -> None:
    while trail.apply_batch():
        pass


def take(ledger: Ledger, question: Question, format: ExportFormat) -> tuple[bytes, Export]:
    export = Export(ledger, question, format)
    return b"".join(export.blocks()), export


def query(ledger: Ledger, statement: str) -> list[Any]:
    with ledger.transaction() as session:
        return list(session.execute(text(statement)).all())


@pytest.mark.parametrize("page_entries", [1, 7, 1000])
def test_an_export_is_the_log_event_by_event(
    ledger: Ledger, told: list[Meant], page_entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PAGE_ENTRIES", page_entries)
    data, export = take(ledger, Question(), ExportFormat.NDJSON)
    lines = [json.loads(line) for line in data.decode().splitlines()]
    stored = query(
        ledger,
        "SELECT e.id, e.originator_id, e.originator_version, e.topic, e.state, l.index FROM ledger.stored_events e"
        " LEFT JOIN ledger.leaves l ON l.position = e.id ORDER BY e.id",
    )
    assert [
        (line["position"], line["stream"], line["version"], line["topic"], line["state_sha256"], line["leaf_index"])
        for line in lines
    ] == [(row[0], str(row[1]), row[2], row[3], hashlib.sha256(bytes(row[4])).hexdigest(), row[5]) for row in stored]
    assert {line["leaf_index"] is None for line in lines} == {True, False}
    values = export.manifest_values()
    assert (values["entries"], values["size"], values["sha256"]) == (
        len(told), len(data), hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    assert (values["first_position"], values["last_position"]) == (told[0].position, told[-1].position)
    assert sum(values["topics"].values()) == len(told)
    assert values["topics"]["filejob.received"] == sum(each.topic == "filejob.received" for each in told)
    checkpoint = Checkpoint.open(values["checkpoint"].encode(), [SIGNER.public])
    assert checkpoint.size == sum(line["leaf_index"] is not None for line in lines)


@pytest.mark.parametrize("asked", [{"topic": "filejob"}, {"actor": "admin", "dataset": "fees"}, {"actor": "nobody"}])
def test_both_forms_hold_what_was_asked_for(ledger: Ledger, told: list[Meant], asked: dict[str, str]) -> None:
    lines = [json.loads(line) for line in take(ledger, Question(**asked), ExportFormat.NDJSON)[0].splitlines()]
    assert [line["position"] for line in lines] == [each.position for each in told if answers(each, asked)]
    table = csv.DictReader(io.StringIO(take(ledger, Question(**asked), ExportFormat.CSV)[0].decode(), newline=""))
    rows = list(table)
    assert table.fieldnames == list(COLUMNS)
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        plain = {name: " ".join(value) if isinstance(value, list) else value for name, value in line.items()}
        assert row == {name: "" if value is None else str(value) for name, value in plain.items()}


def test_what_comes_in_meanwhile_is_not_in_the_export(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PAGE_ENTRIES", 50)
    export = Export(ledger, Question(), ExportFormat.NDJSON)
    blocks = export.blocks()
    data = next(blocks)
    teller = Storyteller(ledger, random.Random(8))
    teller.tell(30)
    catch_up(live_trail(ledger))
    data += b"".join(blocks)
    assert [json.loads(line)["position"] for line in data.splitlines()] == [each.position for each in told]
    told.extend(teller.told)


def started(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> tuple[Export, Iterator[bytes]]:
    """An export of which one page was read, and the blocks of the others."""
    monkeypatch.setattr(export_module, "PAGE_ENTRIES", 10)
    export = Export(ledger, Question(), ExportFormat.NDJSON)
    blocks = export.blocks()
    next(blocks)
    return export, blocks


def test_an_export_under_way_goes_on_in_its_generation_whichever_is_live(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = live_trail(ledger)
    export, blocks = started(ledger, monkeypatch)
    switch(ledger, new_generation(ledger), previous=old.generation)  # to one that is still empty
    try:
        list(blocks)
    finally:
        switch(ledger, old.generation)
    assert export.told == Told(len(told), told[0].position, told[-1].position)


def test_an_export_whose_generation_is_dropped_fails_and_does_not_end_as_if_it_were_whole(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = live_trail(ledger)
    _, blocks = started(ledger, monkeypatch)
    new = TrailStore(ledger, new_generation(ledger))
    catch_up(new)
    switch(ledger, new.generation)
    old.drop()
    with pytest.raises(ConflictError, match="export again"):
        list(blocks)


def test_an_entry_of_before_the_beginning_of_the_log_is_exported(ledger: Ledger, told: list[Meant]) -> None:
    columns = ", ".join(name for name in COLUMNS[1:-2] if name != "stream")
    with ledger.transaction() as session:
        session.execute(
            text(
                f"INSERT INTO trail.entries (generation, position, stream, {columns})"
                f" SELECT generation, -3, gen_random_uuid(), {columns} FROM trail.entries WHERE position = :at"
            ),
            {"at": told[0].position},
        )
    try:
        lines = take(ledger, Question(), ExportFormat.NDJSON)[0].splitlines()
        assert (json.loads(lines[0])["position"], len(lines)) == (-3, len(told) + 1)
    finally:
        with ledger.transaction() as session:
            session.execute(text("DELETE FROM trail.entries WHERE position = -3"))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1", " =1", "  @x"])
def test_no_cell_is_a_formula(name: str) -> None:
    entry = export_module.Entry(
        1, STAMP.at, name, "operation.requested", uuid4(), 1, None, None, name, [name], None, name, "c", None, name
    )
    values = [{**export_module.entry_values(entry), "state_sha256": "x", "leaf_index": 0}]
    data = export_module.written(values, ExportFormat.CSV).decode()
    [row] = csv.DictReader(io.StringIO(data, newline=""), COLUMNS)
    for column in ("actor", "dataset", "fiscal_years", "filename", "text"):
        assert row[column] == f"'{name}"
    assert json.loads(export_module.written(values, ExportFormat.NDJSON))["filename"] == name


def recorded(ledger: Ledger, data: bytes, manifest: str | None = None, **changes: Any) -> Any:
    """An export that is on record as a door puts it there: its id."""
    export_id = uuid4()
    values = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "entries": 1}
    manifest = manifest_text(values) if manifest is None else manifest
    told = {"format": "ndjson", "asked": {}, "told": Told.of([1]), "size": len(data), "sha256": values["sha256"]}
    event = AuditExport.take(export_id, STAMP, **{**told, "manifest_sha256": digest_of(manifest), **changes})
    with ledger.transaction() as session:
        keep_manifest(session, export_id, manifest)
        ledger.save(event, session=session)
    return export_id


def sign(ledger: Ledger) -> int:
    with ledger.transaction() as session:
        return sign_manifests(session, SIGNER, set())


def note_of(ledger: Ledger, export_id: Any) -> bytes:
    with ledger.transaction() as session:
        return signed_manifest(session, export_id)


@pytest.fixture(scope="module")
def signed(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A small file, and its manifest."""
    file = tmp_path_factory.mktemp("export") / "trail.ndjson"
    file.write_bytes(b'{"position":1}\n{"position":2}\n')
    export_id = recorded(ledger, file.read_bytes())
    with pytest.raises(PartUnavailableError, match="not signed yet"):
        note_of(ledger, export_id)
    assert sign(ledger) == 1
    assert sign(ledger) == 0
    return file, note_of(ledger, export_id)


def test_what_was_signed_is_what_is_there(signed: tuple[Path, bytes]) -> None:
    file, manifest = signed
    assert check_export(file, manifest, [SIGNER.public])["entries"] == 1


def test_every_changed_bit_of_the_file_is_refused(signed: tuple[Path, bytes]) -> None:
    file, manifest = signed
    data = file.read_bytes()
    other = file.with_name("changed")
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        other.write_bytes(changed)
        with pytest.raises(ExportRefusedError, match="was changed"):
            check_export(other, manifest, [SIGNER.public])


@pytest.mark.parametrize(("cut", "what"), [(1, "was cut"), (15, "was cut"), (30, "was cut"), (-1, "was added to")])
def test_a_file_of_another_length_is_refused_with_the_reason(signed: tuple[Path, bytes], cut: int, what: str) -> None:
    file, manifest = signed
    data = file.read_bytes()
    other = file.with_name("cut")
    other.write_bytes(data[:-cut] if cut > 0 else data + b"\n")
    with pytest.raises(ExportRefusedError, match=what):
        check_export(other, manifest, [SIGNER.public])


def test_every_changed_bit_of_the_manifest_is_refused(signed: tuple[Path, bytes]) -> None:
    file, manifest = signed
    for place in range(len(manifest) * 8):
        changed = bytearray(manifest)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(NoteRefusedError):
            check_export(file, bytes(changed), [SIGNER.public])


@given(data=st.binary(max_size=200))
def test_what_is_no_manifest_is_refused(signed: tuple[Path, bytes], data: bytes) -> None:
    with pytest.raises(NoteRefusedError):
        check_export(signed[0], data, [SIGNER.public])


def test_the_manifest_of_another_key_or_of_something_else_is_refused(signed: tuple[Path, bytes]) -> None:
    file, manifest = signed
    with pytest.raises(NoteRefusedError, match="no such key is known"):
        check_export(file, manifest, [IMPOSTOR.public])
    checkpoint = SIGNER.sign(Checkpoint(ORIGIN, 1, bytes(32)).text())
    with pytest.raises(ExportRefusedError, match="no manifest"):
        check_export(file, checkpoint, [SIGNER.public])
    text, _ = open_note(manifest, [SIGNER.public])
    with pytest.raises(NoteRefusedError):
        Checkpoint.parse(text)


def test_a_manifest_of_which_the_log_says_something_else_is_never_signed(ledger: Ledger) -> None:
    export_id = recorded(ledger, b"x", manifest_sha256="00" * 32)
    with ledger.transaction() as session:
        keep_manifest(session, uuid4(), manifest_text({"size": 1}))
    assert sign(ledger) == 0
    with pytest.raises(PartUnavailableError):
        note_of(ledger, export_id)
    with pytest.raises(NotFoundError):
        note_of(ledger, uuid4())


OTHER_TEXTS = {
    "a checkpoint": Checkpoint(ORIGIN, 1, bytes(32)).text(),
    "a checkpoint of a log with that name": Checkpoint(FORM, 1, bytes(32)).text(),
    "a checkpoint before a manifest": Checkpoint(ORIGIN, 1, bytes(32)).text() + manifest_text({"size": 1}),
    "a checkpoint and a blank line behind a manifest": manifest_text({"size": 1})
    + "\n"
    + Checkpoint(ORIGIN, 1, bytes(32)).text(),
    "no last newline": manifest_text({"size": 1})[:-1],
    "a list": f"{FORM}\n[1]\n",
    "nothing": "",
}


@pytest.mark.parametrize("manifest", OTHER_TEXTS.values(), ids=OTHER_TEXTS)
def test_no_text_is_signed_that_is_not_a_manifest_though_an_event_has_its_digest(ledger: Ledger, manifest: str) -> None:
    put = recorded(ledger, b"x", manifest=manifest)
    good = recorded(ledger, b"y")
    assert sign(ledger) == 1
    assert note_of(ledger, good)
    with pytest.raises(PartUnavailableError):
        note_of(ledger, put)


@pytest.mark.parametrize("state", [b"\xff", b"no JSON", b"[" * 100_000, b"[1]", b"", b"null"])
def test_an_event_that_cannot_be_read_keeps_no_other_manifest_from_being_signed(ledger: Ledger, state: bytes) -> None:
    damaged, good = recorded(ledger, b"x"), recorded(ledger, b"y")
    with ledger.transaction() as session:
        unguard(session)
        session.execute(
            text("UPDATE ledger.stored_events SET state = :state WHERE originator_id = :stream"),
            {"state": state, "stream": damaged},
        )
    assert sign(ledger) == 1
    assert note_of(ledger, good)
    with ledger.transaction() as session:
        unguard(session)
        session.execute(text("DELETE FROM ledger.stored_events WHERE originator_id = :stream"), {"stream": damaged})


def test_manifests_that_are_refused_do_not_keep_others_waiting(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests_module, "SIGNED_AT_ONCE", 3)
    with ledger.transaction() as session:
        for _ in range(4):
            keep_manifest(session, uuid4(), "made up")
    good, refused, signed = recorded(ledger, b"y"), set[UUID](), 0
    for _ in range(20):
        with ledger.transaction() as session:
            signed += sign_manifests(session, SIGNER, refused)
    assert (signed, good in refused) == (1, False)
    with ledger.transaction() as session:
        session.execute(text("DELETE FROM audit.manifests WHERE note IS NULL"))


def test_a_large_export_is_never_held_as_a_whole(
    ledger: Ledger, told: list[Meant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "PAGE_ENTRIES", 100)
    catch_up(live_trail(ledger))
    start = live_trail(ledger).position()
    with ledger.transaction() as session:
        session.execute(
            text(
                "INSERT INTO trail.entries (generation, position, at, actor, topic, stream, version, fiscal_years,"
                " correlation, text) SELECT generation, :start + number, now(), 'flood', 'flood', gen_random_uuid(), 1,"
                " '{}', 'c', repeat('x', 500) FROM trail.live, generate_series(1, :count) AS number"
            ),
            {"start": start, "count": LARGE_ENTRIES},
        )
    try:
        export = Export(ledger, replace(Question(), topic="flood"), ExportFormat.CSV)
        tracemalloc.start()
        size = sum(len(block) for block in export.blocks())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (export.told.entries, export.size) == (LARGE_ENTRIES, size)
        assert peak < size / 3
    finally:
        with ledger.transaction() as session:
            session.execute(text("DELETE FROM trail.entries WHERE topic = 'flood'"))
