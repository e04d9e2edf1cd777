"""Manifests: what the archive of a fiscal year holds, to the last byte, and the signature over it.

Rules:
1. A manifest is canonical JSON (RFC 8785): whoever writes the same content writes the same bytes. What it says of time
   is what events say, so a run that was killed and went on comes to the same manifest.
2. It names every object of the archive by key and version, with its size and SHA-256; an object that it does not name
   is no part of the archive.
3. What is signed is a note of four lines: the form, the year, the SHA-256 and the size of the manifest. Its first line
   is no origin of a log, so that nobody can take it for a checkpoint.
4. Each manifest names the one of the year that was archived before, and the one of the same year that it supersedes: a
   year that is left out, or put back to what it was, shows.
5. What reads a manifest believes nothing but the public keys that it is given, and refuses what it does not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archive.stores import OBJECT_BYTES_MAX, LockMode, StorageClass
from ledger.errors import LedgerError
from ledger.notes import PublicKey, open_note

FORM: Final = "ledger archive, form 1"
WHOLE_NUMBER_MAX = 2**53 - 1  # what every reader of JSON takes exactly

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=WHOLE_NUMBER_MAX)]
Size = Annotated[int, Field(ge=0, le=OBJECT_BYTES_MAX)]
Place = tuple[Count, Count]


class ManifestRefusedError(LedgerError):
    """A manifest is none, was changed, or is not the one that was signed."""

    code = "manifest_refused"


class Entry(BaseModel):
    """What every part of a manifest is: values that do not change, and none that are not known."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Kind = TypeVar("Kind", bound=Entry)


class ObjectEntry(Entry):
    """An object of the store, by the version that was put."""

    key: str
    version: str
    storage_class: StorageClass
    bytes: Size
    sha256: Sha256


class TextEntry(ObjectEntry):
    """An object of compressed text: what the text comes to, and how many lines of rows or events it has."""

    raw_bytes: Count
    raw_sha256: Sha256
    lines: Count


class PartEntry(TextEntry):
    """Rows of a table, from the first `_job` and `_record` to the last."""

    first: Place
    last: Place


class ColumnEntry(Entry):
    """A column, with its type as PostgreSQL writes it, such as numeric(12,2)."""

    name: str
    type: str
    is_nullable: bool


class TotalsEntry(Entry):
    """What the values of a column come to: counted, and for numbers added up."""

    column: str
    count: Count
    sum: str | None
    min: str | None
    max: str | None


class TableEntry(Entry):
    """The rows of a dataset in the year. `fingerprint` is PostgreSQL's own and says nothing to another version."""

    dataset: str
    name: str
    contract_version: Count
    columns: tuple[ColumnEntry, ...]
    rows: Count
    text_bytes: Count
    text_sha256: Sha256
    fingerprint: str
    totals: tuple[TotalsEntry, ...]
    parts: tuple[PartEntry, ...]


class AccessEntry(ObjectEntry):
    """A copy that is easier to read and not of record. `columns_as_text` are those whose type Parquet cannot keep."""

    dataset: str
    rows: Count
    writer: str
    columns_as_text: tuple[str, ...]


class EventsEntry(Entry):
    """The log from one position to another, both of them in it.

    With `before` and `after` the events alone come to the root of the checkpoint: `before` are the roots of the
    complete subtrees over all leaves before the first one, the largest first (`ledger.merkle.complete_subtrees`),
    `after` shows that the tree of the checkpoint continues that up to the last one (`consistency_proof`).
    """

    first_position: Count
    last_position: Count
    count: Count
    before: tuple[Sha256, ...]
    after: tuple[Sha256, ...]
    parts: tuple[TextEntry, ...]


class FilesEntry(Entry):
    """The files that were sent, each once, in packs; the index says which pack holds what."""

    count: Count
    bytes: Count
    packs: tuple[ObjectEntry, ...]
    index: TextEntry


class CalendarEntry(Entry):
    """The rules by which the year is one, and the days that it has: the first one, and the first one after it."""

    definition: str
    zone: str
    start: str
    end: str


