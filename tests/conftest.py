"""What all tests share."""

from __future__ import annotations

import os

from tests.golden.examples import MASTER_KEY

# The processes that tests start, which are hundreds, keep what they have compiled for each other.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No ledger starts without a master key. A whole ledger (`tests.stack`) makes its own.
os.environ.setdefault("LEDGER_SUBJECT_KEY", MASTER_KEY)
