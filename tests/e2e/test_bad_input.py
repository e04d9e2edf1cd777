"""Whatever is sent, the sender gets an explanation, nothing wrong is loaded, and the ledger goes on."""

from __future__ import annotations

import gzip
import io
import socket
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import httpx2
import pytest

from ledger.settings import Settings
from tests.stack import Stack

CHUNK_BYTES: int = Settings.model_fields["chunk_bytes"].default
LONG_LINE_BYTES = 100_000_000
WAIT_SECONDS_MAX = 60.0
HEADER = "id,day,name\n"
GOOD = HEADER + "1,2025-01-01,a\n2,2025-01-02,b\n"

Send = Callable[..., dict[str, Any]]

HOSTILE_NAMES = {
    "a folder above": "../../x",
    "a folder of Windows": "..\\x.csv",
    "a root": "/etc/passwd",
    "a NUL": "a\0.csv",
    "a newline": "a\n.csv",
    "300 characters": "x" * 296 + ".csv",
    "a right-to-left mark": "gpj.\u202evsc.csv",
    "only blanks": "   ",
    "two dots": "..",
}

XML_BOMB = b"""<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]><a><b>&y;</b></a>"""
XML_STEALING = (
    b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><b>&x;</b><b>1</b></a>"""
)
BOMB_BYTES = 200 << 20


def _zip(members: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def _again_and_again(content: bytes, times: int) -> bytes:
    for _ in range(times):
        content = gzip.compress(content)
    return content


UNREADABLE = {
    "a truncated gzip": (gzip.compress(GOOD.encode() * 100)[:-20], "is not complete"),
    "a damaged gzip": (gzip.compress(GOOD.encode())[:-8] + bytes(8), "incorrect data check"),
    "a gzip bomb": (gzip.compress(bytes(BOMB_BYTES)), "too large when it is unpacked"),
    "gzip in gzip in gzip in gzip": (_again_and_again(GOOD.encode(), 4), "inside 2 other containers"),
    "an archive of two files in a gzip": (
        gzip.compress(_zip({"a.csv": b"a\n1\n", "b.csv": b"a\n1\n"})),
        "holds 2 files, and it is not said which",
    ),
    "a broken archive of two files": (_zip({"a.csv": b"a\n1\n", "b.csv": b"a\n1\n"})[:-30], "no readable directory"),
    "an archive of nothing": (_zip({}), "holds no file"),
    "parquet": (b"PAR1\x15\x04\x15\x10" + bytes(64) + b"PAR1", "Parquet"),
    "xlsx": (b"PK\x03\x04\x14\x00\x06\x00" + bytes(64), "zip"),
    "a bomb of XML entities": (XML_BOMB, "document type"),
    "XML that reads our files": (XML_STEALING, "document type"),
    "XML that is cut off": (b"<?xml version='1.0'?><a><b>1</b><b>2</b>", "ends inside the document"),
    "JSON that is cut off": (b'[{"id": 1}, {"id"', "ends inside the document"),
    "JSON without records": (b"[1, 2]\n", "JSON"),
    "a PDF": (b"%PDF-1.7\n", "PDF"),
    "a NUL byte": (GOOD.encode() + b"3,2025-01-03,\0\n", "NUL byte"),
    "Latin-1": ((GOOD + "3,2025-01-03,Zoë\n").encode("latin-1"), "UTF-8"),
    "a header only": (HEADER.encode(), "no record"),
    "an unterminated quote": ((GOOD + '3,2025-01-03,"c\n').encode(), "not closed"),
    "a hundred thousand columns": (b",".join(b"c%d" % n for n in range(100_000)) + b"\n1\n", "100,000 columns"),
}

MULTIPART = "multipart/form-data; boundary=edge"
PART = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\nid\r\n1\r\n'
BROKEN_FORMS = {
    "no boundary named": ("multipart/form-data", PART + b"--edge--\r\n"),
    "another boundary": ("multipart/form-data; boundary=other", PART + b"--edge--\r\n"),
    "no last boundary": (MULTIPART, PART),
    "cut in a header": (MULTIPART, PART[:40]),
    "garbage for a header": (MULTIPART, b"--edge\r\n\x00\xff: \x01\r\n\r\nid\r\n--edge--\r\n"),
    "not multipart": ("text/csv", b"id\n1\n"),
    "no body": (MULTIPART, b""),
    "no file": (MULTIPART, b'--edge\r\nContent-Disposition: form-data; name="dataset"\r\n\r\nx\r\n--edge--\r\n'),
    "no part": (MULTIPART, b"--edge--\r\n"),
}


@pytest.fixture(autouse=True)
def nothing_is_left_behind(stack: Stack) -> Iterator[None]:
    """After each test, no half upload lies at the door and everybody lives who lived before."""
    pids = stack.state()["pids"]
    yield
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while left := list((stack.home / "blobs" / "incoming").iterdir()):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    assert stack.state()["pids"] == pids


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_file_that_cannot_be_read_fails_with_its_reason(stack: Stack, send: Send, what: str) -> None:
    content, reason = UNREADABLE[what]
    dataset = _fresh_dataset()
    error = _failed(stack, send("bad.csv", content, dataset), dataset)
    assert reason in error["message"]
    assert error["stage"] == "plan"


def test_where_bytes_are_not_utf8_is_said(stack: Stack, send: Send) -> None:
    good = (HEADER + '1,2025-01-01,"two\nlines"\n\n').encode()
    dataset = _fresh_dataset()
    error = _failed(stack, send("latin.csv", good + b"2,2025-01-02,Zo\xeb\n", dataset), dataset)
    assert (error["record"], error["line"], error["byte_offset"]) == (2, 5, len(good) + len(b"2,2025-01-02,Zo"))


def test_where_a_quote_was_opened_is_said(stack: Stack, send: Send) -> None:
    dataset = _fresh_dataset()
    error = _failed(stack, send("open.csv", (GOOD + '3,2025-01-03,"c\n4,2025\n').encode(), dataset), dataset)
    assert (error["record"], error["line"]) == (3, 4)
    assert error["byte_offset"] == len(GOOD + "3,2025-01-03,")


def test_a_ragged_record_deep_in_the_second_chunk_is_named(stack: Stack, send: Send) -> None:
    """Quoted newlines and blank lines come before it, so that its record and its line differ."""
    content = _CountedRecords()
    content.add_until(CHUNK_BYTES + (CHUNK_BYTES >> 1))
    record, line = content.add("{number},2025-01-01\n")
    content.add_until(2 * CHUNK_BYTES + (CHUNK_BYTES >> 2))
    dataset = _fresh_dataset()
    reject = _only_reject(stack, send("ragged.csv", content.bytes(), dataset), dataset)
    assert (reject["record"], reject["line"], reject["code"]) == (record, line, "record_malformed")
    assert line > record + 1
    assert "2 fields" in reject["reason"]
    assert reject["raw"] == f"{record},2025-01-01\n"


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoted", ["a\nb", "a\r\nb", "a\rb", "a\n\n\nb"])
@pytest.mark.parametrize("before", ["", "blank lines"])
def test_newlines_within_quotes_do_not_shift_the_place_that_is_named(
    stack: Stack, send: Send, line_end: str, quoted: str, before: str
) -> None:
    blank = line_end if before else ""
    records = [f'{number},2025-01-01,"{quoted}"{line_end}' for number in range(1, 4)]
    good = HEADER.replace("\n", line_end) + blank + blank.join(records) + blank
    content = f"{good}4,2025-01-01{line_end}5,2025-01-01,e{line_end}"
    dataset = _fresh_dataset()
    error = _failed(stack, send("quoted.csv", content.encode(), dataset), dataset)
    assert (error["code"], error["record"], error["line"]) == ("rejects_too_many", 4, good.count("\n") + 1)
    assert "1 of the 5 records" in error["message"]


@pytest.mark.parametrize(
    ("record", "column", "value"),
    [
        ("{number},someday4711,x\n", "day", "someday4711"),
        ("tulip4711,2025-01-01,x\n", "id", "tulip4711"),
        ("1.54711,2025-01-01,x\n", "id", "1.54711"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_by_its_place_and_not_quoted(
    stack: Stack, send: Send, record: str, column: str, value: str
) -> None:
    dataset = _fresh_dataset()
    assert stack.wait(send("first.csv", GOOD.encode(), dataset)["task_id"])["status"] == "Completed"
    content = _CountedRecords()
    content.add_until(200_000)
    number, line = content.add(record)
    content.add_until(400_000)
    task = send("wrong.csv", content.bytes(), dataset)
    reject = _only_reject(stack, task, dataset, loaded_before=2)
    assert (reject["record"], reject["line"], reject["column"]) == (number, line, column)
    assert value in reject["raw"]
    assert value not in reject["reason"]
    # Events are for ever, and hold no row data.
    assert value not in stack.run("jobs", "events", task["task_id"], "--json").stdout


def test_a_failure_in_a_later_chunk_withdraws_what_earlier_chunks_loaded(stack: Stack, send: Send) -> None:
    dataset = _fresh_dataset()
    content = _CountedRecords()
    content.add_until(2 * CHUNK_BYTES + (CHUNK_BYTES >> 1))
    for _ in range(len(content) // 8):
        content.add("{number},2025-01-01,x,too,many\n")
    task = send("late.csv", content.bytes(), dataset)
    error = _failed(stack, task, dataset)
    assert error["code"] == "rejects_too_many"
    events = stack.json("jobs", "events", task["task_id"])
    loaded = sum(event["data"]["rows_loaded"] for event in events if event["type"] == "filejob.chunk_loaded")
    assert events[-1]["data"]["rows_withdrawn"] == loaded
    assert stack.json("jobs", "show", task["task_id"])["rows_loaded"] == 0


def test_a_header_that_does_not_fit_the_contract_is_refused_with_its_columns(stack: Stack, send: Send) -> None:
    dataset = _fresh_dataset()
    stack.wait(send("first.csv", GOOD.encode(), dataset)["task_id"])
    task = stack.wait(send("other.csv", b"id,day,title\n3,2025-01-01,c\n", dataset)["task_id"])
    assert task["status"] == "Failed"
    assert "'name'" in task["error"]["message"]
    assert "'title'" in task["error"]["message"]


def test_a_line_of_a_hundred_megabytes_is_refused(stack: Stack, send: Send) -> None:
    def blocks() -> Iterator[bytes]:
        yield GOOD.encode() + b"3,2025-01-03,"
        for _ in range(LONG_LINE_BYTES // 1_000_000):
            yield b"x" * 1_000_000

    dataset = _fresh_dataset()
    error = _failed(stack, send("long.csv", blocks(), dataset), dataset)
    assert error["code"] == "record_too_long"
    assert (error["record"], error["line"], error["byte_offset"]) == (3, 4, len(GOOD))


def test_an_empty_file_is_refused(stack: Stack, http: httpx2.Client) -> None:
    before = _arrivals(stack)
    _refused(http.put("/api/v1/files/empty.csv", content=b""), 422, "empty")
    _refused(
        http.post("/uploadfiles/", files=[("files", ("a.csv", b"")), ("files", ("b.csv", b"x\n1\n"))]), 422, "empty"
    )
    assert _arrivals(stack) == before


@pytest.mark.parametrize(
    "name", ["Upper", "1st", "with space", "semi;colon", "a" * 41, "../x", "pg_catalog.x", 'x"', "é"]
)
def test_a_dataset_name_that_is_none_is_refused(stack: Stack, http: httpx2.Client, name: str) -> None:
    before = _arrivals(stack)
    _refused(http.put("/api/v1/files/a.csv", content=GOOD, params={"dataset": name}), 422, "dataset")
    files = [("files", ("a.csv", GOOD.encode()))]
    _refused(http.post("/uploadfiles/", files=files, data={"dataset": name}), 422, "dataset")
    assert _arrivals(stack) == before


@pytest.mark.parametrize("what", HOSTILE_NAMES)
def test_a_hostile_file_name_is_refused(stack: Stack, http: httpx2.Client, what: str) -> None:
    name = HOSTILE_NAMES[what]
    before = _arrivals(stack)
    path = "/api/v1/files/" + "".join(f"%{byte:02x}" for byte in name.encode())
    _refused(http.put(path, content=GOOD), 404 if "\n" in name else 422, "")  # no path has a newline
    escaped = name.replace("\\", "\\\\").encode()
    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="' + escaped + b'"\r\n\r\n'
    answer = http.post(
        "/uploadfiles/", content=head + GOOD.encode() + b"\r\n--edge--\r\n", headers={"Content-Type": MULTIPART}
    )
    _refused(answer, 422, "")
    assert _arrivals(stack) == before


def test_a_file_without_a_name_is_refused(stack: Stack, http: httpx2.Client) -> None:
    before = _arrivals(stack)
    _refused(http.put("/api/v1/files/", content=GOOD), 422, "name")
    body = PART.replace(b"a.csv", b"") + b"--edge--\r\n"
    _refused(http.post("/uploadfiles/", content=body, headers={"Content-Type": MULTIPART}), 422, "name")
    assert _arrivals(stack) == before


def test_a_harmless_foreign_name_is_kept_as_it_is(stack: Stack, http: httpx2.Client) -> None:
    name = "Überweisungen März 支払い (1) %2e.csv"
    answer = http.put(f"/api/v1/files/{quote(name, safe='')}", content=GOOD, params={"dataset": _fresh_dataset()})
    assert answer.json()["tasks"][0]["filename"] == name
    assert stack.wait(answer.json()["tasks"][0]["task_id"])["filename"] == name


@pytest.mark.parametrize("what", BROKEN_FORMS)
def test_a_broken_form_is_refused(stack: Stack, http: httpx2.Client, what: str) -> None:
    content_type, body = BROKEN_FORMS[what]
    before = _arrivals(stack)
    _refused(http.post("/uploadfiles/", content=body, headers={"Content-Type": content_type}), 422, "")
    assert _arrivals(stack) == before


@pytest.mark.parametrize("door", ["PUT /api/v1/files/short.csv", "POST /uploadfiles/"])
def test_a_body_that_ends_before_its_length_leaves_nothing(stack: Stack, door: str) -> None:
    before = _arrivals(stack)
    part = PART + b"2\r\n" * 500_000
    head = (
        f"{door} HTTP/1.1\r\nHost: ledger\r\nAuthorization: Bearer {stack.key}\r\n"
        f"Content-Type: {MULTIPART}\r\nContent-Length: {len(part) + 1000}\r\n\r\n"
    )
    url = urlsplit(stack.state()["url"])
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall(head.encode() + part)
        incoming = stack.home / "blobs" / "incoming"
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not any(path.stat().st_size for path in incoming.iterdir()):
            assert time.monotonic() < deadline, "the bytes do not reach the door"
            time.sleep(0.02)
    while list(incoming.iterdir()):
        assert time.monotonic() < deadline, "the half upload stays"
        time.sleep(0.05)
    assert _arrivals(stack) == before


def test_a_body_above_the_limit_is_refused(stack: Stack, http: httpx2.Client, upload_bytes_max: int) -> None:
    before = _arrivals(stack)
    block = b"x" * 999 + b"\n"

    def blocks() -> Iterator[bytes]:
        for _ in range(upload_bytes_max // 1_000_000 + 1):
            yield block * 1000

    announced = http.build_request("PUT", "/api/v1/files/a.csv", content=b"id\n1\n")
    announced.headers["Content-Length"] = str(upload_bytes_max + 1)
    _refused(_answer_before_the_body(stack, announced), 413, str(upload_bytes_max))
    _refused(http.put("/api/v1/files/a.csv", content=blocks()), 413, str(upload_bytes_max))
    assert _arrivals(stack) == before


@pytest.mark.parametrize("task_id", ["1", "x" * 500, "..%2f..%2fx", "0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d5", "%00", "☃"])
def test_a_task_id_that_is_none_is_not_found(http: httpx2.Client, task_id: str) -> None:
    for path in (f"/task/{task_id}", f"/api/v1/jobs/{task_id}", f"/api/v1/jobs/{task_id}/events"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["remedy"]


def test_what_is_not_there_is_not_found(http: httpx2.Client) -> None:
    for path in (f"/task/{uuid4()}", f"/api/v1/jobs/{uuid4()}/events", "/api/v1/datasets/nobody_knows_it"):
        _refused(http.get(path), 404, "There is no")
    _refused(http.get("/api/v1/datasets/No Name"), 422, "dataset")


@pytest.mark.parametrize(
    "contract",
    [
        {},
        {"columns": []},
        {"columns": [{"name": "x", "type": "blob"}]},
        {"columns": [{"name": "_job", "type": "text"}]},
        {"columns": [{"name": "x", "type": "text"}, {"name": "x", "type": "text"}]},
        {"columns": [{"name": "x", "type": "date"}], "fiscal_date_column": "x"},
        {"columns": [{"name": "x", "type": "date"}], "no_such_field": 1},
        {"columns": "x"},
    ],
)
def test_a_contract_that_is_none_is_refused(stack: Stack, http: httpx2.Client, contract: dict[str, Any]) -> None:
    dataset = _fresh_dataset()
    answer = http.put(f"/api/v1/datasets/{dataset}", json=contract)
    assert answer.status_code == 422
    assert answer.json()["detail"]
    assert http.get(f"/api/v1/datasets/{dataset}").status_code == 404


def test_a_json_body_that_is_none_is_refused(http: httpx2.Client) -> None:
    for body in (b"", b"{", b"[]", b"\xff\xfe"):
        headers = {"Content-Type": "application/json"}
        _refused(http.put("/api/v1/datasets/unregistered", content=body, headers=headers), 422, "")


def test_after_all_this_a_good_file_is_loaded(stack: Stack, send: Send) -> None:
    dataset = _fresh_dataset()
    task = stack.wait(send("good.csv", GOOD.encode(), dataset)["task_id"])
    assert (task["status"], task["rows_loaded"]) == ("Completed", 2)
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(2,)]
    assert "Traceback" not in (stack.home / "logs" / "api.log").read_text()
    assert "Traceback" not in (stack.home / "logs" / "celery.log").read_text()


class _CountedRecords:
    """A CSV whose physical lines run ahead of its records: quoted newlines, and blank lines between records."""

    def __init__(self) -> None:
        self._text = [HEADER]
        self._size = len(HEADER)
        self._records = 0
        self._lines = 1

    def __len__(self) -> int:
        return self._records

    def add(self, record: str) -> tuple[int, int]:
        """Add a record: its number, and the line it ends in."""
        self._records += 1
        text = record.format(number=self._records)
        self._text.append(text)
        self._size += len(text)
        self._lines += text.count("\n")
        return self._records, self._lines

    def add_until(self, size: int) -> None:
        """Add good records until there are so many bytes, as all are in ASCII."""
        while self._size < size:
            self.add("{number},2025-01-01,plain" + "." * 150 + "\n")
            if self._records % 3 == 0:
                self.add('{number},2025-01-01,"two\nlines, and a ""quote"""\n')
            if self._records % 1000 == 1:
                self._text.append("\n")
                self._size += 1
                self._lines += 1

    def bytes(self) -> bytes:
        """The file."""
        return "".join(self._text).encode()


def _fresh_dataset() -> str:
    return f"bad_{uuid4().hex[:12]}"


def _arrivals(stack: Stack) -> int:
    [(count,)] = stack.sql("SELECT count(*) FROM ledger.arrivals")
    return int(count)


def _failed(stack: Stack, accepted: dict[str, Any], dataset: str) -> dict[str, Any]:
    """The error of a task that fails for good and leaves no row."""
    task = stack.wait(accepted["task_id"])
    assert task["status"] == "Failed", task
    error: dict[str, Any] = task["error"]
    assert error["retry_at"] is None
    assert error["code"] not in ("attempts_exhausted", "ledger_error")
    assert error["message"]
    assert error["remedy"]
    assert "Traceback" not in error["message"]
    assert (task["rows_loaded"], task["chunks_loaded"]) == (0, 0)
    [(table,)] = stack.sql("SELECT to_regclass(%s)::text", f"data.{dataset}")
    if table is not None:
        assert stack.sql(f"SELECT count(*) FROM {table}") == [(0,)]
    return error


def _only_reject(stack: Stack, accepted: dict[str, Any], dataset: str, *, loaded_before: int = 0) -> dict[str, Any]:
    """The one record that was refused of a file whose others are loaded."""
    task = stack.wait(accepted["task_id"])
    assert (task["status"], task["rows_rejected"]) == ("Completed", 1), task
    assert task["rows_loaded"] == task["records"] - 1
    assert stack.sql(f"SELECT count(*) FROM data.{dataset}") == [(task["rows_loaded"] + loaded_before,)]
    [reject] = stack.json("jobs", "rejects", task["task_id"])
    found: dict[str, Any] = reject
    missing = stack.sql(
        f"SELECT 1 FROM data.{dataset} JOIN ledger.arrivals ON position = _job WHERE job_id = %s AND _record = %s",
        task["task_id"],
        found["record"],
    )
    assert not missing, "a refused record is loaded"
    return found


def _refused(answer: httpx2.Response, status: int, reason: str) -> None:
    """A problem (RFC 9457) that says what is wrong and what to do."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert reason in problem["detail"]
    assert problem["detail"]
    assert problem["remedy"]
    assert "Traceback" not in answer.text


def _answer_before_the_body(stack: Stack, request: httpx2.Request) -> httpx2.Response:
    """What the server answers to the head of a request alone."""
    url = urlsplit(stack.state()["url"])
    lines = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1", f"Authorization: Bearer {stack.key}"]
    lines += [f"{name}: {request.headers[name]}" for name in ("Host", "Content-Length")]
    with socket.create_connection((url.hostname, url.port), timeout=WAIT_SECONDS_MAX) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            answer += connection.recv(1 << 16) or pytest.fail(f"the connection ended after {answer!r}")
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    named = dict(line.split(": ", 1) for line in headers)
    return httpx2.Response(int(status.split()[1]), headers=named, content=body)
