"""A contract survives the Open Data Contract Standard, and what a document of it means is kept, named or refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from open_data_contract_standard.model import OpenDataContractStandard

from api.contract_text import JSON_TYPE, YAML_TYPE, read_contract_text, write_yaml
from ledger.domain.column import Column
from ledger.domain.contract import Contract
from ledger.domain.odcs import to_odcs
from ledger.domain.odcs_formats import format_read, format_written, pattern_read, pattern_written
from ledger.domain.odcs_import import from_odcs, is_odcs
from ledger.domain.values import ColumnType
from ledger.errors import InvalidRequestError
from tests.thorough import thorough
from tests.unit.ledger.contracts import contracts

SCHEMA = jsonschema.Draft201909Validator(json.loads(OpenDataContractStandard.json_schema()))
HEAD = {"apiVersion": "v3.1.0", "kind": "DataContract", "id": "ledger-dataset-orders", "status": "active"}


def document(*properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {"name": "orders", "properties": [{"name": "a", **each} for each in properties], **more}
    return {**HEAD, "name": "orders", "version": "1.0.0", "schema": [schema]}


def column(**said: Any) -> tuple[dict[str, Any], list[str]]:
    """What becomes of a property, without its name, and the notes."""
    contract, notes = from_odcs("orders", document(said))
    [only] = contract.to_dict()["columns"]
    return {name: value for name, value in only.items() if name != "name"}, notes


def refused(*properties: dict[str, Any], **more: Any) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        from_odcs("orders", document(*properties, **more))
    assert len(str(caught.value)) < 600
    return str(caught.value)


@thorough(examples=60, steps=1)
@given(contracts())
def test_a_contract_survives_the_standard(contract: Contract) -> None:
    written = to_odcs("orders", contract, 3)
    assert from_odcs("orders", written) == (contract, [])
    for text, media_type in ((write_yaml(written), YAML_TYPE), (json.dumps(written), JSON_TYPE)):
        assert from_odcs("orders", read_contract_text(text.encode(), media_type)) == (contract, [])


@thorough(examples=60, steps=1)
@given(contracts())
def test_what_is_written_is_valid_by_the_standard(contract: Contract) -> None:
    text = write_yaml(to_odcs("orders", contract, 1))
    SCHEMA.validate(yaml.safe_load(text))
    assert OpenDataContractStandard.from_string(text).kind == "DataContract"


def test_the_standards_own_fields_say_what_they_can() -> None:
    columns = (
        Column("id", ColumnType.BIGINT, nullable=False, minimum="1"),
        Column("day", ColumnType.DATE, nullable=False, format="%d.%m.%Y", maximum="2030-12-31"),
        Column("rate", ColumnType.NUMERIC, format="1.234,56", minimum="0.10", maximum="0.123456789012345678901"),
        Column("code", ColumnType.TEXT, pattern="[A-Z]{2}", allowed=("no", "DE")),
    )
    written = to_odcs("orders", Contract(columns, ("", "NA"), "day", key=("day", "id")), 2)
    SCHEMA.validate(written)
    assert written["version"] == "2.0.0"
    [table] = written["schema"]
    assert {each["property"]: each["value"] for each in table["customProperties"]} == {
        "ledger.nullTokens": ["", "NA"],
        "ledger.fiscalDateColumn": "day",
    }
    id_, day, rate, code = table["properties"]
    assert (id_["logicalType"], id_["physicalType"], id_["required"]) == ("integer", "bigint", True)
    assert (id_["primaryKeyPosition"], day["primaryKeyPosition"], "primaryKey" in rate) == (2, 1, False)
    assert day["logicalTypeOptions"] == {"format": "dd.MM.yyyy", "maximum": "2030-12-31"}
    assert "customProperties" not in day
    assert rate["logicalTypeOptions"] == {"minimum": 0.1}
    assert {each["property"]: each["value"] for each in rate["customProperties"]} == {
        "ledger.format": "1.234,56",
        "ledger.minimum": "0.10",
        "ledger.maximum": "0.123456789012345678901",
    }
    assert code["logicalTypeOptions"] == {"pattern": "^(?:[A-Z]{2})$"}
    assert code["quality"][0]["arguments"] == {"validValues": ["no", "DE"]}


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"logicalType": "integer", "physicalType": "NUMBER(10)"}, "bigint"),
        ({"logicalType": "number"}, "numeric"),
        ({"logicalType": "number", "physicalType": "int4"}, "bigint"),
        ({"logicalType": "number", "physicalType": "DECIMAL(10, 2)"}, "numeric"),
        ({"logicalType": "date"}, "date"),
        ({"logicalType": "date", "physicalType": "timestamp"}, "timestamp"),
        ({"logicalType": "timestamp", "physicalType": "Timestamp with time zone"}, "timestamptz"),
        ({"logicalType": "timestamp", "logicalTypeOptions": {"timezone": True}}, "timestamptz"),
        ({"logicalType": "timestamp", "logicalTypeOptions": {"timezone": False}, "physicalType": "x"}, "timestamp"),
        ({"logicalType": "timestamp", "logicalTypeOptions": {"format": "yyyy-MM-ddTHH:mm:ssZ"}}, "timestamptz"),
        ({"logicalType": "boolean"}, "boolean"),
        ({"logicalType": "string", "physicalType": "date"}, "text"),
        ({"physicalType": "VARCHAR(18)"}, "text"),
    ],
)
def test_the_logical_type_decides_and_the_physical_one_where_it_must(said: dict[str, Any], kind: str) -> None:
    assert column(**said)[0]["type"] == kind


def test_an_instant_without_a_word_of_its_offset_is_named() -> None:
    read, notes = column(logicalType="timestamp")
    assert read["type"] == "timestamp"
    assert notes == ["The property 'a' does not say whether its times have an offset; they are read without."]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"logicalType": "integer", "logicalTypeOptions": {"exclusiveMinimum": 0}}, {"minimum": "1"}),
        ({"logicalType": "date", "logicalTypeOptions": {"exclusiveMaximum": "2024-03-01"}}, {"maximum": "2024-02-29"}),
        ({"logicalType": "integer", "logicalTypeOptions": {"format": "i64"}}, {}),
        ({"logicalType": "date", "logicalTypeOptions": {"format": "yyyy-MM-dd"}}, {}),
        ({"logicalType": "date", "logicalTypeOptions": {"format": "d-MMM-yyyy"}}, {"format": "%-d-%b-%Y"}),
        ({"logicalType": "string", "logicalTypeOptions": {"minLength": 0}}, {}),
        ({"logicalType": "integer", "enum": [{"value": 1}, {"value": 2}]}, {"allowed": ["1", "2"]}),
        ({"logicalType": "boolean", "enum": [{"value": True}]}, {"allowed": ["true"]}),
        ({"logicalType": "string", "required": True}, {"nullable": False}),
        ({"logicalType": "string", "partitioned": False, "tags": [], "description": None}, {}),
    ],
)
def test_what_can_be_kept_is_kept(said: dict[str, Any], read: dict[str, Any]) -> None:
    kept, notes = column(**said)
    assert {"nullable": True, **read, "type": kept["type"]} == kept
    assert notes == []


@pytest.mark.parametrize(
    ("said", "note"),
    [
        ({"description": "who paid"}, "Not kept: 'description' of 'a'."),
        ({"physicalType": "varchar(18)"}, "Not kept: 'physicalType' of 'a'."),
        ({"physicalName": "A_1"}, "Not kept: 'physicalName' of 'a'."),
        ({"logicalTypeOptions": {"format": "email"}}, "Not kept: 'format' of 'a'."),
        ({"quality": [{"type": "sql", "query": "SELECT 1", "mustBe": 1}]}, "Not kept: 'quality' of 'a'."),
        ({"quality": [{"metric": "nullValues", "mustBe": 0}]}, "Not kept: 'quality' of 'a'."),
        (
            {"quality": [{"metric": "invalidValues", "arguments": {"validValues": ["x"]}, "mustBeLessThan": 5}]},
            "Not kept: 'quality' of 'a'.",
        ),
        ({"enum": [{"value": "x", "label": "X"}]}, "Not kept: 'enum.label' of 'a'."),
        ({"customProperties": [{"property": "owner", "value": 1}]}, "Not kept: 'customProperties.owner' of 'a'."),
        ({"tag": ["not of the standard"]}, "Not kept: 'tag' of 'a'."),
        (
            {"logicalTypeOptions": {"pattern": "[A-Z]"}},
            "The pattern of property 'a' is read in the syntax of RE2.",
        ),
    ],
)
def test_what_is_not_kept_is_named(said: dict[str, Any], note: str) -> None:
    assert column(logicalType="string", **said)[1] == [note]


def test_what_the_whole_document_says_beside_is_named_once_with_some_of_its_columns() -> None:
    properties = [{"name": f"c{n}", "logicalType": "string", "description": "x"} for n in range(5)]
    said = {**document(*properties, dataGranularityDescription="day"), "id": "1", "team": [{}], "slaProperties": [{}]}
    said["schema"][0] |= {"name": "tbl", "quality": [{"metric": "rowCount", "mustBe": 5}]}
    assert from_odcs("orders", said)[1] == [
        "The object 'tbl' of the schema is read as dataset 'orders'.",
        "Not kept: 'dataGranularityDescription' of 'tbl'.",
        "Not kept: 'description' of 'c0', 'c1', 'c2' and 2 more.",
        "Not kept: 'id'.",
        "Not kept: 'quality' of 'tbl'.",
        "Not kept: 'slaProperties'.",
        "Not kept: 'team'.",
        "Not kept: 'version'.",
    ]


def test_a_key_has_its_columns_in_their_places_and_none_of_them_is_empty() -> None:
    properties = [
        {"name": "x", "logicalType": "integer", "primaryKey": True, "unique": True, "required": True},
        {"name": "y", "logicalType": "string", "primaryKey": True, "primaryKeyPosition": 2, "required": True},
        {"name": "z", "logicalType": "string", "primaryKey": True, "primaryKeyPosition": 1},
    ]
    contract, notes = from_odcs("orders", document(*properties))
    assert contract.key == ("z", "y", "x")
    assert not contract.columns[2].nullable
    assert notes == [
        "The property 'z' is in the primary key, and may not be empty.",
        "The primary key is unique within a fiscal year, and not beyond.",
    ]


@pytest.mark.parametrize(
    "said",
    [
        {"logicalType": "object", "properties": [{"name": "b"}]},
        {"logicalType": "array", "items": {"logicalType": "string"}},
        {"logicalType": "map"},
        {"logicalType": "string", "items": {"logicalType": "string"}},
        {"logicalType": "time"},
        {"logicalType": "date", "physicalType": "time"},
        {},
        {"logicalType": "string", "unique": True},
        {"logicalType": "string", "required": "no"},
        {"logicalType": "string", "logicalTypeOptions": {"maxLength": 0}},
        {"logicalType": "string", "logicalTypeOptions": {"minimum": "a"}},
        {"logicalType": "string", "logicalTypeOptions": {"pattern": "a[^]b"}},
        {"logicalType": "number", "logicalTypeOptions": {"exclusiveMinimum": 0}},
        {"logicalType": "integer", "logicalTypeOptions": {"exclusiveMinimum": 0, "minimum": 5}},
        {"logicalType": "integer", "logicalTypeOptions": {"multipleOf": 5}},
        {"logicalType": "integer", "logicalTypeOptions": {"format": "u8"}},
        {"logicalType": "integer", "logicalTypeOptions": {"minimum": 0.5}},
        {"logicalType": "date", "logicalTypeOptions": {"format": "YYYY-MM-DD"}},
        {"logicalType": "date", "logicalTypeOptions": {"format": "yyyy-MM[-dd]"}},
        {"logicalType": "date", "logicalTypeOptions": {"minimum": 2024}},
        {"logicalType": "string", "enum": [{"value": 1}]},
        {"logicalType": "string", "enum": [{"value": None}]},
        {
            "logicalType": "string",
            "enum": [{"value": "x"}],
            "quality": [{"metric": "invalidValues", "arguments": {"validValues": ["y"]}, "mustBe": 0}],
        },
        {"logicalType": "string", "customProperties": [{"property": "ledger.formt", "value": "x"}]},
        {"logicalType": "number", "customProperties": [{"property": "ledger.minimum", "value": "x"}]},
        {"logicalType": "string", "primaryKey": True, "primaryKeyPosition": 0},
        {"logicalType": "string", "enum": {"value": "x"}},
        {"logicalType": "string", "quality": ["x"]},
    ],
)
def test_what_would_change_the_meaning_is_refused_with_the_column(said: dict[str, Any]) -> None:
    assert "'a'" in refused(said) or "list" in refused(said) or "element" in refused(said)


def test_numbers_that_are_named_one_by_one_are_texts_here_which_is_said() -> None:
    read, notes = column(logicalType="number", enum=[{"value": 2.5}])
    assert read["allowed"] == ["2.5"]
    assert notes == ["The valid values of property 'a' are compared as they are written: 2.50 is not 2.5."]


def test_what_is_changed_in_one_of_two_places_is_refused() -> None:
    written = to_odcs("orders", Contract((Column("a", ColumnType.NUMERIC, minimum="0.10"),)), 1)
    options = written["schema"][0]["properties"][0]["logicalTypeOptions"]
    options["minimum"] = 0.2
    with pytest.raises(InvalidRequestError, match=r"'0.10' as ledger.minimum, and '0.2' as minimum"):
        from_odcs("orders", written)
    del options["minimum"]
    with pytest.raises(InvalidRequestError, match=r"and 'None' as minimum"):
        from_odcs("orders", written)


def test_of_several_objects_the_one_of_the_datasets_name_is_read() -> None:
    said = document({"logicalType": "string"})
    other = {"name": "customers", "physicalName": "c", "properties": [{"name": "b", "logicalType": "date"}]}
    said["schema"].append(other)
    assert [each.name for each in from_odcs("orders", said)[0].columns] == ["a"]
    assert [each.name for each in from_odcs("customers", said)[0].columns] == ["b"]
    with pytest.raises(InvalidRequestError, match="2 objects in its schema, and 0 of them are named 'x'"):
        from_odcs("x", said)


@pytest.mark.parametrize(
    "changed", [{"kind": "DataProduct"}, {"apiVersion": "v2.2.2"}, {"apiVersion": 3}, {"schema": {}}, {"schema": [1]}]
)
def test_another_document_is_refused(changed: dict[str, Any]) -> None:
    said = {**document({"logicalType": "string"}), **changed}
    assert is_odcs(said)
    with pytest.raises(InvalidRequestError):
        from_odcs("orders", said)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("dd.MM.yyyy", "%d.%m.%Y"),
        ("d/M/uuuu", "%-d/%-m/%Y"),
        ("yyyy-MM-dd'T'HH:mm:ss.SSSXXX", "%Y-%m-%dT%H:%M:%S.%f%z"),
        ("yyyy-MM-ddTHH:mm", "%Y-%m-%dT%H:%M"),
        ("yyyy 'o''clock' ''100%", "%Y o'clock '100%%"),
    ],
)
def test_a_format_is_read_in_our_directives(theirs: str, ours: str) -> None:
    assert format_read(theirs) == ours


@pytest.mark.parametrize("theirs", ["YYYY", "EEE", "hh:mm a", "yy", "yyyy'", "{}", "SSSSSSS", "L"])
def test_letters_that_no_directive_says_are_refused(theirs: str) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        format_read(theirs)


def test_a_format_that_takes_several_writings_is_not_written() -> None:
    assert format_written("%Y-%m-%d %H:%M:%S.%f") is None
    assert format_written("%Y-%m-%dT%H:%M%z") is None
    assert format_written("%d of %m '%Y") == "dd 'of' MM ''''yyyy"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("^(?:a|b)$", "a|b"),
        ("^[A-Z]+$", "[A-Z]+"),
        ("^(a|b)[|]$", "(a|b)[|]"),
        ("a", "(?s:.*)(?:a)(?s:.*)"),
        ("^a|b$", "(?s:.*)(?:^a|b$)(?s:.*)"),
        ("^(?:a)|(?:b)$", "(?s:.*)(?:^(?:a)|(?:b)$)(?s:.*)"),
        ("^a\\$", "(?s:.*)(?:^a\\$)(?s:.*)"),
        ("^a\\\\$", "a\\\\"),
    ],
)
def test_a_pattern_that_is_looked_for_is_read_as_one_of_the_whole_value(theirs: str, ours: str) -> None:
    assert pattern_read(theirs) == ours


@pytest.mark.parametrize("ours", ["(?i)a", r"\pL", r"a\z", "(?P<n>a)", "[[:alpha:]]", "[]a]"])
def test_a_pattern_that_ecmascript_does_not_know_is_not_written(ours: str) -> None:
    assert pattern_written(ours) is None
