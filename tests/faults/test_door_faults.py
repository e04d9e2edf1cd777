"""A door that cannot take a file says so, in time and with a remedy, takes nothing of it, and recovers by itself."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import psycopg2
import pytest

from tests.disks import small_disk
from tests.faults.faults import fault
from tests.faults.kit import FaultStack, PaymentsFile, payments_file, running_fault_stack, wait_until
from tests.faults.oracle import assert_ledger_sound

SENDERS = 60
# More than the door has connections to PostgreSQL.
ASKERS = 40
SECONDS_MAX = 120.0
TOLD_SECONDS_MAX = 60.0
BOUNDARY = "edge"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with running_fault_stack() as stack:
        yield stack


def check_refused_for_now(answer: httpx2.Response, reason: str) -> None:
    """503, why, what to do, and when to come again."""
    assert answer.status_code == 503, answer.text
    problem = answer.json()
    assert reason in problem["detail"]
    assert problem["remedy"]
    assert int(answer.headers["Retry-After"]) > 0


def fill(disk: Path) -> Path:
    """Leave no room on a disk; the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("small") / "disk", 3) as disk:
        yield disk


@pytest.fixture(scope="module")
def cramped(disk: Path) -> Iterator[FaultStack]:
    """A ledger whose blobs are on a small disk."""
    with running_fault_stack({"LEDGER_BLOBS_URL": (disk / "blobs").as_uri()}) as stack:
        yield stack


@fault(
    18,
    "no room for the blob of an upload",
    protection="an upload that cannot be kept is removed, and is an answer with a remedy",
    seen="without the removal: three half files in incoming",
)
def test_an_upload_for_which_there_is_no_room_leaves_nothing_and_works_later(cramped: FaultStack, disk: Path) -> None:
    first, large = payments_file(2_000), payments_file(40_000)
    cramped.check_loaded(cramped.send(first)["task_id"], first)
    before = cramped.position()
    filler = fill(disk)
    check_refused_for_now(cramped.put(large), "No space left on device")
    with cramped.http() as http:
        form = http.post("/uploadfiles/", files=[("files", (large.filename, large.content))])
        check_refused_for_now(form, "No space left on device")
        assert http.get("/readyz").json()["parts"]["blobs"]["ok"] is False
    assert cramped.incoming() == []
    assert cramped.position() == before
    filler.unlink()
    cramped.check_loaded(cramped.send(large)["task_id"], large)
    assert_ledger_sound(cramped, cramped.accepted)


@fault(
    18,
    "no room for the plan of a file that was accepted",
    protection="work that a part's absence stops is given back and tried again",
    seen="with the job failed at once: no work is left that says why it waits",
)
def test_a_file_for_whose_plan_there_is_no_room_is_loaded_when_there_is(cramped: FaultStack, disk: Path) -> None:
    file = payments_file()
    cramped.pause("celery")
    task = cramped.send(file)
    filler = fill(disk)
    cramped.resume()
    wait_until(
        lambda: "No space left on device" in str(cramped.sql("SELECT last_error FROM work.items")),
        "nobody notices that the disk is full",
    )
    filler.unlink()
    cramped.check_loaded(task["task_id"], file)
    assert_ledger_sound(cramped, cramped.accepted)


def form_of(file: PaymentsFile) -> bytes:
    """A form of two files, up to its last boundary: a whole one that nobody may take, and this one."""
    parts = (("whole.csv", b"number\n1\n"), (file.filename, file.content))
    return b"\r\n".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode() + content
        for name, content in parts
    )


def put_line(file: PaymentsFile) -> str:
    return f"PUT /api/v1/files/{file.filename}?dataset={file.dataset} HTTP/1.1"


TORN = {
    "a body shorter than its length": lambda file: (put_line(file), f"Content-Length: {len(file.content) + 9}", b""),
    "a chunked body without its end": lambda file: (put_line(file), "Transfer-Encoding: chunked", b"fffff\r\n"),
    "a form shorter than its length": lambda file: (
        "POST /uploadfiles/ HTTP/1.1",
        f"Content-Type: {FORM}\r\nContent-Length: {len(form_of(file)) + 9}",
        form_of(file)[: -len(file.content)],
    ),
}


@fault(
    32,
    "a torn upload: fewer bytes than announced, closed with FIN or RST",
    protection="only a body that has come to its end is taken",
    seen="with a broken connection taken for the end: one more event in the log",
)
@pytest.mark.parametrize("end", ["FIN", "RST"])
@pytest.mark.parametrize("what", TORN)
def test_a_torn_upload_is_no_job_and_leaves_nothing(stack: FaultStack, what: str, end: str) -> None:
    before = stack.position()
    file = payments_file(2_000)
    line, headers, beginning = TORN[what](file)
    url = urlsplit(stack.state()["url"])
    with socket.create_connection((url.hostname, url.port), SECONDS_MAX) as connection:
        head = f"{line}\r\nHost: ledger\r\nAuthorization: Bearer {stack.key}\r\n{headers}\r\n\r\n"
        connection.sendall(head.encode() + beginning + file.content[:-9])
        wait_until(stack.incoming, "the bytes do not come to the door")
        if end == "FIN":
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1 << 16)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
        else:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_until(lambda: not stack.incoming(), "the half upload stays")
    assert stack.position() == before
    check_is_new(stack, file)


