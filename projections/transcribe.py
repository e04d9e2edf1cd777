"""Transcribing: what stands between a file as it arrived and text that `COPY` can take.

Rules:
1. A file that is plain text in UTF-8 is its own text: nothing is written.
2. Compression and other encodings are undone, one after the other, until there is text or a format with a reader. Text
   is then the transcript as it is; of a format, the rows are written down (`projections.formats.transcript`).
3. The transcript, and the places of its records in the file, go into the blob store under their digests. The same file,
   read by the same versions, gives the same digests.
4. Everything in between is kept in a folder of its own, on disk: memory does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from ledger.blobs import BlobFile, BlobStore, BlobWriter
from ledger.errors import FileRefusedError
from projections.formats.archive import Member
from projections.formats.archive_files import files_of, listed
from projections.formats.containers import SIGNATURE_BYTES, container_of, decompress, open_container
from projections.formats.dialect import Dialect
from projections.formats.encodings import encoding_of, transcode
from projections.formats.files import read_up_to, size_of
from projections.formats.recognise import FORMATS, SAMPLE_BYTES, TEXT, is_separated_text, recognise
from projections.formats.rows import Limits, Row
from projections.formats.transcript import DIALECT, Transcriber, first_columns

COMPRESSION_EXTENSIONS = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".zip")
UTF_8 = "utf-8"
COPY_BYTES = 1 << 20
ROWS_KEPT_MAX = 1_000


@dataclass(frozen=True)
class Transcription:
    """What was made of a file.

    `format` is one of `FORMATS`, or text; `layers` are what had to be undone, the outermost first. `transcript` is None
    if the file is its own text, `places` if the text's offsets are those of the (decompressed) file.
    """

    format: str
    layers: list[str]
    filename: str  # as it would be called without its compression
    transcript: str | None = None
    places: str | None = None
    text_size: int | None = None

    @property
    def dialect(self) -> Dialect | None:
        """The dialect of a transcript that a reader's rows were written into; None for text that came as text."""
        return None if self.format == TEXT else DIALECT

    @property
    def parser_version(self) -> str:
        """Which readers made the text, and in which versions."""
        steps = [*self.layers, *([] if self.format == TEXT else [f"{self.format}-{FORMATS[self.format].version}"])]
        return "+".join([*steps, "delimited-2"])

    def to_dict(self) -> dict[str, Any]:
        """The transcription as JSON values."""
        return asdict(self)


def is_its_own_text(sample: bytes) -> bool:
    """Whether a file that starts so is plain text, as far as its first bytes can tell."""
    try:
        packed = container_of(sample[:SIGNATURE_BYTES]) is not None
        return not packed and encoding_of(sample) in (UTF_8, None) and recognise(sample) == TEXT
    except FileRefusedError:
        return False


def transcribe(
    blobs: BlobStore,
    sha256: str,
    size: int,
    filename: str,
    *,
    folder: Path,
    limits: Limits,
    options: Mapping[str, str],
) -> Transcription:
    """Make text of a file.

    Args:
        folder: where what is in between is kept; empty, and given up afterwards.
        options: see `projections.formats.rows.Reader`; also `encoding` and `member` (of an archive).

    Raises:
        FileRefusedError: the file cannot be read.
    """
    file = cast(BinaryIO, BlobFile(blobs, sha256, size))
    layers: list[str] = []
    wanted = options.get("member")
    while (container := open_container(file, size_of(file), limits, len(layers) + 1)) is not None:
        member = _member(file, container.members, wanted, limits, layers)
        plain = _scratch(folder, len(layers))
        decompress(file, container.kind, member, plain.write, limits)
        file, filename = plain, _inner_name(filename) if member is None else PurePosixPath(member.name).name
        layers.append(container.kind)
        wanted = wanted if member is None else None  # it named a file of this archive, not of one inside
    format = recognise(_sample(file))
    if format in (TEXT, "json", "json_lines"):
        file, layers = _in_utf_8(file, layers, folder, limits, options.get("encoding"))
        format = recognise(_sample(file))
    if format == TEXT and is_separated_text(options):
        format, options = "separated_text", {**options, "filename": filename}
    if format == TEXT:
        if not layers:
            return Transcription(TEXT, layers, filename)
        digest, text_size = _keep(blobs, file)
        return Transcription(TEXT, layers, filename, digest, None, text_size)
    digest, places, text_size = _write_rows(blobs, file, format, limits, options)
    return Transcription(format, layers, filename, digest, places, text_size)


