"""The sign-in of a browser: the visitor's bearer token, in a cookie that scripts cannot read.

Nothing is stored here: any process of the service knows whoever signed in at another, and a token that is revoked ends
its sessions. `contracts.access.guard` takes the cookie instead of the header for reads only, so that downloads work by
plain links; whatever changes something goes through a page, which looks at where the form came from.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from contracts.access.bearer import SESSION_COOKIE
from contracts.access.settings import is_loopback

#: For how long a browser stays signed in, where the token does not end before.
SESSION_SECONDS: Final = 12 * 3600
#: Browsers keep no larger cookie (RFC 6265, 6.1: 4,096 bytes with its name and attributes), and say nothing of it.
TOKEN_BYTES_MAX: Final = 3800
#: What a browser keeps while somebody is at the issuer; __Host-: no other host can have set it.
_ATTEMPT: Final = "usage_ledger_sign_in"
_SAME_SITE: Final = frozenset({"same-origin", "none"})


def sign_in(response: Response, request: Request, token: str, seconds_left: float | None) -> None:
    """Sets the cookie, for as long as the token is good, and at most `SESSION_SECONDS`.

    Lax, and not Strict: whoever follows a link in a message stays signed in; forms of other sites send no cookie.
    Over plain http it is kept on this machine alone: on a network it could be read.
    """
    seconds = SESSION_SECONDS if seconds_left is None else max(0, min(SESSION_SECONDS, int(seconds_left)))
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="lax",
        secure=not on_this_machine(request),
    )


def sign_out(response: Response, request: Request) -> None:
    """Takes the cookie back."""
    response.delete_cookie(SESSION_COOKIE, path="/", httponly=True, samesite="lax", secure=not on_this_machine(request))


def keep_attempt(response: Response, request: Request, value: str, seconds: int) -> None:
    """Of a sign-in at an issuer, until the browser comes back; "" takes it away.

    Lax: the issuer sends the browser back by a link of its own.
    """
    response.set_cookie(
        _attempt_name(request),
        value,
        max_age=seconds if value else 0,
        path="/",
        httponly=True,
        samesite="lax",
        secure=not on_this_machine(request),
    )


def kept_attempt(request: Request) -> str:
    """As `keep_attempt` kept it; "" where there is none."""
    return request.cookies.get(_attempt_name(request), "")


def _attempt_name(request: Request) -> str:
    return _ATTEMPT if on_this_machine(request) else f"__Host-{_ATTEMPT}"


def on_this_machine(request: Request) -> bool:
    """Plain http to a loopback address, as the browser has it."""
    return request.url.scheme == "http" and is_loopback(request.url.hostname or "")


def came_from_us(headers: Mapping[str, str]) -> bool:
    """Whether a form was sent by a page of this service. Browsers say so; what says nothing at all is none."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in _SAME_SITE
    origin = headers.get("origin")
    return origin is not None and host_of(origin) == headers.get("host")


def host_of(address: str) -> str:
    """The host of an address, with its port if it has one; "" where there is none, or the text is no address."""
    try:
        return urlsplit(address).netloc
    except ValueError:
        return ""


def inner_path(path: str) -> str:
    """``path`` where it leads to a page of this service, else ``/``: a sign-in must not send anybody elsewhere."""
    try:
        parts = urlsplit(path)
    except ValueError:
        return "/"
    if parts.scheme or parts.netloc or not path.startswith("/") or path.startswith(("//", "/\\")):
        return "/"
    return path