@fault(
    32,
    "a form that ends, after a whole file, without its last boundary",
    protection="only a form that has come to its last boundary is taken",
    seen="without the check of the end: 202, and the whole file of the form was taken",
)
def test_a_form_without_its_end_is_no_job_though_a_file_in_it_is_whole(stack: FaultStack) -> None:
    before = stack.position()
    file = payments_file(2_000)
    with stack.http() as http:
        answer = http.post("/uploadfiles/", content=form_of(file), headers={"Content-Type": FORM})
    assert answer.status_code == 422, answer.text
    assert "ends before its last boundary" in answer.json()["detail"]
    assert (stack.position(), stack.incoming()) == (before, [])
    check_is_new(stack, file)


def check_is_new(stack: FaultStack, file: PaymentsFile) -> None:
    """The file can be sent as if it had never been, and nothing else of late was received."""
    [(arrivals,)] = stack.sql("SELECT count(*) FROM ledger.arrivals")
    task = stack.send(file)
    assert not task["duplicate"]
    stack.check_loaded(task["task_id"], file)
    assert stack.sql("SELECT count(*) FROM ledger.arrivals") == [(arrivals + 1,)]
    assert_ledger_sound(stack, stack.accepted)


@fault(
    52,
    "many clients of a PostgreSQL that stands still",
    protection="the wait for a new connection has a limit, and its end is an answer",
    seen="without the limit: nobody is told in 60 s",
)
def test_clients_are_told_that_postgresql_stands_still_and_nothing_acknowledged_is_lost(stack: FaultStack) -> None:
    stack.pause("postgresql")
    check_clients_are_told(stack, "timeout expired", stack.resume)


@fault(
    52,
    "many clients while every connection to PostgreSQL waits for a lock",
    protection="the wait for a connection of the pool has a limit, and its end is an answer",
    seen="without the limit: nobody is told in 60 s; nor with its end not taken for absence",
)
def test_clients_are_told_that_no_connection_is_free_and_nothing_acknowledged_is_lost(stack: FaultStack) -> None:
    holder = psycopg2.connect(stack.database_url())
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE ledger.stored_events IN ACCESS EXCLUSIVE MODE")
    check_clients_are_told(stack, "QueuePool limit", holder.close)


def check_clients_are_told(stack: FaultStack, reason: str, set_right: Callable[[], None]) -> None:
    """Some askers and some senders are told why while it lasts, all others afterwards; then everything works."""
    with ThreadPoolExecutor(SENDERS + ASKERS) as clients, stack.http() as http:
        asked = [clients.submit(http.get, f"/api/v1/jobs/{uuid4()}/events") for _ in range(ASKERS)]
        sent = [clients.submit(stack.put, payments_file(20), timeout_seconds=SECONDS_MAX) for _ in range(SENDERS)]
        try:
            for group in (asked, sent):
                wait_until(partial(is_told, group, reason), f"nobody is told: {reason}", TOLD_SECONDS_MAX)
        finally:
            set_right()
        answers = [client.result() for client in asked + sent]
    for answer in answers:
        if answer.status_code not in (202, 404):
            check_refused_for_now(answer, "PostgreSQL cannot be reached")
    stack.wait_ready()
    file = payments_file()
    stack.check_loaded(stack.send(file)["task_id"], file)
    assert_ledger_sound(stack, stack.accepted)


def is_told(clients: list[Future[httpx2.Response]], reason: str) -> bool:
    """Whether one of them has got an answer that says so."""
    return any(client.done() and reason in client.result().text for client in clients)


def test_who_asks_about_a_dataset_is_told_that_postgresql_is_away(stack: FaultStack) -> None:
    postgresql = stack.state()["pids"]["postgresql"]
    stack.kill("postgresql")
    try:
        with stack.http() as http:
            check_refused_for_now(http.get("/api/v1/datasets/payments"), "PostgreSQL cannot be reached")
    finally:
        stack.wait_replaced("postgresql", postgresql)
        stack.wait_ready()


def test_the_door_says_that_it_is_alive_while_all_who_ask_it_wait_for_postgresql(stack: FaultStack) -> None:
    stack.pause("postgresql")
    with ThreadPoolExecutor(2 * ASKERS) as clients, stack.http() as http:
        try:
            asked = [clients.submit(http.get, f"/api/v1/jobs/{uuid4()}/events") for _ in range(2 * ASKERS)]
            wait_until(lambda: requests_read(stack) >= 2 * ASKERS, "the door does not read what it is asked")
            assert http.get("/livez").status_code == 200
            told = sum(client.done() for client in asked)
        finally:
            stack.resume()
    assert told == 0


def requests_read(stack: FaultStack) -> int:
    """How many connections to the door hold nothing that it has not read."""
    port = urlsplit(stack.state()["url"]).port
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = [each for each in connections if each[3] == "01"]
    return sum(
        int(local.partition(":")[2], 16) == port and int(queues.partition(":")[2], 16) == 0
        for _, local, _, _, queues, *_ in established
    )
