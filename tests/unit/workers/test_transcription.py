"""The process that reads a file, and what is told of its end: readers that refuse, crash, hang and talk nonsense.

A reader here is the real process with another `answer`, or a program of a line.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.blobs import FolderBlobStore, put
from ledger.errors import FileRefusedError, LedgerError, PartUnavailableError
from ledger.settings import Settings
from projections.formats.recognise import TEXT
from projections.transcribe import Transcription
from tests.waiting import wait_until
from workers import transcription
from workers.retry import is_worth_retrying
from workers.transcription import transcription_of

ROOT = Path(__file__).parents[3]
JSON_LINES = b'{"a": 1}\n{"a": 2}\n'
NO_LIMIT_SECONDS = 300.0
WAIT_SECONDS_MAX = 60.0

Read = Callable[..., Transcription]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Has a file transcribed as the plan of a job does."""

    def read(data: bytes = JSON_LINES, options: dict[str, str] | None = None, **settings: Any) -> Transcription:
        blobs = FolderBlobStore(tmp_path / "blobs")
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        chosen = Settings(
            blobs_url=(tmp_path / "blobs").as_uri(),
            scratch_folder=scratch,
            **{"reader_seconds_max": NO_LIMIT_SECONDS, **settings},
        )
        try:
            return transcription_of(blobs, put(blobs, data), len(data), "payments.jsonl", chosen, options or {})
        finally:
            assert list(scratch.iterdir()) == [], "nothing is left behind"

    return read


