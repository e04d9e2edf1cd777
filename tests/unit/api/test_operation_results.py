"""What operations came to is told in plain sentences."""

from __future__ import annotations

from typing import Any

import pytest

from api.cli.operation_results import sentences

REPLAYED = {
    "job_id": "1f",
    "equal": True,
    "differences": [],
    "differences_total": 0,
    "chunks": 2,
    "records": 1_000,
    "parser_version": "delimited-1",
    "parser_version_now": None,
}
REBUILT = {"view": "any", "events": 9, "position": 9, "equal": False, "differences_total": 12}
DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    ({"job_id": "1f", "what": "changed"}, "job 1f: changed"),
    ({"position": 1_234, "what": "missing"}, "the entry of position 1,234: missing"),
    (
        {
            "job_id": "1f",
            "job_position": 3,
            "partitions": {"fy2026_27": {"rows": 9, "rows_in_log": 10}},
            "records_missing": [4, 5],
            "records_unknown": [],
            "records_changed": [7],
        },
        "job 1f: fy2026_27: 9 rows, by the log 10; records missing 4, 5; changed 7",
    ),
]


@pytest.mark.parametrize(("difference", "sentence"), DIFFERENCES, ids=["status", "trail", "data"])
def test_a_difference_of_a_rebuild_is_told_by_what_its_view_consists_of(
    difference: dict[str, Any], sentence: str
) -> None:
    result = {**REBUILT, "differences": [difference]}
    told = sentences({"kind": "rebuild", "arguments": {"view": "any"}, "result": result}).splitlines()
    assert told[1:] == [f"  {sentence}", "  and 11 more"]


@pytest.mark.parametrize(
    ("said", "is_told"), [({"name_erased": True}, True), ({"name_erased": False}, False), ({}, False)]
)
def test_a_replay_tells_that_no_text_was_made_of_a_file_without_a_name(said: dict[str, bool], is_told: bool) -> None:
    told = sentences({"kind": "replay", "arguments": {}, "result": {**REPLAYED, **said}})
    assert ("The file's name is erased" in told) is is_told


def test_what_archives_come_to_is_told_by_their_objects() -> None:
    archives = [{"objects": 12, "bytes": 3_456, "content": True}, {"objects": 1, "bytes": 4, "content": True}]
    result = {
        "level": "archives", "fiscal_year": "FY2025-26", "archives": archives, "holds": False,
        "findings_total": 1, "findings": [{"message": "a/b is not locked."}], "not_compared": [],
    }  # fmt: skip
    told = sentences({"kind": "verify", "arguments": {}, "result": result})
    assert told == (
        "Verified the archives of FY2025-26: 13 objects, 3,460 bytes, with their content. 1 finding:\n"
        "  a/b is not locked."
    )


def test_what_was_read_of_archives_by_chance_is_named() -> None:
    archives = [{"fiscal_year": "FY2025-26", "generation": 2, "sample": ["data/a", "events/b"]}]
    told = sentences(
        {
            "kind": "verify",
            "arguments": {},
            "result": {
                "level": "archives", "archives": archives, "holds": True, "events": 9, "leaves": 9, "checkpoints": 1,
                "anchors": 0, "findings": [], "not_compared": [],
            },
        }
    )  # fmt: skip
    assert told.splitlines() == [
        "Verified (archives): 9 events, 9 leaves, 1 checkpoint, 1 archive, and 0 checkpoints kept elsewhere."
        " Nothing was changed.",
        "Chosen by chance, and read as well:",
        "  FY2025-26, generation 2: data/a, events/b",
    ]
