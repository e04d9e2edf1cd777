"""The faults that this ledger has to survive, by number, and the mark that says which test does what about one.

    @fault(
        6,
        "kill -9 of a worker in the middle of COPY",
        protection="rows and event in one transaction",
        seen="with the COPY committed first: 40 rows twice",
    )
    def test_...

Rules:
1. `protection` names what in the code makes the test pass; `seen` tells what the test said when that was taken out
   by hand. A fault test that nobody has seen fail proves nothing.
2. A number of `MUST_HAPPEN` has a test, or a reason in `NOT_HERE`. A test holds this, and that `README.md` is what
   `table` makes of it.
3. A mark is read from the source, so its arguments are plain texts and numbers.
"""

from __future__ import annotations

import pytest

MUST_HAPPEN: dict[int, str] = {
    1: "No event, no job; the half file is swept away later; the sender's next attempt works.",
    2: "No job. The blob, if it has its name, is adopted by the next attempt.",
    3: "The next attempt gets the same job; it was received once.",
    4: "The work is published by whoever comes next; the job runs.",
    5: "The message comes twice; the work is claimed once.",
    6: "The transaction is undone; the chunk is loaded once by another.",
    7: "The work is not lost with the child; it is sent again.",
    8: "The message comes again and has no effect.",
    9: "What was committed stands, what was not is done again; nothing twice, no false failure.",
    10: "Another finishes with a higher epoch; whoever was overtaken cannot commit.",
    11: "One claims the work, the others find nothing due.",
    12: "Every message may come any number of times.",
    13: "Messages may come in any order.",
    14: "Doors say 503 and when to come again; everybody reconnects; nothing lost, nothing twice.",
    15: "Broken connections are replaced; nothing lost, nothing twice.",
    16: "A deadlock or a lock timeout is tried again, within limits.",
    17: "The append fails as a whole; everything goes on when there is room again.",
    18: "503 with a remedy; nothing of the file stays; works again when there is room.",
    19: "A failed write-back is a refused file, never an accepted one.",
    20: "Uploads and loads go on; status is told from the log; the view catches up.",
    21: "The batch is applied again and changes nothing.",
    22: "No event is passed over.",
    23: "The view stops loudly and skips nothing; rebuilding is possible.",
    24: "Uploads are accepted; the work waits and is done when the broker is back.",
    25: "The dispatcher waits; uploads are not touched.",
    26: "All due work is sent again.",
    27: "The silent connection is given up; who was overtaken cannot commit.",
    28: "The message is missed and sent again until somebody answers.",
    29: "A chunk is too small to take that long; attempts are limited all the same.",
    30: "Only PostgreSQL's clock decides about leases; only versions about order.",
    31: "The row falls into the fiscal year of its day, in the zone of the settings.",
    32: "4xx or a closed connection; no job.",
    39: "So many attempts, then Failed for good; others are not touched.",
    52: "503 in good time, no hanging, and no lost acknowledgement; recovers by itself.",
    53: "Memory does not grow with the number of files; old workers are replaced.",
    55: "The small file is loaded beside the huge one.",
    56: "The broker holds only so many messages; all is done when the workers are back.",
}

# Faults that are not staged in this folder, and why.
NOT_HERE: dict[int, str] = {}


def fault(number: int, what: str, *, protection: str, seen: str) -> pytest.MarkDecorator:
    """Mark a test as one about a fault; see the rules above."""
    assert number in MUST_HAPPEN, f"there is no fault {number}"
    return pytest.mark.fault(number, what, protection=protection, seen=seen)
