"""How a number of things is told: `1 file`, `2 files`, `1,234 files`."""

from __future__ import annotations


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with what is counted: the word for one of them, and that for several if it does not just end in -s."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"
