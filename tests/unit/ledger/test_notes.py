"""A note says who signed it, and a changed one says nothing."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ledger.notes import Checkpoint, NoteRefusedError, PublicKey, Signer, open_note
from tests.thorough import thorough

SIGNER = Signer("ledger.example/books", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer("ledger.example/books", Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))))
CHECKPOINT = Checkpoint("ledger.example/books", 20_852_163, bytes(range(32)))
NOTE = SIGNER.sign(CHECKPOINT.text())

# The example of https://pkg.go.dev/golang.org/x/mod/sumdb/note, made by another implementation.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_of_another_implementation_is_opened() -> None:
    text, signed = open_note(GO_NOTE.encode(), [PublicKey.parse(GO_KEY)])
    assert (text.splitlines()[1], signed) == ("then you don't know what your problem is.", ["PeterNeumann"])


def test_a_checkpoint_is_read_back_with_its_signer() -> None:
    key = PublicKey.parse(str(SIGNER.public))
    assert key == SIGNER.public
    text, signed = open_note(NOTE, [OTHER.public, key])
    assert (Checkpoint.parse(text), signed) == (CHECKPOINT, [SIGNER.name])
    cosigned = NOTE + OTHER.sign(CHECKPOINT.text()).rpartition(b"\n\n")[2]
    assert open_note(cosigned, [SIGNER.public, OTHER.public])[1] == [SIGNER.name, OTHER.name]
    assert open_note(cosigned, [OTHER.public])[1] == [OTHER.name]


def test_a_note_by_an_unknown_key_is_refused_with_its_id() -> None:
    with pytest.raises(NoteRefusedError, match=SIGNER.public.key_id.hex()):
        open_note(NOTE, [OTHER.public])


def test_every_flipped_bit_of_a_note_is_refused() -> None:
    for place in range(len(NOTE)):
        for bit in range(8):
            bent = bytearray(NOTE)
            bent[place] ^= 1 << bit
            with pytest.raises(NoteRefusedError):
                open_note(bytes(bent), [SIGNER.public])


def test_every_changed_character_of_a_key_is_refused() -> None:
    text = str(SIGNER.public)
    for place in range(len(text)):
        with pytest.raises(NoteRefusedError):
            PublicKey.parse(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])


@thorough(examples=300, steps=1)
@given(st.text(max_size=80).map(str.encode) | st.binary(max_size=80))
def test_whatever_is_no_note_is_refused(data: bytes) -> None:
    for note in (data, data + b"\n\n", data + b"\n\n" + data + b"\n", NOTE + (data or b"x")):
        with pytest.raises(NoteRefusedError):
            open_note(note, [SIGNER.public])


@pytest.mark.parametrize(
    "text", ["", "a\n1\n", "a\n01\nAAAA\n", "a\n1\nAAAA\n", f"\n1\n{'A' * 43}=\n", f"a\n-1\n{'A' * 43}=\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteRefusedError):
        Checkpoint.parse(text)
    assert Checkpoint.parse(f"a\n1\n{'A' * 43}=\nmore\n") == Checkpoint("a", 1, bytes(32), ("more",))
