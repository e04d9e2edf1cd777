"""The environment of this process: with `ledger.settings`, which reads it through its library, nobody else looks."""

from __future__ import annotations

import os


def environment() -> dict[str, str]:
    """A copy of this process's environment."""
    return dict(os.environ)
