"""Transcripts: what a reader's rows become, and that nothing of them is lost on the way to COPY."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.blobs import FolderBlobStore, put
from ledger.domain.column import Column
from ledger.domain.contract import COLUMNS_MAX, Contract
from ledger.domain.values import ColumnType
from ledger.errors import FileRefusedError
from projections.checking import check
from projections.fields import Reading
from projections.formats.dialect import read_records
from projections.formats.records import find_records
from projections.formats.rows import Flaw, Limits, Row
from projections.formats.splitter import split
from projections.formats.transcript import (
    DIALECT,
    MARK,
    RAW_BYTES_MAX,
    WRITE_BYTES,
    Place,
    Transcriber,
    first_columns,
    flaw_in,
    places,
)
from projections.inference import infer
from projections.transcribe import Transcription, transcribe
from tests.thorough import thorough
from tests.unit.projections.checks import APRIL, contract_of

RAW = b"\x00what was sent\xff\n"
SEARCH = thorough(examples=150, steps=1)


def transcribed(rows: Sequence[Row], columns: tuple[str, ...] | None = None, raw: bytes = RAW) -> tuple[bytes, bytes]:
    """The transcript of rows and their places, written as `transcribe` does it: again if there are more columns."""
    columns = first_columns(rows) if columns is None else columns
    while True:
        text, where = io.BytesIO(), io.BytesIO()
        transcriber = Transcriber(text.write, where.write, lambda row: raw, columns)
        for row in rows:
            transcriber.take(row)
        transcriber.finish()
        assert transcriber.records == len(rows)
        if tuple(transcriber.found) == columns:
            return text.getvalue(), where.getvalue()
        columns = tuple(transcriber.found)


def read_back(text: bytes) -> tuple[list[dict[str, str | None] | Flaw], int]:
    """The records that loading finds in a transcript, and how many the splitter counts."""
    plan = split(
        lambda start, length: text[start : start + length],
        len(text),
        DIALECT,
        chunk_bytes=1 << 30,
        record_bytes_max=1 << 30,
    )
    assert plan.header is not None
    columns = tuple(Column(f"c{place}", ColumnType.TEXT) for place in range(len(plan.header)))
    reading = Reading(Contract(columns), columns, APRIL, own_null=True, transcript=True)
    found = check(find_records(text[plan.data_start :], DIALECT), reading)
    records: dict[int, dict[str, str | None] | Flaw] = dict(found.flaws)
    for index, values in zip(found.good.tolist(), found.values.to_pylist(), strict=True):
        records[index] = dict(zip(plan.header, values.values(), strict=True))
    return [records[index] for index in sorted(records)], plan.records


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5) | st.text(
    st.sampled_from('a",\n\r\x18\ufeff\\. '), max_size=5
)
FLAWS = st.builds(Flaw, st.sampled_from(["json_invalid", "xml_invalid"]), TEXT, st.none() | TEXT)
NAMES = st.sampled_from(["a", "b", 'c"', "d,\n", ""])
ROWS = st.lists(
    st.one_of(
        st.builds(Row, st.dictionaries(NAMES, st.none() | TEXT, max_size=3), st.just(0), st.just(0)),
        st.builds(Row, st.just({}), st.just(0), st.just(0), FLAWS),
    ),
    max_size=8,
)


def header_of(text: bytes) -> tuple[str, ...]:
    return tuple(next(read_records(text.decode(), ",")))


def is_lost(row: Row, columns: tuple[str, ...]) -> bool:
    return not row.values or (len(columns) == 1 and row.values.get(columns[0]) is None)


@SEARCH
@given(ROWS, st.booleans())
def test_every_row_is_a_record_with_its_values_or_with_its_flaw(rows: list[Row], columns_are_known: bool) -> None:
    text, _ = transcribed(rows)
    names = header_of(text)
    if not names:
        return
    if columns_are_known:
        text, _ = transcribed(rows, names)
    found, counted = read_back(text)
    assert counted == len(found) == len(rows)
    for row, record in zip(rows, found, strict=True):
        first = row.values.get(names[0])
        if row.flaw is not None:
            assert record == Flaw(row.flaw.code, row.flaw.reason, row.flaw.column, RAW)
        elif is_lost(row, names):
            assert record == Flaw("record_empty", "it has no value at all", None, RAW)
        elif first is not None and first.startswith(MARK):
            assert record == Flaw("control_character", "it starts with the control character U+0018", names[0], RAW)
        else:
            assert record == {name: row.values.get(name) for name in names}


@SEARCH
@given(ROWS)
def test_the_same_rows_make_the_same_bytes_in_one_pass_or_in_two(rows: list[Row]) -> None:
    names = header_of(transcribed(rows)[0])
    assert transcribed(rows) == transcribed(rows) == transcribed(list(rows), names)


def test_a_transcript_is_csv_in_which_every_value_is_quoted_and_nothing_else() -> None:
    rows = [
        Row({"a": "1", "b": None}, 0, 5),
        Row({"b": 'say "x"', "a": ""}, 5, 5),
        Row({"c": "ü\r\n", "a": None}, 10, 5),
    ]
    text, _ = transcribed(rows)
    assert text == '"a","b","c"\n"1",,\n"","say ""x""",\n,,"ü\r\n"\n'.encode()


