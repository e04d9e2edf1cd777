"""`python -m projections.reader_process`: makes text of one file, in a process that may die of it.

Libraries for binary formats can crash, hang or take all memory on a file that was broken on purpose. Here that is the
end of this process only: whoever started it tells the file's sender. The request comes as JSON on standard input, the
answer goes as JSON to standard output; when standard input ends, whoever started it is gone, and so is this process.
On Linux the kernel sees to that as well: a library that hangs may leave no other thread a chance to.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from ledger.blobs import open_blob_store
from ledger.errors import FileRefusedError, PartUnavailableError
from projections.formats.rows import Limits
from projections.transcribe import transcribe

PART_AWAY = 75  # EX_TEMPFAIL of sysexits.h: another attempt may end better
OUT_OF_MEMORY = 77
PR_SET_PDEATHSIG = 1  # of Linux: the signal that comes when the thread that started this process ends


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What became of a file: its transcription, or why it is refused."""
    blobs = open_blob_store(request["blobs_url"])
    try:
        transcription = transcribe(
            blobs,
            request["sha256"],
            request["size"],
            request["filename"],
            folder=Path(request["folder"]),
            limits=Limits(**request["limits"]),
            options=request["options"],
        )
    except FileRefusedError as refused:
        return {"refused": refused.arguments()}
    return {"transcription": transcription.to_dict()}


def main() -> None:
    """Read the request, answer it, and end with the one who asked."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    memory = request["memory_bytes_max"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        told = answer(request)
    except PartUnavailableError as away:
        sys.stderr.write(str(away))
        sys.exit(PART_AWAY)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    sys.stdout.write(json.dumps(told))


def _end_with_the_asker() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
