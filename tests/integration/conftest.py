"""What the tests with real services share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.application import Ledger
from tests.integration.place import running_ledger


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    """A ledger on a PostgreSQL of the module's own, with every schema that workers use."""
    with running_ledger() as ledger:
        yield ledger
