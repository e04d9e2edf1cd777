"""Archive files: which files of a zip archive are to be loaded, and what each of them has to come to.

Rules:
1. A file called `<name>.totals.json` is none to load: it holds the control totals of `<name>`, which is in the same
   folder of the same archive (`ledger.domain.control_totals`).
2. The door that receives an archive and the reader that opens it decide by this alone. What is refused here is received
   as one job, which the reader then refuses for the same reason.
3. Only control totals are read out of the archive, and of those no more than `SIDECAR_BYTES_MAX` each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ledger.domain.control_totals import check_sidecar_size, is_sidecar, sidecar_totals, sidecars_of
from ledger.errors import FileRefusedError, InvalidRequestError
from projections.formats.archive import Member
from projections.formats.containers import decompress
from projections.formats.rows import Limits

NAMES_SHOWN = 5
NAME_CHARACTERS_SHOWN = 200


@dataclass(frozen=True)
class ArchiveFile:
    """A file of an archive, with what it has to come to (`ledger.domain.control_totals`)."""

    member: Member
    control_totals: dict[str, Any] = field(default_factory=dict)


def files_of(
    file: BinaryIO, members: tuple[Member, ...], wanted: str | None, limits: Limits
) -> tuple[ArchiveFile, ...]:
    """The files of an archive that are to be loaded, in the directory's order; at least one.

    Args:
        members: as `archive.members_of` tells them; at least one.
        wanted: the name of the only one that is wanted, if its sender named one.

    Raises:
        FileRefusedError: member_unknown, control_totals_invalid, or what is refused in a compressed file.
    """
    by_name = {member.name: member for member in members}
    try:
        sidecars = sidecars_of(by_name)
    except InvalidRequestError as error:
        raise _refused(error) from error
    chosen = [member for member in members if not is_sidecar(member.name) and wanted in (None, member.name)]
    if not chosen:
        assert wanted is not None, "an archive of sidecars alone is refused above"
        raise FileRefusedError(
            "member_unknown",
            f"The zip file holds no file {wanted[:NAME_CHARACTERS_SHOWN]!r} to load. It holds {listed(members)}.",
            "Name one of its files as it stands there, with its folders.",
        )
    return tuple(
        ArchiveFile(member, _totals(file, by_name[sidecars[member.name]], limits) if member.name in sidecars else {})
        for member in chosen
    )


def listed(members: Sequence[Member]) -> str:
    """The names of the first files of an archive, for people."""
    names = ", ".join(repr(member.name[:NAME_CHARACTERS_SHOWN]) for member in members[:NAMES_SHOWN])
    more = len(members) - NAMES_SHOWN
    return f"{names} and {more:,} more" if more > 0 else names


def _totals(file: BinaryIO, sidecar: Member, limits: Limits) -> dict[str, Any]:
    pieces: list[bytes] = []
    try:
        check_sidecar_size(sidecar.name, max(sidecar.size, sidecar.compressed_size))
        decompress(file, "zip", sidecar, pieces.append, limits)
        return sidecar_totals(sidecar.name, b"".join(pieces))
    except InvalidRequestError as error:
        raise _refused(error, sidecar) from error


def _refused(error: InvalidRequestError, sidecar: Member | None = None) -> FileRefusedError:
    return FileRefusedError(
        "control_totals_invalid",
        f"The zip file has control totals that cannot be used: {error.message}",
        f"{error.remedy} Then send the archive again.",
        byte_offset=None if sidecar is None else sidecar.offset,
    )
