"""XML parser: expat fed from a file in bounded memory, with exact places, and with what XML is attacked by refused.

Rules:
1. A document type declaration is refused before anything in it is read. So no entity but the five that XML has is ever
   replaced, and nothing outside the file is ever looked at.
2. What expat keeps is bounded: a tag or comment in bytes, open elements in number, names in length and number.
3. Bytes are those of the file, whatever its encoding is. The encodings read are those in `ENCODINGS`.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, BinaryIO, NoReturn
from xml.parsers import expat

from ledger.domain.column import excerpt
from ledger.errors import FileRefusedError

BLOCK_BYTES = 1 << 16
TOKEN_BYTES_MIN = 1 << 20  # a limit for records smaller than this does not count for tags and comments
OPEN_ELEMENTS_MAX = 10_000
NAMES_MAX = 20_000
NAME_CHARACTERS_MAX = 4_096
NAMESPACE_END = "\f"  # cannot stand in XML
CORRECT_AND_SEND = "Correct it there and send the file again."

# All but the first four are known to Python, not to expat: one byte for each character.
ENCODINGS = ("utf-8", "utf-16", "us-ascii", "iso-8859-1", "utf-16le", "utf-16be", "windows-1252", "iso-8859-15")

_CUT_SHORT = frozenset(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
    )
)


class XmlParser:
    """Reads a file from its start. The handlers are set on `expat`; they may raise FileRefusedError."""

    def __init__(self, file: BinaryIO, token_bytes_max: int) -> None:
        self._file = file
        self._token_bytes_max = max(token_bytes_max, TOKEN_BYTES_MIN)
        self._names: dict[str, Any] = {}  # all that were used, and None for no prefix
        self._names_checked = 0
        self.expat = expat.ParserCreate(None, NAMESPACE_END, self._names)
        self.expat.buffer_text = True
        self.expat.ordered_attributes = True
        self.expat.XmlDeclHandler = self._declaration
        self.expat.StartDoctypeDeclHandler = self._document_type
        self.expat.StartNamespaceDeclHandler = self._namespace
        self.fed = 0  # bytes
        self._token = 0  # where what expat has not understood yet starts
        self._window = b""  # from there on
        self._bracket, self._empty_tag = _tag_ends(file)

    @property
    def offset(self) -> int:
        """Where what is being handled starts; of an empty tag's end, where the tag ends."""
        return self.expat.CurrentByteIndex

    def feed(self) -> bool:
        """Parse some more of the file, False if there is no more.

        Raises:
            FileRefusedError: xml_invalid, xml_dtd_forbidden, xml_encoding_unknown, xml_too_deep or xml_token_too_long.
        """
        # expat starts a token anew with each block: as much again as there is keeps that linear.
        block = self._file.read(max(BLOCK_BYTES, self.fed - self._token))
        if not block:
            return False
        self._window = self._window[self._token - (self.fed - len(self._window)) :] + block
        self.fed += len(block)
        self._parse(block, False)
        self._token = max(self._token, self.expat.CurrentByteIndex)
        if self.fed - self._token > self._token_bytes_max:
            self._refuse_at_token(f"A tag or comment that is longer than {self._token_bytes_max:,} bytes starts")
        self._check_names()
        return True

    def finish(self) -> None:
        """Check that the document has ended with the file.

        Raises:
            FileRefusedError: xml_invalid.
        """
        self._parse(b"", True)

    def too_deep(self) -> FileRefusedError:
        """The refusal of a start tag with which more than `OPEN_ELEMENTS_MAX` elements are open."""
        what = f"More than {OPEN_ELEMENTS_MAX:,} elements are open"
        return self._refusal("xml_too_deep", what, "Send a document that is less nested.")

    def end_of_element(self, bare: bool) -> int:
        """Where the element ends whose end is being handled.

        Args:
            bare: whether there was nothing in it, so that one tag may be all there is of it.
        """
        at = self.offset - (self.fed - len(self._window))
        if bare and self._window.endswith(self._empty_tag, 0, at):
            return self.offset
        found = self._window.index(self._bracket, at)
        while (found - at) % len(self._bracket):
            found = self._window.index(self._bracket, found + 1)
        return self.offset + found - at + len(self._bracket)

    def _refusal(self, code: str, what: str, remedy: str) -> FileRefusedError:
        return _refusal(code, what, remedy, self.expat.CurrentLineNumber, max(self.offset, 0))

    def _check_names(self) -> None:
        if len(self._names) > NAMES_MAX:
            self._refuse_at_token(f"More than {NAMES_MAX:,} different names were used before what starts")
        new = islice(reversed(self._names), len(self._names) - self._names_checked)
        if max((len(name or "") for name in new), default=0) > NAME_CHARACTERS_MAX:
            self._refuse_at_token(f"A name of more than {NAME_CHARACTERS_MAX:,} characters was used before what starts")
        self._names_checked = len(self._names)

    def _parse(self, block: bytes, final: bool) -> None:
        try:
            self.expat.Parse(block, final)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            place = self.expat.ErrorLineNumber, max(self.expat.ErrorByteIndex, 0)
            if final and error.code in _CUT_SHORT:
                what = f"The file ends inside the document ({reason}),"
                raise _refusal("xml_invalid", what, "Send the file again, whole.", *place) from error
            what = f"The file is not well-formed XML: {reason},"
            raise _refusal("xml_invalid", what, CORRECT_AND_SEND, *place) from error

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ENCODINGS:
            what = f"The file says that its encoding is {excerpt(encoding)}, which is not read,"
            raise self._refusal("xml_encoding_unknown", what, "Save it as UTF-8, say so there, and send it again.")

    def _document_type(self, *_: object) -> NoReturn:
        what = "There is a document type declaration (<!DOCTYPE), which could define entities; it stands"
        raise self._refusal("xml_dtd_forbidden", what, "Take it out and send the file again.")

    def _namespace(self, prefix: str | None, name: str | None) -> None:
        """Nothing to do, but that there is a handler puts prefixes and namespaces among the names that are counted."""

    def _refuse_at_token(self, what: str) -> NoReturn:
        raise _refusal("xml_token_too_long", what, CORRECT_AND_SEND, self.expat.CurrentLineNumber, self._token)


def _tag_ends(file: BinaryIO) -> tuple[bytes, bytes]:
    """What ends a tag and what ends an empty one, in the encoding that expat finds by the first two bytes."""
    file.seek(0)
    start = file.read(1)
    start += file.read(1)
    file.seek(0)
    if start == b"\xff\xfe" or start[1:] == b"\0":
        return b">\0", b"/\0>\0"
    if start == b"\xfe\xff" or start[:1] == b"\0":
        return b"\0>", b"\0/\0>"
    return b">", b"/>"


def _refusal(code: str, what: str, remedy: str, line: int, offset: int) -> FileRefusedError:
    return FileRefusedError(
        code, f"{what} in line {line:,}, at byte {offset:,}.", remedy, line=line, byte_offset=offset
    )
