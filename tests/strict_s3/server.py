"""A strict double of S3, on the loopback address and in this process: `with StrictS3() as s3: ... s3.url`.

Rules:
1. What an archive needs of S3 works as S3 documents it; all else is `501 NotImplemented`, and never half right.
2. `s3.clock` stands still until a test lets time pass: restores end and copies go by it alone.
3. `s3.faults` says what goes wrong, and which calls there were.
4. Who comes as `test` may do everything, who comes as `auditor` may look and restore, and nobody else may do anything.
   The secret of both is `test`, and every signature is checked. `s3.asked` says who came for what.

Sockets are at hand here, as no framework gives them: a reset in the middle of a body is one.
"""

from __future__ import annotations

import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from xml.sax.saxutils import escape

from tests.strict_s3.clock import VirtualClock
from tests.strict_s3.faults import REFUSALS, Fault, FaultPlan
from tests.strict_s3.objects import S3Error
from tests.strict_s3.operations import OF_READERS, Answer, Operations, Request, operation_of
from tests.strict_s3.signatures import signer_of

LOOPBACK = "127.0.0.1"
WRITER, READER, SECRET = "test", "auditor", "test"
# SO_LINGER on, with no time: closing sends RST (socket(7)).
LINGER_NOT = struct.pack("ii", 1, 0)


class StrictS3:
    """The double. Used as a context manager."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.faults = FaultPlan()
        self.operations = Operations(self.clock)
        self.asked: list[tuple[str, str, str]] = []  # who, for which operation, on what within the bucket
        self.alone = threading.Lock()
        self._server = _Server((LOOPBACK, 0), _Handler)
        self._server.double = self
        self._thread = threading.Thread(target=self._server.serve_forever, name="strict-s3", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it is, for `AWS_ENDPOINT_URL_S3`."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    double: StrictS3

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        size = int(request.headers.get("content-length", 0))
        try:
            operation = operation_of(request)
        except S3Error as error:
            self.rfile.read(size)
            self._send(_refusal(request, error))
            return
        fault = self.server.double.faults.next(
            operation, request.within_bucket, request.headers.get("amz-sdk-invocation-id", "")
        )
        if fault == Fault.RESET and operation != "GetObject":
            self.rfile.read(size // 2)
            self._reset()
            return
        request.body = self.rfile.read(size)
        if fault == Fault.FLIPPED_REQUEST and request.body:
            request.body = _flipped(request.body)
        answer = self._answer(operation, request, fault)
        if fault == Fault.LOST_ANSWER:
            self.close_connection = True
            return
        if fault == Fault.FLIPPED_ANSWER:
            _flip(answer)
        if fault == Fault.GARBLED_ANSWER and "Content-Type" in answer.headers:
            answer.body = b"<html>hello"
        if fault == Fault.SHORT_ANSWER:
            answer.body = answer.body[: len(answer.body) // 2]
            answer.headers["Content-Length"] = str(len(answer.body))
        self._send(answer, fault)

    def _answer(self, operation: str, request: Request, fault: Fault | None) -> Answer:
        if fault == Fault.IGNORED:
            return Answer()
        if fault in REFUSALS:
            return _refusal(request, S3Error(*REFUSALS[fault]))
        try:
            key = _authorize(operation, request)
            self.server.double.asked.append((key, operation, request.within_bucket))
            with self.server.double.alone:
                return self.server.double.operations.do(operation, request)
        except S3Error as error:
            return _refusal(request, error)

    def _send(self, answer: Answer, fault: Fault | None = None) -> None:
        body = b"" if self.command == "HEAD" else answer.body
        headers = {"Content-Length": str(len(body)), **answer.headers, "x-amz-request-id": "double"}
        head = f"HTTP/1.1 {answer.status} \r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        whole = head.encode() + b"\r\n" + body
        if fault in (Fault.CUT_ANSWER, Fault.RESET):
            # In the middle of the body, if there is one, and else in that of the headers.
            self.wfile.write(whole[: len(whole) - len(body) // 2] if body else whole[: len(whole) // 2])
            self.wfile.flush()
            self.close_connection = True
            if fault == Fault.RESET:
                self._reset()
            return
        self.wfile.write(whole)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self.connection.close()


def _authorize(operation: str, request: Request) -> str:
    key = signer_of(request, SECRET)
    if key not in (WRITER, READER):
        raise S3Error(403, "InvalidAccessKeyId")
    if key == READER and operation not in OF_READERS:
        raise S3Error(403, "AccessDenied")
    return key


def _refusal(request: Request, error: S3Error) -> Answer:
    body = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
    return Answer(error.status, {"Content-Type": "application/xml"}, body.encode())


def _flipped(data: bytes) -> bytes:
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _flip(answer: Answer) -> None:
    """Flip a bit of the body; where there is none, of a header that says what an object is."""
    if answer.body:
        answer.body = _flipped(answer.body)
    for name in ("x-amz-checksum-sha256", "x-amz-version-id"):
        if not answer.body and name in answer.headers:
            answer.headers[name] = _flipped(answer.headers[name].encode()).decode()
            return
