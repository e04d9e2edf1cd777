"""The short form of `make fuzz`, and that it notices what it is there to notice."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.settings import Settings
from projections.formats.encodings import ENCODINGS
from projections.formats.recognise import FORMATS
from tests.fuzz.child import MEMORY_BYTES
from tests.fuzz.plants import PLANTS, READER
from tests.fuzz.pool import ROOT, ReadingChild, read_by_the_ledger
from tests.fuzz.run import Tally, fuzz, kept, the_input
from tests.fuzz.samples import SOUND

SEED = 4711
# A few seconds for each reader where nothing else runs.
INPUTS = 120
SECONDS_MAX = 60.0  # for one file, which takes a hundredth of a second: only what hangs takes as long
COSTLY = {"hangs": (2, 2.0), "eats memory": (2, SECONDS_MAX)}  # how many files, and how long one may take

# PLANT -> what is told of it.
TOLD = {
    "raises a KeyError": "KeyError: 'planted'",
    "hangs": "it hangs",
    "crashes in the worker": "its process died while checking: SIGSEGV",
    "eats memory": "MiB of memory",
    "loses a row": "records read",
    "loses a record of the text": "rows were given",
    "changes a value": "was given, and is",
}


@pytest.fixture(scope="module")
def child() -> Iterator[ReadingChild]:
    """What reads the files of all tests."""
    with ReadingChild() as reading:
        yield reading


@pytest.fixture
def planted(child: ReadingChild, request: pytest.FixtureRequest) -> Iterator[ReadingChild]:
    """The same with a fault in the product."""
    child.end()
    child.plant = request.param
    yield child
    child.end()
    child.plant = None


def fuzzed(child: ReadingChild, folder: Path, reader: str, inputs: int, seconds_max: float) -> tuple[Tally, str]:
    """The figures of a run, and what was said."""
    said: list[str] = []
    [tally] = fuzz([reader], SEED, child, inputs=inputs, seconds_max=seconds_max, folder=folder, say=said.append)
    return tally, "".join(said)


@pytest.mark.parametrize("reader", SOUND)
def test_whatever_happens_to_a_file_the_promise_is_kept(child: ReadingChild, tmp_path: Path, reader: str) -> None:
    tally, said = fuzzed(child, tmp_path, reader, INPUTS, SECONDS_MAX)
    assert (tally.inputs, tally.broken) == (INPUTS, 0), said
    assert tally.sound > INPUTS / 10
    assert tally.refused > INPUTS / 20
    assert tally.records > INPUTS


@pytest.mark.parametrize("planted", TOLD, indirect=True)
def test_a_fault_in_the_product_is_told_with_its_file(planted: ReadingChild, tmp_path: Path) -> None:
    plant = str(planted.plant)
    inputs, seconds_max = COSTLY.get(plant, (8, SECONDS_MAX))
    tally, said = fuzzed(planted, tmp_path, READER, inputs, seconds_max)
    assert tally.broken > 0
    assert TOLD[plant] in said
    [path, *_] = map(Path, re.findall(r"--again (\S+)", said))
    given = kept(path)
    assert given == the_input(READER, SEED, int(path.name.rpartition("-")[2]))
    planted.end()
    planted.plant = None
    assert planted.ask(given, SECONDS_MAX).came is not None


@pytest.mark.parametrize("planted", ["crashes"], indirect=True)
def test_a_crash_that_the_ledger_survives_is_told_and_breaks_nothing(planted: ReadingChild, tmp_path: Path) -> None:
    tally, said = fuzzed(planted, tmp_path, READER, 2, SECONDS_MAX)
    assert (tally.inputs, tally.contained, tally.broken) == (2, 2, 0)
    assert said.count("SIGSEGV; the ledger's own process: ") == 2
    assert said.count("--again ") == 2


def test_every_fault_that_can_be_planted_is_looked_for() -> None:
    assert {*TOLD, "crashes"} == PLANTS.keys()


def test_every_format_and_every_encoding_gets_its_turn() -> None:
    workbooks = {"xlsx", "xls", "ods", "xlsb"}
    assert (FORMATS.keys() - {"workbook"}) | workbooks <= SOUND.keys()
    encodings = Counter(the_input("encodings", SEED, number).options.get("encoding") for number in range(1_000))
    assert encodings.keys() - {None} == set(ENCODINGS)


@pytest.mark.parametrize("reader", ["xml", "parquet", "gzip"])
def test_the_ledgers_own_process_reads_a_sound_file(reader: str) -> None:
    given = next(given for number in range(50) if (given := the_input(reader, SEED, number)).records is not None)
    assert re.fullmatch(r"[0-9a-f]{64}", read_by_the_ledger(given))


def test_the_command_says_its_seed_and_ends_with_a_table(tmp_path: Path) -> None:
    command = shlex.split(f"-m tests.fuzz --seconds 0.5 --seed 5 --reader json xml --folder {tmp_path}")
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seed, head, *rows = ended.stdout.splitlines()
    assert seed == "seed 5"
    assert head.split()[:3] == ["reader", "inputs", "sound"]
    assert [row.split()[0] for row in rows] == ["json", "xml"]


def test_a_process_of_the_fuzzer_has_the_memory_of_a_reader() -> None:
    assert Settings.model_fields["reader_memory_bytes_max"].default == MEMORY_BYTES
