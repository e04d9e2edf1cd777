"""A contract as text says one thing, or is refused with its line; what is written is read again the same."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from api.contract_text import JSON_TYPE, YAML_TYPE, media_type_of, read_contract_text, write_yaml
from ledger.domain.contract import Contract
from ledger.errors import InvalidRequestError
from tests.thorough import thorough
from tests.unit.ledger.contracts import contracts

SURPRISES = (
    *("no", "yes", "on", "off", "y", "N", "NULL", "Null", "True", "FALSE", "2024-01-31", "2024-01-31 10:00:00"),
    *("12:30:45", "007", "1_000", "0x1F", "0o17", "+1", ".5", "1.", ".inf", ".NaN", "NA", "N/A", "<<", "="),
)


def yaml_of(text: str) -> Any:
    return read_contract_text(text.encode(), YAML_TYPE)


def json_of(text: str) -> Any:
    return read_contract_text(text.encode(), JSON_TYPE)


@pytest.mark.parametrize("word", SURPRISES)
def test_a_word_that_json_does_not_know_is_a_text_in_yaml(word: str) -> None:
    assert yaml_of(f"a: {word}\nb: [{word}]") == {"a": word, "b": [word]}


@pytest.mark.parametrize("text", ["0", "-12", "0.10", "1e5", "-1.5E-3", "true", "false", "null"])
def test_a_word_that_json_knows_is_the_same_in_yaml(text: str) -> None:
    assert repr(yaml_of(f"a: {text}")) == repr(json_of(f'{{"a": {text}}}'))
    assert yaml_of(f"a: '{text}'\nb: !!str {text}") == {"a": text, "b": text}


def test_a_fraction_keeps_its_digits() -> None:
    assert str(yaml_of("a: 0.10")["a"]) == str(json_of('{"a": 0.10}')["a"]) == "0.10"
    assert yaml_of("a: 12345678901234567890.01") == {"a": Decimal("12345678901234567890.01")}


def test_nothing_is_null_in_yaml() -> None:
    assert yaml_of("a:\nb: ~\nc: ''") == {"a": None, "b": None, "c": ""}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: [1\nc: 2\n", 3, ""),
        ("a: 1\n\tb: 2", 2, ""),
        ("a: 1\na: 2", 2, "again"),
        ("a: 1\nb: {c: 1, c: 2}", 2, "again"),
        ("a: 1\n---\nb: 1", 2, "second document"),
        ("a: &x 1\nb: *x", 1, "anchor"),
        ("b: 1\na: !!python/object:os.system x", 2, "tag"),
        ("a: !!binary aGFsbG8=", 1, "tag"),
        ("a: 1\nb: !!set {c}", 2, "tag"),
        ("a: 1\n? [b]\n: 2", 2, "no text"),
        ("a: 1\nb: \x01", 2, ""),
        ("a: 1\nb: 'x", 2, ""),
        ("a: " + "[" * 60, 1, "deep"),
    ],
)
def test_yaml_that_is_wrong_is_refused_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"The YAML cannot be read in line {line}: .*{problem}"):
        yaml_of(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1,\n "b" 2}', "in line 2: .*column"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"a": NaN}', "NaN, which is no number"),
        ('{"a": 1e999999999}', "too many digits"),
        ('{"a": ' + "1" * 5000 + "}", "too many digits"),
        ("[" * 100_000, "too deep"),
        ("[]", "no object"),
        ("", "in line 1"),
    ],
)
def test_json_that_is_wrong_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        json_of(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "# nothing", "- a", "text", "[a]"])
def test_yaml_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="no object"):
        yaml_of(text)


def test_what_is_not_utf_8_is_refused_with_its_line() -> None:
    with pytest.raises(InvalidRequestError, match="in line 2: it is not UTF-8"):
        read_contract_text("a: 1\nb: ü".encode("latin-1"), YAML_TYPE)


def test_a_byte_order_mark_is_no_part_of_a_name() -> None:
    assert read_contract_text("\ufeffa: 1".encode(), YAML_TYPE) == {"a": 1}


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("c.yaml", "{}", YAML_TYPE),
        ("c.YML", "{}", YAML_TYPE),
        ("c.json", "a: 1", JSON_TYPE),
        ("c.txt", ' \n{"a": 1}', JSON_TYPE),
        ("contract", "a: 1", YAML_TYPE),
    ],
)
def test_a_file_is_what_its_extension_says_or_else_its_start(name: str, text: str, expected: str) -> None:
    assert media_type_of(name, text.encode()) == expected


@thorough(examples=200, steps=1)
@given(contracts())
def test_a_contract_survives_yaml_and_json(contract: Contract) -> None:
    values = contract.to_dict()
    for text in (write_yaml(values), json.dumps(values, indent=2, ensure_ascii=False)):
        media_type = media_type_of("contract", text.encode())
        assert Contract.from_dict(read_contract_text(text.encode(), media_type)) == contract


@thorough(examples=200, steps=1)
@given(st.dictionaries(st.text(min_size=1), st.text() | st.sampled_from(SURPRISES)))
def test_what_is_written_as_yaml_is_read_again_the_same_by_any_reader(values: dict[str, str]) -> None:
    written = write_yaml(values)
    assert yaml.safe_load(written) == values
    assert read_contract_text(written.encode(), YAML_TYPE) == values


@pytest.mark.parametrize("text", ["1e5", "0o17", "1E+2", "-.5", "1."])
def test_a_text_that_yaml_1_2_takes_for_a_number_is_quoted(text: str) -> None:
    assert write_yaml({"a": text}) == f"a: '{text}'\n"


def test_a_number_where_a_text_belongs_is_refused_and_not_turned_into_one() -> None:
    column = "columns: [{name: a, type: numeric, %s}]"
    for wrong in ("minimum: 0.10", "allowed: [1]", "allowed: [true]", "format: false"):
        with pytest.raises(InvalidRequestError, match="Put quotes around it"):
            Contract.from_dict(yaml_of(column % wrong))
    with pytest.raises(InvalidRequestError, match="Write true or false"):
        Contract.from_dict(yaml_of(column % "nullable: no"))
