"""What is sealed of an event: a row of the log, in one canonical encoding.

A leaf is its row as PostgreSQL's ``COPY … (FORMAT binary)`` writes one: the number of fields (two bytes), then each
field as its length (four bytes; minus one for NULL) and that many bytes; all numbers big-endian. The fields are those
of COLUMNS, in that order: transaction_id (8 bytes, unsigned), position (8), recorded_at and occurred_at (8 each,
microseconds since 2000-01-01 UTC), event_id (16), terminal (one byte), account_id, type and source (UTF-8),
operation_id (16 or NULL), source_sequence (8 or NULL), body (UTF-8, as it was received). Another set of columns would
have another number of fields, so that two encodings never meet.

Source: https://www.postgresql.org/docs/18/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final, NamedTuple
from uuid import UUID

#: The order of the fields in a leaf. Those of a fixed length come first, so that rows are cut out quickly.
COLUMNS: Final = (
    "transaction_id", "position", "recorded_at", "occurred_at", "event_id", "terminal", "account_id", "type", "source",
    "operation_id", "source_sequence", "body",
)  # fmt: skip

_COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_COPY_TRAILER: Final = b"\xff\xff"
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

_LENGTH: Final = Struct(">i")
_FIXED: Final = Struct(">HiQiqiqiqi16si?")
_INTEGER: Final = Struct(">q")
_KEY: Final = Struct(">xxxxxxQxxxxq")
_KEYS: Final = Struct(">Qq")
_EVENT_ID: Final = slice(54, 70)
_LENGTHS_OF_FIXED: Final = (8, 8, 8, 8, 16, 1)


class Key(NamedTuple):
    """Where a row stands in the order of the log."""

    transaction_id: int
    position: int


#: Before every row.
BEGINNING: Final = Key(0, -(2**63))


class Identity(NamedTuple):
    """What names a row, also once it is gone."""

    key: Key
    event_id: UUID
    account_id: str


class Row(NamedTuple):
    """A row of the log with all that is sealed of it."""

    transaction_id: int
    position: int
    recorded_at: datetime
    occurred_at: datetime
    event_id: UUID
    terminal: bool
    account_id: str
    type: str
    source: str
    operation_id: UUID | None
    source_sequence: int | None
    body: str


class LeafError(ValueError):
    """Bytes that are no leaf, or no stream of leaves."""


def encode(row: Row) -> bytes:
    """The leaf of a row."""
    head = _FIXED.pack(
        len(COLUMNS), 8, row.transaction_id, 8, row.position, 8, _microseconds(row.recorded_at), 8,
        _microseconds(row.occurred_at), 16, row.event_id.bytes, 1, row.terminal,
    )  # fmt: skip
    fields = (
        row.account_id.encode(),
        row.type.encode(),
        row.source.encode(),
        None if row.operation_id is None else row.operation_id.bytes,
        None if row.source_sequence is None else _INTEGER.pack(row.source_sequence),
        row.body.encode(),
    )
    return head + b"".join(_LENGTH.pack(-1) if one is None else _LENGTH.pack(len(one)) + one for one in fields)


def decode(leaf: bytes) -> Row:
    """The row of a leaf. Raises LeafError."""
    if len(leaf) < _FIXED.size:
        raise LeafError("a leaf that ends early")
    numbers = _FIXED.unpack_from(leaf)
    if numbers[0] != len(COLUMNS) or numbers[1::2] != _LENGTHS_OF_FIXED:
        raise LeafError("a leaf with fields of other lengths")
    transaction_id, position, recorded_at, occurred_at, event_id, terminal = numbers[2::2]
    account_id, type_, source, operation_id, source_sequence, body = _variable_fields(leaf)
    if account_id is None or type_ is None or source is None or body is None:
        raise LeafError("a leaf without one of its fields")
    return Row(
        transaction_id, position, _EPOCH + recorded_at * _MICROSECOND, _EPOCH + occurred_at * _MICROSECOND,
        UUID(bytes=event_id), terminal, account_id.decode(), type_.decode(), source.decode(),
        None if operation_id is None else UUID(bytes=operation_id),
        None if source_sequence is None else _INTEGER.unpack(source_sequence)[0], body.decode(),
    )  # fmt: skip


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _variable_fields(leaf: bytes) -> Iterator[bytes | None]:
    place = _FIXED.size
    for _ in COLUMNS[len(_LENGTHS_OF_FIXED) :]:
        (length,) = _LENGTH.unpack_from(leaf, place)
        place += 4
        yield None if length < 0 else leaf[place : place + length]
        place += max(length, 0)


def key_of(leaf: bytes) -> Key:
    return Key(*_KEY.unpack_from(leaf))


def identity_of(leaf: bytes) -> Identity:
    return Identity(key_of(leaf), UUID(bytes=leaf[_EVENT_ID]), _account_of(leaf).decode())


def _account_of(leaf: bytes) -> bytes:
    (length,) = _LENGTH.unpack_from(leaf, _FIXED.size)
    return leaf[_FIXED.size + 4 : _FIXED.size + 4 + length]


class CopyReader:
    """Cuts a binary COPY of COLUMNS into leaves, however its bytes arrive."""

    def __init__(self) -> None:
        self._rest = b""
        self._begun = False
        self._ended = False

    def feed(self, data: bytes) -> list[bytes]:
        """The leaves that are whole now. Raises LeafError where it is no such COPY."""
        data = self._rest + data
        place = 0
        if not self._begun:
            if len(data) < len(_COPY_HEADER):
                self._rest = data
                return []
            if not data.startswith(_COPY_HEADER):
                raise LeafError("not a binary COPY")
            place, self._begun = len(_COPY_HEADER), True
        leaves = []
        while (end := self._end_of(data, place)) is not None:
            leaves.append(data[place:end])
            place = end
        self._rest = data[place:]
        return leaves

    def close(self) -> None:
        """Raises LeafError where the COPY ended in its middle."""
        if not self._ended or self._rest != _COPY_TRAILER:
            raise LeafError("the COPY ended early")

    def _end_of(self, data: bytes, place: int) -> int | None:
        """Where the leaf that begins here ends; None where that is still to come."""
        size, length_at = len(data), _LENGTH.unpack_from
        end = place + _FIXED.size
        if end > size:
            self._ended = data.startswith(_COPY_TRAILER, place)
            return None
        for _ in range(6):
            if end + 4 > size:
                return None
            (length,) = length_at(data, end)
            end += 4 + length if length > 0 else 4
        return end if end <= size else None


class IdentityPacker:
    """Collects the identities of leaves, a few at a time."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._event_ids: list[bytes] = []
        self._accounts: list[bytes] = []

    def add(self, leaves: Sequence[bytes]) -> None:
        self._keys.append(b"".join(_KEYS.pack(*_KEY.unpack_from(leaf)) for leaf in leaves))
        self._event_ids.append(b"".join(leaf[_EVENT_ID] for leaf in leaves))
        # An account's name holds no line feed (contracts.identifiers), and is empty for events of no account.
        self._accounts.append(b"\n".join(map(_account_of, leaves)))

    def packed(self) -> bytes:
        """All of them, small: some 16 bytes each."""
        return zlib.compress(b"".join((*self._keys, *self._event_ids, b"\n".join(self._accounts))), 1)


