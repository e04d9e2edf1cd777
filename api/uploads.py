"""From a request's body to the blob store: hashed on the way, never whole in memory, never spooled twice.

Rules:
1. A body is taken whole or not at all. Jobs are opened only after its last byte has arrived and every blob of it
   is durable; whatever breaks before that leaves no job and no half blob.
2. While one block is hashed and written by a thread, the next is received.
3. A file's name is a label. It never becomes a path, and a name that could mislead a reader is refused.
"""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from api.errors import PayloadTooLargeError
from ledger import telemetry
from ledger.blobs import BlobStore, BlobWriter
from ledger.errors import InvalidRequestError
from projections.formats.containers import SIGNATURE_BYTES

BLOCK_BYTES = 1 << 20
FIELD_BYTES_MAX = 1 << 16
FILENAME_CHARACTERS_MAX = 255
# Controls, direction marks, surrogates, private use: they make a name look like another, or break a log.
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
UNKNOWN_TYPE = "application/octet-stream"
RESEND = "Nothing was taken. Send the files again."


@dataclass(frozen=True)
class StoredFile:
    """A file whose bytes stand in the blob store; `start` is the first of them, enough to tell what is an archive."""

    filename: str
    content_type: str
    sha256: str
    size: int
    start: bytes


@dataclass
class Form:
    """What a multipart upload held."""

    files: list[StoredFile] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)


def checked_filename(name: str) -> str:
    """The name, if it can be shown and stored without harm.

    Raises:
        InvalidRequestError: it is empty, too long, names a folder, or holds invisible characters.
    """
    remedy = "Rename the file and send it again."
    if not name.strip():
        raise InvalidRequestError("A file has no name.", remedy)
    if len(name) > FILENAME_CHARACTERS_MAX:
        raise InvalidRequestError(
            f"A file name has {len(name)} characters; the most is {FILENAME_CHARACTERS_MAX}.", remedy
        )
    shown = name.encode("unicode_escape").decode()[:80]
    if "/" in name or "\\" in name or name in (".", ".."):
        raise InvalidRequestError(f"The file name {shown!r} names a folder.", "Send the file's own name alone.")
    if any(unicodedata.category(character) in HIDDEN for character in name):
        raise InvalidRequestError(f"The file name {shown!r} holds invisible characters.", remedy)
    return name


def shown_name(name: str) -> str:
    """A name that nobody was asked for, such as that of a file in an archive, as it can be shown and stored.

    What `checked_filename` takes for hidden is written out, and of a name that is too long the end stays.
    """
    shown = "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in HIDDEN else character
        for character in name
    )
    return shown if len(shown) <= FILENAME_CHARACTERS_MAX else f"...{shown[3 - FILENAME_CHARACTERS_MAX :]}"


class Incoming:
    """One file on its way into the blob store."""

    def __init__(self, store: BlobStore, bytes_max: int) -> None:
        self._writer: BlobWriter = store.writer()
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._held = 0
        self._writing: asyncio.Task[None] | None = None
        self.size = 0
        self.start = b""

    async def feed(self, data: bytes) -> None:
        """Take more bytes; waits only when a whole block is still being written."""
        self.size += len(data)
        if self.size > self._bytes_max:
            raise PayloadTooLargeError(
                f"The file is larger than {self._bytes_max} bytes, the most that is taken.",
                "Split it, or ask for a higher LEDGER_UPLOAD_BYTES_MAX.",
            )
        if len(self.start) < SIGNATURE_BYTES:
            self.start = (self.start + data)[:SIGNATURE_BYTES]
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= BLOCK_BYTES:
            await self._flush()

    async def finish(self, filename: str, content_type: str) -> StoredFile:
        """Make the blob durable."""
        await self._flush()
        await self._wait()
        sha256 = await asyncio.to_thread(self._writer.finish)
        return StoredFile(filename, content_type, sha256, self.size, self.start)

    async def abort(self) -> None:
        """Forget the file. Safe to call at any time."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await asyncio.to_thread(self._writer.abort)

    async def _flush(self) -> None:
        await self._wait()
        block = b"".join(self._pieces)
        self._pieces.clear()
        self._held = 0
        if block:
            self._writing = asyncio.create_task(asyncio.to_thread(self._writer.write, block))

    async def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            await writing


async def store_body(request: Request, store: BlobStore, filename: str, bytes_max: int) -> StoredFile:
    """Keep a request's raw body as one file."""
    incoming = Incoming(store, bytes_max)
    with telemetry.span(telemetry.SPAN_STORE):
        try:
            async for data in _body(request):
                await incoming.feed(data)
            return await incoming.finish(filename, request.headers.get("content-type", "application/octet-stream"))
        finally:
            await incoming.abort()


