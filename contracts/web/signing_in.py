"""Signing in with a token, and out: the same pages in every service."""

import time

from starlette.responses import RedirectResponse

from contracts.access.bearer import session_token
from contracts.access.errors import Unauthenticated
from contracts.access.guard import Access
from contracts.access.service_tokens import is_service_token
from contracts.web.pages import SIGN_IN, Action, Page, Redirect, Shown, View, Visit
from contracts.web.sessions import TOKEN_BYTES_MAX, inner_path, keep_attempt, on_this_machine, sign_in, sign_out

SIGN_OUT = "/sign-out"
_ENDED = "Your sign-in has ended: the token expired or was revoked. Sign in again."
_TOO_LONG = f"This token is too long: browsers keep {TOKEN_BYTES_MAX} bytes in a cookie. Use it in programs alone."
_REFUSED = "This token is not valid: it is unknown, expired or revoked. Look whether all of it was copied."


async def _ask(visit: Visit) -> Shown:
    return sign_in_form(visit, _ENDED if visit.asked("why") == "ended" else "")


async def _sign_in(visit: Visit) -> Shown:
    """The token is looked up as for any request, with its bound on guesses by address."""
    token, request = visit.given("token"), visit.request
    access: Access = request.app.state.access
    if len(token) > TOKEN_BYTES_MAX:
        return sign_in_form(visit, _TOO_LONG, 401)
    if not token.isascii() or not token:
        return sign_in_form(visit, _REFUSED, 401)
    try:
        principal = await access.authenticate(token.encode(), request.client.host if request.client else "")
    except Unauthenticated:
        return sign_in_form(visit, _REFUSED, 401)
    response = RedirectResponse(inner_path(visit.given("next") or "/"), 303)
    left = None if principal.expires_at is None else principal.expires_at - time.time()
    sign_in(response, request, token, left)
    return response


async def _sign_out(visit: Visit) -> Shown:
    """Also at the issuer, where the token is one of its: by a page between, for a form of ours leads to us alone."""
    access: Access = visit.request.app.state.access
    token = _token(visit)
    is_issuers = access.login is not None and bool(token) and not is_service_token(token)
    response = RedirectResponse(LEAVING if is_issuers else SIGN_IN, 303)
    if is_issuers:
        keep_attempt(response, visit.request, LEFT, LEFT_SECONDS)
    sign_out(response, visit.request)
    return response


def _token(visit: Visit) -> bytes:
    try:
        return session_token(visit.request.scope["headers"])
    except Unauthenticated:
        return b""


def sign_in_form(visit: Visit, wrong: str, status: int = 200, next_: str = "") -> Shown:
    """The page with the form, and what was wrong."""
    access: Access = visit.request.app.state.access
    if not access.is_controlled:
        return Redirect("/")
    url = visit.request.url
    told = {
        "wrong": wrong,
        # Not where it ended, nor where the issuer let nobody in.
        "is_token_wrong": status == 401,
        "next": inner_path(next_ or visit.given("next") or visit.asked("next") or "/"),
        "issuer": access.login.name if access.login else None,
        # A browser drops the cookie then, and the form would come back without a word.
        "needs_https": url.scheme == "http" and not on_this_machine(visit.request),
    }
    return View("sign_in.html", told, status)


#: Where somebody goes who signed out here, to sign out at the issuer as well.
LEAVING = "/sign-in/leaving"
#: In the cookie of an attempt: a form of ours has just signed out.
LEFT = "left"
LEFT_SECONDS = 60

PAGES = (
    Page(SIGN_IN, "Sign in", _ask, is_open=True, asks=None),
    Action(SIGN_IN, "Sign in", _sign_in, is_open=True),
    Action(SIGN_OUT, "Sign out", _sign_out, is_open=True),
)
