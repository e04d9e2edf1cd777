"""Contracts: proposed from a file, declared, grown; and what would become of a file, with nothing stored."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.stack import Stack

Send = Callable[..., dict[str, Any]]

TEXT = "payment,paid_on,amount\n" + "".join(f"{n},2026-04-{n % 28 + 1:02},{n}.50\n" for n in range(1, 101))


@pytest.fixture
def name() -> str:
    return f"contract_{uuid4().hex[:8]}"


def arrivals(stack: Stack) -> int:
    """How many files have arrived."""
    [(count,)] = stack.sql("SELECT count(*) FROM ledger.arrivals")
    return int(count)


def test_a_contract_is_inferred_edited_and_registered_and_then_decides(
    stack: Stack, send: Send, name: str, tmp_path: Path
) -> None:
    file, written = tmp_path / "may.csv", tmp_path / "contract.json"
    file.write_text(TEXT)
    before = arrivals(stack)
    contract = stack.json("datasets", "infer", str(file))
    assert [column["type"] for column in contract["columns"]] == ["bigint", "date", "numeric"]
    contract["columns"][1]["nullable"] = False
    contract |= {"fiscal_date_column": "paid_on", "rejects_max": "0"}
    written.write_text(json.dumps(contract))
    assert stack.run("datasets", "register", name, str(written)).returncode == 0
    assert stack.json("datasets", "show", name) == contract
    assert name in stack.json("datasets", "list")
    assert arrivals(stack) == before
    task = stack.wait(send("one_bad.csv", (TEXT + "101,,1.00\n").encode(), name)["task_id"])
    assert (task["status"], task["error"]["code"]) == ("Failed", "rejects_too_many")
    assert stack.wait(send("good.csv", TEXT.encode(), name)["task_id"])["status"] == "Completed"


def test_a_contract_grows_by_columns_that_may_be_empty_and_by_nothing_else(
    stack: Stack, http: httpx2.Client, send: Send, name: str
) -> None:
    assert stack.wait(send("first.csv", TEXT.encode(), name)["task_id"])["status"] == "Completed"
    contract = http.get(f"/api/v1/datasets/{name}").json()["contract"]
    wider = {**contract, "columns": [*contract["columns"], {"name": "note", "type": "text"}]}
    told = http.put(f"/api/v1/datasets/{name}", json=wider, params={"reason": "the bank sends notes"}).json()
    assert told["contract_version"] == 2
    text = "payment,paid_on,amount,note\n7,2026-05-01,1.00,seven\n"
    assert stack.wait(send("wider.csv", text.encode(), name)["task_id"])["status"] == "Completed"
    assert stack.sql(f"SELECT count(*), count(note), max(note) FROM data.{name}") == [(101, 1, "seven")]
    for changed in (contract, {**wider, "columns": [{"name": "x", "type": "bigint"}, *wider["columns"][1:]]}):
        answer = http.put(f"/api/v1/datasets/{name}", json=changed)
        assert answer.status_code == httpx2.codes.CONFLICT
        assert "cannot become this one" in answer.json()["detail"]
    stricter = {**wider, "columns": [*wider["columns"], {"name": "y", "type": "text", "nullable": False}]}
    assert "may not be empty" in http.put(f"/api/v1/datasets/{name}", json=stricter).json()["detail"]


def test_a_dry_run_shows_rows_and_rejects_and_stores_nothing(stack: Stack, name: str, tmp_path: Path) -> None:
    file = tmp_path / "may.csv.gz"
    file.write_bytes(gzip.compress((TEXT + "x,2026-04-01,1.00\n").encode()))
    contract = tmp_path / "contract.json"
    (tmp_path / "clean.csv").write_text(TEXT)
    contract.write_text(json.dumps(stack.json("datasets", "infer", str(tmp_path / "clean.csv"))))
    stack.json("datasets", "register", name, str(contract))
    before = arrivals(stack)
    [shown] = stack.json("load", str(file), "--dataset", name, "--dry-run")
    assert (shown["format"], shown["layers"], shown["records"], shown["rejected"]) == ("delimited", ["gzip"], 101, 1)
    assert shown["rows"][0] == {"payment": "1", "paid_on": "2026-04-02", "amount": "1.50"}
    assert shown["rejects"][0] | {"reason": ""} == {
        "record": 101,
        "line": 102,
        "column": "payment",
        "code": "value_invalid",
        "reason": "",
        "raw": "x,2026-04-01,1.00\n",
    }
    told = stack.run("load", str(file), "--dataset", name, "--dry-run")
    assert "1 of the first 101 records would be rejected" in told.stderr
    assert arrivals(stack) == before
    assert stack.sql("SELECT to_regclass(%s)", f"data.{name}") == [(None,)]


def test_a_dry_run_tells_how_a_file_differs_from_its_contract(
    stack: Stack, http: httpx2.Client, send: Send, name: str
) -> None:
    stack.wait(send("first.csv", TEXT.encode(), name)["task_id"])
    other = b"payment,paid_on,sum\n1,2026-04-01,1.00\n"
    told = http.post("/api/v1/preview", params={"dataset": name}, content=other).json()
    assert any("'amount'" in difference for difference in told["differences"])
    assert any("'sum'" in difference for difference in told["differences"])
    assert told["proposed"]


def test_a_file_that_cannot_be_read_is_refused_by_its_preview(http: httpx2.Client) -> None:
    answer = http.post("/api/v1/preview", content=b"%PDF-1.7")
    assert answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT
    assert "PDF" in answer.json()["detail"]


def test_a_contract_is_printed_as_yaml_and_registers_again_without_a_difference(
    stack: Stack, http: httpx2.Client, name: str, tmp_path: Path
) -> None:
    file, written = tmp_path / "may.csv", tmp_path / "contract.yaml"
    file.write_text(TEXT)
    written.write_text(stack.run("datasets", "infer", str(file), "--yaml").stdout + "key: []\n")
    assert stack.run("datasets", "register", name, str(written)).returncode == 0
    column = "columns: [{name: no, type: text, nullable: false, allowed: [no, 'yes', 2024-01-31, 007]}]"
    written.write_text(f"{column}\nnull_tokens: [NULL, NA]\nkey: [no]\n")
    other = f"{name}_other"
    assert stack.run("datasets", "register", other, str(written)).returncode == 0
    first = http.get(f"/api/v1/datasets/{other}").json()
    assert first["contract"]["columns"][0]["allowed"] == ["no", "yes", "2024-01-31", "007"]
    for option, path in (("--yaml", written), ("--json", tmp_path / "contract.json")):
        path.write_text(stack.run("datasets", "show", other, option).stdout)
        assert stack.json("datasets", "register", other, str(path)) == {**first, "notes": []}


def test_a_contract_in_yaml_that_is_wrong_is_refused_with_its_line(
    stack: Stack, http: httpx2.Client, name: str, tmp_path: Path
) -> None:
    written = tmp_path / "contract.yaml"
    written.write_text("columns:\n  - {name: a, type: text}\n  - {name: b, name: c}\n")
    told = stack.run("datasets", "register", name, str(written))
    assert told.returncode == 2
    assert "contract.yaml is no contract. The YAML cannot be read in line 3" in told.stderr
    path, body = f"/api/v1/datasets/{name}", written.read_bytes()
    for media_type, words in (("application/yaml", "in line 3"), ("text/csv", "'text/csv' cannot be read")):
        answer = http.put(path, content=body, headers={"Content-Type": media_type})
        assert answer.status_code == httpx2.codes.UNPROCESSABLE_CONTENT
        assert words in answer.json()["detail"]
    answer = http.put(path, content=b" " * (17 << 20), headers={"Content-Type": "application/yaml"})
    assert answer.status_code == 413


def test_a_contract_goes_out_by_a_standard_and_comes_back_the_same(
    stack: Stack, http: httpx2.Client, name: str, tmp_path: Path
) -> None:
    contract = {
        "columns": [
            {"name": "payment", "type": "bigint", "nullable": False, "minimum": "1"},
            {"name": "paid_on", "type": "date", "nullable": False, "format": "%d.%m.%Y"},
            {"name": "amount", "type": "numeric", "nullable": True, "format": "1.234,56", "minimum": "0.10"},
        ],
        "null_tokens": ["", "NA"],
        "fiscal_date_column": "paid_on",
        "key": ["payment"],
    }
    assert http.put(f"/api/v1/datasets/{name}", json=contract).status_code == httpx2.codes.OK
    written = tmp_path / "contract.odcs.yaml"
    written.write_text(stack.run("datasets", "export", name, "--odcs").stdout)
    assert written.read_text().startswith("apiVersion: v3")
    told = stack.json("datasets", "register", name, str(written))
    assert (told["contract"], told["contract_version"], told["notes"]) == (contract, 1, [])
    assert stack.json("datasets", "export", name) == http.get(f"/api/v1/datasets/{name}?format=odcs").json()
    other = f"{name}_other"
    said = stack.run("datasets", "register", other, str(written)).stderr
    assert f"The object '{name}' of the schema is read as dataset '{other}'." in said
    assert http.get(f"/api/v1/datasets/{other}").json()["contract"] == contract


def test_a_standards_contract_that_means_what_none_of_ours_can_is_refused(
    stack: Stack, name: str, tmp_path: Path
) -> None:
    written = tmp_path / "contract.odcs.yaml"
    options = "logicalTypeOptions: {maxLength: 3}"
    head = f"apiVersion: v3.1.0\nkind: DataContract\nid: x\nversion: 1.0.0\nstatus: active\nschema:\n- name: {name}\n"
    written.write_text(f"{head}  properties:\n  - {{name: code, logicalType: string, {options}}}\n")
    told = stack.run("datasets", "register", name, str(written))
    assert told.returncode == 6
    assert "The property 'code' has 'maxLength', which no contract here can hold." in told.stderr
    assert stack.run("datasets", "show", name).returncode == 3


def test_a_proposed_contract_comes_with_doubts_that_change_nothing_in_it(
    stack: Stack, http: httpx2.Client, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "bank.csv"
    file.write_text(
        "paid;booked;amount;left\n" + "".join(f"{n:02}.04.2026;2026-04-{n:02};1.000,50;\n" for n in range(1, 29))
    )
    told = stack.run("datasets", "infer", str(file))
    assert (
        "? Column 'paid' is text, but all its values could be dates, such as '01.04.2026'; if so, write \"type\": "
        in (told.stderr)
    )
    shown = http.post("/api/v1/preview", params={"filename": "bank.csv"}, content=file.read_bytes()).json()
    assert [doubt.split(".")[0][:30] for doubt in shown["doubts"]] == [
        "The day of receipt decides the",
        "Column 'paid' is text, but all",
        "Column 'amount' is text, but a",
        "Column 'left' has no value in ",
    ]
    assert shown["doubts_more"] == 0
    assert [column["type"] for column in shown["contract"]["columns"]] == ["text", "date", "text", "text"]
    assert http.put(f"/api/v1/datasets/{name}", json=shown["contract"]).status_code == httpx2.codes.OK
    shown = http.post("/api/v1/preview", params={"dataset": name}, content=file.read_bytes()).json()
    assert (shown["proposed"], shown["doubts"]) == (False, [])


def test_only_the_first_doubts_are_shown_and_the_others_counted(http: httpx2.Client) -> None:
    names = [f"c{n}" for n in range(50)]
    text = f"day,{','.join(names)}\n2026-04-01{',' * 50}\n2026-04-02{',' * 50}\n"
    shown = http.post("/api/v1/preview", params={"filename": "wide.csv"}, content=text.encode()).json()
    assert (len(shown["doubts"]), shown["doubts_more"]) == (20, 31)


def test_a_preview_reads_what_is_no_plain_text_as_it_would_be_loaded(
    stack: Stack, http: httpx2.Client, name: str
) -> None:
    contract = {"columns": [{"name": "a", "type": "bigint"}, {"name": "b", "type": "text"}], "null_tokens": ["", "NA"]}
    assert http.put(f"/api/v1/datasets/{name}", json=contract).status_code == httpx2.codes.OK
    lines = b'{"a": 1, "b": "NA"}\n{"a": broken\n{"a": 2, "b": ""}\n'
    shown = http.post("/api/v1/preview", params={"dataset": name, "filename": "a.ndjson"}, content=lines).json()
    assert shown["rows"] == [{"a": "1", "b": None}, {"a": "2", "b": ""}]
    task = stack.wait(
        http.put("/api/v1/files/a.ndjson", params={"dataset": name}, content=lines).json()["tasks"][0]["task_id"]
    )
    [reject] = http.get(f"/api/v1/jobs/{task['task_id']}/rejects").json()["rejects"]
    assert {field: reject[field] for field in ("record", "line", "column", "code")} == {
        field: shown["rejects"][0][field] for field in ("record", "line", "column", "code")
    }
    assert shown["rejects"][0]["raw"] == '{"a": broken'
