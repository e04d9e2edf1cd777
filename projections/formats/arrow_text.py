r"""Arrow text: the columns of an Arrow table as text, one type after another, exactly.

Rules:
1. Numbers keep every digit and get none: integers, decimals with their scale, floats as the shortest text that names
   the same float, all without an exponent. What is no number (NaN, infinite) is a flaw.
2. Dates and instants are ISO 8601 of the years 1 to 9999; others are a flaw. An instant with a zone is told in UTC,
   with `Z`, one without a zone as it stands. A fraction of a second is told if there is one, with the digits of its
   unit; nanoseconds that are no whole microseconds are a flaw, because PostgreSQL cannot keep them.
3. A time of day is `HH:MM:SS` with a fraction if there is one. A duration is its seconds as a decimal number.
4. Text stands as it is. What is not UTF-8, or holds a NUL character, is a flaw. Bytes are `\x` and hexadecimal digits.
5. Lists, maps and what is in them are canonical JSON: names sorted, no spaces, numbers and booleans as above,
   everything else as text. A map is an object; a key that occurs twice in it is a flaw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.compute as pc

YEAR_1, YEAR_10000 = -62_135_596_800, 253_402_300_800  # in seconds since 1970
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
DAY_SECONDS = 86_400
ZEROS = r"\.0+$"

OUT_OF_RANGE = ("value_out_of_range", "is not between the years 1 and 9999")
TOO_FINE = ("value_too_fine", "has nanoseconds that are no whole microseconds")
NOT_FINITE = ("number_not_finite", "is not a number, or infinite")
NOT_UTF_8 = ("encoding_invalid", "is not UTF-8")
NUL = ("nul_character", "holds a NUL character, which text has not")
KEY_TWICE = ("key_repeated", "is a map in which a key occurs twice")


@dataclass
class Texts:
    """The values of a column, None for no value, and the flaws (code and reason) by the value's place."""

    values: list[str | None]
    flaws: dict[int, tuple[str, str]] = field(default_factory=dict)


def is_readable(kind: pa.DataType) -> bool:
    """Whether values of this type can be told as text."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_readable(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_readable(kind.value_type)
    if pa.types.is_nested(kind):
        children = [kind.field(index).type for index in range(kind.num_fields)]
        return (pa.types.is_struct(kind) or _is_list(kind)) and all(map(is_readable, children))
    return pa.types.is_null(kind) or any(matches(kind) for matches, _ in CONVERSIONS)


def depth_of(kind: pa.DataType) -> int:
    """How deep the type is nested: 1 for a plain value."""
    if isinstance(kind, pa.BaseExtensionType):
        return depth_of(kind.storage_type)
    return 1 + max((depth_of(kind.field(index).type) for index in range(kind.num_fields)), default=0)


def texts_of(array: pa.Array) -> Texts:
    """The values of a column of a type that `is_readable`."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _uuids(array.storage) if kind.extension_name == "arrow.uuid" else texts_of(array.storage)
    if pa.types.is_dictionary(kind):
        return texts_of(array.dictionary_decode())
    if pa.types.is_nested(kind):
        json_texts = _json_tokens(array)
        return Texts([None if text == "null" else text for text in json_texts.values], json_texts.flaws)
    if pa.types.is_null(kind):
        return Texts([None] * len(array))
    return next(convert for matches, convert in CONVERSIONS if matches(kind))(array)


def _plain(array: pa.Array) -> Texts:
    return Texts(array.cast(pa.string()).to_pylist())


def _decimals(array: pa.Array) -> Texts:
    return Texts(_without_exponent(array.cast(pa.string()), "E"))


def _floats(array: pa.Array) -> Texts:
    finite = pc.is_finite(array)
    wrong = _places(pc.invert(finite))
    if pa.types.is_float16(array.type):
        # Arrow writes these with the digits of a longer float.
        numbers = array.to_numpy(zero_copy_only=False)
        text = pa.array([None if missing else str(n) for n, missing in zip(numbers, array.is_null(), strict=True)])
    else:
        text = array.cast(pa.string())
    if wrong:
        text = pc.if_else(finite, text, None)
    return Texts(_without_exponent(text, "e"), dict.fromkeys(wrong, NOT_FINITE))


def _without_exponent(array: pa.StringArray, letter: str) -> list[str | None]:
    values: list[Any] = array.to_pylist()
    for place in _places(pc.match_substring(array, letter)):
        values[place] = format(Decimal(values[place]), "f")
    return values


