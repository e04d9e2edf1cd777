"""No process of the ledger starts without the master key, under which names are sealed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROCESSES = {
    "api": ["-m", "uvicorn", "api.app:app", "--port", "0"],
    "worker": ["-m", "celery", "--app", "workers.app", "worker", "--concurrency", "1", "--without-mingle"],
    "dispatcher": ["-m", "workers.dispatcher"],
    "projector": ["-m", "projections"],
}


@pytest.mark.parametrize("name", PROCESSES)
def test_no_process_starts_without_a_master_key_and_each_says_what_to_do(name: str) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LEDGER_", "CELERY_"))}
    environment = {**inherited, "LEDGER_API_KEY": "lk_1", "CELERY_BROKER_URL": "memory://"}
    ended = subprocess.run(
        [sys.executable, *PROCESSES[name]], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "is not set" in said
    assert "openssl rand" in said