class ClosedEntry(Entry):
    """The event by which the year was closed."""

    at: str
    by: str
    position: Count


class PolicyEntry(Entry):
    """How long nobody can take the archive away."""

    mode: LockMode
    retain_until: str


class PreviousEntry(Entry):
    """The archive of the year before."""

    fiscal_year: str
    generation: Count
    manifest_sha256: Sha256


class SoftwareEntry(Entry):
    """What wrote the archive."""

    name: str
    version: str
    postgresql: Count
    encoding: str


class Manifest(Entry):
    """What an archive of one generation of a fiscal year holds."""

    form: Literal["ledger archive, form 1"] = FORM
    origin: str
    fiscal_year: str
    generation: Annotated[int, Field(ge=1, le=9_999)]
    calendar: CalendarEntry
    closed: ClosedEntry
    previous: PreviousEntry | None
    supersedes: Sha256 | None
    checkpoint: str
    policy: PolicyEntry
    software: SoftwareEntry
    definitions: TextEntry
    tables: tuple[TableEntry, ...]
    access: tuple[AccessEntry, ...]
    events: EventsEntry
    snapshots: tuple[TextEntry, ...]
    files: FilesEntry
    reconciliation: TextEntry

    def objects(self) -> Iterator[ObjectEntry]:
        """Every object that the archive consists of, but for the manifest and its note."""
        yield self.definitions
        for table in self.tables:
            yield from table.parts
        yield from self.access
        yield from self.events.parts
        yield from self.snapshots
        yield from self.files.packs
        yield self.files.index
        yield self.reconciliation

    def to_bytes(self) -> bytes:
        """The manifest as it is kept."""
        return canonical(self.model_dump(mode="json"))


def entry_of(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """An entry of JSON values, some of which are none of its own."""
    return kind.model_validate_json(json.dumps({name: values[name] for name in kind.model_fields}))


def canonical(value: Any) -> bytes:
    """JSON values in the one form of RFC 8785: names in order, no space, each text as short as it can be.

    Of numbers only whole ones are taken, which all readers agree about; names are ASCII, whose order is the same in
    UTF-16 and by code points.
    """
    _check_plain(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _check_plain(value: Any) -> None:
    match value:
        case dict():
            assert all(isinstance(name, str) and name.isascii() for name in value), "a name has to be ASCII"
            for each in value.values():
                _check_plain(each)
        case list():
            for each in value:
                _check_plain(each)
        case bool() | str() | None:
            pass
        case int():
            assert abs(value) <= WHOLE_NUMBER_MAX, f"{value} is not exact for all readers"
        case _:
            raise AssertionError(f"{type(value).__name__} has no canonical form")


def signed_text(manifest: bytes, fiscal_year: str, generation: int, origin: str) -> str:
    """What is signed of a manifest (rule 3)."""
    digest = hashlib.sha256(manifest).hexdigest()
    return f"{FORM}\n{origin} {fiscal_year} generation {generation}\nsha256 {digest}\nbytes {len(manifest)}\n"


def open_manifest(data: bytes, note: bytes, known: Iterable[PublicKey]) -> Manifest:
    """Read a manifest, and see that it is the one that was signed.

    Raises:
        NoteRefusedError: the note was changed, or is signed by nobody who is known.
        ManifestRefusedError: the manifest is not the one of the note, or is none that can be read; it says why.
    """
    signed, _ = open_note(note, known)
    manifest = parse_manifest(data)
    expected = signed_text(data, manifest.fiscal_year, manifest.generation, manifest.origin)
    if signed != expected:
        raise ManifestRefusedError(
            f"The manifest comes to {expected!r}, and {signed!r} was signed.", "Do not rely on it: one was exchanged."
        )
    return manifest


def parse_manifest(data: bytes) -> Manifest:
    """Read what `to_bytes` gave, and nothing else.

    Raises:
        ManifestRefusedError: it is no such manifest.
    """
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ManifestRefusedError(f"It is no manifest of an archive: {where}: {first['msg']}.") from error
    if manifest.to_bytes() != data:
        raise ManifestRefusedError("The manifest is not in canonical form, so it is not as it was written.")
    return manifest
