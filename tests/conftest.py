"""What all tests share."""

from __future__ import annotations

import os

from tests.golden.examples import MASTER_KEY

# No ledger starts without a master key. A whole ledger (`tests.stack`) makes its own.
os.environ.setdefault("LEDGER_SUBJECT_KEY", MASTER_KEY)
