"""A file's name is a label: what could mislead a reader or a program is refused, the rest is kept as it is."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.uploads import FILENAME_CHARACTERS_MAX, checked_filename
from ledger.errors import InvalidRequestError


@pytest.mark.parametrize(
    "name", ["payments.csv", "Zahlungen März.csv", "支払い.csv", "a b (1).txt", ".hidden", "x" * 255]
)
def test_an_honest_name_is_kept_as_it_is(name: str) -> None:
    assert checked_filename(name) == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "no name"),
        ("   ", "no name"),
        ("x" * 256, "256 characters"),
        ("../../etc/passwd", "names a folder"),
        ("..", "names a folder"),
        ("C:\\payments.csv", "names a folder"),
        ("pay\0ments.csv", "invisible"),
        ("pay\u202egnp.csv", "invisible"),
        ("line\nbreak.csv", "invisible"),
        ("zero\u200bwidth.csv", "invisible"),
    ],
)
def test_a_name_that_could_mislead_is_refused_with_the_reason(name: str, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told):
        checked_filename(name)


@given(st.text(max_size=300))
def test_no_name_that_passes_can_become_a_path_or_hide_something(name: str) -> None:
    try:
        kept = checked_filename(name)
    except InvalidRequestError as error:
        assert str(error).isprintable()
        return
    assert kept == name
    assert 0 < len(kept) <= FILENAME_CHARACTERS_MAX
    assert "/" not in kept
    assert "\\" not in kept
    assert not any(unicodedata.category(character).startswith("C") for character in kept if character.isprintable())
