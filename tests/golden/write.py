"""`python -m tests.golden.write` adds the golden files that are missing. It never changes one that is there."""

from __future__ import annotations

from tests.golden.examples import examples, golden_path, stored, to_text


def write_missing() -> list[str]:
    """Write the files that are missing; their names."""
    written = []
    for event in examples().values():
        path = golden_path(type(event))
        if not path.exists():
            path.write_text(to_text(stored(event)), encoding="utf-8")
            written.append(path.name)
    return written


if __name__ == "__main__":
    print("\n".join(write_missing()) or "Nothing is missing.")  # noqa: T201 - a command's answer
