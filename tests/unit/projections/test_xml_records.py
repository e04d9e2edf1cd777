"""Which records an XML document holds, what their columns are, and what is refused."""

from __future__ import annotations

import json
import time
import tracemalloc
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.errors import FileRefusedError
from projections.formats.rows import Limits
from projections.formats.xml_records import LOOK_AHEAD_BYTES, read_xml_records
from tests.thorough import thorough
from tests.unit.projections.reading import InPieces, Repeated, damaged, flaws_of, outcome, rows_of

SMALL = Limits(record_bytes_max=60, columns_max=4, depth_max=4)
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


def values_of(record: str) -> dict[str, str | None]:
    (row,) = rows_of(read_xml_records, f"<rows {XSI}>{record}</rows>".encode(), record="row")
    assert row.flaw is None, row.flaw
    return dict(row.values)


def ids_of(text: str | bytes, **options: str) -> list[str | None]:
    data = text if isinstance(text, bytes) else text.encode()
    return [row.values.get("id") for row in rows_of(read_xml_records, data, **options)]


def refusal_of(text: str | bytes, **options: str) -> FileRefusedError:
    data = text if isinstance(text, bytes) else text.encode()
    refusal = outcome(read_xml_records, data, **options)[1]
    assert refusal is not None
    return refusal


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ("<row/>", {}),
        ("<row> \n </row>", {}),
        ('<row id="1" note=""/>', {"id": "1", "note": ""}),
        ("<row><a>12.50</a><b> x </b><c>&lt;&#252;&amp;</c></row>", {"a": "12.50", "b": " x ", "c": "<ü&"}),
        ("<row>\n  <a>1</a>\n  <b>2</b>\n</row>", {"a": "1", "b": "2"}),
        ("<row><a/><b></b><c> </c></row>", {"a": "", "b": "", "c": " "}),
        ('<row><a xsi:nil="true"/><b xsi:nil="1"></b><c xsi:nil="false"/></row>', {"a": None, "b": None, "c": ""}),
        ('<row><a xsi:nil="true">1</a><b nil="true"/></row>', {"a": "1", "b_nil": "true"}),
        ('<row><a xsi:nil="true" why="x"/></row>', {"a": None, "a_why": "x"}),
        ("<row><a><b>1</b><c><d>2</d></c></a></row>", {"a_b": "1", "a_c_d": "2"}),
        ('<row><a x="1">5</a><b y="2"/></row>', {"a": "5", "a_x": "1", "b_y": "2"}),
        ("<row><t>a</t><u>c</u><t>b</t></row>", {"t": '["a","b"]', "u": "c"}),
        ('<row><t>a</t><t xsi:nil="true"/><t/></row>', {"t": '["a",null,""]'}),
        (
            '<row><t y="1"><x>2</x></t><t>b<x/><x/></t><t z="">c</t></row>',
            {"t": '[{"x":"2","y":"1"},{"text":"b","x":["",""]},{"text":"c","z":""}]'},
        ),
        ("<row><a><b><c><d>1</d></c></b></a></row>", {"a_b_c": '{"d":"1"}'}),
        ("<row>one <b>2</b> three</row>", {"b": "2", "text": "one  three"}),
        ("<row>x</row>", {"text": "x"}),
        ("<row><a>one <b>2</b></a></row>", {"a": "one ", "a_b": "2"}),
        ("<row><a><![CDATA[<b>]]>&#13;c</a><!-- no --><?no no?></row>", {"a": "<b>\rc"}),
        ('<row xmlns:p="urn:p" p:id="1"><p:a>2</p:a></row>', {"id": "1", "a": "2"}),
        ('<row xmlns="urn:q"><b xml:lang="de"/></row>', {"b_lang": "de"}),
        ('<row xmlns=""><a>1</a></row>', {"a": "1"}),
        (f'<row {XSI} xsi:type="x" xsi:schemaLocation="a b"><a>1</a></row>', {"a": "1"}),
        ("<row><row>1</row><x><row>2</row></x></row>", {"row": "1", "x_row": "2"}),
    ],
)  # fmt: skip
def test_columns_of_a_record(record, columns):
    assert values_of(record) == columns


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("<r><o><id>1</id></o><o><id>2</id></o></r>", ""),
        ("<r><head><id>9</id></head><o><id>1</id></o><o><id>2</id></o><end/></r>", ""),
        ("<r><os><o><id>1</id></o><o><id>2</id></o></os></r>", ""),
        ("<e><b><os n='2'><o><id>1</id></o><o><id>2</id></o></os></b></e>", ""),
        ("<r><a><o><id>1</id></o></a><p:o xmlns:p='u'><id>2</id></p:o></r>", "o"),
        ("<r><a><o><id>1</id></o></a><p:o xmlns:p='u'><id>2</id></p:o></r>", "x:o"),
    ],
)
def test_the_record_element_is_named_or_found(text, record):
    assert ids_of(text, record=record) == ["1", "2"]