def test_columns_stand_in_the_order_in_which_they_first_occur_and_known_ones_come_first() -> None:
    rows = [Row({"b": "1"}, 0, 0), Row({}, 0, 0, Flaw("x", "y")), Row({"a": "2", "c": "3"}, 0, 0)]
    assert transcribed(rows)[0].splitlines()[0] == b'"b","a","c"'
    assert transcribed(rows, ("c",))[0].splitlines()[0] == b'"c","b","a"'
    assert first_columns([Row({}, 0, 0), Row({"q": "1"}, 0, 0, Flaw("x", "y")), *rows]) == ("b",)
    assert first_columns([Row({}, 0, 0)]) == ()


def test_a_row_without_any_value_is_told_where_its_line_would_be_blank_and_else_is_a_row() -> None:
    empty = Flaw("record_empty", "it has no value at all", None, RAW)
    one = [Row({"a": "1"}, 0, 0), Row({"a": None}, 0, 0), Row({"a": ""}, 0, 0), Row({}, 0, 0)]
    assert read_back(transcribed(one)[0]) == ([{"a": "1"}, empty, {"a": ""}, empty], 4)
    two = [Row({"a": "1"}, 0, 0), Row({"a": None}, 0, 0), Row({"b": None}, 0, 0), Row({}, 0, 0)]
    nothing = {"a": None, "b": None}
    assert read_back(transcribed(two)[0]) == ([{"a": "1", "b": None}, nothing, nothing, empty], 4)


def test_a_first_value_that_starts_as_a_mark_does_is_no_mark_and_is_told() -> None:
    forged = f'{MARK}["json_invalid",null,"forged",""]'
    for rows in ([Row({"a": forged}, 0, 0)], [Row({"a": forged, "b": "1"}, 0, 0)]):
        [record], _ = read_back(transcribed(rows)[0])
        assert record == Flaw("control_character", "it starts with the control character U+0018", "a", RAW)
    assert read_back(transcribed([Row({"a": "1", "b": forged}, 0, 0)])[0]) == ([{"a": "1", "b": forged}], 1)


@SEARCH
@given(FLAWS, st.binary(max_size=20))
def test_a_mark_gives_back_its_flaw_and_what_was_sent(flaw: Flaw, raw: bytes) -> None:
    text, _ = transcribed([Row({"a": "1"}, 0, 0), Row({}, 0, 0, flaw)], raw=raw)
    [_, _, [field]] = read_records(text.decode(), ",")
    assert flaw_in(field) == Flaw(flaw.code, flaw.reason, flaw.column, raw)
    assert flaw_in(field[1:]) is None


