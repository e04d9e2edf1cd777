"""Archives of made-up years, signed and put as the real ones are, for tests of whoever reads them.

A log is told once, and each archive takes the next of its events, so two of them are a chain.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from archive.manifest import Manifest, ObjectEntry, TextEntry, canonical, signed_text
from archive.packs import PackedFile, plan_packs, write_pack
from archive.stores import ColdStore, Lock, LockMode, StorageClass
from archive.text_files import TextWriter
from archive.volume import Volume, prefix_of
from ledger.merkle import complete_subtrees, consistency_proof, leaf_hash, node_hash, root
from ledger.notes import Checkpoint, Signer
from ledger.seal import StoredEvent

ORIGIN = "books"
SIGNER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
STRANGER = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
UNTIL = datetime(2045, 1, 1, tzinfo=UTC)
POLICY = Lock(LockMode.COMPLIANCE, UNTIL)
STREAM = UUID(int=7)
PACK_BYTES = 8_192
# What the keys of the objects of an archive begin with.
KINDS = ["definitions", "data", "access", "events", "snapshots", "files/pack", "files/index", "reconciliation"]
COLUMNS = [("id", "bigint"), ("note", "text"), ("_job", "bigint"), ("_record", "bigint")]

Rows = dict[str, list[list[str]]]  # DATASET -> parts -> rows as text


@dataclass
class Log:
    """The events of a ledger as lines, and their leaves."""

    lines: list[bytes] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    position: int = 0

    def tell(self, topic: str, **state: Any) -> None:
        """Append an event, two positions behind the one before."""
        self.position += 2 if self.lines else 1
        event = StoredEvent(self.position, STREAM, len(self.lines) + 1, topic, json.dumps(state).encode())
        told = {
            "id": event.id,
            "index": len(self.leaves),
            "originator_id": str(event.originator_id),
            "originator_version": event.originator_version,
            "topic": event.topic,
            "state": base64.b64encode(event.state).decode(),
        }
        self.lines.append(canonical(told) + b"\n")
        self.leaves.append(leaf_hash(event.leaf_data()))

    def node(self, level: int, index: int) -> bytes:
        """See `ledger.merkle.Nodes`."""
        if level == 0:
            return self.leaves[index]
        return node_hash(self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1))


@dataclass
class Archive:
    """An archive that was put."""

    prefix: str
    manifest: Manifest
    data: bytes
    note: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def previous(self) -> dict[str, Any]:
        """How the next archive names it."""
        told = {"fiscal_year": self.manifest.fiscal_year, "generation": self.manifest.generation}
        return {**told, "manifest_sha256": self.sha256}


class Archiver:
    """Puts one archive after the other into a store.

    `change` may change the values of a manifest before it is signed, as an archiver would that lies.
    """

    def __init__(self, store: ColdStore, scratch: Path, cold: StorageClass = StorageClass.DEEP_ARCHIVE) -> None:
        self.store = store
        self.log = Log()
        self.contents = [b"", b"a,b\n" * 900, bytes(range(256)) * 20, b"small"]  # of the files that were sent
        self.rows = _rows
        self.pack_bytes = PACK_BYTES
        self._scratch = scratch
        self._cold = cold
        self._after = self._leaves = 0  # the position and the number of the events that are archived
        self._newest: Archive | None = None

    def archive(
        self,
        year: str = "FY2025-26",
        generation: int = 1,
        *,
        supersedes: str | None = None,
        signer: Signer = SIGNER,
        change: Callable[[dict[str, Any]], object] = lambda values: None,
    ) -> Archive:
        """Put the archive of a year."""
        prefix = prefix_of(ORIGIN, year, generation)
        volume = Volume(self.store, prefix, POLICY)
        values = self._values(volume, year, generation)
        values |= {
            "previous": None if self._newest is None else self._newest.previous,
            "supersedes": supersedes,
        }
        change(values)
        manifest = Manifest.model_validate_json(json.dumps(values))
        data = manifest.to_bytes()
        note = signer.sign(signed_text(data, manifest.fiscal_year, generation, ORIGIN))
        for name, content in (("MANIFEST.json", data), ("MANIFEST.note", note), ("README.txt", b"Read.\n")):
            volume.keep(name, self._file(content), StorageClass.STANDARD)
        self._newest = Archive(prefix, manifest, data, note)
        return self._newest

    def packed(self, content: bytes) -> bytes:
        """What is packed of a file."""
        return content

    def _values(self, volume: Volume, year: str, generation: int) -> dict[str, Any]:
        events = self._events(volume, year, generation)
        rows = self.rows(generation)
        tables = [self._table(volume, *each) for each in rows.items()]
        jobs = Counter(
            (dataset, int(row.split("\t")[-2])) for dataset in rows for part in rows[dataset] for row in part
        )
        lines = [{"dataset": dataset, "job": job, "rows": count} for (dataset, job), count in jobs.items()]
        return {
            "origin": ORIGIN,
            "fiscal_year": year,
            "generation": generation,
            "calendar": {"definition": "04-01", "zone": "UTC", "start": "2025-04-01", "end": "2026-04-01"},
            "closed": {"at": "2026-05-01T00:00:00Z", "by": "key:1", "position": self._after},
            "checkpoint": self._checkpoint(),
            "policy": {"mode": POLICY.mode.value, "retain_until": POLICY.until.isoformat()},
            "software": {"name": "ingestion-ledger", "version": "0.1.0", "postgresql": 180006, "encoding": "UTF8"},
            "definitions": self._text(volume, "definitions", "json.zst", [b"{}\n"], StorageClass.STANDARD),
            "tables": tables,
            "access": [self._access(volume)],
            "events": events,
            "snapshots": [self._text(volume, "snapshots/00001", "jsonl.zst", [b'{"state": 1}\n'], self._cold)],
            "files": self._files(volume),
            "reconciliation": self._text(
                volume,
                "reconciliation",
                "jsonl.zst",
                [canonical(line) + b"\n" for line in lines],
                StorageClass.STANDARD,
            ),
        }

    def _events(self, volume: Volume, year: str, generation: int) -> dict[str, Any]:
        first, index = self._after + 1, self._leaves
        for number in range(5):
            self.log.tell("filejob.received", number=number)
        self.log.tell("fiscal_year.closed", label=year, generation=generation)
        self._after, self._leaves = self.log.position, len(self.log.leaves)
        lines = self.log.lines[index : self._leaves]
        for number in range(3):  # what was sealed with it, and is behind it
            self.log.tell("operation.completed", number=number)
        parts = [
            self._text(volume, f"events/{number:05}", "jsonl.zst", lines[start : start + 4], self._cold)
            for number, start in enumerate(range(0, len(lines), 4), start=1)
        ]
        size = len(self.log.leaves)
        return {
            "first_position": first,
            "last_position": self._after,
            "count": len(lines),
            "before": [each.hex() for each in complete_subtrees(self.log, index)],
            "after": [each.hex() for each in consistency_proof(self.log, self._leaves, size)],
            "parts": parts,
        }

    def _checkpoint(self) -> str:
        size = len(self.log.leaves)
        return Checkpoint(ORIGIN, size, root(self.log, size), ("previous 0",)).text()

    def _table(self, volume: Volume, dataset: str, parts: list[list[str]]) -> dict[str, Any]:
        entries, digest, size = [], hashlib.sha256(), 0

        def line(row: str) -> bytes:
            nonlocal size
            data = f"{row}\n".encode()
            digest.update(data)
            size += len(data)
            return data

        for number, rows in enumerate(parts, start=1):
            lines = map(line, rows)
            first, last = (list(map(int, row.split("\t")[-2:])) for row in (rows[0], rows[-1]))
            stem = f"data/{dataset}/{number:05}"
            entries.append({**self._text(volume, stem, "copy.zst", lines, self._cold), "first": first, "last": last})
        return {
            "dataset": dataset,
            "name": f"{dataset}__fy2025_26",
            "contract_version": 1,
            "columns": [{"name": name, "type": kind, "is_nullable": False} for name, kind in COLUMNS],
            "rows": sum(map(len, parts)),
            "text_bytes": size,
            "text_sha256": digest.hexdigest(),
            "fingerprint": "1 2",
            "totals": [],
            "parts": entries,
        }

    def _access(self, volume: Volume) -> dict[str, Any]:
        kept = volume.keep("access/payments/00001-0.parquet", self._file(b"PAR1"), StorageClass.GLACIER_IR)
        return {**_plain(kept), "dataset": "payments", "rows": 4, "writer": "x", "columns_as_text": []}

    def _files(self, volume: Volume) -> dict[str, Any]:
        names = [hashlib.sha256(content).hexdigest() for content in self.contents]
        blobs = dict(zip(names, map(self.packed, self.contents), strict=True))
        pieces = list(plan_packs([PackedFile(name, len(blob)) for name, blob in blobs.items()], self.pack_bytes))
        packs = []
        for number, group in groupby(pieces, lambda piece: piece.pack):
            file = self._scratch / "pack"
            write_pack(lambda name, start, size: blobs[name][start : start + size], group, file)
            with file.open("rb") as packed:
                digest = hashlib.file_digest(packed, "sha256").hexdigest()[:16]
            packs.append(_plain(volume.keep(f"files/pack-{number + 1:05}-{digest}.tar", file, self._cold)))
        lines = [
            canonical(
                {
                    "sha256": piece.sha256,
                    "number": piece.number,
                    "start": piece.start,
                    "size": piece.size_bytes,
                    "pack": f"files/pack-{piece.pack + 1:05}",
                    "offset": piece.offset,
                }
            )
            + b"\n"
            for piece in pieces
        ]
        index = self._text(volume, "files/index", "jsonl.zst", lines, StorageClass.STANDARD)
        return {"count": len(blobs), "bytes": sum(map(len, self.contents)), "packs": packs, "index": index}

    def _text(
        self, volume: Volume, stem: str, ending: str, lines: Iterable[bytes], storage_class: StorageClass
    ) -> dict[str, Any]:
        file = self._scratch / "text"
        with TextWriter(file) as writer:
            for line in lines:
                writer.write(line)
        return _plain(volume.keep_text(stem, ending, file, writer.facts(), storage_class, TextEntry))

    def _file(self, content: bytes) -> Path:
        file = self._scratch / "content"
        file.write_bytes(content)
        return file


def _rows(generation: int) -> Rows:
    """Two datasets, one of them in two parts; values with what COPY escapes."""
    return {
        "payments": [
            [f"{generation}\ta\\tb\t3\t1", "2\t\\N\t3\t2", "3\té\t3\t3"],
            ["4\t\t3\t4", "5\t\\\\\t5\t1", "6\tz\t5\t2"],
        ],
        "refunds": [["1\tx\t7\t9"]],
    }


def _plain(entry: ObjectEntry) -> dict[str, Any]:
    return entry.model_dump(mode="json")
