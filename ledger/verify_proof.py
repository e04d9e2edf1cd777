"""Verify a proof of the ledger: `python verify_proof.py PROOF PUBLIC_KEY [FILE]`.

This file needs nothing but Python 3.9 or later and the package `cryptography`. It shares no code with the ledger that
made the proof, so that whoever does not trust that ledger can read all that there is to trust here.

PUBLIC_KEY is the key itself, written name+id+key, or a file that holds it. Of several, with commas between, any may
have signed. FILE is the file that the job is about, as it was sent; with it the proof is checked against its bytes. If
that is no plain text in UTF-8 (a workbook, say), its records are those of the text that the ledger made of it: then a
proof of a record needs that text, and says so.

What it checks, one after the other:
1. The checkpoint is signed by the public key (C2SP signed note, Ed25519).
2. Each event, as it is stored, is a leaf of the tree whose root the checkpoint has (RFC 9162, section 2.1.3.2).
3. The events are of one stream, and their versions are 1, 2, 3, ... without a gap; or it is a single event.
4. The bytes of a record that the proof is about are in a chunk that one of these events says was loaded. With FILE:
   the file and the chunk have the digests that the events say, and the bytes are those of the file. Which of the
   chunk's records they are is not proven: that needs whoever reads the chunk as the ledger did.

What is printed of a proof stands in quotes, with escapes for what cannot be seen: none of it can look like a line of
this program.

Exit status: 0 proven; 1 refused: the proof does not hold; 2 the command or a file cannot be read.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import uuid
from typing import Any, Dict, List, Optional, Tuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORM = "ledger proof, form 1"
LEAF_FORM = b"ledger event, form 1\n"
PROVEN, REFUSED, UNREADABLE = 0, 1, 2
NAMES = {"form", "about", "checkpoint", "events"}
EVENT_NAMES = {"id", "originator_id", "originator_version", "topic", "state", "index", "proof"}
RECORD_NAMES = {"record", "byte_offset", "bytes"}

Values = Dict[str, Any]
Key = Tuple[str, bytes, bytes]


class Refused(Exception):  # noqa: N818 - it is no error of this program
    """The proof does not hold."""


def check(condition: bool, why: str) -> None:
    """Refuse the proof unless a condition holds."""
    if not condition:
        raise Refused(why)


def from_base64(text: str) -> bytes:
    """The bytes that a text stands for, if it is written in the one way that they are written in."""
    data = base64.b64decode(text, validate=True)
    check(base64.b64encode(data).decode() == text, "bytes are not written as they have to be")
    return data


def parse_key(text: str) -> Key:
    """The name, the id and the bytes of a public key that is written name+id+key."""
    name, key_id, data = text.strip().split("+", 2)
    raw = from_base64(data)
    check(raw[:1] == b"\x01" and len(raw) == 33, "the public key is no Ed25519 key")
    expected = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    check(expected.hex() == key_id, "the id of the public key is not that of the key")
    return name, expected, raw[1:]


def parse_keys(text: str) -> Dict[Tuple[str, bytes], bytes]:
    """Public keys by their names and ids."""
    return {(name, key_id): public for name, key_id, public in map(parse_key, text.replace(",", " ").split())}


def open_checkpoint(note: str, keys: Dict[Tuple[str, bytes], bytes]) -> Tuple[str, int, bytes]:
    """The origin, the size and the root of a checkpoint that is signed by one of the keys."""
    body, separator, signatures = note.rpartition("\n\n")
    check(bool(separator) and signatures.endswith("\n"), "the checkpoint is no signed note")
    text = body + "\n"
    signed = False
    for line in signatures[:-1].split("\n"):
        dash, signer, data = line.split(" ")
        check(dash == "\u2014", "the checkpoint is no signed note")
        raw = from_base64(data)
        public = keys.get((signer, raw[:4]))
        if public is None:
            continue
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], text.encode())
        except InvalidSignature:
            raise Refused("the signature of the checkpoint is not that of this key over this text") from None
        signed = True
    names = ", ".join(f"{name}+{key_id.hex()}" for name, key_id in keys)
    check(signed, f"the checkpoint is not signed by {names}")
    origin, size, root = text.split("\n")[:3]
    return origin, int(size), from_base64(root)


def leaf_of(event: Values) -> bytes:
    """The hash of the leaf of an event."""
    stream = uuid.UUID(event["originator_id"])
    check(str(stream) == event["originator_id"], "a stream is not written as it has to be")
    fields = [
        event["id"].to_bytes(8, "big"),
        stream.bytes,
        event["originator_version"].to_bytes(8, "big"),
        event["topic"].encode(),
        from_base64(event["state"]),
    ]
    data = LEAF_FORM + b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    return hashlib.sha256(b"\x00" + data).digest()


def root_by(leaf: bytes, index: int, size: int, proof: List[str]) -> bytes:
    """The root that a proof of inclusion leads to."""
    check(0 <= index < size, f"there is no leaf {index} in a tree of {size}")
    place, last, found = index, size - 1, leaf
    for text in proof:
        sibling = bytes.fromhex(text)
        check(sibling.hex() == text and len(sibling) == 32, "a proof of inclusion is not of hashes")
        check(last > 0, "a proof of inclusion is too long")
        if place % 2 == 1 or place == last:
            found = hashlib.sha256(b"\x01" + sibling + found).digest()
            while place % 2 == 0 and place > 0:
                place, last = place // 2, last // 2
        else:
            found = hashlib.sha256(b"\x01" + found + sibling).digest()
        place, last = place // 2, last // 2
    check(last == 0, "a proof of inclusion is too short")
    return found


def parse(data: bytes) -> Values:
    """The values of a proof, if it has all that one has, and is written in the one way that it is written in."""
    values: Values = json.loads(data)
    written = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    check(written == data, "it is not written as a proof is")
    check(values["form"] == FORM, f"it is no proof of the form {FORM!r}")
    check(set(values) - {"record"} == NAMES, "it has not the parts that a proof has")
    check(values["about"] in ("stream", "event", "record"), "what it is about is unknown")
    check((values["about"] == "record") == ("record" in values), "it has not the parts that a proof has")
    check(all(set(event) == EVENT_NAMES for event in values["events"]), "an event has not the parts that one has")
    return values


def verify(data: bytes, key_text: str, file: Optional[bytes] = None) -> List[str]:
    """What is proven, as lines to be printed.

    Raises:
        Refused: the proof does not hold. ValueError, KeyError, TypeError and others like them: it is no proof.
    """
    proof = parse(data)
    origin, size, root = open_checkpoint(proof["checkpoint"], parse_keys(key_text))
    events = proof["events"]
    single = proof["about"] == "event"
    check(len(events) == 1 if single else len(events) > 0, "it has too many events, or none")
    check(len({event["originator_id"] for event in events}) == 1, "the events are of several streams")
    for version, event in enumerate(events, start=events[0]["originator_version"] if single else 1):
        check(event["originator_version"] == version, f"version {version} of the stream is missing")
        found = root_by(leaf_of(event), event["index"], size, event["proof"])
        check(found == root, f"version {version} of the stream is not in the log, or not as it stands in the proof")
    count = "1 event" if len(events) == 1 else f"{len(events)} events"
    lines = [f"Proven: {count} of {events[0]['originator_id']} in {origin!r}, checkpoint {size}."]
    lines += [f"  {event['originator_version']}  {event['topic']!r}  at position {event['id']}" for event in events]
    if proof["about"] == "record":
        lines += verify_record(proof["record"], states_of(events), file)
    elif file is not None:
        lines += verify_file(states_of(events), file)
    return lines


def states_of(events: List[Values]) -> List[Tuple[str, Values]]:
    """The topics of events, and what they say."""
    return [(event["topic"], json.loads(from_base64(event["state"]))) for event in events]


def verify_record(record: Values, states: List[Tuple[str, Values]], file: Optional[bytes]) -> List[str]:
    """What is proven about a record: which bytes stand where, and in which chunk. Not its number, see rule 4."""
    check(set(record) == RECORD_NAMES, "the record has not the parts that one has")
    number, start, raw = record["record"], record["byte_offset"], from_base64(record["bytes"])
    check(type(number) is int and type(start) is int, "the record's number or place is no whole number")
    end = start + len(raw)
    chunk, text, is_file = chunk_of(number, start, end, states)
    whole = "the file that arrived" if is_file else "the text that the ledger made of the file"
    first, last = chunk["first_record"], chunk["first_record"] + chunk["records"] - 1
    lines = [
        f"Bytes {start} to {end} of {whole}, whose SHA-256 is {text!r}, are in chunk {chunk['chunk']!r}.",
        f"  Of that chunk it is proven: bytes {chunk['start']!r} to {chunk['end']!r}, records {first!r} to {last!r}, "
        f"SHA-256 {chunk['sha256']!r}.",
        f"Said to be record {number}, which only who counts the records of the chunk can confirm:",
        f"  {raw.decode('utf-8', 'backslashreplace')!r}",
    ]
    if file is None:
        return [*lines, f"That the bytes are these is not proven: give {whole} as the third argument."]
    digest = hashlib.sha256(file).hexdigest()
    arrived = [state["sha256"] for topic, state in states if topic == "filejob.received"]
    if digest != text:
        instead = "; give that instead of the file that was sent" if digest in arrived else ""
        raise Refused(f"what was given has the SHA-256 {digest}, and {whole} {text!r}{instead}")
    part = hashlib.sha256(file[chunk["start"] : chunk["end"]]).hexdigest()
    check(part == chunk["sha256"], f"chunk {chunk['chunk']!r} of the file has not the SHA-256 that was loaded")
    check(file[start:end] == raw, f"bytes {start} to {end} read otherwise in the file")
    return [*lines, f"Proven: bytes {start} to {end} of {whole} are these."]


def chunk_of(number: int, start: int, end: int, states: List[Tuple[str, Values]]) -> Tuple[Values, str, bool]:
    """The chunk that has some bytes, the SHA-256 of what it is a part of, and whether that is the file that arrived."""
    arrived, transcript, found = "", None, None
    for topic, state in states:
        if topic == "filejob.received":
            arrived = state["sha256"]
        elif topic == "filejob.queued":
            transcript = state.get("transcript")
        elif (
            topic == "filejob.chunk_loaded"
            and state["first_record"] <= number < state["first_record"] + state["records"]
            and state["start"] <= start <= end <= state["end"]
        ):
            found = state, transcript or arrived, not transcript
    if found is None:
        raise Refused(f"no chunk that was loaded has record {number} at byte {start}")
    return found


def verify_file(states: List[Tuple[str, Values]], file: bytes) -> List[str]:
    """What is proven about the file: that it is the one that arrived, or the text that was made of that."""
    digest = hashlib.sha256(file).hexdigest()
    for topic, state in states:
        if topic == "filejob.received" and state["sha256"] == digest:
            return [f"The file is the one that arrived: SHA-256 {digest}."]
        if topic == "filejob.queued" and state.get("transcript") == digest:
            return [f"The file is the text that was made of the one that arrived: SHA-256 {digest}."]
    raise Refused(f"the file, whose SHA-256 is {digest}, is not the one that the events tell of")


def examine(path: str, key: str, file_path: Optional[str] = None) -> Tuple[int, List[str]]:
    """How it ended, as the exit status says it, and the lines to be told."""
    try:
        with open(path, "rb") as opened:
            proof = opened.read()
        if "+" not in key:
            with open(key, encoding="utf-8") as opened_key:
                key = opened_key.read()
        file = None
        if file_path is not None:
            with open(file_path, "rb") as opened:
                file = opened.read()
    except (OSError, ValueError) as error:
        return UNREADABLE, [f"Cannot be read: {error}"]
    try:
        return PROVEN, verify(proof, key, file)
    except Refused as refused:
        return REFUSED, [f"Refused: {refused}."]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        return REFUSED, [f"Refused: it is no proof, or its key is none ({type(error).__name__}: {str(error)!r})."]


def main(arguments: List[str]) -> int:
    """Verify, print, and say how it ended."""
    if len(arguments) not in (2, 3):
        print(__doc__)
        return UNREADABLE
    ended, lines = examine(*arguments)
    print("\n".join(lines))
    return ended


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