def test_one_record_is_found_by_itself():
    assert ids_of("<r><o><id>1</id><v>2</v></o></r>") == ["1"]
    assert ids_of("<r><o id='1'/></r>") == ["1"]
    assert ids_of("<o id='1'><b/></o>", record="o") == ["1"]


def test_an_empty_root_has_no_records():
    assert ids_of("<r/>") == ids_of("<r> <!-- none --> </r>", record="o") == []


@pytest.mark.parametrize(
    ("text", "record", "words"),
    [
        ("<r><a/><b/></r>", "", "any could be the record"),
        ("<r><a/></r>", "b", "no element 'b'"),
        ("<r><!--" + " " * LOOK_AHEAD_BYTES + "--><a/></r>", "", "any could be the record"),
    ],
)
def test_a_record_element_is_never_guessed(text, record, words):
    refusal = refusal_of(text, record=record)
    assert refusal.code == "record_unknown"
    assert words in str(refusal)
    assert "`record`" in refusal.remedy


ENCODED = "<?xml version='1.0' encoding='{}'?>\n<r>\n<o>\t<id>é</id></o><o/><o id='/' ></o\n><o a='>'/><o>/></o></r>"


@pytest.mark.parametrize(
    ("codec", "declared"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-be", "UTF-16BE"),
        ("latin-1", "ISO-8859-1"),
        ("cp1252", "Windows-1252"),
        ("iso8859-15", "iso-8859-15"),
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_offsets_and_lengths_are_bytes_of_the_file_in_every_encoding(codec, declared, piece):
    data = ENCODED.format(declared).encode(codec)
    rows, refusal = outcome(read_xml_records, data, piece=piece)
    assert refusal is None
    plain = "utf-8" if codec == "utf-8-sig" else "utf-16-le" if codec == "utf-16" else codec
    assert [data[row.offset : row.offset + row.length].decode(plain) for row in rows] == [
        "<o>\t<id>é</id></o>",
        "<o/>",
        "<o id='/' ></o\n>",
        "<o a='>'/>",
        "<o>/></o>",
    ]
    assert [row.values for row in rows] == [{"id": "é"}, {}, {"id": "/"}, {"a": ">"}, {"text": "/>"}]


def test_windows_1252_has_its_own_characters_and_gaps():
    start = b"<?xml version='1.0' encoding='windows-1252'?><r><o><id>"
    assert ids_of(start + b"\x80\x9f</id></o></r>") == ["€Ÿ"]
    assert refusal_of(start + b"\x81</id></o></r>").byte_offset == len(start)


@pytest.mark.parametrize("name", ["utf8", "utf-7", "rot13", "hex", "shift_jis", "IBM037", "x" * 1000])
def test_another_encoding_is_refused_by_its_name(name):
    refusal = refusal_of(f"<?xml version='1.0' encoding='{name}'?><r><o/></r>")
    assert refusal.code == "xml_encoding_unknown"
    assert name[:80] in str(refusal)
    assert len(str(refusal)) < 300


LAUGHS = '<!DOCTYPE r [<!ENTITY a "lol">'
for BEFORE, NAME in zip("abcdefghijk", "bcdefghijkl", strict=True):
    LAUGHS += f'<!ENTITY {NAME} "' + f"&{BEFORE};" * 10 + '">'
LAUGHS += "]><r><o>&l;</o></r>"


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><r><o>&x;</o></r>',
        '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/x.dtd"><r><o/></r>',
        '<!DOCTYPE r PUBLIC "a" "b" [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><r/>',
        "<!DOCTYPE r><r><o/></r>",
        '<!DOCTYPE r [<!ATTLIST o a CDATA "x">]><r><o/></r>',
    ],
)
@pytest.mark.parametrize("codec", ["utf-8", "utf-16"])
@pytest.mark.parametrize("record", ["", "o"])
def test_a_document_type_declaration_is_refused(text, codec, record):
    rows, refusal = outcome(read_xml_records, text.encode(codec), record=record)
    assert (rows, refusal.code) == ([], "xml_dtd_forbidden")


