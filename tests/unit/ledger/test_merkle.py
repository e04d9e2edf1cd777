"""The tree is that of RFC 6962, and no proof of it can be bent."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import merkle
from ledger.merkle import ProofRefusedError
from tests.thorough import thorough

SIZES_MAX = 600
# The leaves and roots that certificate transparency logs are tested with.
LEAVES = [bytes.fromhex(each) for each in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"
)]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@dataclass
class Memory:
    """The nodes of a tree, computed when they are asked for."""

    leaves: list[bytes]
    known: dict[tuple[int, int], bytes] = field(default_factory=dict)

    def node(self, level: int, index: int) -> bytes:
        if level == 0:
            return self.leaves[index]
        if (level, index) not in self.known:
            children = self.node(level - 1, 2 * index), self.node(level - 1, 2 * index + 1)
            self.known[level, index] = merkle.node_hash(*children)
        return self.known[level, index]


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word by word, and written apart from the product."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    power = 1
    while power * 2 < len(leaves):
        power *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:power]) + by_definition(leaves[power:])).digest()


TREE = Memory([merkle.leaf_hash(number.to_bytes(2, "big")) for number in range(SIZES_MAX)])
ALL_ROOTS = [by_definition(TREE.leaves[:size]) for size in range(SIZES_MAX + 1)]


def test_the_vectors_of_certificate_transparency() -> None:
    tree = Memory([merkle.leaf_hash(leaf) for leaf in LEAVES])
    assert [merkle.root(tree, size).hex() for size in range(9)] == ROOTS
    proof = [each.hex() for each in merkle.inclusion_proof(tree, 0, 8)]
    assert proof == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    proof = [each.hex() for each in merkle.consistency_proof(tree, 6, 8)]
    assert proof == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_size_has_the_root_of_the_definition_and_every_leaf_its_proof() -> None:
    for size in range(SIZES_MAX + 1):
        assert merkle.root(TREE, size) == ALL_ROOTS[size]
        for index in range(size):
            proof = merkle.inclusion_proof(TREE, index, size)
            assert len(proof) <= max(size - 1, 0).bit_length()
            merkle.check_inclusion(TREE.leaves[index], index, size, proof, ALL_ROOTS[size])


def test_every_tree_is_shown_to_continue_every_smaller_one() -> None:
    for size in range(SIZES_MAX + 1):
        for old_size in range(size + 1):
            proof = merkle.consistency_proof(TREE, old_size, size)
            merkle.check_consistency(old_size, size, proof, ALL_ROOTS[old_size], ALL_ROOTS[size])


BIT = st.integers(0, 255)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 33])
def test_every_flipped_bit_of_a_proof_of_inclusion_is_refused(size: int) -> None:
    for index in range(size):
        leaf, root = TREE.leaves[index], ALL_ROOTS[size]
        proof = merkle.inclusion_proof(TREE, index, size)
        for bit in range(256):
            for place in range(len(proof)):
                bent = [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]]
                with pytest.raises(ProofRefusedError):
                    merkle.check_inclusion(leaf, index, size, bent, root)
            for bent_leaf, bent_root in ((flipped(leaf, bit), root), (leaf, flipped(root, bit))):
                with pytest.raises(ProofRefusedError):
                    merkle.check_inclusion(bent_leaf, index, size, proof, bent_root)


@pytest.mark.parametrize(("old_size", "size"), [(0, 3), (1, 1), (1, 2), (3, 4), (4, 7), (6, 8), (7, 33), (16, 31)])
def test_every_flipped_bit_of_a_proof_of_consistency_is_refused(old_size: int, size: int) -> None:
    old_root, root = ALL_ROOTS[old_size], ALL_ROOTS[size]
    proof = merkle.consistency_proof(TREE, old_size, size)
    for bit in range(256):
        for place in range(len(proof)):
            bent = [*proof[:place], flipped(proof[place], bit), *proof[place + 1 :]]
            with pytest.raises(ProofRefusedError):
                merkle.check_consistency(old_size, size, bent, old_root, root)
        with pytest.raises(ProofRefusedError):
            merkle.check_consistency(old_size, size, proof, flipped(old_root, bit), root)
        if old_size:  # anything continues a tree without leaves
            with pytest.raises(ProofRefusedError):
                merkle.check_consistency(old_size, size, proof, old_root, flipped(root, bit))


@thorough(examples=400, steps=1)
@given(st.data())
def test_a_proof_proves_nothing_for_another_leaf_place_or_size(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, SIZES_MAX))
    index = data.draw(st.integers(0, size - 1))
    proof = merkle.inclusion_proof(TREE, index, size)
    other_index = data.draw(st.integers(-1, SIZES_MAX).filter(lambda other: other != index))
    with pytest.raises(ProofRefusedError):
        merkle.check_inclusion(TREE.leaves[index], other_index, size, proof, ALL_ROOTS[size])
    for bent in (proof[:-1] if proof else [ALL_ROOTS[1]], [*proof, TREE.leaves[0]], [b"", *proof]):
        with pytest.raises(ProofRefusedError):
            merkle.check_inclusion(TREE.leaves[index], index, size, bent, ALL_ROOTS[size])


@thorough(examples=400, steps=1)
@given(st.data())
def test_a_history_that_was_written_anew_or_cut_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, SIZES_MAX))
    old_size = data.draw(st.integers(1, size))
    changed = data.draw(st.integers(0, old_size - 1))
    other = Memory([*TREE.leaves])
    other.leaves[changed] = merkle.leaf_hash(b"another")
    proof = merkle.consistency_proof(other, old_size, size)
    with pytest.raises(ProofRefusedError):
        merkle.check_consistency(old_size, size, proof, ALL_ROOTS[old_size], merkle.root(other, size))
    with pytest.raises(ProofRefusedError, match="smaller"):
        merkle.check_consistency(size, old_size - 1, proof, ALL_ROOTS[size], ALL_ROOTS[old_size - 1])
