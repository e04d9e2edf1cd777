"""What the rows of a Parquet file are, value by value, and how a bad file is refused."""

from __future__ import annotations

import io
import math
import struct
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from ledger.domain.values import ColumnType
from ledger.errors import FileRefusedError
from projections.formats.parquet import read_parquet
from projections.formats.rows import Limits, Row
from projections.formats.values import value_type
from tests.unit.projections.mutations import outcomes

LIMITS = Limits()


def a_file(columns: dict[str, pa.Array], **options) -> bytes:
    target = io.BytesIO()
    pq.write_table(pa.table(columns), target, **options)
    return target.getvalue()


def rows(data: bytes, limits: Limits = LIMITS) -> list[Row]:
    return list(read_parquet(io.BytesIO(data), limits, {}))


def told(values, kind, **options) -> list[str | None]:
    """The texts of one column without flaws."""
    read = rows(a_file({"a": pa.array(values, kind)}, **options))
    assert [row.flaw for row in read] == [None] * len(values)
    return [row.values["a"] for row in read]


def flaws(values, kind, **options) -> list[str | None]:
    """The codes of one column's flaws; what has one has no value."""
    read = rows(a_file({"a": pa.array(values, kind)}, **options))
    for row in read:
        if row.flaw is not None:
            assert row.values["a"] is None
            assert row.flaw.column == "a"
            assert row.flaw.reason
    return [row.flaw.code if row.flaw else None for row in read]


def refused(data: bytes, limits: Limits = LIMITS) -> FileRefusedError:
    with pytest.raises(FileRefusedError) as caught:
        rows(data, limits)
    assert caught.value.message and caught.value.remedy
    return caught.value


def test_rows_are_numbered_through_all_row_groups():
    data = a_file({"id": pa.array(range(10)), "name": pa.array([None, "x"] * 5)}, row_group_size=3)
    assert rows(data) == [
        Row({"id": str(number), "name": "x" if number % 2 else None}, number + 1, 0) for number in range(10)
    ]
    assert rows(a_file({"id": pa.array([], pa.int64())})) == []


@pytest.mark.parametrize(
    ("kind", "values", "texts"),
    [
        (pa.int8(), [-128, None], ["-128", None]),
        (pa.uint64(), [2**64 - 1], ["18446744073709551615"]),
        (pa.bool_(), [True, False, None], ["true", "false", None]),
        (pa.decimal128(10, 2), [Decimal("-12.30"), Decimal(0)], ["-12.30", "0.00"]),
        (pa.decimal128(20, 10), [Decimal("1E-10"), Decimal("1.5")], ["0.0000000001", "1.5000000000"]),
        (pa.decimal256(76, 30), [Decimal("1e45")], ["1" + "0" * 45 + "." + "0" * 30]),
        (pa.string(), ["", " x\n", "é", None], ["", " x\n", "é", None]),
        (pa.large_string(), ["x"], ["x"]),
        (pa.string_view(), ["x", None], ["x", None]),
        (pa.dictionary(pa.int32(), pa.string()), ["x", None, "x"], ["x", None, "x"]),
        (pa.binary(), [b"\0\xff", b"", None], ["\\x00ff", "\\x", None]),
        (pa.binary(2), [b"ab"], ["\\x6162"]),
        (pa.null(), [None], [None]),
    ],
)
def test_plain_values_are_told_exactly(kind, values, texts):
    assert told(values, kind) == texts


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.1, "0.1"), (517.0, "517"), (1e20, "1" + "0" * 20), (1e-7, "0.0000001"), (-12345678901.25, "-12345678901.25")],
)
def test_floats_have_their_shortest_text_without_an_exponent(number, text):
    assert told([number, None], pa.float64()) == [text, None]
    assert float(text) == number


def test_short_floats_get_no_digits_of_longer_ones():
    assert told([0.1, 1e10], pa.float32()) == ["0.1", "10000000000"]
    assert told(numpy.array([0.1], numpy.float16), pa.float16()) == ["0.1"]


def test_every_float_comes_back_from_its_text():
    numbers = numpy.frombuffer(numpy.random.default_rng(1).bytes(8 * 2000), numpy.float64)
    numbers = numbers[numpy.isfinite(numbers)]
    texts = told(numbers, pa.float64())
    assert [float(text) for text in texts if text] == numbers.tolist()
    assert not any("e" in text for text in texts if text)


def test_what_is_no_number_is_a_flaw():
    assert flaws([math.nan, 1.0, math.inf, -math.inf, None], pa.float64()) == [
        "number_not_finite",
        None,
        "number_not_finite",
        "number_not_finite",
        None,
    ]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_instants_have_the_type_that_their_text_says(unit):
    instant = datetime(2024, 2, 29, 23, 59, 58, 250000)
    for zone, kind, end in ((None, ColumnType.TIMESTAMP, ""), ("Europe/Berlin", ColumnType.TIMESTAMPTZ, "Z")):
        values = [instant.replace(tzinfo=UTC if zone else None), datetime(1969, 12, 31), None]
        texts = told(values, pa.timestamp(unit, zone))
        assert texts[0] is not None and texts[0].rstrip("0Z") == "2024-02-29 23:59:58.25"
        assert texts[1:] == [f"1969-12-31 00:00:00{end}", None]
        assert [value_type(text) for text in texts if text] == [kind, kind]