def use_program(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(transcription, "READER", (sys.executable, "-c", program))


def use_answer(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """The real process, whose answer is this expression; `request` is what it was asked."""
    use_program(monkeypatch, with_answer(body))


def with_answer(body: str) -> str:
    return (
        "import ctypes, os, signal, sys, time\n"
        "from ledger.errors import PartUnavailableError\n"
        "from projections import reader_process\n"
        "def fail(error): raise error\n"
        f"reader_process.answer = lambda request: {body}\n"
        "reader_process.main()\n"
    )


def refusal_of(read: Read, **settings: Any) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        read(**settings)
    assert not is_worth_retrying(caught.value)
    assert caught.value.remedy
    return caught.value


def trouble_of(read: Read) -> LedgerError:
    with pytest.raises(LedgerError) as caught:
        read()
    assert is_worth_retrying(caught.value)
    return caught.value


def test_what_a_reader_makes_of_a_file_is_handed_over(read: Read) -> None:
    made = read()
    assert (made.format, made.layers, made.filename) == ("json_lines", [], "payments.jsonl")
    assert made.transcript is not None
    assert made.places is not None
    assert made.text_size == len('"a"\n"1"\n"2"\n')


def test_text_is_its_own_and_no_process_is_started_for_it(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(monkeypatch, "raise SystemExit(1)")
    assert read(b"a,b\n1,2\n") == Transcription(TEXT, [], "payments.jsonl")


def test_a_refusal_of_the_reader_is_the_files(read: Read) -> None:
    assert refusal_of(read, data=b"\x1f\x8b\x08\x00 this is no gzip").code == "compressed_invalid"


def test_every_part_of_a_refusal_comes_over(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    use_answer(
        monkeypatch,
        "{'refused': dict(code='x', message='y', remedy='z', record=1, line=2, byte_offset=3, column='c')}",
    )
    found = refusal_of(read)
    told = found.code, found.message, found.remedy, found.record, found.line, found.byte_offset, found.column
    assert told == ("x", "y", "z", 1, 2, 3, "c")


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_crash_of_the_reader_is_the_files(read: Read, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    use_answer(monkeypatch, f"os.kill(os.getpid(), signal.{name})")
    found = refusal_of(read)
    assert found.code == "reader_crashed"
    assert name in found.message
    assert "payments.jsonl" in found.message


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_kill_from_outside_is_the_worlds(read: Read, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    use_answer(monkeypatch, f"os.kill(os.getpid(), signal.{name})")
    assert not isinstance(trouble_of(read), FileRefusedError)


def test_a_reader_that_wants_more_memory_than_it_may_have_refuses_its_file(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_answer(monkeypatch, "{'taken': len(bytearray(4 << 30))}")
    assert refusal_of(read, reader_memory_bytes_max=2 << 30).code == "reader_out_of_memory"


def test_a_part_that_is_away_is_tried_again(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    use_answer(monkeypatch, "fail(PartUnavailableError('The blob store is away.', 'Bring it back.'))")
    found = trouble_of(read)
    assert isinstance(found, PartUnavailableError)
    assert "The blob store is away." in found.message


@pytest.mark.parametrize(
    "said", ["", "x", "{", "[]", "{}", "null", "1", '{"refused": {}}', '{"transcription": {"a": 1}}', '{"refused": 1}']
)
def test_an_answer_that_is_none_is_the_worlds_and_quotes_nothing(
    read: Read, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    use_program(monkeypatch, f"import sys; sys.stdin.readline(); sys.stdout.write({said!r})")
    assert trouble_of(read).message == "The reader of the file gave no answer that can be read."


def test_bytes_that_are_no_text_are_no_answer(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(monkeypatch, "import sys; sys.stdout.buffer.write(bytes(range(256)) * 9)")
    assert "gave no answer" in trouble_of(read).message


def test_our_own_mistake_in_a_reader_is_told_by_its_kind_and_never_by_what_it_quotes(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_answer(monkeypatch, r"fail(ValueError('a salary of 5000\nand another: 6000'))")
    assert trouble_of(read).message == "The reader of the file ended with 1: ValueError."
    use_program(monkeypatch, "raise SystemExit(3)")
    assert trouble_of(read).message == "The reader of the file ended with 3: it said nothing."


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_says_more_than_a_pipe_holds_is_not_held_up(
    read: Read, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    use_answer(
        monkeypatch,
        f"(sys.{stream}.write(' ' * (1 << 19)), {{'transcription': dict(format='json', layers=[], filename='a')}})[1]",
    )
    assert read().format == "json"


def test_a_reader_that_ends_before_it_was_asked_is_told_by_its_end(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    use_program(monkeypatch, "import os, signal; os.close(0); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(FileRefusedError) as caught:
        read(options={"encoding": "x" * (1 << 20)})  # more than the pipe takes before it is read
    assert caught.value.code == "reader_crashed"


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def started(tmp_path: Path) -> bool:
    return (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != ""


def hang(tmp_path: Path, how: str = f"time.sleep({NO_LIMIT_SECONDS})") -> str:
    """An answer that leaves the id of its process and never comes."""
    return f"(open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())), {how})"


@pytest.mark.parametrize(
    "how",
    [f"time.sleep({NO_LIMIT_SECONDS})", f"ctypes.PyDLL(None).sleep({NO_LIMIT_SECONDS:.0f})"],
    ids=["waits", "hangs"],
)
def test_a_reader_ends_when_its_asker_is_killed(tmp_path: Path, how: str) -> None:
    asker = (
        "import sys\n"
        "from types import SimpleNamespace\n"
        "from workers import transcription\n"
        f"transcription.READER = (sys.executable, '-c', {with_answer(hang(tmp_path, how))!r})\n"
        "request = {'memory_bytes_max': 4 << 30}\n"
        f"transcription._run(request, {NO_LIMIT_SECONDS}, SimpleNamespace(filename='a'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", asker], cwd=ROOT)
    try:
        wait_until(lambda: started(tmp_path), "the reader does not start")
        reader = int((tmp_path / "pid").read_text())
        assert not has_ended(reader)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_until(lambda: has_ended(reader), "the reader lives on")


def interrupt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException) -> list[float]:
    """Let waiting for the reader end so, once that is at work; how long it would have been waited for."""
    wait, limits = subprocess.Popen.wait, []

    def interrupted(process: Any, timeout: float | None = None) -> int:
        if timeout is None:
            return wait(process)
        limits.append(timeout)
        wait_until(lambda: started(tmp_path), "the reader does not start")
        raise error

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    return limits


def test_a_reader_that_takes_too_long_is_ended_and_its_file_refused(
    read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_answer(monkeypatch, hang(tmp_path))
    limits = interrupt(monkeypatch, tmp_path, subprocess.TimeoutExpired("reader", 7.0))
    found = refusal_of(read, reader_seconds_max=7.0)
    assert found.code == "reader_too_slow"
    assert "7 seconds" in found.message
    assert limits == [7.0]
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_an_interrupted_worker_leaves_no_reader(read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_answer(monkeypatch, hang(tmp_path))
    interrupt(monkeypatch, tmp_path, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        read()
    assert has_ended(int((tmp_path / "pid").read_text()))
