"""Verify a proof of the ledger: `python verify_proof.py PROOF PUBLIC_KEY`.

This file needs nothing but Python 3.9 or later and the package `cryptography`. It shares no code with the ledger that
made the proof, so that whoever does not trust that ledger can read all that there is to trust here.

What it checks, one after the other:
1. The checkpoint is signed by the public key (C2SP signed note, Ed25519).
2. Each event, as it is stored, is a leaf of the tree whose root the checkpoint has (RFC 9162, section 2.1.3.2).
3. The events are of one stream, and their versions are 1, 2, 3, ... without a gap.

Exit status: 0 proven; 1 refused: the proof does not hold; 2 the command or a file cannot be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import uuid

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORM = "ledger proof, form 1"
LEAF_FORM = b"ledger event, form 1\n"
PROVEN, REFUSED, UNREADABLE = 0, 1, 2


class Refused(Exception):  # noqa: N818 - it is no error of this program
    """The proof does not hold."""


def check(condition: bool, why: str) -> None:
    """Refuse the proof unless a condition holds."""
    if not condition:
        raise Refused(why)


def parse_key(text: str) -> tuple[str, bytes, bytes]:
    """The name, the id and the bytes of a public key that is written name+id+key."""
    name, key_id, data = text.strip().split("+", 2)
    raw = base64.b64decode(data, validate=True)
    check(raw[:1] == b"\x01" and len(raw) == 33, "the public key is no Ed25519 key")
    expected = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    check(expected.hex() == key_id, "the id of the public key is not that of the key")
    return name, expected, raw[1:]


def open_checkpoint(note: str, key: tuple[str, bytes, bytes]) -> tuple[str, int, bytes]:
    """The origin, the size and the root of a checkpoint that is signed by the key."""
    name, key_id, public = key
    body, _, signatures = note.rpartition("\n\n")
    text = body + "\n"
    signed = False
    for line in signatures.splitlines():
        dash, signer, data = line.split(" ")
        raw = base64.b64decode(data, validate=True)
        if (dash, signer, raw[:4]) != ("\u2014", name, key_id):
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], text.encode())
        except InvalidSignature:
            raise Refused("the signature of the checkpoint is not that of this key over this text") from None
        signed = True
    check(signed, f"the checkpoint is not signed by {name}+{key_id.hex()}")
    origin, size, root = text.split("\n")[:3]
    return origin, int(size), base64.b64decode(root, validate=True)


def leaf_of(event: dict) -> bytes:
    """The hash of the leaf of an event."""
    fields = [
        event["id"].to_bytes(8, "big"),
        uuid.UUID(event["originator_id"]).bytes,
        event["originator_version"].to_bytes(8, "big"),
        event["topic"].encode(),
        base64.b64decode(event["state"], validate=True),
    ]
    data = LEAF_FORM + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return hashlib.sha256(b"\x00" + data).digest()


def root_by(leaf: bytes, index: int, size: int, proof: list) -> bytes:
    """The root that a proof of inclusion leads to."""
    check(0 <= index < size, f"there is no leaf {index} in a tree of {size}")
    place, last, found = index, size - 1, leaf
    for text in proof:
        sibling = bytes.fromhex(text)
        check(len(sibling) == 32 and last > 0, "a proof of inclusion is too long, or not of hashes")
        if place % 2 == 1 or place == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while place % 2 == 0 and place > 0:
                place, last = place // 2, last // 2
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        place, last = place // 2, last // 2
    check(last == 0, "a proof of inclusion is too short")
    return found


def verify(proof: dict, key_text: str) -> list:
    """What is proven, as lines to be printed.

    Raises:
        Refused: the proof does not hold.
    """
    check(proof.get("form") == FORM, f"the file is no proof of the form {FORM!r}")
    origin, size, root = open_checkpoint(proof["checkpoint"], parse_key(key_text))
    events = proof["events"]
    check(len(events) > 0, "the proof holds no event")
    check(len({event["originator_id"] for event in events}) == 1, "the events are of several streams")
    for version, event in enumerate(events, start=1):
        check(event["originator_version"] == version, f"version {version} of the stream is missing")
        found = root_by(leaf_of(event), event["index"], size, event["proof"])
        check(found == root, f"version {version} of the stream is not in the log, or not as it stands in the proof")
    lines = [f"Proven: {len(events)} events of {events[0]['originator_id']} stand in {origin}, checkpoint {size}."]
    lines += [f"  {event['originator_version']}  {event['topic']}  at position {event['id']}" for event in events]
    if proof.get("events_not_sealed"):
        lines.append(f"  {proof['events_not_sealed']} more were not sealed when the proof was made: ask for a newer one.")
    return lines


def main(arguments: list) -> int:
    """Verify, print, and say how it ended."""
    if len(arguments) != 2:
        print(__doc__)
        return UNREADABLE
    try:
        with open(arguments[0], "rb") as file:
            proof = json.loads(file.read())
        key = arguments[1]
        if "+" not in key:
            with open(key, encoding="utf-8") as file:
                key = file.read()
    except (OSError, ValueError) as error:
        print(f"Cannot be read: {error}")
        return UNREADABLE
    try:
        print("\n".join(verify(proof, key)))
    except (Refused, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        print(f"Refused: {error}.")
        return REFUSED
    return PROVEN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
