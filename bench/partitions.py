r"""`make bench-partitions`: what `COPY` into a table costs that is divided by fiscal years, by range and by list.

The same rows of three years, in no order of days, go into a bare table, into one that is partitioned by ranges of the
day, and into one that is partitioned by a list of years. The last gets a file of its own, in which the year stands in
front of each row: who sends files does not write it there. All go to the same server and take turns; the medians are
compared as ratios, because a machine that others share is slow at times.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Engine, text

from api.embedded.postgresql import installed_folder
from tests.golden.examples import MASTER_KEY
from tests.integration.place import running_ledger
from tests.stack import open_folder

COLUMNS = "id bigint, account text, booked_on date NOT NULL, amount numeric, currency text, memo text, valid boolean"
YEARS = (2023, 2024, 2025)
ROWS = (
    "SELECT {year}n, 'AC' || lpad((random() * 1e6)::int::text, 6, '0'), day, (random() * 1e8)::int / 100.0, 'EUR',"
    " 'payment ' || (random() * 1e9)::int || ' to supplier ' || (random() * 1e5)::int, n % 2 = 0"
    " FROM generate_series(1, {rows}) AS n, LATERAL (SELECT date '2023-04-01' + n * 7 % 1096 AS day) AS days"
)
FISCAL_YEAR = "extract(year FROM day - interval '3 months')::int, "
BARE, BY_RANGE, BY_LIST = "bare", "by_range", "by_list"
TABLES = {
    BARE: f"CREATE TABLE bare ({COLUMNS})",
    BY_RANGE: f"CREATE TABLE by_range ({COLUMNS}) PARTITION BY RANGE (booked_on);"
    + "".join(
        f"CREATE TABLE by_range_{year} PARTITION OF by_range FOR VALUES FROM ('{year}-04-01') TO ('{year + 1}-04-01');"
        for year in YEARS
    ),
    BY_LIST: f"CREATE TABLE by_list (fiscal_year int NOT NULL, {COLUMNS}) PARTITION BY LIST (fiscal_year);"
    + "".join(f"CREATE TABLE by_list_{year} PARTITION OF by_list FOR VALUES IN ({year});" for year in YEARS),
}


class Bench:
    """A server, and the files that are copied into its tables."""

    def __init__(self, engine: Engine, folder: Path, rows: int) -> None:
        self._url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._files = {BARE: folder / "rows", BY_RANGE: folder / "rows", BY_LIST: folder / "rows with years"}
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA bench"))
        for table, year in ((BARE, ""), (BY_LIST, FISCAL_YEAR)):
            self._psql(f"\\copy ({ROWS.format(year=year, rows=rows)}) TO '{self._files[table]}'")

    def copy_into(self, table: str) -> float:
        """Seconds that `COPY` takes, into a new table of a server that has nothing left to write."""
        self._psql(f"DROP TABLE IF EXISTS {table}", TABLES[table], "CHECKPOINT")
        started = time.monotonic()
        self._psql(f"\\copy {table} FROM '{self._files[table]}'")
        return time.monotonic() - started

    def _psql(self, *commands: str) -> None:
        program = [str(installed_folder() / "bin" / "psql"), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"]
        first = (
            "SET client_min_messages = warning",
            "SET search_path = bench",
            "DO $$ BEGIN PERFORM setseed(0.5); END $$",
        )
        what = [part for command in (*first, *commands) for part in ("--command", command)]
        subprocess.run([*program, *what, self._url], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with open_folder() as folder, running_ledger(subject_key=SecretStr(MASTER_KEY)) as ledger:
        bench = Bench(ledger.engine, folder, options.rows)
        seconds: dict[str, list[float]] = {table: [] for table in TABLES}
        for number in range(1, options.rounds + 1):
            for table, took in seconds.items():
                took.append(bench.copy_into(table))
            print(f"round {number}  " + "  ".join(f"{table} {took[-1]:.2f} s" for table, took in seconds.items()))
        for table, took in seconds.items():
            ratio = statistics.median(each / bare for each, bare in zip(took, seconds[BARE], strict=True))
            print(f"{table:9} {statistics.median(took):6.2f} s, {ratio:.2f} times the bare table of the same round")


if __name__ == "__main__":
    main()
