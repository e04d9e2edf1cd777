"""Texts: from the bytes that arrived to a text that is cut into chunks, for loading and for a preview alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ledger.blobs import BlobStore
from ledger.domain.contract import Contract
from ledger.errors import FileRefusedError
from ledger.settings import Settings
from projections.formats.dialect import FIXED, Dialect, sniff
from projections.formats.recognise import FORMATS, TEXT
from projections.formats.splitter import Plan, split
from projections.transcribe import Transcription
from workers.transcription import transcription_of

SNIFF_BYTES = 1 << 20
# What is said of text whose lines end in more than one way, or in one that `COPY` does not know.
LINE_ENDS = frozenset({"line_end_mixed", "line_end_unknown"})
ANY_LINE_ENDS = {"line_ends": "any"}


@dataclass(frozen=True)
class Text:
    """A text under its digest, how it was made of a file, and its chunks. `size` is in bytes.

    `trailer` are the control totals that its last record tells, if the contract has a trailer.
    """

    made: Transcription
    sha256: str
    size: int
    dialect: Dialect
    plan: Plan
    trailer: Mapping[str, Any] = field(default_factory=dict)


def text_of(
    blobs: BlobStore,
    sha256: str,
    size: int,
    filename: str,
    settings: Settings,
    reading: Mapping[str, str],
    contract: Contract | None,
) -> Text:
    """The text of a file.

    Args:
        reading: what its sender says of how it is read, see `api.choices`.
        contract: that of its dataset, None if there is none yet.

    Raises:
        FileRefusedError: the file cannot be read.
        PartUnavailableError: the blob store cannot be reached.
        LedgerError: the process that reads the file was killed.
    """
    if contract is not None and contract.is_fixed:
        reading = {**reading, "layout": FIXED}
    try:
        return _text_of(blobs, sha256, size, filename, settings, reading)
    except FileRefusedError as refused:
        if refused.code not in LINE_ENDS:
            raise
        return _text_of(blobs, sha256, size, filename, settings, {**reading, **ANY_LINE_ENDS})


def cut(blobs: BlobStore, text: str, size: int, dialect: Dialect, settings: Settings) -> Plan:
    """The chunks of a text: see `split`."""
    return split(
        partial(blobs.read, text),
        size,
        dialect,
        chunk_bytes=settings.chunk_bytes,
        record_bytes_max=settings.record_bytes_max,
    )


def _text_of(
    blobs: BlobStore, sha256: str, size: int, filename: str, settings: Settings, reading: Mapping[str, str]
) -> Text:
    made = transcription_of(blobs, sha256, size, filename, settings, reading)
    text, text_size = made.transcript or sha256, size if made.text_size is None else made.text_size
    dialect = made.dialect or sniff(blobs.read(text, 0, SNIFF_BYTES), made.filename, reading)
    plan = cut(blobs, text, text_size, dialect, settings)
    if made.format != TEXT:
        plan = replace(plan, places=made.places, own_null=True, writing=FORMATS[made.format].writing)
    return Text(made, text, text_size, dialect, plan)
