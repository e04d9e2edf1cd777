"""The short form of `make chaos`."""

from __future__ import annotations

import os
import sys

import pytest

from tests.faults.chaos import run

SECONDS = float(os.environ.get("LEDGER_TEST_CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("LEDGER_TEST_CHAOS_SEED", "4711"))


@pytest.mark.rabbitmq
def test_whatever_breaks_at_random_nothing_is_lost_and_nothing_doubled() -> None:
    sys.stdout.write("\n".join([f"seed {SEED}", *run(SECONDS, SEED)]))
