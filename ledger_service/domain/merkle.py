"""Merkle trees as transparency logs build them: hashes, one growing tree, proofs and their verification.

Source: RFC 6962 §2.1 and RFC 9162 §2.1.3.2, §2.1.4.2 (the verification algorithms). Leaf and node hashes begin with
different bytes, so that a node can never pass for a leaf. All hashes are 32 bytes of SHA-256.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256().digest()
#: Every 8th level of the tree is kept, from the leaves on: any node is then the root of at most 128 kept ones.
STORED_LEVELS_STEP: Final = 8

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


class Node(NamedTuple):
    """The root of the complete subtree over the leaves ``number << level`` until before ``number + 1 << level``."""

    level: int
    number: int


class Range(NamedTuple):
    """Leaves from ``start`` until before ``end``; a proof names the hash over each of its ranges."""

    start: int
    end: int


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(_LEAF + leaf).digest()


def leaf_hashes(leaves: Sequence[bytes]) -> list[bytes]:
    return [sha256(_LEAF + leaf).digest() for leaf in leaves]


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(_NODE + left + right).digest()


def fold(peaks: Sequence[bytes]) -> bytes:
    """The root over neighbouring complete subtrees, given from left (the largest) to right (the smallest)."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def complete_root(hashes: Sequence[bytes]) -> bytes:
    """The root over 2ⁿ neighbours of one level."""
    level = list(hashes)
    while len(level) > 1:
        level = _pairs(level)
    return level[0]


def _pairs(hashes: Sequence[bytes]) -> list[bytes]:
    return [sha256(_NODE + left + right).digest() for left, right in zip(hashes[::2], hashes[1::2], strict=True)]


@dataclass
class Frontier:
    """The right edge of a growing tree: all that is needed to append to it and to know its root."""

    size: int = 0
    #: By level, the complete subtrees that have no right neighbour yet.
    peaks: dict[int, bytes] = field(default_factory=dict)

    @property
    def root(self) -> bytes:
        return fold([self.peaks[level] for level in sorted(self.peaks, reverse=True)])

    def extend(self, leaves: Sequence[bytes]) -> dict[Node, bytes]:
        """Appends leaf hashes. Answers the nodes above the leaves that are now complete and to be kept."""
        kept: dict[Node, bytes] = {}
        size, level, new = self.size, 0, list(leaves)
        self.size += len(new)
        while new:
            first = size >> level
            if level and level % STORED_LEVELS_STEP == 0:
                kept.update({Node(level, first + offset): one for offset, one in enumerate(new)})
            if first % 2:
                new.insert(0, self.peaks.pop(level))
            if len(new) % 2:
                self.peaks[level] = new.pop()
            new, level = _pairs(new), level + 1
        return kept


def peaks_of(size: int) -> list[Node]:
    """The complete subtrees of a tree of this size, from left to right: what its Frontier is made from."""
    return complete_subtrees(Range(0, size))


def complete_subtrees(leaves: Range) -> list[Node]:
    """The complete subtrees that a range of a proof consists of, from left to right."""
    found, start = [], leaves.start
    while start < leaves.end:
        level = (leaves.end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append(Node(level, start >> level))
        start += 1 << level
    return found


def kept_below(node: Node) -> tuple[int, Range]:
    """The kept level from which this node is computed, and the indexes there: see complete_root."""
    level = node.level - node.level % STORED_LEVELS_STEP
    width = node.level - level
    return level, Range(node.number << width, (node.number + 1) << width)


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """PATH(m, D[n]) of RFC 6962 §2.1.1: the ranges whose hashes prove the leaf, from the leaf upwards.

    Raises ValueError where the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(Range(middle, end))
            end = middle
        else:
            path.append(Range(start, middle))
            start = middle
    return path[::-1]


def consistency_ranges(first: int, second: int) -> list[Range]:
    """PROOF(m, D[n]) of RFC 6962 §2.1.2: the ranges whose hashes prove that the first tree is where the second began.

    Empty where the sizes are equal. Raises ValueError unless 0 < first ≤ second.
    """
    if not 0 < first <= second:
        raise ValueError(f"a tree of {first} leaves is no proper beginning of one of {second}")
    path, start, end = [], 0, second
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            path.append(Range(middle, end))
            end = middle
        else:
            path.append(Range(start, middle))
            start = middle
    if start:
        path.append(Range(start, end))
    return path[::-1]


def _split(leaves: int) -> int:
    """The largest power of two that is smaller."""
    return 1 << (leaves - 1).bit_length() - 1


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """RFC 9162 §2.1.3.2: whether the leaf with this hash is at ``index`` of the tree with this size and root."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if place % 2 or place == last:
            found = node_hash(step, found)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(first: int, first_root: bytes, second: int, second_root: bytes, proof: Sequence[bytes]) -> bool:
    """RFC 9162 §2.1.4.2: whether the second tree is the first one with more leaves appended."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not proof and first_root == second_root
    steps = list(proof)
    if first & (first - 1) == 0:
        steps.insert(0, first_root)
    if not steps:
        return False
    place, last = first - 1, second - 1
    while place % 2:
        place, last = place >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place % 2 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while place % 2 == 0 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