def unpack_identities(packed: bytes, count: int) -> list[Identity]:
    """Raises LeafError where they are not those of so many leaves."""
    data = _unpacked(packed, count)
    keys = [Key(*pair) for pair in _KEYS.iter_unpack(data[: count * 16])]
    try:
        accounts = data[count * 32 :].decode().split("\n")
    except UnicodeDecodeError:
        raise LeafError("unreadable identities") from None
    if len(accounts) != count:
        raise LeafError("identities of another number of leaves")
    event_ids = (data[place : place + 16] for place in range(count * 16, count * 32, 16))
    return [
        Identity(key, UUID(bytes=event_id), account)
        for key, event_id, account in zip(keys, event_ids, accounts, strict=True)
    ]


def find_key(packed: bytes, count: int, key: Key) -> int | None:
    """Which of the leaves with these identities stands there. Raises LeafError as unpack_identities does."""
    data, wanted = _unpacked(packed, count), _KEYS.pack(*key)

    def at(index: int) -> bytes:
        return data[index * 16 : index * 16 + 16]

    index = bisect_left(range(count), wanted, key=at)
    return index if index < count and at(index) == wanted else None


def _unpacked(packed: bytes, count: int) -> bytes:
    try:
        data = zlib.decompress(packed)
    except zlib.error:
        raise LeafError("unreadable identities") from None
    if len(data) < count * 32:
        raise LeafError("identities of another number of leaves")
    return data
