"""`make fuzz`: files of every kind are damaged at random, and read as the ledger reads them.

    python -m tests.fuzz [--seconds 60] [--seed N] [--reader NAME ...]
    python -m tests.fuzz --again FILE

What is promised of every file stands in `promise`. The seed decides which files there are; it is printed, so that a
run can be done again. A file that breaks the promise, or ends the process that reads it, is kept, and the output says
where, and how to read it again. The end is a table. The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.fuzz.pool import ReadingChild
from tests.fuzz.run import fuzz, kept, table
from tests.fuzz.samples import SOUND


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each reader")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--reader", choices=list(SOUND), nargs="+", default=list(SOUND))
    parser.add_argument("--limit", type=float, default=30.0, help="how many seconds one file may take")
    parser.add_argument("--folder", type=Path, help="where files are kept that somebody has to look at")
    parser.add_argument("--again", type=Path, metavar="FILE", help="read one file that was kept, and nothing else")
    options = parser.parse_args()
    with ReadingChild() as child:
        if options.again is not None:
            given = kept(options.again)
            answer = child.ask(given, options.limit)
            sys.stdout.write(f"{given.filename} ({given.reader}): {answer.broken or answer.contained or answer.came}\n")
            return int(answer.broken is not None)
        sys.stdout.write(f"seed {options.seed}\n")
        sys.stdout.flush()
        limits = {"seconds": options.seconds, "seconds_max": options.limit}
        tallies = fuzz(options.reader, options.seed, child, folder=options.folder, **limits)
    sys.stdout.write(table(tallies) + "\n")
    return int(any(tally.broken for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
