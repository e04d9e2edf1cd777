"""What a contract says of values, keys, columns and trailers, from the file to the table and back."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack

Register = Callable[..., str]

BANK = {
    "columns": [
        {"name": "number", "type": "bigint", "nullable": False, "format": "1.234"},
        {"name": "booked_on", "type": "date", "nullable": False, "format": "%-d.%-m.%Y", "minimum": "2025-01-01"},
        {"name": "amount", "type": "numeric", "format": "1.234,56", "minimum": "-5000", "maximum": "1000000"},
        {"name": "settled", "type": "boolean", "format": "ja/nein"},
        {"name": "currency", "type": "text", "allowed": ["EUR", "CHF"]},
        {"name": "iban", "type": "text", "pattern": "[A-Z]{2}[0-9]{4,32}"},
    ],
    "null_tokens": ["", "n/a", "-"],
    "fiscal_date_column": "booked_on",
    "rejects_max": "100%",
    "extra_columns": "ignore",
    "missing_columns": "null",
}
HEADER = "iban;booked_on;amount;number;settled;currency;remark\n"


@pytest.fixture
def register(http: httpx2.Client) -> Register:
    def put(contract: dict[str, Any], **changes: Any) -> str:
        name = f"declared_{uuid4().hex[:8]}"
        answer = http.put(f"/api/v1/datasets/{name}", json={**contract, **changes})
        assert answer.status_code == httpx2.codes.OK, answer.text
        return name

    return put


def load(stack: Stack, http: httpx2.Client, dataset: str, filename: str, content: bytes, **said: str) -> dict[str, Any]:
    answer = http.put(f"/api/v1/files/{filename}", content=content, params={"dataset": dataset, **said})
    assert answer.status_code == httpx2.codes.ACCEPTED, answer.text
    return stack.wait(answer.json()["tasks"][0]["task_id"])


def rows(stack: Stack, dataset: str, columns: str) -> list[tuple[Any, ...]]:
    return stack.sql(f"SELECT {columns} FROM data.{dataset} ORDER BY _job, _record")


def rejects(http: httpx2.Client, task: dict[str, Any]) -> dict[int, tuple[str, str | None]]:
    found = http.get(f"/api/v1/jobs/{task['task_id']}/rejects", params={"limit": 1000}).json()["rejects"]
    return {reject["record"]: (reject["code"], reject["column"]) for reject in found}


def test_values_in_the_formats_of_a_contract_are_loaded_for_what_they_mean(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    dataset = register(BANK)
    text = HEADER + (
        "DE1234;1.4.2025;-1.234,50;1.001;ja;EUR;first\n"
        "DE1234;31.12.2025;0,07;2;nein;CHF;\n"
        'n/a;01.04.2025;"999.999,99";12;-;n/a;"a; b"\n'
        "DE1234;1.4.2025;;1234;;;\n"
    )
    task = load(stack, http, dataset, "bank.csv", text.encode())
    assert (task["status"], task["rows_loaded"], task["rows_rejected"]) == ("Completed", 4, 0), task
    assert rows(stack, dataset, "number, booked_on::text, amount::text, settled, currency, iban, _record") == [
        (1001, "2025-04-01", "-1234.50", True, "EUR", "DE1234", 1),
        (2, "2025-12-31", "0.07", False, "CHF", "DE1234", 2),
        (12, "2025-04-01", "999999.99", None, None, None, 3),
        (1234, "2025-04-01", None, None, None, "DE1234", 4),
    ]
    totals = http.get(f"/api/v1/jobs/{task['task_id']}/reconciliation").json()["totals"]
    assert totals["amount"] == {"count": 3, "sum": "998765.56", "min": "-1234.5", "max": "999999.99"}


def test_what_a_contract_does_not_allow_is_refused_for_its_record_column_and_reason(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    dataset = register(BANK)
    wrong = {
        "DE1234;2025-04-01;1,00;1;ja;EUR;": ("date_invalid", "booked_on"),
        "DE1234;31.2.2025;1,00;1;ja;EUR;": ("date_invalid", "booked_on"),
        "DE1234;31.12.2024;1,00;1;ja;EUR;": ("value_out_of_bounds", "booked_on"),
        "DE1234;1.4.2025;1.50;1;ja;EUR;": ("value_invalid", "amount"),
        "DE1234;1.4.2025;12.34,50;1;ja;EUR;": ("value_invalid", "amount"),
        "DE1234;1.4.2025;-5.000,01;1;ja;EUR;": ("value_out_of_bounds", "amount"),
        "DE1234;1.4.2025;1.000.000,01;1;ja;EUR;": ("value_out_of_bounds", "amount"),
        "DE1234;1.4.2025;1,00;1,0;ja;EUR;": ("value_invalid", "number"),
        "DE1234;1.4.2025;1,00;-;ja;EUR;": ("value_missing", "number"),
        "DE1234;1.4.2025;1,00;1;true;EUR;": ("value_invalid", "settled"),
        "DE1234;1.4.2025;1,00;1;ja;USD;": ("value_not_allowed", "currency"),
        "xDE1234;1.4.2025;1,00;1;ja;EUR;": ("value_unlike", "iban"),
        "DE1234;1.4.2025;1,00;1;ja;EUR": ("record_malformed", None),
    }
    good = "DE1234;1.4.2025;-5.000,00;1;ja;EUR;"
    text = HEADER + "\n".join(line for bad in wrong for line in (good, bad)) + "\n"
    task = load(stack, http, dataset, "bank.csv", text.encode())
    assert (task["status"], task["rows_loaded"], task["rows_rejected"]) == ("Completed", len(wrong), len(wrong)), task
    assert rejects(http, task) == {2 * place: told for place, told in enumerate(wrong.values(), start=1)}
    assert [row[0] for row in rows(stack, dataset, "_record")] == list(range(1, 2 * len(wrong), 2))


def test_columns_beyond_the_contract_are_ignored_and_lacking_ones_empty_only_if_it_says_so(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    plain = {"columns": [{"name": "a", "type": "bigint", "nullable": False}, {"name": "b", "type": "text"}]}
    files = {"extra": b"b,c,a\nx,9,1\n", "lacking": b"a\n1\n", "both": b"c,a\n9,1\n"}
    outcomes = {
        ("refuse", "refuse"): {},
        ("ignore", "refuse"): {"extra": [(1, "x")]},
        ("refuse", "null"): {"lacking": [(1, None)]},
        ("ignore", "null"): {"extra": [(1, "x")], "lacking": [(1, None)], "both": [(1, None)]},
    }
    for (extra, missing), loaded in outcomes.items():
        for kind, content in files.items():
            dataset = register(plain, extra_columns=extra, missing_columns=missing)
            task = load(stack, http, dataset, "x.csv", content)
            if kind in loaded:
                assert (task["status"], rows(stack, dataset, "a, b")) == ("Completed", loaded[kind]), task
            else:
                assert (task["status"], task["error"]["code"]) == ("Failed", "contract_differs")


@pytest.mark.parametrize(
    ("filename", "content", "code"),
    [
        ("x.json", b'[{"day": "31.12.2025", "sum": 1.234, "ok": true}, {"day": "1.2.2025", "sum": -2, "ok": "ja"}]',
         None),
        ("x.json", b'[{"day": "2025-12-31", "sum": 1, "ok": true}]', "date_invalid"),
        ("x.json", b'[{"day": "31.12.2025", "sum": "1.234,50", "ok": true}]', "value_invalid"),
        ("x.xml", b"<l><r><day>31.12.2025</day><sum>1,234</sum><ok>ja</ok></r><r><day>1.2.2025</day><sum>-2</sum>"
         b"<ok>ja</ok></r></l>", None),
        ("x.xml", b"<l><r><day>31.12.2025</day><sum>1.234.5</sum><ok>ja</ok></r><r/></l>", "value_invalid"),
    ],
)  # fmt: skip
def test_a_format_is_said_of_what_a_sender_wrote_and_not_of_values_that_have_types(
    stack: Stack, http: httpx2.Client, register: Register, filename: str, content: bytes, code: str | None
) -> None:
    columns = [
        {"name": "day", "type": "date", "format": "%-d.%-m.%Y"},
        {"name": "sum", "type": "numeric", "format": "1.234,56"},
        {"name": "ok", "type": "boolean", "format": "ja/nein"},
    ]
    dataset = register({"columns": columns, "rejects_max": "100%", "null_tokens": ["", "n/a"]})
    task = load(stack, http, dataset, filename, content)
    if code is None:
        assert rows(stack, dataset, "day::text, sum::text, ok") == [
            ("2025-12-31", "1.234", True),
            ("2025-02-01", "-2", True),
        ]
    else:
        assert rejects(http, task)[1][0] == code


def test_a_word_for_no_value_is_none_in_formats_that_have_a_null_of_their_own(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    dataset = register(
        {"columns": [{"name": "a", "type": "bigint"}, {"name": "b", "type": "text"}], "null_token": "n/a"}
    )
    load(stack, http, dataset, "x.json", b'[{"a": "n/a", "b": ""}, {"a": null, "b": "n/a"}, {"a": 1, "b": "n/a "}]')
    assert rows(stack, dataset, "a, b") == [(None, ""), (None, None), (1, "n/a ")]


KEYED = {
    "columns": [
        {"name": "invoice", "type": "text", "nullable": False},
        {"name": "line", "type": "bigint", "nullable": False},
        {"name": "day", "type": "date", "nullable": False},
    ],
    "key": ["invoice", "line"],
    "fiscal_date_column": "day",
    "rejects_max": "100%",
}


def test_no_two_rows_of_a_fiscal_year_have_one_key_in_one_file_or_in_two(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    dataset = register(KEYED)
    first = "invoice,line,day\nA,1,2025-05-01\nA,2,2025-05-01\nA,1,2025-06-01\nA,1,2024-05-01\nB,x,2025-05-01\n"
    task = load(stack, http, dataset, "first.csv", first.encode())
    assert rejects(http, task) == {3: ("key_repeated", "invoice"), 5: ("value_invalid", "line")}
    second = "invoice,line,day\nB,1,2025-05-01\nA,2,2026-03-31\nA,2,2026-04-01\n"
    task = load(stack, http, dataset, "second.csv", second.encode())
    assert rejects(http, task) == {2: ("key_repeated", "invoice")}
    told = http.get(f"/api/v1/jobs/{task['task_id']}/reconciliation").json()
    assert (told["rows_loaded"], told["rows_rejected"], told["closes"]) == (2, 1, True)
    assert told["totals"]["line"]["sum"] == "3"
    assert told["fiscal_years"] == ["FY2025-26", "FY2026-27"]
    all_again = load(stack, http, dataset, "first.csv", first.encode(), on_duplicate="allow")
    assert (all_again["status"], all_again["rows_loaded"], all_again["rows_rejected"]) == ("Completed", 0, 5)


def test_of_files_with_one_key_that_are_loaded_at_once_each_row_is_loaded_once(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    dataset = register(KEYED)
    lines = [f"I{number},{number},2025-05-01\n" for number in range(3_000)]
    tasks = []
    for turn in range(6):
        moved = lines[turn * 500 :] + lines[: turn * 500] if turn % 2 else list(reversed(lines))
        content = ("invoice,line,day\n" + "".join(moved)).encode() + b"Z%d,1,2025-05-01\n" % turn
        answer = http.put(f"/api/v1/files/{turn}.csv", content=content, params={"dataset": dataset})
        tasks.append(answer.json()["tasks"][0]["task_id"])
    ended = [stack.wait(task) for task in tasks]
    assert {task["status"] for task in ended} == {"Completed"}
    assert sum(task["rows_loaded"] for task in ended) == 3_006
    assert stack.sql(f"SELECT count(*), count(DISTINCT (invoice, line)) FROM data.{dataset}") == [(3_006, 3_006)]


TRAILED = {
    "columns": [{"name": "kind", "type": "text"}, {"name": "amount", "type": "numeric", "format": "1.234,56"}],
    "trailer": {"marker": "TOTAL", "records": 2, "sums": {"amount": 3}},
}


def trailed(*records: str, trailer: str) -> bytes:
    return ("kind;amount\n" + "".join(f"{record}\n" for record in records) + trailer).encode()


def test_a_file_that_comes_to_what_its_trailer_says_completes_and_the_trailer_is_skipped(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    for end in ("", "\n", "\n\n"):
        dataset = register(TRAILED)
        content = trailed("a;1.000,50", "b;-0,50", trailer="TOTAL;2;1.000,00" + end)
        task = load(stack, http, dataset, "x.csv", content)
        assert (task["status"], task["records"], task["rows_loaded"]) == ("Completed", 3, 2), task
        assert rows(stack, dataset, "kind, amount::text, _record") == [("a", "1000.50", 1), ("b", "-0.50", 2)]
        told = http.get(f"/api/v1/jobs/{task['task_id']}/reconciliation").json()
        assert (told["rows_skipped"], told["bytes_covered"], told["closes"]) == (1, len(content) - 12, True)
    alone = load(stack, http, register(TRAILED), "x.csv.gz", gzip.compress(trailed(trailer="TOTAL;0;0")))
    assert (alone["status"], alone["records"], alone["rows_loaded"]) == ("Completed", 1, 0), alone


@pytest.mark.parametrize(
    ("trailer", "code", "says"),
    [
        ("TOTAL;3;1.000,00", "control_totals_differ", "It has 2 records, its sender says 3."),
        ("TOTAL;2;1.000,01", "control_totals_differ", "The sum of 'amount' is 1000, its sender says 1000.01."),
        ("TOTAL;2;1000.00", "trailer_invalid", "Field 3"),
        ("TOTAL;2", "trailer_invalid", "Field 3"),
        ("TOTAL;two;1.000,00", "trailer_invalid", "Field 2"),
        ("TOTAL;2.0;1.000,00", "trailer_invalid", "Field 2"),
        ("TOTAL;1e0;1.000,00", "trailer_invalid", "Field 2"),
        ("TOTAL;-2;1.000,00", "trailer_invalid", "Field 2"),
        ("TOTAL;0002;1.000,01", "control_totals_differ", "The sum of 'amount' is 1000, its sender says 1000.01."),
        ("TOTAL;2;NaN", "trailer_invalid", "Field 3"),
        ("c;1,00", "trailer_missing", "'TOTAL'"),
    ],
)
def test_a_file_that_comes_to_something_else_than_its_trailer_says_does_not_complete(
    stack: Stack, http: httpx2.Client, register: Register, trailer: str, code: str, says: str
) -> None:
    dataset = register(TRAILED)
    task = load(stack, http, dataset, "x.csv", trailed("a;1.000,50", "b;-0,50", trailer=trailer + "\n"))
    assert (task["status"], task["error"]["code"]) == ("Failed", code)
    assert says in task["error"]["message"]
    assert stack.sql("SELECT to_regclass(%s)", f"data.{dataset}") == [(None,)] or rows(stack, dataset, "1") == []


FIXED = {
    "columns": [
        {"name": "account", "type": "text", "nullable": False, "width": 6},
        {"name": "day", "type": "date", "width": 8, "format": "%Y%m%d"},
        {"name": "amount", "type": "bigint", "width": 7},
    ],
    "rejects_max": "100%",
}


def test_columns_of_so_many_characters_are_cut_from_lines(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    dataset = register(FIXED)
    lines = [
        'ab,"cd20250401      7',  # delimiters and quotes mean nothing here
        "  ü a 20251231-123456",
        "abcdef",
        "abcdef2025040112345678",
        "      20250401      1",
        "abcdef20250431      1",
        "abcdef2025  01      1",
        "abcdef20250401      1   ",
    ]
    task = load(stack, http, dataset, "fixed.txt", ("\r\n".join(lines) + "\r\n").encode())
    assert (task["status"], task["rows_loaded"], task["rows_rejected"]) == ("Completed", 4, 4), task
    assert rows(stack, dataset, "account, day::text, amount, _record") == [
        ('ab,"cd', "2025-04-01", 7, 1),
        ("ü a", "2025-12-31", -123456, 2),
        ("abcdef", None, None, 3),
        ("abcdef", "2025-04-01", 1, 8),
    ]
    assert rejects(http, task) == {
        4: ("record_malformed", None),
        5: ("value_missing", "account"),
        6: ("date_invalid", "day"),
        7: ("date_invalid", "day"),
    }
    answer = http.put(f"/api/v1/datasets/{dataset}", json={"columns": [{**FIXED["columns"][0], "width": None}]})
    assert "width" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("filename", "content", "said"),
    [
        ("mixed.csv", b"a,b\n1,x\r\n2,\"y\r\nz\"\n3,\n", {}),
        ("old_mac.csv", b"a,b\r1,x\r2,\"y\rz\"\r3,\r", {}),
        ("mysql.csv", b"1,'x'\n2,'y\r\nz'\n3,\\N\n", {"quote": "'", "escape": "\\", "header": "no"}),
        ("other.txt", b"a#b\n1#x\n2#\"y\r\nz\"\n3#\n", {"delimiter": "#"}),
        ("latin.csv", "a;b\n1;x\n2;'y\r\nz'\n3;\n".encode("utf-16"), {"quote": "'"}),
    ],
)  # fmt: skip
def test_text_is_read_as_its_sender_says_and_whatever_its_lines_end_with(
    stack: Stack, http: httpx2.Client, register: Register, filename: str, content: bytes, said: dict[str, str]
) -> None:
    columns = [{"name": "column_1" if "header" in said else "a", "type": "bigint", "nullable": False}]
    columns += [{"name": "column_2" if "header" in said else "b", "type": "text"}]
    dataset = register({"columns": columns})
    task = load(stack, http, dataset, filename, content, **said)
    assert (task["status"], task["rows_loaded"]) == ("Completed", 3), task
    within = "y\rz" if filename == "old_mac.csv" else "y\r\nz"
    assert rows(stack, dataset, f"{columns[0]['name']}, {columns[1]['name']}") == [(1, "x"), (2, within), (3, None)]


def test_prose_is_lines_however_they_end(stack: Stack, http: httpx2.Client) -> None:
    dataset = f"notes_{uuid4().hex[:8]}"
    task = load(stack, http, dataset, "notes.txt", b'dear "reader",\r\n\n"this is not closed\nend\r\n')
    assert (task["status"], task["records"]) == ("Completed", 4), task
    assert rows(stack, dataset, "line") == [('dear "reader",',), ("",), ('"this is not closed',), ("end",)]


@pytest.mark.parametrize("said", [{"delimiter": "ab"}, {"quote": "a"}, {"escape": "\n"}, {"header": "perhaps"}])
def test_what_cannot_separate_or_quote_is_refused(http: httpx2.Client, said: dict[str, str]) -> None:
    answer = http.put("/api/v1/files/x.csv", content=b"a,b\n1,2\n", params=said)
    assert answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT
    assert next(iter(said)) in answer.json()["detail"]


def test_a_preview_knows_the_trailer_and_the_widths_of_a_contract(http: httpx2.Client, register: Register) -> None:
    content = trailed("a;1.000,50", "b;-0,50", trailer="TOTAL;2;1.000,00\n")
    shown = http.post("/api/v1/preview", params={"dataset": register(TRAILED)}, content=content).json()
    assert (shown["records"], shown["records_examined"], shown["rejected"]) == (3, 2, 0)
    assert [row["amount"] for row in shown["rows"]] == ["1000.50", "-0.50"]
    cut = http.post("/api/v1/preview", params={"dataset": register(TRAILED)}, content=content[:-20])
    assert (cut.status_code, "'TOTAL'" in cut.text) == (httpx2.codes.UNPROCESSABLE_CONTENT, True)
    shown = http.post("/api/v1/preview", params={"dataset": register(FIXED)}, content=b"abcdef20250401      1\n").json()
    assert shown["rows"] == [{"account": "abcdef", "day": "2025-04-01", "amount": "1"}]


def test_a_file_that_lacks_what_key_trailer_and_fiscal_date_are_of_is_told_its_columns(
    stack: Stack, http: httpx2.Client, register: Register
) -> None:
    contract = {**KEYED, "trailer": {"marker": "T", "sums": {"line": 2}}, "missing_columns": "null"}
    nullable = {**TRAILED, "missing_columns": "null", "extra_columns": "ignore"}
    for said, content in ((contract, b"other\n1\n"), (nullable, b"kind\na\n"), (nullable, b"x,y\n1,2\n")):
        dataset = register(said)
        task = load(stack, http, dataset, "x.csv", content)
        code = "trailer_missing" if content.startswith(b"kind") else "contract_differs"
        assert (task["status"], task["error"]["code"]) == ("Failed", code), task
        preview = http.post("/api/v1/preview", params={"dataset": dataset}, content=content)
        assert preview.status_code < httpx2.codes.INTERNAL_SERVER_ERROR


def test_rejects_of_converted_values_come_back_corrected(stack: Stack, http: httpx2.Client, register: Register) -> None:
    dataset = register(BANK)
    text = HEADER + "DE1234;1.4.2025;1,50;1;ja;EUR;r\nDE1234;1.4.2025;1.50;2;ja;EUR;r\n"
    task = load(stack, http, dataset, "bank.csv", text.encode())
    sheet = http.get(f"/api/v1/jobs/{task['task_id']}/rejects.csv").text
    fixed = load(stack, http, dataset, "fix.csv", sheet.replace("1.50", "1,50").encode(), corrects=task["task_id"])
    assert fixed["status"] == "Completed", fixed
    [state] = {reject["state"] for reject in http.get(f"/api/v1/jobs/{task['task_id']}/rejects").json()["rejects"]}
    assert state == "corrected"
    assert rows(stack, dataset, "number, amount::text") == [(1, "1.50"), (2, "1.50")]


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"type": "text", "pattern": "(?<=a)b"}, "pattern"),
        ({"type": "text", "pattern": "("}, "pattern"),
        ({"type": "bigint", "pattern": "1"}, "pattern"),
        ({"type": "text", "format": "%Y"}, "no format"),
        ({"type": "date", "format": "%d.%m"}, "year"),
        ({"type": "date", "format": "%d.%m.%y"}, "%y"),
        ({"type": "numeric", "format": "1,234,56"}, "no format"),
        ({"type": "numeric", "minimum": "2", "maximum": "10e0"}, "range"),
        ({"type": "numeric", "minimum": "10", "maximum": "9"}, "ends before"),
        ({"type": "text", "minimum": "a"}, "no range"),
        ({"type": "text", "allowed": [1]}, "no text"),
    ],
)
def test_a_contract_that_cannot_be_kept_is_refused_when_it_is_registered(
    http: httpx2.Client, column: dict[str, Any], says: str
) -> None:
    answer = http.put("/api/v1/datasets/never", json={"columns": [{"name": "a", **column}]})
    assert answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT, answer.text
    assert says in json.dumps(answer.json())