def _dates(array: pa.Array) -> Texts:
    if pa.types.is_date64(array.type):
        texts = _instants(array.cast(pa.timestamp("ms")))
        return Texts([value and value.removesuffix(" 00:00:00") for value in texts.values], texts.flaws)
    days = array.view(pa.int32()).cast(pa.int64())
    array, flaws = _in_calendar(array, days, DAY_SECONDS, 1)
    return Texts(array.cast(pa.string()).to_pylist(), flaws)


def _instants(array: pa.Array) -> Texts:
    unit, zone = array.type.unit, array.type.tz
    counts = array.view(pa.int64())
    array, flaws = _in_calendar(array.view(pa.timestamp(unit)), counts, 1, UNITS[unit])
    array, too_fine = _in_microseconds(array, counts, pa.timestamp("us"))
    text = array.cast(pa.string())
    if unit != "s":
        text = pc.replace_substring_regex(text, ZEROS, "")
    if zone is not None:
        text = pc.binary_join_element_wise(text, "Z", "")
    return Texts(text.to_pylist(), flaws | too_fine)


def _times(array: pa.Array) -> Texts:
    counts = array.view(pa.int32() if pa.types.is_time32(array.type) else pa.int64()).cast(pa.int64())
    array, flaws = _in_microseconds(array, counts, pa.time64("us"))
    text = pc.replace_substring_regex(array.cast(pa.string()), ZEROS, "")
    wrong = _places(pc.starts_with(text, "<"))  # Arrow's way to say that it is not within a day
    if wrong:
        text = pc.if_else(pc.starts_with(text, "<"), None, text)
    return Texts(text.to_pylist(), flaws | dict.fromkeys(wrong, ("value_out_of_range", "is not a time of day")))


def _durations(array: pa.Array) -> Texts:
    digits = UNIT_DIGITS[array.type.unit]
    counts = array.view(pa.int64()).to_pylist()
    values = [None if count is None else format(Decimal(count).scaleb(-digits), "f") for count in counts]
    return Texts([value.rstrip("0").rstrip(".") if value and "." in value else value for value in values])


def _in_calendar(array: pa.Array, counts: pa.Array, step: int, per_second: int) -> tuple[pa.Array, Any]:
    """The array without what is outside of the years 1 to 9999, which are its flaws."""
    low, high = YEAR_1 * per_second // step, YEAR_10000 * per_second // step
    # What a column of nanoseconds can count lies within these years.
    if per_second == UNITS["ns"] or not len(counts):
        return array, {}
    extremes = pc.min_max(counts).as_py()
    if extremes["min"] is None or (extremes["min"] >= low and extremes["max"] < high):
        return array, {}
    wrong = pc.or_(pc.less(counts, low), pc.greater_equal(counts, high))
    return pc.if_else(wrong, None, array), dict.fromkeys(_places(wrong), OUT_OF_RANGE)


def _in_microseconds(array: pa.Array, counts: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Any]:
    """An array of nanoseconds as one of microseconds, without what does not fit; other units as they are."""
    if array.type.unit != "ns":
        return array, {}
    whole = numpy.asarray(counts.fill_null(0)) % 1000 == 0
    if not whole.all():
        array = pc.if_else(pa.array(whole), array, None)
    return array.cast(kind), dict.fromkeys(numpy.flatnonzero(~whole).tolist(), TOO_FINE)


def _strings(array: pa.Array) -> Texts:
    flaws = {}
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.binary_view()).cast(pa.large_binary()).view(pa.large_string())
    try:
        values = array.to_pylist()
    except UnicodeDecodeError:
        values = array.cast(pa.large_binary()).to_pylist()
        for place, value in enumerate(values):
            if value is not None:
                try:
                    values[place] = value.decode()
                except UnicodeDecodeError:
                    values[place], flaws[place] = None, NOT_UTF_8
    for place in _places(pc.match_substring(array, "\0")):
        if place not in flaws:
            values[place], flaws[place] = None, NUL
    return Texts(values, flaws)


def _bytes(array: pa.Array) -> Texts:
    return Texts([None if value is None else "\\x" + value.hex() for value in array.to_pylist()])