def _member(
    file: BinaryIO, members: tuple[Member, ...], wanted: str | None, limits: Limits, layers: list[str]
) -> Member | None:
    """The file of an archive that is read, None in a container whose file has no name."""
    if not members:
        return None
    chosen = files_of(file, members, wanted, limits)[0]
    if wanted is None and len(members) > 1:
        raise FileRefusedError(
            "archive_ambiguous",
            f"The zip file holds {len(members):,} files, and it is not said which of them is meant: {listed(members)}.",
            "Name one of them as `member` (ledger load --member), or send the files one by one.",
        )
    if layers and chosen.control_totals:  # no door has seen them, so nobody would check them
        raise FileRefusedError(
            "archive_nested",
            f"The zip file with control totals of {chosen.member.name!r} is inside a {layers[-1]} file, where they are "
            "not looked for.",
            "Send the zip file as it is.",
        )
    return chosen.member


def _scratch(folder: Path, number: int) -> BinaryIO:
    return open(folder / f"layer-{number}", "w+b")


def _sample(file: BinaryIO) -> bytes:
    file.seek(0)
    sample = read_up_to(file, SAMPLE_BYTES)
    file.seek(0)
    return sample


def _in_utf_8(
    file: BinaryIO, layers: list[str], folder: Path, limits: Limits, named: str | None
) -> tuple[BinaryIO, list[str]]:
    """The file in UTF-8. What is in no encoding that its bytes prove is left as it is: its place is told later."""
    encoding = named or encoding_of(_sample(file)) or UTF_8
    if encoding == UTF_8:
        return file, layers
    text = _scratch(folder, len(layers))
    transcode(file, encoding, text.write, limits)
    return text, [*layers, encoding]


def _inner_name(filename: str) -> str:
    stem = filename
    for extension in COMPRESSION_EXTENSIONS:
        stem = stem.removesuffix(extension)
    return stem


def _keep(blobs: BlobStore, file: BinaryIO) -> tuple[str, int]:
    writer, size = blobs.writer(), 0
    try:
        file.seek(0)
        while piece := file.read(COPY_BYTES):
            writer.write(piece)
            size += len(piece)
        return writer.finish(), size
    except BaseException:
        writer.abort()
        raise


def _write_rows(
    blobs: BlobStore, file: BinaryIO, format: str, limits: Limits, options: Mapping[str, str]
) -> tuple[str, str, int]:
    """Write a format's rows down, once if all have the columns of the first one, else twice."""

    def rows() -> Iterator[Row]:
        file.seek(0)
        return FORMATS[format].reader(file, limits, options)

    columns, begun = _begun(rows())
    if not columns:  # there would be no header, and the first mark would be taken for it
        raise _nothing_readable(sum(1 for _ in rows()), next(rows(), None))
    while True:
        text, places = _Counting(blobs.writer()), _Counting(blobs.writer())
        try:
            transcriber = Transcriber(text.write, places.write, _raw_of(file), columns)
            for row in begun or rows():
                transcriber.take(row)
            transcriber.finish()
            found = tuple(transcriber.found)
            if found == columns:
                return text.writer.finish(), places.writer.finish(), text.size
        except BaseException:
            text.writer.abort()
            places.writer.abort()
            raise
        text.writer.abort()
        places.writer.abort()
        columns, begun = found, None


def _begun(rows: Iterator[Row]) -> tuple[tuple[str, ...], Iterator[Row] | None]:
    """The columns of the first row that can be read, and all rows, unless too many had to be read to find that out.

    To begin again is dear: of a workbook it means to load it once more.
    """
    kept: list[Row] = []
    for row in rows:
        kept.append(row)
        if row.flaw is None and row.values:
            return tuple(row.values), chain(kept, rows)
        if len(kept) >= ROWS_KEPT_MAX:
            break
    return first_columns(rows), None


def _nothing_readable(records: int, first: Row | None) -> FileRefusedError:
    if first is None:
        return FileRefusedError("no_records", "The file holds no record.", "Send a file with records.")
    why = "it has no value at all" if first.flaw is None else first.flaw.reason
    return FileRefusedError(
        "records_unreadable",
        f"None of the file's records ({records:,}) can be read. The first: {why.removesuffix('.')}.",
        "Correct what is said of the first; the others most likely have the same trouble. Then send the file again.",
        record=1,
        byte_offset=first.offset if first.length else None,
    )


def _raw_of(file: BinaryIO) -> Any:
    def raw_of(row: Row) -> bytes:
        position = file.tell()
        file.seek(row.offset)
        raw = read_up_to(file, row.length) if row.length else b""
        file.seek(position)
        return raw

    return raw_of


class _Counting:
    def __init__(self, writer: BlobWriter) -> None:
        self.writer = writer
        self.size = 0

    def write(self, data: bytes) -> None:
        self.writer.write(data)
        self.size += len(data)