async def store_form(request: Request, store: BlobStore, *, bytes_max: int, files_max: int) -> Form:
    """Keep the files of a multipart upload, and its small fields.

    Raises:
        InvalidRequestError: the body is not well-formed multipart, or a file's name is refused.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidRequestError(
            "The body is not multipart/form-data with a boundary.", "Send it like curl -F files=@FILE does."
        )
    reader = _FormReader(store, bytes_max, files_max)
    with telemetry.span(telemetry.SPAN_STORE):
        try:
            parser = MultipartParser(boundary, reader.callbacks())
            async for data in _body(request):
                parser.write(data)
                await reader.take()
            parser.finalize()
            if not reader.ended:
                raise InvalidRequestError("The multipart body ends before its last boundary.", RESEND)
        except FormParserError as error:
            raise InvalidRequestError(f"The multipart body is broken: {error}.", RESEND) from None
        finally:
            await reader.abort()
    return reader.form


async def _body(request: Request) -> AsyncIterator[bytes]:
    try:
        async for data in request.stream():
            if data:
                yield data
    except ClientDisconnect:
        raise InvalidRequestError("The connection ended before the body did.", RESEND) from None


class _FormReader:
    """Follows the multipart parser: its callbacks queue what happened, `take` carries it out."""

    def __init__(self, store: BlobStore, bytes_max: int, files_max: int) -> None:
        self.form = Form()
        self.ended = False
        self._store = store
        self._bytes_max = bytes_max
        self._files_max = files_max
        self._queue: list[tuple[str, bytes]] = []
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._filename: str | None = None
        self._field = bytearray()
        self._incoming: Incoming | None = None

    def callbacks(self) -> Any:
        """The functions that the parser calls, synchronously, as it reads."""
        queue = self._queue
        return {
            "on_part_begin": lambda: queue.append(("part_begin", b"")),
            "on_header_field": lambda data, start, end: queue.append(("header_field", data[start:end])),
            "on_header_value": lambda data, start, end: queue.append(("header_value", data[start:end])),
            "on_header_end": lambda: queue.append(("header_end", b"")),
            "on_headers_finished": lambda: queue.append(("headers_finished", b"")),
            "on_part_data": lambda data, start, end: queue.append(("part_data", data[start:end])),
            "on_part_end": lambda: queue.append(("part_end", b"")),
            "on_end": lambda: queue.append(("end", b"")),
        }

    async def take(self) -> None:
        """Carry out what the parser has found since the last call."""
        for what, data in self._queue:
            match what:
                case "part_begin":
                    self._headers, self._field, self._filename = {}, bytearray(), None
                case "header_field":
                    self._header_name += data
                case "header_value":
                    self._header_value += data
                case "header_end":
                    self._headers[self._header_name.lower()] = self._header_value
                    self._header_name = self._header_value = b""
                case "headers_finished":
                    self._begin_part()
                case "part_data":
                    await self._part_data(data)
                case "part_end":
                    await self._end_part()
                case "end":
                    self.ended = True
        self._queue.clear()

    async def abort(self) -> None:
        """Forget a file that is still on its way."""
        if self._incoming is not None:
            await self._incoming.abort()

    def _begin_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        filename = options.get(b"filename")
        if filename is None:
            return
        if len(self.form.files) >= self._files_max:
            raise InvalidRequestError(
                f"There are more than {self._files_max} files in one upload.", "Send them in several uploads."
            )
        try:
            self._filename = checked_filename(filename.decode("utf-8"))
        except UnicodeDecodeError:
            raise InvalidRequestError("A file name is not UTF-8.", "Rename the file and send it again.") from None
        self._incoming = Incoming(self._store, self._bytes_max)

    async def _part_data(self, data: bytes) -> None:
        if self._incoming is not None:
            await self._incoming.feed(data)
            return
        self._field += data
        if len(self._field) > FIELD_BYTES_MAX:
            raise InvalidRequestError(f"The form field {self._name[:80]!r} is too long.", RESEND)

    async def _end_part(self) -> None:
        if self._incoming is None:
            self.form.fields[self._name] = self._field.decode("utf-8", "replace")
            return
        assert self._filename is not None
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        content_type = content_type if content_type and content_type.isprintable() else UNKNOWN_TYPE
        self.form.files.append(await self._incoming.finish(self._filename, content_type))
        self._incoming = None
