"""Checkpoints that were found at a place, as small as can be: one each ten seconds are three million a year."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Final

from ledger_service.domain.checkpoints import (
    NOTE_BYTES_MAX,
    CheckpointError,
    VerifierKey,
    notes_and_ends,
    notes_in,
    open_note,
)
from ledger_service.domain.merkle import HASH_BYTES

#: Characters of a file that are read at once.
_READ_MAX: Final = 1 << 20


class CheckpointDigests:
    """Sizes of checkpoints and the digests of their texts, in the order in which they came: 40 bytes each."""

    def __init__(self) -> None:
        self._sizes = array("Q")
        self._digests = bytearray()

    def add(self, size: int, digest: bytes) -> None:
        self._sizes.append(size)
        self._digests += digest

    def find(self, size: int) -> bytes | None:
        """The digest of that size; where they came by size, the smallest first."""
        place = bisect_left(self._sizes, size)
        return self._at(place) if place < len(self._sizes) and self._sizes[place] == size else None

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return ((size, self._at(place)) for place, size in enumerate(self._sizes))

    def _at(self, place: int) -> bytes:
        return bytes(self._digests[place * HASH_BYTES : (place + 1) * HASH_BYTES])


class PublishedCheckpoints:
    """Those of one chain that believed keys have signed. ``foreign``: how many other texts there were."""

    def __init__(self, origin: str, keys: Sequence[VerifierKey]) -> None:
        self._origin, self._keys = origin, keys
        self.digests = CheckpointDigests()
        self.foreign = 0

    def add(self, note: str) -> None:
        try:
            one = open_note(note, self._keys).checkpoint
        except CheckpointError:
            self.foreign += 1
            return
        if one.origin == self._origin:
            self.digests.add(one.size, one.digest)
        else:  # of a chain that was given up: it proves what it did, and nothing about this one
            self.foreign += 1

    def take(self, notes: Iterable[str]) -> "PublishedCheckpoints":
        """Adds all of them; answers itself."""
        for note in notes:
            self.add(note)
        return self


def notes_of(file: IO[str]) -> Iterator[str]:
    """The notes of a file of any size, as notes_in finds them in its text."""
    text = ""
    while more := file.read(_READ_MAX):
        text += more
        # A note at the end may go on; no note of ours is as long as what is left.
        whole = len(text) - NOTE_BYTES_MAX
        kept = 0
        for note, end in notes_and_ends(text):
            if end > whole:
                break
            kept = end
            yield note
        text = text[max(kept, whole - NOTE_BYTES_MAX, 0) :]
    yield from notes_in(text)