@pytest.mark.parametrize(
    ("text", "offset", "line", "words", "rows"),
    [
        ("", 0, 1, "ends inside the document", 0),
        ("<r><o/>\n<o>", 11, 2, "ends inside the document", 1),
        ("<r><o/>\n<o", 8, 2, "ends inside the document", 1),
        ("<r><o/>\n<o><![CDATA[x", 21, 2, "ends inside the document", 1),
        ("<r><o/>\n<o></p></r>", 13, 2, "mismatched tag", 1),
        ("<r><o/><o a=1/></r>", 12, 1, "invalid token", 1),
        ("<r><o/><o>&x;</o></r>", 10, 1, "undefined entity", 1),
        ("<r><o/><o>&#0;</o></r>", 10, 1, "reference to invalid character number", 1),
        ("<r><o/><o>&#xD800;</o></r>", 10, 1, "reference to invalid character number", 1),
        ("<r><o/><o>\0</o></r>", 10, 1, "invalid token", 1),
        ("<r><o/><o a='1' a='2'/></r>", 16, 1, "duplicate attribute", 1),
        ("<r><o/><p:o/></r>", 7, 1, "unbound prefix", 1),
        ("<r><o/><o/></r>x", 15, 1, "junk after document element", 2),
        ("\n<?xml version='1.0'?><r><o/></r>", 1, 2, "not at start", 0),
        ("hello", 0, 1, "syntax error", 0),
        ("<?xml version='1.0' encoding='utf-16'?><r><o/></r>", 30, 1, "encoding", 0),
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
@pytest.mark.parametrize("record", ["", "o"])
def test_what_is_not_well_formed_is_refused_with_its_place(text, offset, line, words, rows, piece, record):
    given_rows, refusal = outcome(read_xml_records, text.encode(), piece=piece, record=record)
    assert (refusal.code, refusal.byte_offset, refusal.line) == ("xml_invalid", offset, line)
    assert words in str(refusal)
    assert len(given_rows) == rows


def test_bytes_of_another_encoding_are_refused():
    assert refusal_of(b"<r><o/><o>\xfc</o></r>").byte_offset == 10
    assert refusal_of(b"<r><o/><o>\xed\xa0\x80</o></r>").code == "xml_invalid"
    assert refusal_of("<r><o>".encode("utf-16-le") + b"\x00\xd8" + "</o></r>".encode("utf-16-le")).code == "xml_invalid"


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ("<o><a/><b/><c/><d/></o>", None),
        ("<o><a/><b/><c/><d/><e/></o>", "columns_too_many"),
        ("<o a='' b='' c='' d='' e=''/>", "columns_too_many"),
        ("<o><a><b><c/></b></a></o>", None),
        ("<o><a><b><c><d/></c></b></a><e/></o>", "nested_too_deep"),
        ("<o>" + "x" * 53 + "</o>", None),
        ("<o>" + "x" * 54 + "</o>", "record_too_long"),
        ("<o>" + "<a>" * 30 + "</a>" * 30 + "</o>", "record_too_long"),
        ("<o>" + "x" * 200_000 + "</o>", "record_too_long"),
        ("<o a=''><a/></o>", "column_twice"),
        ("<o><a_b/><a><b/></a></o>", "column_twice"),
        ("<o>1<text/></o>", "column_twice"),
        ("<o><a/><a x=''><x/></a></o>", "column_twice"),
        ("<o xmlns:p='u' p:a='' a=''/>", "column_twice"),
    ],
)
@pytest.mark.parametrize("piece", [7, 100_000])
def test_a_record_with_a_flaw_stands_among_others(record, code, piece):
    data = f"<r><o i='1'/>{record}<o><i>2</i></o></r>".encode()
    rows, refusal = outcome(read_xml_records, data, limits=SMALL, piece=piece)
    assert refusal is None
    assert [row.flaw and row.flaw.code for row in rows] == [None, code, None]
    assert (rows[0].values, rows[2].values) == ({"i": "1"}, {"i": "2"})
    assert (rows[1].offset, rows[1].length) == (13, len(record))
    assert code is None or rows[1].values == {}


