"""What an archive holds, said in one way only, and signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from archive.manifest import Manifest, ManifestRefusedError, canonical, open_manifest, parse_manifest, signed_text
from archive.snapshots import plain
from ledger.notes import NoteRefusedError, Signer

SIGNER = Signer("books", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
DIGEST = "0123456789abcdef" * 4
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="ascii")), inner, max_size=4)
    ),
    max_leaves=20,
)


def object_entry(**more: Any) -> dict[str, Any]:
    return {
        "key": "v1/x",
        "version": "1",
        "storage_class": "STANDARD",
        "bytes": 10,
        "sha256": DIGEST,
        **more,
    }


def text_entry(**more: Any) -> dict[str, Any]:
    return object_entry(raw_bytes=20, raw_sha256=DIGEST, lines=2, **more)


def values() -> dict[str, Any]:
    """An example with everything in it."""
    return {
        "form": "ledger archive, form 1",
        "origin": "books",
        "fiscal_year": "FY2025-26",
        "generation": 2,
        "calendar": {"definition": "04-01", "zone": "Europe/Zürich", "start": "2025-04-01", "end": "2026-04-01"},
        "closed": {"at": "2026-05-01T00:00:00Z", "by": "key:1", "position": 7},
        "previous": {"fiscal_year": "FY2024-25", "generation": 1, "manifest_sha256": DIGEST},
        "supersedes": DIGEST,
        "checkpoint": "books\n7\nAAAA\n",
        "policy": {"mode": "COMPLIANCE", "retain_until": "2036-04-01T00:00:00Z"},
        "software": {"name": "ingestion-ledger", "version": "0.1.0", "postgresql": 180006, "encoding": "UTF8"},
        "definitions": text_entry(),
        "tables": [
            {
                "dataset": "flights",
                "name": "flights__fy2025_26",
                "contract_version": 1,
                "columns": [{"name": "a", "type": "numeric(12,2)", "is_nullable": True}],
                "rows": 2,
                "text_bytes": 20,
                "text_sha256": DIGEST,
                "fingerprint": "2 -17",
                "totals": [{"column": "a", "count": 2, "sum": "1.10", "min": None, "max": "1"}],
                "parts": [text_entry(first=[7, 1], last=[7, 2])],
            }
        ],
        "access": [object_entry(dataset="flights", rows=2, writer="pyarrow", columns_as_text=["a"])],
        "events": {
            "first_position": 1,
            "last_position": 7,
            "count": 7,
            "before": [DIGEST],
            "after": [DIGEST],
            "parts": [text_entry()],
        },
        "snapshots": [text_entry()],
        "files": {"count": 1, "bytes": 5, "packs": [object_entry()], "index": text_entry()},
        "reconciliation": text_entry(),
    }


def manifest() -> Manifest:
    return Manifest.model_validate_json(json.dumps(values()))


def test_what_is_read_is_what_was_written() -> None:
    written = manifest().to_bytes()
    assert parse_manifest(written) == manifest()
    assert json.loads(written) == values()
    assert len(list(manifest().objects())) == 8


@given(PLAIN)
def test_canonical_json_is_json_and_one_form(value: Any) -> None:
    written = canonical(value)
    assert json.loads(written) == value
    assert canonical(json.loads(written)) == written


# From RFC 8785, section 3.2.3 and appendix, without its numbers that are not whole.
def test_canonical_json_is_that_of_the_standard() -> None:
    value = {"literals": [None, True, False], "string": '\u20ac$\u000f\nA\'B"\\\\"/', "1": 1, "10": 2, "": 3}
    assert canonical(value) == (
        '{"":3,"1":1,"10":2,"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'.encode()
    )


@pytest.mark.parametrize("value", [1.5, 2**53, {"ä": 1}, b"x", {1: 2}])
def test_what_readers_could_take_in_several_ways_is_not_written(value: Any) -> None:
    with pytest.raises(AssertionError):
        canonical(value)


def test_a_signed_manifest_is_opened() -> None:
    written = manifest().to_bytes()
    note = SIGNER.sign(signed_text(written, "FY2025-26", 2, "books"))
    assert open_manifest(written, note, [SIGNER.public]) == manifest()


def test_every_changed_byte_of_a_manifest_or_its_note_is_refused() -> None:
    written = manifest().to_bytes()
    note = SIGNER.sign(signed_text(written, "FY2025-26", 2, "books"))
    for changed in _with_one_bit_changed(written):
        with pytest.raises(ManifestRefusedError):
            open_manifest(changed, note, [SIGNER.public])
    for changed in _with_one_bit_changed(note):
        with pytest.raises(NoteRefusedError):
            open_manifest(written, changed, [SIGNER.public])


def _with_one_bit_changed(data: bytes) -> Iterator[bytes]:
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in items:
        yield from _paths(each, (*path, name))


@pytest.mark.parametrize("path", [path for path in _paths(values()) if path], ids=lambda path: ".".join(map(str, path)))
def test_a_value_of_another_kind_is_refused_and_named(path: tuple[Any, ...]) -> None:
    changed = values()
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = {"unknown": []}
    with pytest.raises(ManifestRefusedError, match="no manifest"):
        parse_manifest(canonical(changed))


def test_a_manifest_that_is_written_in_another_way_is_refused() -> None:
    with pytest.raises(ManifestRefusedError, match="canonical"):
        parse_manifest(json.dumps(values()).encode())


def test_a_manifest_of_another_year_does_not_go_with_the_note() -> None:
    written = manifest().to_bytes()
    note = SIGNER.sign(signed_text(written, "FY2024-25", 2, "books"))
    with pytest.raises(ManifestRefusedError, match="FY2024-25"):
        open_manifest(written, note, [SIGNER.public])


def test_a_whole_number_that_not_every_reader_takes_exactly_is_told_as_text() -> None:
    assert canonical(plain({"records": 2**53 - 1, "claimed": 2**53})) == (
        b'{"claimed":"9007199254740992","records":9007199254740991}'
    )
