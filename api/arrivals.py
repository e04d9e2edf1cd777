"""What the files of a request are written down as: which jobs, and what each has to come to.

Rules:
1. A file is one job. A zip archive with several files is one job for each of them: all of the same bytes, in one
   transaction and with one correlation, each with the name of its file (`reading`'s `member`).
2. A file called `<name>.totals.json` is no job: it holds the control totals of `<name>`, which came with it, in the
   same request or in the same archive (`ledger.domain.control_totals`).
3. An archive that its reader refuses is one job: the bytes are kept, and the worker that opens it again tells why.
4. No file is sent into the adjustments of a dataset: these are made of late records (`ledger.domain.adjustment`).
5. Of an archive only its directory is read here, and control totals: never a file to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, BinaryIO, cast
from uuid import uuid4

from api.choices import Choices
from api.uploads import StoredFile, shown_name
from ledger.application import Arrival
from ledger.blobs import BlobFile, BlobStore
from ledger.domain.adjustment import check_not_of_adjustments
from ledger.domain.column import excerpt
from ledger.domain.contract import dataset_name
from ledger.domain.control_totals import (
    SIDECAR_BYTES_MAX,
    check_sidecar_size,
    is_sidecar,
    sidecar_totals,
    sidecars_of,
    totals_given_twice,
)
from ledger.errors import FileRefusedError, InvalidRequestError
from projections.formats.archive_files import ArchiveFile, files_of
from projections.formats.containers import container_of, open_container
from projections.formats.rows import Limits

NOTHING_TAKEN = "Nothing was taken. {}"


def arrivals_of(files: Sequence[StoredFile], choices: Choices, blobs: BlobStore, *, files_max: int) -> list[Arrival]:
    """The arrivals that the files of one request are.

    Args:
        files_max: how many there may be.

    Raises:
        InvalidRequestError: a file is empty, there are too many, control totals are not clear, or a dataset is kept for
            adjustments.
        PartUnavailableError: the blob store cannot be reached.
    """
    for file in files:
        if file.size == 0:
            raise InvalidRequestError(
                f"The file {file.filename!r} is empty.", NOTHING_TAKEN.format("Send it again when it has content.")
            )
    sidecars = sidecars_of([file.filename for file in files])
    by_name = {file.filename: file for file in files}
    arrivals: list[Arrival] = []
    for file in files:
        if is_sidecar(file.filename):
            continue
        totals = choices.control_totals
        if file.filename in sidecars:
            if totals:
                raise totals_given_twice(file.filename)
            totals = _totals_in(by_name[sidecars[file.filename]], blobs)
        arrivals += _of_one(file, replace(choices, control_totals=totals), blobs)
        if len(arrivals) > files_max:
            raise InvalidRequestError(
                f"There are more than {files_max:,} files in one upload, those in archives counted.",
                NOTHING_TAKEN.format("Send them in several uploads."),
            )
    return arrivals


def _of_one(file: StoredFile, choices: Choices, blobs: BlobStore) -> list[Arrival]:
    if container_of(file.start) is None:  # no file of it can be meant, and what says nothing tells no two jobs apart
        reading = {name: value for name, value in choices.reading.items() if name != "member"}
        return [_arrival(file, replace(choices, reading=reading), file.filename, dataset_name(file.filename))]
    wanted = choices.reading.get("member")
    inside = _inside(file, wanted, blobs)
    if inside is None:
        return [_arrival(file, choices, file.filename, dataset_name(file.filename))]
    totals = choices.control_totals
    if totals and any(each.control_totals for each in inside):
        raise totals_given_twice(file.filename)
    if totals and len(inside) > 1:
        raise InvalidRequestError(
            f"{excerpt(file.filename)} holds {len(inside):,} files; control totals are those of one.",
            NOTHING_TAKEN.format("Put a file <name>.totals.json beside each file in the archive, or send them apart."),
        )
    if wanted is not None:
        own = replace(choices, control_totals=totals or inside[0].control_totals)
        return [_arrival(file, own, file.filename, dataset_name(file.filename))]
    return [_of_member(file, choices, each) for each in inside]


def _of_member(file: StoredFile, choices: Choices, inside: ArchiveFile) -> Arrival:
    name = inside.member.name
    own = replace(choices, reading={**choices.reading, "member": name}, control_totals=inside.control_totals)
    return _arrival(file, own, f"{file.filename}/{shown_name(name)}", dataset_name(name))


def _arrival(file: StoredFile, choices: Choices, filename: str, dataset: str) -> Arrival:
    dataset = choices.dataset or dataset
    check_not_of_adjustments(dataset)
    return Arrival(
        uuid4(),
        file.sha256,
        file.size,
        filename,
        file.content_type,
        dataset,
        reading=choices.reading,
        corrects=choices.corrects,
        control_totals=choices.control_totals,
    )


def _inside(file: StoredFile, wanted: str | None, blobs: BlobStore) -> tuple[ArchiveFile, ...] | None:
    """The files of an archive that are jobs, or the one that is wanted; None for what is a job as it came."""
    if container_of(file.start) != "zip":
        return None
    source, limits = cast(BinaryIO, BlobFile(blobs, file.sha256, file.size)), Limits()
    try:
        container = open_container(source, file.size, limits)
        if container is None:  # a workbook
            return None
        files = files_of(source, container.members, wanted, limits)
    except FileRefusedError:  # rule 3
        return None
    return None if wanted is None and len(container.members) == 1 else files


def _totals_in(sidecar: StoredFile, blobs: BlobStore) -> dict[str, Any]:
    check_sidecar_size(sidecar.filename, sidecar.size)
    return sidecar_totals(sidecar.filename, blobs.read(sidecar.sha256, 0, SIDECAR_BYTES_MAX))