def test_a_deep_record_is_no_recursion_error():
    record = "<o>" + "<a>" * 9_000 + "</a>" * 9_000 + "</o>"
    data = f"<r>{record}<o/></r>".encode()
    assert flaws_of(read_xml_records, data, limits=Limits(depth_max=1 << 30)) == ["nested_too_deep", None]
    record = "<o>" + "<a>" * 199 + "</a>" * 199 + "</o>"
    data = f"<r>{record}{record}</r>".encode()
    assert flaws_of(read_xml_records, data, limits=Limits(depth_max=1 << 30)) == [None, None]


@pytest.mark.parametrize(
    ("start", "middle", "code"),
    [
        (b"<r>", b"<a>", "xml_too_deep"),
        (b"<r><o a='", b"x" * 1000, "xml_token_too_long"),
        (b"<r><!--", b"x" * 1000, "xml_token_too_long"),
        (b"<r><?x ", b"x" * 1000, "xml_token_too_long"),
        (b"<r><", b"x" * 1000, "xml_token_too_long"),
        (b"<r><" + b"x" * 5000 + b"/>", b" ", "xml_token_too_long"),
        (b"<r><o x:", b"x" * 1000, "xml_token_too_long"),
        (b"", b"<", "xml_invalid"),
    ],
)
def test_what_never_ends_is_refused_in_bounded_time_and_memory(start, middle, code):
    file = Repeated(start, middle, 1_000_000, b"")
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(FileRefusedError) as caught:
        list(read_xml_records(file, Limits(record_bytes_max=1 << 20), {"record": "o"}))
    assert caught.value.code == code
    assert time.monotonic() - started < 30
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_names_are_limited_in_number():
    text = "<r>" + "".join(f"<o a{number}='1'/>" for number in range(21_000)) + "</r>"
    assert refusal_of(text).code == "xml_token_too_long"
    text = "<r>" + "".join(f"<o xmlns:a{number}='u'/>" for number in range(21_000)) + "</r>"
    assert refusal_of(text).code == "xml_token_too_long"


