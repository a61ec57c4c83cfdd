"""The bearer token in a request's headers (RFC 6750, 2.1). Nowhere else: addresses end up in logs."""

from collections.abc import Iterable
from typing import Final

from contracts.access.errors import Unauthenticated

#: Longer ones are refused unread.
TOKEN_BYTES_MAX: Final = 8192
_HEADER: Final = b"authorization"
_SCHEME: Final = b"bearer"


def bearer_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Of ASGI headers, whose names are in lower case. Raises Unauthenticated."""
    found = None
    for name, value in headers:
        if name == _HEADER:
            if found is not None:
                raise Unauthenticated("two Authorization headers")
            found = value
    if found is None:
        raise Unauthenticated("no Authorization header", token_given=False)
    scheme, _, token = found.partition(b" ")
    if scheme.lower() != _SCHEME:
        raise Unauthenticated("not the scheme Bearer", token_given=False)
    if not token or len(token) > TOKEN_BYTES_MAX or not token.isascii():
        raise Unauthenticated("an empty token, or one that is too long or not ASCII")
    return token
