"""Identifiers: UUIDv7 for events and operations, short whitelisted strings for everything that has a name."""

import os
import time
from hashlib import sha256
from typing import Annotated, Final
from uuid import UUID

from pydantic import UUID7, StringConstraints

# Whitelisted because these reach subjects, headers, file names and logs (CR/LF injection: nats.py #1016, #1017).
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,127}$"
MODEL_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$"
TYPE_PATTERN: Final = r"^[a-z][a-z0-9_]{0,63}$"
#: Names a sealed log and its keys; C2SP wants neither spaces nor plus signs in it.
ORIGIN_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}$"

#: account_id, user_id, project_id, api_key_id, plan_id, limit_id, provider.
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
#: A model may hold slashes: ``stability-ai/sdxl``.
ModelName = Annotated[str, StringConstraints(pattern=MODEL_PATTERN)]
#: An operation type: ``generate``, ``edit``.
OperationType = Annotated[str, StringConstraints(pattern=TYPE_PATTERN)]
#: event_id and operation_id.
Id = UUID7

_VERSION_AND_VARIANT: Final = (0x7 << 76) | (0b10 << 62)


#: Ten random bytes for each identifier, drawn for so many at once: the system call lets another thread run, and on a
#: busy machine an event loop then waits for milliseconds until it is its turn again.
_DRAWN_AT_ONCE: Final = 256
_drawn: Final[list[bytes]] = []
# A forked process would make the same ones.
os.register_at_fork(after_in_child=_drawn.clear)


def uuid7(unix_ms: int | None = None) -> UUID:
    """A UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, 74 random bits. Time is the caller's or now."""
    return _uuid7(time.time_ns() // 1_000_000 if unix_ms is None else unix_ms, _ten_random_bytes())


def uuid7s(count: int) -> list[UUID]:
    """So many of them, of the same millisecond."""
    milliseconds = time.time_ns() // 1_000_000
    return [_uuid7(milliseconds, _ten_random_bytes()) for _ in range(count)]


def hashed_uuid7(unix_ms: int, content: bytes) -> UUID:
    """The same UUIDv7 for the same time and content, whoever makes it: 74 bits of the content's SHA-256."""
    return _uuid7(unix_ms, sha256(content).digest()[:10])


def _uuid7(milliseconds: int, ten_bytes: bytes) -> UUID:
    random = int.from_bytes(ten_bytes)
    rand_a, rand_b = (random >> 62) & 0xFFF, random & ((1 << 62) - 1)
    return UUID(int=(milliseconds << 80) | _VERSION_AND_VARIANT | (rand_a << 64) | rand_b)


def _ten_random_bytes() -> bytes:
    """Never the same twice, in whatever thread: a list's pop takes what no other pop gets."""
    while True:
        try:
            return _drawn.pop()
        except IndexError:
            random = os.urandom(10 * _DRAWN_AT_ONCE)
            _drawn.extend([random[begin : begin + 10] for begin in range(0, len(random), 10)])
