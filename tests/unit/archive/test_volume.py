"""What is put under a name that something else is kept under: the same content is taken over, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard

from archive.manifest import TextEntry
from archive.stores import AnotherKeptError, Lock, LockMode, StorageClass, open_cold_store
from archive.text_files import TextFacts, TextWriter
from archive.volume import Volume

TEXT = b"a line\n" * 40
FIRST, SECOND = (Lock(LockMode.GOVERNANCE, datetime(year, 1, 1, tzinfo=UTC)) for year in (2040, 2041))


def written(path: Path, text: bytes = TEXT) -> TextFacts:
    with TextWriter(path) as writer:
        writer.write(text)
    return writer.facts()


@pytest.mark.parametrize(
    "kept",
    [TEXT[:-1], TEXT + b"x", b"", None],
    ids=["a shorter text", "a longer one", "an empty one", "no text"],
)
def test_another_text_under_the_same_name_is_in_the_way(tmp_path: Path, kept: bytes | None) -> None:
    store = open_cold_store((tmp_path / "cold").as_uri())
    facts = written(tmp_path / "text")
    volume = Volume(store, "books", None)
    other = tmp_path / "other"
    other.write_bytes(b"none" if kept is None else zstandard.compress(kept))
    there = volume.keep(f"events-{facts.raw_sha256[:16]}.zst", other, StorageClass.STANDARD)
    with pytest.raises(AnotherKeptError):
        volume.keep_text("events", "zst", tmp_path / "text", facts, StorageClass.STANDARD, TextEntry)
    assert b"".join(volume.read(there)) == other.read_bytes()


def test_the_same_text_is_taken_over_as_it_is_and_locked_for_as_long_as_it_would_have_been(tmp_path: Path) -> None:
    store = open_cold_store((tmp_path / "cold").as_uri())
    facts = written(tmp_path / "text")
    other = tmp_path / "other"
    other.write_bytes(zstandard.compress(TEXT, level=19))
    name = f"events-{facts.raw_sha256[:16]}.zst"
    there = Volume(store, "books", FIRST).keep(name, other, StorageClass.DEEP_ARCHIVE)
    volume = Volume(store, "books", SECOND)
    found = volume.keep_text("events", "zst", tmp_path / "text", facts, StorageClass.STANDARD, TextEntry)
    told = {"raw_bytes": len(TEXT), "raw_sha256": facts.raw_sha256, "lines": 40}
    assert found.model_dump() == {**there.model_dump(), **told}
    assert found.sha256 != facts.sha256
    assert volume.head(found).lock == SECOND
    assert [(each.key, each.version) for each in store.versions("")] == [(f"books/{name}", found.version)]
