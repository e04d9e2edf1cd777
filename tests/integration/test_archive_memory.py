"""What a whole year's archive takes of memory does not grow with what is archived."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from archive.manifest import parse_manifest
from archive.volume import prefix_of
from ledger.application import Ledger
from ledger.domain.year_states import YearState
from tests.integration.archiving import HEADER, ORIGIN, Archive, new_archive

YEAR = 2009
MEMORY_BYTES_MAX = 256 << 20
FILE_BYTES = 70 << 20
NOTE_BYTES = 700_000

CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from archive.export_run import Archiving, Policy
from archive.exporting import export
from archive.finishing import finish
from archive.stores import LockMode, StorageClass, open_cold_store
from ledger.application import Ledger
from ledger.blobs import FolderBlobStore
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.manifests import sign_manifests
from ledger.notes import Signer
from ledger.settings import Settings
folder, label, origin, private = sys.argv[1:]
folder = Path(folder)
signer = Signer(origin, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private)))
policy = Policy(StorageClass.DEEP_ARCHIVE, StorageClass.GLACIER_IR, LockMode.COMPLIANCE, 10, 30, 128 << 20)
archiving = Archiving(
    Ledger(Settings()), FiscalCalendar.parse("04-01", "UTC"), open_cold_store((folder / "cold").as_uri()),
    FolderBlobStore(folder / "blobs"), folder / "spool", origin, [signer.public], policy,
    lambda: Stamp(datetime.now(UTC), "admin", "request-1"), lambda told: None, 10,
)
export(archiving, label)
with archiving.ledger.transaction() as session:
    sign_manifests(session, signer, set())
finish(archiving, label)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def load_much(archive: Archive) -> None:
    """Files that do not fit into one pack, nor into the memory that archiving may take; most rows are of another year.

    The books are compared to the last row of each job, and a part of a table has a test of its own.
    """
    place = archive.places[0].with_settings(chunk_bytes=FILE_BYTES)
    for number in range(4):
        note = f"{number} note " * (NOTE_BYTES // 7)
        archive.load(place, HEADER + "".join(f"{row},{day_of(row)},1.50,{note}\n" for row in range(100)))


def day_of(row: int) -> str:
    return f"{YEAR if row % 10 == 0 else YEAR + 1}-05-01"


def test_memory_does_not_grow_with_what_a_year_archives(ledger: Ledger, tmp_path: Path) -> None:
    archive = new_archive(ledger, tmp_path, datasets=1)
    load_much(archive)
    label = archive.close(YEAR)
    command = [sys.executable, "-c", CHILD, str(tmp_path), label, ORIGIN, bytes(range(32)).hex()]
    url = ledger.engine.url.render_as_string(hide_password=False)
    environment = {**os.environ, "LEDGER_DATABASE_URL": url}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert archive.year(label).state is YearState.VERIFIED
    manifest = parse_manifest((tmp_path / "cold" / prefix_of(ORIGIN, label, 1) / "MANIFEST.json").read_bytes())
    assert manifest.files.bytes > MEMORY_BYTES_MAX
    assert len(manifest.files.packs) > 1
    assert int(ended.stdout) << 10 < MEMORY_BYTES_MAX
