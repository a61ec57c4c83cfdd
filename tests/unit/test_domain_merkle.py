"""The tree is the one of RFC 6962: published vectors, and a naive reading of its definitions."""

from hashlib import sha256
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_service.domain.merkle import (
    EMPTY_ROOT,
    STORED_LEVELS_STEP,
    Frontier,
    Node,
    Range,
    complete_root,
    complete_subtrees,
    consistency_ranges,
    fold,
    inclusion_ranges,
    kept_below,
    leaf_hash,
    leaf_hashes,
    peaks_of,
    verify_consistency,
    verify_inclusion,
)

#: The inputs, roots and proofs of Certificate Transparency's own tests.
#: Source: https://github.com/google/certificate-transparency, merkletree tests; transparency-dev/merkle, testonly.
INPUTS = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
_2_TO_3 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
_4_TO_7 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
_6_TO_7 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
_4_TO_5 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = [(0, 8, [_1, _2_TO_3, _4_TO_7]), (5, 8, [_4, _6_TO_7, ROOTS[3]])]
CONSISTENCY = [(1, 8, [_1, _2_TO_3, _4_TO_7]), (6, 8, [_4_TO_5, _6_TO_7, ROOTS[3]]), (2, 5, [_2_TO_3, _4])]


def naive_root(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, as it is written there."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def proof_of(hashes: list[bytes], ranges: list[Range]) -> list[bytes]:
    return [naive_root(hashes[one.start : one.end]) for one in ranges]


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def test_roots_are_the_published_ones() -> None:
    hashes = leaf_hashes(INPUTS)
    for size, root in enumerate(ROOTS, start=1):
        tree = Frontier()
        tree.extend(hashes[:size])
        assert tree.root.hex() == root
        assert naive_root(hashes[:size]).hex() == root
    assert Frontier().root.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert Frontier().root == EMPTY_ROOT


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    hashes = leaf_hashes(INPUTS[:size])
    assert [one.hex() for one in proof_of(hashes, inclusion_ranges(index, size))] == path
    root = bytes.fromhex(ROOTS[size - 1])
    assert verify_inclusion(hashes[index], index, size, [bytes.fromhex(one) for one in path], root)


@pytest.mark.parametrize(("first", "second", "path"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(first: int, second: int, path: list[str]) -> None:
    hashes = leaf_hashes(INPUTS[:second])
    assert [one.hex() for one in proof_of(hashes, consistency_ranges(first, second))] == path
    proof = [bytes.fromhex(one) for one in path]
    old, new = bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[second - 1])
    assert verify_consistency(first, old, second, new, proof)


@given(st.lists(st.integers(0, 700), max_size=6))
def test_a_tree_grown_in_any_portions_has_the_defined_root_and_nodes(portions: list[int]) -> None:
    everything, tree = leaves(sum(portions)), Frontier()
    kept: dict[Node, bytes] = {}
    for end, portion in zip(accumulate(portions), portions, strict=True):
        new = tree.extend(everything[end - portion : end])
        assert not kept.keys() & new.keys(), "a node is complete once"
        kept.update(new)
        assert (tree.size, tree.root) == (end, naive_root(everything[:end]))
    wanted = {
        Node(level, index)
        for level in range(STORED_LEVELS_STEP, len(everything).bit_length(), STORED_LEVELS_STEP)
        for index in range(len(everything) >> level)
    }
    assert kept.keys() == wanted
    for (level, index), found in kept.items():
        assert found == naive_root(everything[index << level : (index + 1) << level])


@given(st.integers(1, 1500))
def test_a_frontier_is_made_again_from_the_nodes_that_are_kept(size: int) -> None:
    everything, tree = leaves(size), Frontier()
    levels = {Node(0, index): one for index, one in enumerate(everything)} | tree.extend(everything)
    peaks = {}
    for node in peaks_of(size):
        level, indexes = kept_below(node)
        peaks[node.level] = complete_root([levels[Node(level, index)] for index in range(*indexes)])
    assert Frontier(size, peaks) == tree
    assert fold(list(peaks.values())) == tree.root


@given(st.data(), st.integers(1, 300))
def test_every_leaf_is_proven_and_nothing_else_is(data: st.DataObject, size: int) -> None:
    everything = leaves(size)
    root, index = naive_root(everything), data.draw(st.integers(0, size - 1))
    ranges = inclusion_ranges(index, size)
    path = proof_of(everything, ranges)
    assert all(one == fold([proof_of(everything, [_of(node)])[0] for node in complete_subtrees(place)])
               for one, place in zip(path, ranges, strict=True))  # fmt: skip
    assert verify_inclusion(everything[index], index, size, path, root)
    other = data.draw(st.integers(0, size + 3).filter(lambda one: one != index))
    assert not verify_inclusion(everything[index], other, size, path, root)
    assert not verify_inclusion(leaf_hash(b"another"), index, size, path, root)
    assert not verify_inclusion(everything[index], index, size, path, leaf_hash(b"root"))
    assert not verify_inclusion(everything[index], index, size, [*path, root], root)
    for place in range(len(path)):
        assert not verify_inclusion(everything[index], index, size, _changed(path, place), root)
        assert not verify_inclusion(everything[index], index, size, path[:place] + path[place + 1 :], root)


def _of(node: Node) -> Range:
    return Range(node.number << node.level, (node.number + 1) << node.level)


def _changed(path: list[bytes], place: int) -> list[bytes]:
    return [bytes([one[0] ^ 1]) + one[1:] if number == place else one for number, one in enumerate(path)]


@given(st.data(), st.integers(1, 300))
def test_a_beginning_is_consistent_and_another_history_is_not(data: st.DataObject, second: int) -> None:
    everything, first = leaves(second), data.draw(st.integers(1, second))
    old, new = naive_root(everything[:first]), naive_root(everything)
    proof = proof_of(everything, consistency_ranges(first, second))
    assert verify_consistency(first, old, second, new, proof)
    assert not verify_consistency(first, leaf_hash(b"other"), second, new, proof)
    assert not verify_consistency(first, old, second, leaf_hash(b"other"), proof)
    assert not verify_consistency(first, old, second, new, [*proof, new])
    for place in range(len(proof)):
        assert not verify_consistency(first, old, second, new, _changed(proof, place))
        assert not verify_consistency(first, old, second, new, proof[:place] + proof[place + 1 :])
    rewritten = [leaf_hash(b"rewritten"), *everything[1:]]
    if first < second:
        forged = proof_of(rewritten, consistency_ranges(first, second))
        assert not verify_consistency(first, old, second, naive_root(rewritten), forged)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (-1, 3), (3, 3)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        inclusion_ranges(index, size)
    assert not verify_inclusion(leaf_hash(b""), index, size, [], EMPTY_ROOT)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (4, 3), (-1, 3)])
def test_there_is_no_proof_of_what_is_no_beginning(first: int, second: int) -> None:
    with pytest.raises(ValueError, match="no proper beginning"):
        consistency_ranges(first, second)
    assert not verify_consistency(first, EMPTY_ROOT, second, EMPTY_ROOT, [])