def _uuids(array: pa.Array) -> Texts:
    digits = [None if value is None else value.hex() for value in array.to_pylist()]
    ends = (0, 8, 12, 16, 20, 32)
    parts = list(pairwise(ends))
    return Texts([each and "-".join(each[start:end] for start, end in parts) for each in digits])


def _json_tokens(array: pa.Array) -> Texts:
    """Each value as JSON; `null` for none."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType) and pa.types.is_nested(kind.storage_type):
        return _json_tokens(array.storage)
    if pa.types.is_map(kind):
        return _maps(array)
    if pa.types.is_struct(kind):
        return _objects(array)
    if _is_list(kind):
        return _joined(array, _json_tokens(array.flatten()), "[]")
    texts = texts_of(array)
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(value) or pa.types.is_integer(value) or pa.types.is_floating(value) or _is_decimal(value):
        return Texts(["null" if each is None else each for each in texts.values], texts.flaws)
    return Texts(["null" if each is None else _quoted(each) for each in texts.values], texts.flaws)


def _objects(array: pa.StructArray) -> Texts:
    names = sorted(range(array.type.num_fields), key=lambda index: array.type.field(index).name)
    members = array.flatten()
    columns = [_json_tokens(members[index]) for index in names]
    heads = [_quoted(array.type.field(index).name) + ":" for index in names]
    flaws: dict[int, tuple[str, str]] = {}
    for column in columns:
        flaws = column.flaws | flaws
    rows: Iterator[tuple[Any, ...]] = zip(*(column.values for column in columns), strict=True)
    values = ["{" + ",".join(head + token for head, token in zip(heads, row, strict=True)) + "}" for row in rows]
    missing = array.is_null().to_pylist()
    return Texts(["null" if none else value for value, none in zip(values, missing, strict=True)], flaws)


def _maps(array: pa.MapArray) -> Texts:
    """Each map as an object."""
    kind = array.type
    lists = array.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
    keys, items = lists.flatten().flatten()
    names, values = texts_of(keys), _json_tokens(items)
    quoted = [_quoted(name or "") for name in names.values]
    members = [f"{name}:{value}" for name, value in zip(quoted, values.values, strict=True)]
    texts = _joined(lists, Texts([*members], values.flaws | names.flaws), "{}")
    start = 0
    for place, length in enumerate(pc.list_value_length(lists).to_pylist()):
        end = start + (length or 0)
        if len(set(quoted[start:end])) < end - start:
            texts.flaws.setdefault(place, KEY_TWICE)
        start = end
    return texts


def _joined(lists: pa.Array, elements: Texts, brackets: str) -> Texts:
    """Each list as JSON, of the elements of all lists. Members of an object are sorted."""
    values: list[str | None] = []
    flaws: dict[int, tuple[str, str]] = {}
    flawed = iter(sorted(elements.flaws))
    next_flawed = next(flawed, None)
    start = 0
    # A list of fixed size has a length even where there is none.
    missing = lists.is_null().to_pylist()
    for place, length in enumerate(pc.list_value_length(lists).to_pylist()):
        if missing[place]:
            values.append("null")
            continue
        end = start + length
        parts = [str(each) for each in elements.values[start:end]]
        values.append(brackets[0] + ",".join(sorted(parts) if brackets == "{}" else parts) + brackets[1])
        while next_flawed is not None and next_flawed < end:
            flaws.setdefault(place, elements.flaws[next_flawed])
            next_flawed = next(flawed, None)
        start = end
    return Texts(values, flaws)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _places(mask: pa.BooleanArray) -> list[int]:
    """Where the mask is true."""
    if not pc.any(mask).as_py():
        return []
    places: list[int] = pc.indices_nonzero(mask).to_pylist()
    return places


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    return any(
        is_kind(kind) for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_map)
    )


def _is_decimal(kind: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(kind))


def _is_string(kind: pa.DataType) -> bool:
    types = pa.types
    return any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_string_view))


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    kinds = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    return any(is_kind(kind) for is_kind in kinds)


CONVERSIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Texts]], ...] = (
    (_is_string, _strings),
    (pa.types.is_integer, _plain),
    (pa.types.is_boolean, _plain),
    (_is_decimal, _decimals),
    (pa.types.is_floating, _floats),
    (pa.types.is_date, _dates),
    (pa.types.is_timestamp, _instants),
    (pa.types.is_time, _times),
    (pa.types.is_duration, _durations),
    (_is_bytes, _bytes),
)