def test_dates_and_times_are_iso():
    assert told([date(1, 1, 1), date(9999, 12, 31), None], pa.date32()) == ["0001-01-01", "9999-12-31", None]
    assert told([date(2024, 2, 29)], pa.date64()) == ["2024-02-29"]
    assert told([datetime(9999, 12, 31, 23, 59, 59, 999999)], pa.timestamp("us")) == ["9999-12-31 23:59:59.999999"]
    assert told([time(1, 2, 3), time(1, 2, 3, 500000)], pa.time64("us")) == ["01:02:03", "01:02:03.500000"]
    assert told([time(1, 2, 3)], pa.time32("ms")) == ["01:02:03"]
    assert told([timedelta(minutes=1, milliseconds=-500), timedelta(0), None], pa.duration("ms")) == ["59.5", "0", None]


def test_what_is_outside_of_the_calendar_is_a_flaw():
    assert flaws([2932897, -719163, 0, None], pa.date32()) == ["value_out_of_range", "value_out_of_range", None, None]
    assert flaws([253402300800000, 0], pa.timestamp("ms")) == ["value_out_of_range", None]


def test_nanoseconds_that_do_not_fit_are_a_flaw():
    assert flaws([1000, 1001, None, -1], pa.timestamp("ns")) == [None, "value_too_fine", None, "value_too_fine"]
    assert flaws([1000, 1001], pa.time64("ns")) == [None, "value_too_fine"]


def test_instants_of_the_old_kind_do_not_wrap_and_tell_what_they_lose():
    def old(values, kind):
        return {"values": values, "kind": kind, "use_deprecated_int96_timestamps": True}

    assert told(**old([datetime(2024, 1, 2, 3, 4, 5, 6), datetime(9999, 12, 31), None], pa.timestamp("us"))) == [
        "2024-01-02 03:04:05.000006",
        "9999-12-31 00:00:00",
        None,
    ]
    assert flaws(**old([1_000, 1_001, None], pa.timestamp("ns"))) == [None, "value_too_fine", None]


def test_a_nul_character_and_what_is_not_utf_8_are_flaws():
    assert flaws(["a", "b\0", None], pa.string()) == [None, "nul_character", None]
    data = a_file({"a": pa.array(["good", "bad!"])}, use_dictionary=False, compression="none", write_statistics=False)
    read = rows(data.replace(b"bad!", b"bad\xff"))
    assert [row.values["a"] for row in read] == ["good", None]
    assert read[1].flaw is not None and read[1].flaw.code == "encoding_invalid"


def test_a_uuid_is_written_as_one():
    identity = uuid.uuid4()
    assert told([identity.bytes, None], pa.uuid()) == [str(identity), None]


def test_a_structure_is_flattened_by_names():
    kind = pa.struct([("b", pa.struct([("c", pa.int64())])), ("d", pa.string())])
    read = rows(a_file({"a": pa.array([{"b": {"c": 1}, "d": "x"}, {"b": None, "d": None}, None], kind)}))
    assert [row.values for row in read] == [
        {"a_b_c": "1", "a_d": "x"},
        {"a_b_c": None, "a_d": None},
        {"a_b_c": None, "a_d": None},
    ]


def test_lists_and_maps_are_canonical_json():
    assert told([[1, None], [], None], pa.list_(pa.int64())) == ["[1,null]", "[]", None]
    assert told([['"é\n'], None], pa.list_(pa.string())) == ['["\\"é\\n"]', None]
    assert told([[("z", 1), ("b", None)], []], pa.map_(pa.string(), pa.int64())) == ['{"b":null,"z":1}', "{}"]
    member = pa.struct([("z", pa.decimal128(5, 2)), ("a", pa.date32()), ("m", pa.list_(pa.bool_()))])
    values = [[{"z": Decimal("1.50"), "a": date(2024, 1, 2), "m": [True]}, None]]
    assert told(values, pa.list_(member)) == ['[{"a":"2024-01-02","m":[true],"z":1.50},null]']


def test_a_flaw_inside_a_list_is_the_rows():
    read = rows(a_file({"a": pa.array([[1.0], [1.0, math.nan], None, [2.0]], pa.list_(pa.float64()))}))
    assert [row.flaw and row.flaw.code for row in read] == [None, "number_not_finite", None, None]
    twice = rows(a_file({"a": pa.array([[("x", 1), ("x", 2)], [("x", 1)]], pa.map_(pa.string(), pa.int64()))}))
    assert [row.flaw and row.flaw.code for row in twice] == ["key_repeated", None]