@pytest.mark.parametrize(
    ("start", "middle", "end", "rows"),
    [
        (b"<r>", b"<o><a>" + b"x" * 50 + b"</a></o>\n", b"</r>", 20_000),
        (b"<r><x/><o>", b"<a>1</a>" * 5, b"</o></r>", 1),
        (b"<r><o><a>", b"text " * 10, b"</a></o></r>", 1),
        (b"<r><o/><x>", b"<a>text</a>", b"</x></r>", 1),
    ],
    ids=["records", "one record", "one text", "no record"],
)
def test_memory_does_not_grow_with_the_file(start, middle, end, rows):
    tracemalloc.start()
    file = Repeated(start, middle, 20_000, end)
    count = sum(1 for _ in read_xml_records(file, Limits(record_bytes_max=1 << 17), {"record": "o"}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows
    assert peak < 6 << 20


def test_reading_again_gives_the_same_rows():
    file = InPieces(b"<r><o><a>1</a></o><o/></r>", 3)
    assert list(read_xml_records(file, Limits(), {})) == list(read_xml_records(file, Limits(), {}))


NAMES = st.sampled_from(["a", "b", "ü", "c-d", "e.f", "ж"])
TEXTS = st.text(st.sampled_from("ab <>&\"'ü€𝄞\t]"), max_size=6)
# An element is a text, or attributes and elements; the texts beside elements have their own test.
CONTENT = st.recursive(
    TEXTS,
    lambda inner: st.tuples(
        st.dictionaries(NAMES.map("@".__add__), TEXTS, max_size=2),
        st.dictionaries(NAMES, inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)
RECORDS = st.tuples(
    st.dictionaries(NAMES.map("x".__add__), TEXTS, max_size=2), st.dictionaries(NAMES, CONTENT, max_size=4)
)


def written(name: str, content, prefix: str, blank: str) -> str:
    if isinstance(content, str):
        return f"<{prefix}{name}>{escape(content)}</{prefix}{name}>" if content else f"<{prefix}{name}/>"
    attributes, elements = content
    tag = prefix + name
    texts = [f" {each.replace('@', 'x')}={quoteattr(text)}{blank}" for each, text in attributes.items()]
    inside = blank.join(written(each, value, prefix, blank) for each, value in elements.items())
    return f"<{tag}{''.join(texts)}>{blank}{inside}{blank}</{tag}>"


def expected(content, parts: int = 1) -> dict[str, str | None]:
    attributes, elements = content
    columns: dict[str, str | None] = {name.replace("@", "x"): text for name, text in attributes.items()}
    for name, value in elements.items():
        if isinstance(value, str):
            columns[name] = value
        elif parts == 3:
            columns[name] = json.dumps(as_json(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        else:
            columns |= {f"{name}_{inner}": text for inner, text in expected(value, parts + 1).items()}
    return columns


def as_json(content):
    if isinstance(content, str):
        return content
    attributes, elements = content
    return {name.replace("@", "x"): text for name, text in attributes.items()} | {
        name: as_json(value) for name, value in elements.items()
    }


@given(
    records=st.lists(RECORDS, max_size=4),
    blank=st.sampled_from(["", " ", "\n\t", "\r\n"]),
    prefix=st.sampled_from(["", "p:"]),
    codec=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    piece=st.integers(1, 60),
)
@thorough(examples=120, steps=1)
def test_what_was_written_is_read(records, blank, prefix, codec, piece):
    elements = [written("row", record, prefix, blank) for record in records]
    data = f"<rows xmlns:p='urn:p'>{blank}{blank.join(elements)}</rows>".encode(codec)
    rows, refusal = outcome(read_xml_records, data, piece=piece, record="row")
    assert refusal is None
    assert [row.values for row in rows] == [expected(record) for record in records]
    plain = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le"}.get(codec, codec)
    assert [data[row.offset : row.offset + row.length].decode(plain) for row in rows] == elements


TEXT = (
    f"<?xml version='1.0'?>\n<r {XSI}><h/><o id='1'><a>x</a><b xsi:nil='true'/>&amp;</o>\n"
    "<o><a>ü<!-- c --></a></o><o/></r>"
)
SAMPLES = [
    TEXT.encode(),
    TEXT.encode("utf-16"),
    TEXT.replace("?>", " encoding='windows-1252'?>").encode("cp1252"),
    b"<e><b><os><p:o xmlns:p='u'><![CDATA[<]]></p:o><o><?x y?></o></os></b></e>",
    LAUGHS[:200].encode(),
    b"<r xmlns='u'><o/><o xmlns=''><a xml:lang='de'>x</a></o></r>",
]


@given(data=damaged(SAMPLES), piece=st.integers(1, 9), record=st.sampled_from(["", "o"]))
@thorough(examples=400, steps=1)
def test_damage_is_told_the_same_however_the_file_is_read(data, piece, record):
    rows, refusal = outcome(read_xml_records, data, limits=SMALL, record=record)
    same_rows, same_refusal = outcome(read_xml_records, data, piece=piece, limits=SMALL, record=record)
    # Of two things that are wrong in one place expat finds the one or the other, as its input was cut.
    assert (same_rows, same_refusal and same_refusal.code) == (rows, refusal and refusal.code)
    ends = [0, *(row.offset + row.length for row in rows)]
    assert all(end <= row.offset for end, row in zip(ends, rows, strict=False))
    assert all(row.length > 0 for row in rows)


@pytest.mark.parametrize("sample", SAMPLES[:4])
def test_every_cut_of_a_document_is_refused(sample):
    for length in range(len(sample)):
        rows, refusal = outcome(read_xml_records, sample[:length])
        assert refusal.code in ("xml_invalid", "record_unknown"), (sample[:length], refusal)
        assert len(rows) <= 3
