"""Definitions: what it takes to make the tables of a year again, and to understand what stands in them.

They are an object of the archive, one line of canonical JSON: the fiscal calendar, how rows are written as text, and of
each table the statement that makes it, its columns, its bounds, and the contracts that its dataset had until then.

Rules:
1. A table is restored by the statement that was archived and by no other, on trial as well as years later.
2. No statement is carried out before the text that it stands in was found to be the one that the manifest names.
3. Where the text says something else than the event that closed the year, nothing is restored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from archive.closing import closed_partitions
from archive.copying import FORMAT, PINNED
from archive.manifest import TextEntry, canonical
from archive.partitions import Partition
from archive.restoration import RestorationDiffersError
from archive.snapshots import plain
from archive.stores import ObjectDamagedError
from archive.text_files import TextDamagedError, raw_blocks
from archive.volume import Volume
from ledger.domain.fiscal_year import FiscalYear


def definitions_of(year: FiscalYear, contracts: Mapping[str, Sequence[Any]]) -> bytes:
    """The definitions of a closed year.

    Args:
        contracts: DATASET -> the contracts that it had until then, the first of them first.
    """
    values = {
        "calendar": _calendar(year),
        "copy": {"format": FORMAT, "settings": PINNED},
        "tables": [
            {
                **_about(each.partition),
                "ddl": each.partition.ddl(),
                "contracts": [plain(contract) for contract in contracts[each.partition.dataset]],
            }
            for each in closed_partitions(year)
        ],
    }
    return canonical(values) + b"\n"


def archived_statements(volume: Volume, entry: TextEntry, year: FiscalYear) -> dict[str, str]:
    """The statements by which the tables of a year are made again: DATASET -> the archived one.

    Args:
        entry: the definitions, as the manifest names them.

    Raises:
        ObjectDamagedError: the store has another text than the manifest names.
        RestorationDiffersError: it is of something else than was closed.
        NotFoundError, PartUnavailableError: it cannot be read.
    """
    told = json.loads(_text(volume, entry))
    if told["calendar"] != _calendar(year):
        raise _differs(year, f"the calendar {told['calendar']}")
    tables = {table["dataset"]: table for table in told["tables"]}
    closed = {each.partition.dataset: each.partition for each in closed_partitions(year)}
    if tables.keys() != closed.keys():
        raise _differs(year, f"other datasets: {', '.join(sorted(tables.keys() ^ closed.keys()))}")
    for dataset, partition in closed.items():
        for name, value in _about(partition).items():
            if tables[dataset][name] != value:
                raise _differs(year, f"another value for {name!r} of {dataset!r}")
    return {dataset: table["ddl"] for dataset, table in tables.items()}


def _calendar(year: FiscalYear) -> dict[str, str]:
    return {"definition": year.calendar, "zone": year.zone}


def _about(partition: Partition) -> dict[str, Any]:
    return {
        "dataset": partition.dataset,
        "name": partition.name,
        "columns": [asdict(column) for column in partition.columns],
        "bounds": partition.bounds,
    }


def _text(volume: Volume, entry: TextEntry) -> bytes:
    text = bytearray()
    try:
        for block in raw_blocks(volume.read(entry), entry.key):
            text += block
            if len(text) > entry.raw_bytes:
                raise _damaged(entry)
    except TextDamagedError as error:
        raise _damaged(entry) from error
    if hashlib.sha256(text).hexdigest() != entry.raw_sha256:
        raise _damaged(entry)
    return bytes(text)


def _damaged(entry: TextEntry) -> ObjectDamagedError:
    return ObjectDamagedError(
        f"The definitions {entry.key} are not what was archived.",
        "Nothing was restored. Verify the archive: `ledger archive verify`.",
    )


def _differs(year: FiscalYear, how: str) -> RestorationDiffersError:
    return RestorationDiffersError(
        f"The definitions in the archive of fiscal year {year.label} say {how}: the log says that something else was"
        " closed.",
        "Nothing was restored. Verify the record and the archive.",
    )