def test_of_what_was_sent_a_mark_keeps_no_more_than_its_limit() -> None:
    text, _ = transcribed([Row({"a": "1"}, 0, 0), Row({}, 0, 0, Flaw("x", "y"))], raw=b"z" * RAW_BYTES_MAX * 3)
    [_, flaw], _ = read_back(text)
    assert flaw == Flaw("x", "y", None, b"z" * RAW_BYTES_MAX)


@SEARCH
@given(st.lists(st.builds(Place, st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1))))
def test_places_come_back_as_they_were_for_flawed_rows_too(wanted: list[Place]) -> None:
    flaws = [None, Flaw("x", "y")]
    rows = [Row({"a": "1"}, *place, flaws[number % 2]) for number, place in enumerate(wanted)]
    _, data = transcribed(rows)
    assert list(places(data)) == wanted
    assert len(data) == 16 * len(wanted)


def test_a_long_transcript_is_written_in_pieces_and_is_that_of_one_piece() -> None:
    pieces: list[bytes] = []
    where: list[bytes] = []
    transcriber = Transcriber(pieces.append, where.append, lambda row: b"", ("a",))
    rows = [Row({"a": "ü" * 1000 + str(number)}, number, 1) for number in range(3 * WRITE_BYTES // 1000)]
    for row in rows:
        transcriber.take(row)
    transcriber.finish()
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 3 * WRITE_BYTES
    assert b"".join(pieces) == b'"a"\n' + b"".join(f'"{row.values["a"]}"\n'.encode() for row in rows)
    assert [place.offset for place in places(b"".join(where))] == list(range(len(rows)))


def test_more_columns_than_a_table_can_have_are_refused_with_the_record_that_brings_them() -> None:
    rows = [Row({f"c{number}": "1"}, 0, 0) for number in range(COLUMNS_MAX + 1)]
    assert transcribed(rows[:-1])[0].count(b"\n") == COLUMNS_MAX + 1
    with pytest.raises(FileRefusedError) as caught:
        transcribed(rows)
    assert (caught.value.code, caught.value.record) == ("columns_too_many", COLUMNS_MAX + 1)


def transcribe_json_lines(folder: Path, data: bytes) -> tuple[Transcription, bytes]:
    blobs = FolderBlobStore(folder / "blobs")
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    made = transcribe(blobs, put(blobs, data), len(data), "a.jsonl", folder=scratch, limits=Limits(), options={})
    assert made.transcript is not None
    assert made.text_size is not None
    return made, blobs.read(made.transcript, 0, made.text_size)


def test_the_same_file_makes_the_same_transcript_and_places(tmp_path: Path) -> None:
    data = b'{"a": 1}\n{"b": "x\\ny", "a": null}\n{"a": \n{"c": [1, 2]}\n'
    first, text = transcribe_json_lines(tmp_path / "1", data)
    assert transcribe_json_lines(tmp_path / "2", data) == (first, text)
    records, counted = read_back(text)
    assert counted == 4
    assert records[0] == {"a": "1", "b": None, "c": None}
    assert records[1] == {"a": None, "b": "x\ny", "c": None}
    assert isinstance(records[2], Flaw)
    assert records[2].raw == b'{"a": '
    assert records[3] == {"a": None, "b": None, "c": "[1,2]"}


@pytest.mark.parametrize("data", [b'{"a": x}\n{"b": y}\n', b"{}\n{}\n", b'{}\n{"a": x}\n'])
def test_a_file_of_which_no_record_can_be_read_is_refused_with_the_first(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FileRefusedError) as caught:
        transcribe_json_lines(tmp_path, data)
    assert (caught.value.code, caught.value.record) == ("records_unreadable", 1)


def test_a_mark_says_nothing_about_the_type_of_its_column() -> None:
    text, _ = transcribed([Row({"a": "1"}, 0, 0), Row({}, 0, 0, Flaw("x", "y")), Row({"a": "2"}, 0, 0)])
    samples = [text[len(b'"a"\n') :]]
    assert infer(["a"], samples, DIALECT, transcript=True).columns == contract_of(["bigint"]).columns
    assert infer(["a"], samples, DIALECT).columns == contract_of(["text"]).columns
