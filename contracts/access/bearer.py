"""The bearer token in a request's headers (RFC 6750, 2.1), or in the cookie of a browser that signed in on a page.

Nowhere else: addresses end up in logs.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from contracts.access.errors import Unauthenticated

#: Longer ones are refused unread.
TOKEN_BYTES_MAX: Final = 8192
#: Set by the sign-in of pages (contracts/web/sessions.py); of one name for both services, which may be on one host.
SESSION_COOKIE: Final = "usage_ledger_token"
_HEADER: Final = b"authorization"
_COOKIES: Final = b"cookie"
#: What changes nothing. Anything else needs the header, which no other site's form can send.
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
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
    return _checked(token)


def session_token(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Of a browser that signed in. Raises Unauthenticated."""
    name = SESSION_COOKIE.encode() + b"="
    found = [
        part.strip()[len(name) :]
        for header, value in headers
        if header == _COOKIES
        for part in value.split(b";")
        if part.strip().startswith(name)
    ]
    if not found:
        raise Unauthenticated("nobody signed in", token_given=False)
    if len(found) > 1:
        raise Unauthenticated("two cookies of that name")
    return _checked(found[0])


def presented_token(method: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The header's; for a read without one, that of the browser's session. Raises Unauthenticated."""
    if method in _SAFE_METHODS and not any(name == _HEADER for name, _ in headers):
        try:
            return session_token(headers)
        except Unauthenticated as error:
            if error.token_given:
                raise
    return bearer_token(headers)


def _checked(token: bytes) -> bytes:
    if not token or len(token) > TOKEN_BYTES_MAX or not token.isascii():
        raise Unauthenticated("an empty token, or one that is too long or not ASCII")
    return token
