"""What sound files of every format are made of: names, texts, and ways of cutting."""

from __future__ import annotations

import random
import string

from tests.fuzz.promise import Given

RECORDS_MAX = 12
ALPHABETS = (string.ascii_letters, "äöüéßñ€", "日本語文字", '",;|\t ', "𝄞😀", "<>&'\\{}[]:")


def text_of(chance: random.Random, alphabets: tuple[str, ...] = ALPHABETS) -> str:
    """A short text that starts and ends with a letter, so that nothing takes it for a blank or a number."""
    inner = "".join(chance.choice(chance.choice(alphabets)) for _ in range(chance.randrange(8)))
    return f"{chance.choice(string.ascii_letters)}{inner}{chance.choice(string.ascii_letters)}"


def names_of(chance: random.Random) -> list[str]:
    """Different names of columns, none of which another one starts with."""
    return [f"{letter}{text_of(chance, (string.ascii_lowercase,))}" for letter in "pqrstuv"[: chance.randrange(2, 8)]]


def cut(chance: random.Random, given: Given) -> Given:
    """The file with some way of cutting its text."""
    sizes = {
        "chunk_bytes": chance.choice((1, 200, 500, 5_000, 1 << 20)),
        "block_bytes": chance.choice((16, 77, 500, 4_096)),
    }
    return Given(given.reader, given.content, given.filename, given.options, given.records, **sizes)
