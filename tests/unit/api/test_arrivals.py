"""What the files of a request are written down as, decided by the bytes that stand in a real blob store."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.arrivals import arrivals_of
from api.choices import checked_choices
from api.uploads import StoredFile, checked_filename, shown_name
from ledger.application import Arrival
from ledger.blobs import FolderBlobStore, put
from ledger.errors import InvalidRequestError
from projections.formats.containers import SIGNATURE_BYTES
from tests.unit.projections.test_containers import a_zip
from tests.unit.projections.workbooks import xlsx

CSV = b"id,amount\n1,2\n"
SIDECAR = json.dumps({"records": 1}).encode()
TOTALS = {"records": 1, "columns": {}}
FILES_MAX = 50

Arrive = Callable[..., list[Arrival]]


class CountingStore(FolderBlobStore):
    """A folder of blobs that counts the bytes that are read from it."""

    bytes_read = 0

    def read(self, sha256: str, start: int, size: int) -> bytes:
        data = super().read(sha256, start, size)
        self.bytes_read += len(data)
        return data


@pytest.fixture
def blobs(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


@pytest.fixture
def arrive(blobs: CountingStore) -> Arrive:
    """What the files, by name, of one request are written down as."""

    def ask(files: dict[str, bytes] | list[tuple[str, bytes]], dataset: str | None = None, **said: str) -> Any:
        stored = [
            StoredFile(name, "x/y", put(blobs, content), len(content), content[:SIGNATURE_BYTES])
            for name, content in (files.items() if isinstance(files, dict) else files)
        ]
        return arrivals_of(stored, checked_choices(dataset, "return", said), blobs, files_max=FILES_MAX)

    return ask


def names(arrivals: list[Arrival]) -> list[tuple[str, str, str | None]]:
    return [(arrival.filename, arrival.dataset, arrival.reading.get("member")) for arrival in arrivals]


def test_an_archive_with_several_files_is_one_arrival_for_each(arrive: Arrive) -> None:
    data = a_zip({"a.csv": CSV, "May/b.json": CSV, "c.csv.gz": CSV})
    arrivals = arrive({"june.zip": data}, encoding="cp1252")
    assert names(arrivals) == [
        ("june.zip/a.csv", "a", "a.csv"),
        ("june.zip/May/b.json", "b", "May/b.json"),
        ("june.zip/c.csv.gz", "c", "c.csv.gz"),
    ]
    assert {(arrival.sha256, arrival.size) for arrival in arrivals} == {(arrivals[0].sha256, len(data))}
    assert {arrival.reading["encoding"] for arrival in arrivals} == {"cp1252"}
    assert len({arrival.job_id for arrival in arrivals}) == 3


def test_a_dataset_that_is_named_takes_every_file(arrive: Arrive) -> None:
    arrivals = arrive({"june.zip": a_zip({"a.csv": CSV, "b.csv": CSV})}, dataset="together")
    assert [arrival.dataset for arrival in arrivals] == ["together", "together"]


@pytest.mark.parametrize(
    ("filename", "content", "dataset"),
    [
        ("june.csv", CSV, "payments_adjustments"),
        ("payments_adjustments.csv", CSV, None),
        ("june.zip", a_zip({"a.csv": CSV, "payments_adjustments.csv": CSV}), None),
    ],
    ids=["by its dataset", "by its name", "by its name in an archive"],
)
def test_no_file_is_sent_into_adjustments(arrive: Arrive, filename: str, content: bytes, dataset: str | None) -> None:
    with pytest.raises(InvalidRequestError, match="'payments_adjustments' is kept for adjustments"):
        arrive({filename: content}, dataset=dataset)


def test_an_archive_with_one_file_is_one_arrival_as_it_came(arrive: Arrive) -> None:
    assert names(arrive({"june.zip": a_zip({"a.csv": CSV, "folder/": b""})})) == [("june.zip", "june", None)]


def test_the_member_that_is_chosen_is_the_only_arrival(arrive: Arrive) -> None:
    data = a_zip({"a.csv": CSV, "b.csv": CSV, "b.csv.totals.json": SIDECAR})
    [arrival] = arrive({"june.zip": data}, member="b.csv")
    assert names([arrival]) == [("june.zip", "june", "b.csv")]
    assert arrival.control_totals == TOTALS
    assert names(arrive({"june.zip": data}, member="c.csv")) == [("june.zip", "june", "c.csv")]


def test_a_workbook_is_no_archive(arrive: Arrive) -> None:
    assert names(arrive({"june.xlsx": xlsx({"S": [["a"], [1]]})})) == [("june.xlsx", "june", None)]


def test_a_member_tells_no_files_apart_that_are_no_archives(arrive: Arrive) -> None:
    [arrival] = arrive({"a.csv": CSV}, member="x", sheet="S")
    assert arrival.reading == {"sheet": "S"}


def test_an_archive_that_its_reader_refuses_is_one_arrival(arrive: Arrive) -> None:
    good = a_zip({"a.csv": CSV, "b.csv": CSV})
    locked = bytearray(good)
    locked[6] |= 1
    locked[good.index(b"PK\x01\x02") + 8] |= 1
    many = a_zip({f"{number}.csv": b"1" for number in range(1_001)})
    for data in (bytes(locked), many, good[:-30], a_zip({}), a_zip({"../a.csv": CSV, "b.csv": CSV})):
        assert names(arrive({"june.zip": data})) == [("june.zip", "june", None)]


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_to_an_archive_makes_the_door_fail(arrive: Arrive, seed: int) -> None:
    chance = random.Random(seed)
    sample = a_zip({"a.csv": CSV, "b.csv": CSV, "b.csv.totals.json": SIDECAR})
    split = 0
    for _ in range(300):
        data = bytearray(sample[: chance.randrange(5, len(sample))] if chance.random() < 0.2 else sample)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        arrivals = arrive({"june.zip": bytes(data)})
        split += len(arrivals) > 1
        if len(arrivals) == 1:
            assert arrivals[0].filename == "june.zip" or arrivals[0].control_totals
    assert split, "no damage left the directory whole"


def test_of_an_archive_no_file_to_load_is_read(arrive: Arrive, blobs: CountingStore) -> None:
    content = random.Random(1).randbytes(3_000_000)
    data = a_zip({"a.bin": content, "b.bin": content, "b.bin.totals.json": SIDECAR})
    assert len(arrive({"june.zip": data})) == 2
    assert 0 < blobs.bytes_read < 200_000
    before = blobs.bytes_read
    arrive({"plain.csv": CSV})
    assert blobs.bytes_read == before, "a plain file is not read at all"


def test_files_that_hold_control_totals_are_no_arrivals_but_those_of_their_files(arrive: Arrive) -> None:
    arrivals = arrive({"a.csv.totals.json": SIDECAR, "a.csv": CSV, "b.csv": CSV})
    assert [(arrival.filename, arrival.control_totals) for arrival in arrivals] == [("a.csv", TOTALS), ("b.csv", {})]
    arrivals = arrive({"june.zip": a_zip({"a.csv": CSV, "a.csv.totals.json": SIDECAR})})
    assert names(arrivals) == [("june.zip/a.csv", "a", "a.csv")]
    assert arrivals[0].control_totals == TOTALS


def test_control_totals_beside_an_archive_are_those_of_its_only_file(arrive: Arrive) -> None:
    [arrival] = arrive({"june.zip": a_zip({"a.csv": CSV}), "june.zip.totals.json": SIDECAR})
    assert arrival.control_totals == TOTALS


BOTH = {"a.csv": CSV, "a.csv.totals.json": SIDECAR}
# What is told -> what came, and what is said of it.
REFUSED: dict[str, tuple[dict[str, bytes], dict[str, str]]] = {
    "of 'a.csv' are given twice": (BOTH, {"control_totals": '{"records": 1}'}),
    "of 'june.zip' are given twice": ({"june.zip": a_zip(BOTH)}, {"control_totals": '{"records": 1}'}),
    "of 'may.zip' are given twice": (
        {"may.zip": a_zip({**BOTH, "b.csv": CSV})},
        {"control_totals": '{"records": 1}', "member": "a.csv"},
    ),
    "of 'both.zip' are given twice": ({"both.zip": a_zip(BOTH), "both.zip.totals.json": SIDECAR}, {}),
    "holds 2 files; control totals are those of one": (
        {"june.zip": a_zip({"a.csv": CSV, "b.csv": CSV}), "june.zip.totals.json": SIDECAR},
        {},
    ),
    "did not come with it": ({"b.csv": CSV, "a.csv.totals.json": SIDECAR}, {}),
    "no JSON": ({"a.csv": CSV, "a.csv.totals.json": b"{"}, {}),
    "has 70,000 bytes": ({"a.csv": CSV, "a.csv.totals.json": b" " * 70_000}, {}),
    "'a.csv.totals.json' is empty": ({"a.csv": CSV, "a.csv.totals.json": b""}, {}),
}


@pytest.mark.parametrize(("told", "case"), REFUSED.items(), ids=list(REFUSED))
def test_control_totals_that_are_not_clear_are_refused(
    arrive: Arrive, told: str, case: tuple[dict[str, bytes], dict[str, str]]
) -> None:
    files, said = case
    with pytest.raises(InvalidRequestError, match=told) as caught:
        arrive(files, **said)
    assert caught.value.remedy


def test_files_in_archives_count_as_files_of_the_request(arrive: Arrive) -> None:
    half = a_zip({f"{number}.csv": CSV for number in range(FILES_MAX // 2)})
    assert len(arrive({"one.zip": half, "two.zip": half})) == FILES_MAX
    with pytest.raises(InvalidRequestError, match="more than 50 files in one upload"):
        arrive({"one.zip": half, "two.zip": half, "plain.csv": CSV})


def test_a_name_in_an_archive_is_shown_without_what_could_mislead() -> None:
    assert shown_name("May/Zahlungen März.csv") == "May/Zahlungen März.csv"
    shown = shown_name("pay\u202egnp\n.csv")
    assert shown == "pay\\u202egnp\\n.csv"
    long = shown_name("x" * 70_000 + ".csv")
    assert long.endswith("x.csv")
    assert checked_filename(long) == long


def test_a_file_is_read_by_its_own_name_however_it_is_shown(arrive: Arrive) -> None:
    name = "Icon\r.csv"
    data = a_zip({"IconX.csv": CSV, "b.csv": CSV}).replace(b"IconX.csv", name.encode())
    assert struct.pack("<L", 0x04034B50) == data[:4]
    assert names(arrive({"june.zip": data})) == [
        ("june.zip/Icon\\r.csv", "icon", name),
        ("june.zip/b.csv", "b", "b.csv"),
    ]
