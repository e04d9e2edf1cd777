"""What a sender says that a file comes to is taken whole or refused with the reason, and it is clear of which file."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.domain.control_totals import (
    SIDECAR_BYTES_MAX,
    check_sidecar_size,
    checked_control_totals,
    sidecar_totals,
    sidecars_of,
)
from ledger.errors import InvalidRequestError

RIGHT = {"records": 3, "columns": {"amount": {"sum": "10.50"}}}
# What a text says -> what is told of it.
WRONG = {
    "": "no JSON",
    "{": "no JSON",
    '{"columns": ' * 20_000: "no JSON that can be kept",
    '{"columns": {"\\ud800": {"count": 1}}}': "no JSON that can be kept",
    '{"records": ' + "9" * 5_000 + "}": "no JSON that can be kept",
    "[]": "neither records nor columns",
    "{}": "neither records nor columns",
    '{"columns": {}}': "neither records nor columns",
    '{"records": 1, "rows": 1}': "something else",
    '{"records": 1, "records": 2}': "'records' twice",
    '{"records": 1.5}': "no whole number",
    '{"records": true}': "no whole number",
    '{"records": 9007199254740992}': "no whole number from 0 to 9007199254740991",
    '{"columns": {"amount": {}}}': "no objects",
    '{"columns": {"amount": {"mean": 1}}}': "'mean' of column 'amount'",
    '{"columns": {"amount": {"sum": NaN}}}': "'sum' of column 'amount'",
    '{"columns": {"amount": {"sum": "NaN"}}}': "no number",
}


@pytest.mark.parametrize(("text", "told"), WRONG.items(), ids=[text[:20] for text in WRONG])
def test_what_cannot_be_meant_is_refused_with_the_reason(text: str, told: str) -> None:
    for refuse in (
        lambda: checked_control_totals(text, "may.csv.totals.json"),
        lambda: sidecar_totals("may.csv.totals.json", text.encode()),
    ):
        with pytest.raises(InvalidRequestError, match=told) as caught:
            refuse()
        assert "may.csv.totals.json" in caught.value.message
        assert caught.value.remedy


def test_a_sum_keeps_every_digit_that_was_said() -> None:
    text = '{"columns": {"amount": {"sum": 12345678901234567890.123456789, "min": "a"}}}'
    assert checked_control_totals(text)["columns"] == {"amount": {"sum": "12345678901234567890.123456789", "min": "a"}}


def test_what_was_checked_says_the_same_when_it_is_checked_again() -> None:
    once = checked_control_totals('{"records": 3, "columns": {"amount": {"sum": 1.50, "count": 2}}}')
    assert checked_control_totals(json.dumps(once)) == once


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_sidecar_ends_in_anything_but_totals_or_a_refusal(content: bytes) -> None:
    try:
        assert sidecar_totals("a.totals.json", content)
    except InvalidRequestError as error:
        assert error.remedy


def test_a_sidecar_may_begin_with_a_byte_order_mark() -> None:
    assert sidecar_totals("a.totals.json", b"\xef\xbb\xbf" + json.dumps(RIGHT).encode()) == RIGHT


def test_a_sidecar_that_is_no_text_is_refused_with_the_byte() -> None:
    with pytest.raises(InvalidRequestError, match=r"no text in UTF-8 \(byte 2\)"):
        sidecar_totals("a.totals.json", b'{"\xff": 1}')


def test_a_sidecar_that_is_too_long_is_refused_before_it_is_read() -> None:
    check_sidecar_size("a.totals.json", SIDECAR_BYTES_MAX)
    with pytest.raises(InvalidRequestError, match=r"'a.totals.json' has 65,537 bytes"):
        check_sidecar_size("a.totals.json", SIDECAR_BYTES_MAX + 1)


def test_a_sidecar_belongs_to_the_file_beside_it() -> None:
    names = ["may/a.csv", "a.csv", "may/a.csv.totals.json", "b.json", "b.json.totals.json", "totals.json"]
    assert sidecars_of(names) == {"may/a.csv": "may/a.csv.totals.json", "b.json": "b.json.totals.json"}


@pytest.mark.parametrize(
    "names",
    [
        ["a.csv.totals.json"],
        ["a.csv", "b.csv.totals.json"],
        ["may/a.csv", "june/a.csv.totals.json"],
        ["a.csv", "a.totals.json"],
        ["a.csv", "a.csv.totals.json", "a.csv.totals.json.totals.json"],
        [".totals.json"],
    ],
)
def test_a_sidecar_without_its_file_is_refused(names: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="did not come with it") as caught:
        sidecars_of(names)
    assert "Send both together" in caught.value.remedy


@pytest.mark.parametrize("twice", ["a.csv", "a.csv.totals.json"])
def test_totals_that_could_be_of_two_files_are_refused(twice: str) -> None:
    with pytest.raises(InvalidRequestError, match="2 files are called"):
        sidecars_of(["a.csv", "a.csv.totals.json", twice])
    assert sidecars_of(["other.csv", "other.csv", "a.csv", "a.csv.totals.json"])