def test_two_columns_of_one_name_are_refused():
    nested = a_file({"a": pa.array([{"b": 1}]), "a_b": pa.array([1])})
    error = refused(nested)
    assert (error.code, error.column) == ("header_duplicate", "a_b")


def test_a_schema_beyond_the_limits_is_refused():
    data = a_file({"a": pa.array([1]), "b": pa.array([1])})
    assert refused(data, Limits(columns_max=1)).code == "columns_too_many"
    nested = a_file({"a": pa.array([[[[1]]]])})
    assert len(rows(nested, Limits(depth_max=4))) == 1
    assert refused(nested, Limits(depth_max=3)).code == "nested_too_deep"


def test_a_record_that_is_too_long_is_a_flaw():
    read = rows(a_file({"a": pa.array(["x" * 2000, "x"])}), Limits(record_bytes_max=1000))
    assert [row.flaw and row.flaw.code for row in read] == ["record_too_long", None]


def test_equal_values_that_take_no_room_are_counted():
    data = a_file({"a": pa.array(["x" * 10_000] * 8_000)}, row_group_size=8_000)
    assert len(data) < 20_000
    assert refused(data).code == "parquet_too_large"
    assert refused(data, Limits(text_ratio_max=10**6, text_bytes_max=10_000_000)).code == "parquet_too_large"


def test_a_file_that_is_cut_is_refused():
    data = a_file({"a": pa.array(range(1000))})
    for length in (0, 3, 4, 11, len(data) // 2, len(data) - 1):
        assert refused(data[:length]).code == "parquet_invalid"


def test_a_damaged_page_names_its_row_group():
    columns = {"a": pa.array([f"name {n * 7919 % 1000}" for n in range(3000)])}
    data = bytearray(a_file(columns, row_group_size=1000, use_dictionary=False, write_page_checksum=True))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(1).column(0)
    data[group.data_page_offset + group.total_compressed_size // 2] ^= 255
    error = refused(bytes(data))
    assert error.code == "parquet_invalid"
    assert "row group 2" in error.message


def test_a_footer_that_is_longer_than_the_file_is_refused():
    data = a_file({"a": pa.array([1])})
    error = refused(data[:-8] + struct.pack("<I", len(data)) + b"PAR1")
    assert (error.code, error.byte_offset) == ("parquet_invalid", len(data) - 8)


class _Keys(encryption.KmsClient):
    """Keeps no secret: it wraps a key in itself."""

    def wrap_key(self, key_bytes, master_key_identifier):
        return key_bytes.hex()

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return bytes.fromhex(wrapped_key)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_file_is_refused_as_one(plaintext_footer):
    factory = encryption.CryptoFactory(lambda configuration: _Keys())
    configuration = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"k": ["a"]}, plaintext_footer=plaintext_footer
    )
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    data = a_file({"a": pa.array([1]), "b": pa.array([2])}, encryption_properties=properties)
    assert refused(data).code == "parquet_encrypted"


class ShortReads(io.BytesIO):
    """Gives at most 100 bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 100) if size and size > 0 else size)


def test_short_reads_and_a_second_reading_change_nothing():
    data = a_file({"a": pa.array(range(5000)), "b": pa.array(["x", None] * 2500)}, row_group_size=700)
    file = ShortReads(data)
    for _ in range(2):
        assert list(read_parquet(file, LIMITS, {})) == rows(data)


class FailingFile(io.BytesIO):
    """Fails where the data starts."""

    def read(self, size=-1):
        if 4 <= self.tell() < 1000:
            raise ConnectionError("the store is gone")
        return super().read(size)


def test_a_failure_of_the_store_is_not_the_files():
    data = a_file({"a": pa.array([f"name {n}" for n in range(5000)])})
    with pytest.raises(ConnectionError):
        list(read_parquet(FailingFile(data), LIMITS, {}))


@pytest.mark.parametrize("compression", ["none", "snappy"])
def test_damaged_files_end_in_a_refusal_or_are_read(tmp_path, compression):
    columns = {
        "id": pa.array(range(200)),
        "name": pa.array([None, "x", "longer name"] * 66 + ["y", "z"]),
        "amount": pa.array([Decimal(n).scaleb(-2) for n in range(200)], pa.decimal128(12, 2)),
        "at": pa.array([datetime(2024, 1, 1)] * 200, pa.timestamp("us", "UTC")),
        "tags": pa.array([["a", "b"], None] * 100),
    }
    sample = tmp_path / "sample.parquet"
    sample.write_bytes(a_file(columns, row_group_size=90, compression=compression))
    found = outcomes("projections.formats.parquet:read_parquet", sample, 150)
    assert found.total() == 150
    assert found["parquet_invalid"] > 25
