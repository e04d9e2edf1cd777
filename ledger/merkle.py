"""Merkle tree: one hash that stands for every leaf of a list, and short proofs of what the list holds.

Rules:
1. Hashing is that of RFC 6962 and RFC 9162, section 2.1: SHA-256 of a byte 0 and a leaf's data, of a byte 1 and two
   nodes; the hash of no leaves is SHA-256 of nothing. The two bytes keep a leaf from being taken for a node.
2. A tree of n leaves is split after the largest power of two below n, so that what was a complete subtree once stays
   one: nodes are never written anew, and a proof about an old tree holds in every later one.
3. Whoever verifies needs nothing but the proof, the leaf and the roots: `check_inclusion` and `check_consistency` read
   no tree. What they do not accept, they refuse with a reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from ledger.errors import LedgerError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


class ProofRefusedError(LedgerError):
    """A proof does not prove what it is said to prove."""

    code = "proof_refused"


class Nodes(Protocol):
    """The complete subtrees of a tree."""

    def node(self, level: int, index: int) -> bytes:
        """The hash of the subtree of 2**level leaves that starts at leaf index * 2**level."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of a node with these two children."""
    return hashlib.sha256(b"\1" + left + right).digest()


def root(nodes: Nodes, size: int) -> bytes:
    """The root of the first `size` leaves."""
    return _hash(nodes, 0, size) if size else EMPTY_ROOT


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """What leads from leaf `index` to the root of the first `size` leaves: PATH of RFC 9162, 2.1.3.1."""
    assert 0 <= index < size, (index, size)
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_hash(nodes, middle, end))
            end = middle
        else:
            path.append(_hash(nodes, start, middle))
            start = middle
    return path[::-1]


def consistency_proof(nodes: Nodes, old_size: int, size: int) -> list[bytes]:
    """What shows that the first `old_size` leaves are the beginning of `size`: PROOF of RFC 9162, 2.1.4.1."""
    assert 0 <= old_size <= size, (old_size, size)
    if old_size in (0, size):
        return []
    start, end, path, known = 0, size, [], True  # known: the old root itself is what is looked for
    while old_size != end:
        middle = start + _split(end - start)
        if old_size <= middle:
            path.append(_hash(nodes, middle, end))
            end = middle
        else:
            path.append(_hash(nodes, start, middle))
            start, known = middle, False
    return ([] if known else [_hash(nodes, start, end)]) + path[::-1]


def complete_subtrees(nodes: Nodes, size: int) -> list[bytes]:
    """The roots of the complete subtrees that the first `size` leaves are made of, the largest first."""
    found, start = [], 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            found.append(nodes.node(level, start >> level))
            start += 1 << level
    return found


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Check that a leaf (its hash) stands at `index` in the tree of `size` leaves whose root is `expected`.

    Raises:
        ProofRefusedError: it does not, by this proof.
    """
    if not 0 <= index < size:
        raise ProofRefusedError(f"There is no leaf {index} in a tree of {size}.")
    _check_hashes([leaf, *proof, expected])
    # RFC 9162, 2.1.3.2. `place` and `last` are the places of the leaf and of the last leaf at the level reached.
    place, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofRefusedError("The proof of inclusion is too long.")
        if place & 1 or place == last:
            found = node_hash(sibling, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        place, last = place >> 1, last >> 1
    if last:
        raise ProofRefusedError("The proof of inclusion is too short.")
    if found != expected:
        raise ProofRefusedError(f"The proof of inclusion leads to {found.hex()}, and the root is {expected.hex()}.")


def check_consistency(old_size: int, size: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Check that the tree of `old_size` leaves is the beginning of that of `size`.

    Raises:
        ProofRefusedError: it is not, by this proof.
    """
    _check_hashes([*proof, old_root, new_root])
    if not 0 <= old_size <= size:
        raise ProofRefusedError(f"A tree of {size} leaves cannot continue one of {old_size}: it became smaller.")
    if old_size in (0, size):
        expected = EMPTY_ROOT if old_size == 0 else new_root
        if proof or old_root != expected:
            raise ProofRefusedError(f"Two trees of the same size or none have different roots: {old_root.hex()}.")
        return
    # RFC 9162, 2.1.4.2.
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    place, last = old_size - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    if not path:
        raise ProofRefusedError("The proof of consistency is too short.")
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofRefusedError("The proof of consistency is too long.")
        if place & 1 or place == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        place, last = place >> 1, last >> 1
    if last or old != old_root or new != new_root:
        raise ProofRefusedError(
            f"The tree of {size} leaves does not continue that of {old_size}: the history was written anew."
        )


class CompactRange:
    """The root of leaves that come one after the other, by the roots of the complete subtrees so far.

    It goes on behind the first `size` leaves, if it is given their `complete_subtrees`.
    """

    def __init__(self, size: int = 0, complete: Sequence[bytes] = ()) -> None:
        assert len(complete) == size.bit_count(), (size, len(complete))
        self.size = size
        self._complete = list(complete)

    def add(self, leaf: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Take in the next leaf; the nodes that are complete with it: level, index and hash."""
        self._complete.append(leaf)
        level, index = 0, self.size
        while index & 1:
            right, left = self._complete.pop(), self._complete.pop()
            self._complete.append(node_hash(left, right))
            level, index = level + 1, index >> 1
            yield level, index, self._complete[-1]
        self.size += 1

    def root(self) -> bytes:
        """The root of all leaves so far."""
        if not self._complete:
            return EMPTY_ROOT
        found = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            found = node_hash(left, found)
        return found


def _split(size: int) -> int:
    """The largest power of two below a size of two or more."""
    return 1 << (size - 1).bit_length() - 1


def _hash(nodes: Nodes, start: int, end: int) -> bytes:
    """The hash of the leaves from `start` up to `end`, which are a subtree, complete or the last."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes.node(level, start >> level)
    middle = start + _split(size)
    return node_hash(_hash(nodes, start, middle), _hash(nodes, middle, end))


def _check_hashes(hashes: Sequence[bytes]) -> None:
    wrong = next((each for each in hashes if len(each) != HASH_BYTES), None)
    if wrong is not None:
        raise ProofRefusedError(f"A hash has {len(wrong)} bytes; it has {HASH_BYTES}.")
