"""Having a file read by a process of its own, and telling what became of that.

Rules:
1. A refusal of the reader is the file's, and so is a crash of the reader or its want of memory: the same bytes would do
   it again. A kill from outside, an answer that is none and a part that is away are the world's.
2. The process ends with the work that wants it, and has a limit of time and of memory.
3. What a reader says, however much it is, never holds it up: it goes into files.
4. An error of the world names no file: whoever replays a job writes it down where names are not sealed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any

from ledger.blobs import BlobStore
from ledger.errors import FileRefusedError, LedgerError, PartUnavailableError
from ledger.settings import Settings
from projections.formats.recognise import SAMPLE_BYTES, TEXT, is_separated_text
from projections.formats.rows import Limits
from projections.reader_process import OUT_OF_MEMORY, PART_AWAY
from projections.transcribe import Transcription, is_its_own_text

READER = (sys.executable, "-m", "projections.reader_process")
# What a process dies of by its own doing; SIGKILL comes from outside.
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
# The kind of an error in a traceback. What it says may quote a record, and an event holds no row data.
ERROR_KIND = re.compile(r"^([\w.]{1,100}(?:Error|Exception))(?::|$)", re.MULTILINE | re.ASCII)
TRIED_AGAIN = "It is tried again."
SAID_BYTES_MAX = 1 << 20
ANOTHER_WAY = "Save it anew with another program, or as CSV in UTF-8, and send it again."


def is_read_as_it_is(blobs: BlobStore, sha256: str, options: Mapping[str, str]) -> bool:
    """Whether no other process has to make text of a file."""
    as_it_is = "encoding" not in options and not is_separated_text(options)
    return as_it_is and is_its_own_text(blobs.read(sha256, 0, SAMPLE_BYTES))


def transcription_of(
    blobs: BlobStore, sha256: str, size: int, filename: str, settings: Settings, options: Mapping[str, str]
) -> Transcription:
    """What text a file is, made by another process if it is not its own.

    Raises:
        FileRefusedError: the file cannot be read.
        PartUnavailableError: the blob store cannot be reached.
        LedgerError: the process was killed.
    """
    if is_read_as_it_is(blobs, sha256, options):
        return Transcription(TEXT, [], filename)
    with TemporaryDirectory(prefix="ledger-read-", dir=settings.scratch_folder) as folder:
        request = {
            "blobs_url": settings.blobs_url,
            "sha256": sha256,
            "size": size,
            "filename": filename,
            "folder": str(Path(folder)),
            "limits": asdict(Limits(record_bytes_max=settings.record_bytes_max)),
            "options": dict(options),
            "memory_bytes_max": settings.reader_memory_bytes_max,
        }
        return _told(filename, _run(request, settings.reader_seconds_max, filename))


def _run(request: dict[str, Any], seconds_max: float, filename: str) -> subprocess.CompletedProcess[str]:
    with TemporaryFile() as told, TemporaryFile() as said:
        # Its end of the pipe stays open until it has answered: it ends when we do.
        process = subprocess.Popen(READER, stdin=subprocess.PIPE, stdout=told, stderr=said)
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):  # it has ended already, and its end says why
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            process.wait(seconds_max)
        except subprocess.TimeoutExpired:
            raise _refused("reader_too_slow", f"took longer than {seconds_max:g} seconds", filename) from None
        finally:
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
        return subprocess.CompletedProcess(READER, process.returncode, _text_in(told), _text_in(said))


def _text_in(file: IO[bytes]) -> str:
    """The end of what was written, which is all of it as a rule."""
    file.seek(max(file.seek(0, os.SEEK_END) - SAID_BYTES_MAX, 0))
    return file.read().decode("utf-8", "replace")


def _told(filename: str, ended: subprocess.CompletedProcess[str]) -> Transcription:
    if ended.returncode == PART_AWAY:
        raise PartUnavailableError(ended.stderr, TRIED_AGAIN)
    if ended.returncode == OUT_OF_MEMORY:
        raise _refused("reader_out_of_memory", "takes more memory than a reader may have", filename)
    if -ended.returncode in CRASHES:
        raise _refused("reader_crashed", f"ends its reader ({signal.Signals(-ended.returncode).name})", filename)
    if ended.returncode != 0:
        kinds = ERROR_KIND.findall(ended.stderr) or ["it said nothing"]
        raise LedgerError(f"The reader of the file ended with {ended.returncode}: {kinds[-1]}.", TRIED_AGAIN)
    try:
        told = json.loads(ended.stdout)
        found = FileRefusedError(**told["refused"]) if "refused" in told else Transcription(**told["transcription"])
    except (ValueError, TypeError, KeyError):
        raise LedgerError("The reader of the file gave no answer that can be read.", TRIED_AGAIN) from None
    if isinstance(found, FileRefusedError):
        raise found
    return found


def _refused(code: str, what: str, filename: str) -> FileRefusedError:
    return FileRefusedError(code, f"Reading {filename!r} {what}: it is broken, or made to do harm.", ANOTHER_WAY)
