"""What is made of a whole file, and how one is refused of which nothing can be loaded."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ledger.blobs import open_blob_store, put
from ledger.errors import FileRefusedError
from projections.formats.rows import Limits
from projections.transcribe import Transcription, transcribe
from tests.unit.projections.workbooks import xlsx


def transcribed(folder: Path, content: bytes) -> Transcription:
    blobs = open_blob_store(f"file://{folder}/blobs")
    scratch = folder / "scratch"
    scratch.mkdir()
    sha256 = put(blobs, content)
    return transcribe(blobs, sha256, len(content), "file", folder=scratch, limits=Limits(), options={})


def no_rows() -> bytes:
    target = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.int64())}), target)
    return target.getvalue()


@pytest.mark.parametrize(
    "content",
    [b'{"a": 1, "a": 2}\n', b'{"a": 1, "a": 2}\n{"a": 1\n', b"[1, 2]", b"[{},\n{}]", b"<a><b/><b/></a>"],
)
def test_a_file_of_flaws_alone_is_refused_for_the_first_of_them(tmp_path, content):
    with pytest.raises(FileRefusedError, match=r"can be read\. The first: ") as caught:
        transcribed(tmp_path, content)
    assert caught.value.code == "records_unreadable"
    assert caught.value.record == 1
    assert caught.value.byte_offset == content.find(b"{" if b"{" in content else b"1" if b"1" in content else b"<b")


@pytest.mark.parametrize("content", [no_rows(), xlsx({"S": [["a", "b"]]})])
def test_a_file_without_a_record_is_refused_as_that(tmp_path, content):
    with pytest.raises(FileRefusedError, match="holds no record") as caught:
        transcribed(tmp_path, content)
    assert caught.value.code == "no_records"


def test_one_record_that_can_be_read_is_enough(tmp_path):
    made = transcribed(tmp_path, b'{"a": 1, "a": 2}\n{"a": 1}\n')
    assert made.transcript is not None
