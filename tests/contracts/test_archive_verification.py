"""An archive is found as it was signed, or it is told which of its objects is not."""

from __future__ import annotations

from archive.stores import StorageClass
from archive.verifier import verify_archive
from tests.archives import SIGNER, Archiver
from tests.contracts.cold_places import ColdPlace

KEYS = [SIGNER.public]


def test_a_chain_of_archives_is_found_as_it_was_signed(place: ColdPlace) -> None:
    archiver = Archiver(place.store, place.scratch, StorageClass.GLACIER_IR)
    for archived in (archiver.archive("FY2024-25"), archiver.archive("FY2025-26")):
        found = verify_archive(place.store, archived.prefix, KEYS, content=True, manifest_sha256=archived.sha256)
        assert (found.findings, found.not_compared) == ([], [])
        assert found.holds
