r"""`make bench`: the wall time of `ledger load FILE --wait` beside `psql \copy` of the same file.

Both go to the same PostgreSQL server: the ledger into its partitioned table with lineage, `\copy` into a bare
table of the same types. They take turns in one run, and the medians are compared as a ratio, because a machine
that others share is slow at times. Autovacuum is off meanwhile: it would fall upon either of them by chance.
Also printed: where the ledger's time went, and the peak memory of each process.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import time
from datetime import datetime
from pathlib import Path

from api.embedded.postgresql import installed_folder
from tests.stack import Stack, children, memory_peak_bytes, open_folder

COLUMNS = {
    "id": "bigint",
    "account": "text",
    "booked_on": "date",
    "amount": "numeric",
    "currency": "text",
    "memo": "text",
    "valid": "boolean",
    "at": "timestamp",
}


def generate(path: Path, records: int) -> None:
    """Write a CSV of payments: about 100 bytes a record, the same for the same number of records."""
    source = random.Random(1)
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for number in range(1, records + 1):
            file.write(
                f"{number},AC{source.randrange(10**6):06d},2025-{source.randrange(4, 13):02d}-"
                f"{source.randrange(1, 29):02d},{source.randrange(10**8) / 100:.2f},EUR,payment "
                f"{source.randrange(10**9)} to supplier {source.randrange(10**5)},{'true' if number & 1 else 'false'},"
                f"2025-05-{1 + number % 9:02d} 10:{number % 60:02d}:00\n"
            )


class Bench(Stack):
    """A ledger of its own in a temporary home, and a bare table on its server."""

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command line as a user does: what it takes to start is measured as well."""
        assert not text, "nothing here reads standard input"
        return self.run_afresh(*arguments)

    def psql(self, *commands: str) -> None:
        """Run psql on the ledger's server."""
        program = [str(installed_folder() / "bin" / "psql"), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"]
        what = [part for command in ("SET client_min_messages = warning", *commands) for part in ("--command", command)]
        subprocess.run([*program, *what, self.database_url()], check=True)

    def peaks_mebibytes(self) -> dict[str, int]:
        """The most memory that each process, or a child of it, has had."""
        pids = self.state()["pids"]
        return {name: max(map(memory_peak_bytes, (pid, *children(pid)))) >> 20 for name, pid in pids.items()}


def measure_copy(bench: Bench, path: Path) -> float:
    """Seconds that psql takes to load the file into a bare table."""
    bench.psql("DROP TABLE IF EXISTS bare", f"CREATE TABLE bare ({', '.join(map(' '.join, COLUMNS.items()))})")
    bench.psql("CHECKPOINT")
    started = time.monotonic()
    bench.psql(f"\\copy bare FROM '{path}' (FORMAT csv, HEADER true)")
    return time.monotonic() - started


def measure_ledger(bench: Bench, path: Path) -> tuple[float, dict[str, float]]:
    """Seconds from the start of the command to its end, and the stages in between."""
    bench.psql("CHECKPOINT")
    wall = time.time()
    started = time.monotonic()
    task = bench.json("load", str(path), "--wait", "--on-duplicate", "allow")[0]
    seconds = time.monotonic() - started
    assert task["status"] == "Completed", task
    events = bench.json("jobs", "events", task["task_id"])
    at = {event["type"]: datetime.fromisoformat(event["at"]).timestamp() for event in events}
    return seconds, {
        "upload": at["filejob.received"] - wall,
        "plan": at["filejob.queued"] - at["filejob.received"],
        "load": at["filejob.completed"] - at["filejob.queued"],
        "notice": wall + seconds - at["filejob.completed"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with open_folder() as folder:
        path = folder / "payments.csv"
        generate(path, options.records)
        print(f"{options.records:,} records, {path.stat().st_size / 1e6:.0f} MB, {os.cpu_count()} cores")
        bench = Bench(folder / "home", workers=options.workers)
        bench.start()
        bench.psql("ALTER SYSTEM SET autovacuum = off")
        bench.psql("DO $$ BEGIN PERFORM pg_reload_conf(); END $$")
        copies, ledgers, stages = [], [], []
        try:
            for number in range(options.rounds + 1):
                copy, (ledger, parts) = measure_copy(bench, path), measure_ledger(bench, path)
                shown = "  ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())
                kind = "warm-up" if number == 0 else f"round {number}"
                print(f"{kind:8}  \\copy {copy:.2f} s  ledger {ledger:.2f} s  ({shown})", flush=True)
                if number:
                    copies.append(copy)
                    ledgers.append(ledger)
                    stages.append(parts)
            peaks = bench.peaks_mebibytes()
        finally:
            bench.stop()
    ratio = statistics.median(ledgers) / statistics.median(copies)
    print(f"median    \\copy {statistics.median(copies):.2f} s  ledger {statistics.median(ledgers):.2f} s")
    print(f"ratio     {ratio:.2f} x \\copy")
    print("peak MiB  " + "  ".join(f"{name} {mebibytes}" for name, mebibytes in peaks.items()))


if __name__ == "__main__":
    main()
