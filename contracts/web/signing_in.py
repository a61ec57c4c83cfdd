"""Signing in with a token, and out: the same pages in every service."""

import time

from starlette.responses import RedirectResponse

from contracts.access.bearer import TOKEN_BYTES_MAX
from contracts.access.errors import Unauthenticated
from contracts.access.guard import Access
from contracts.web.pages import SIGN_IN, Action, Page, Redirect, Shown, View, Visit
from contracts.web.sessions import inner_path, on_this_machine, sign_in, sign_out

SIGN_OUT = "/sign-out"
_ENDED = "Your sign-in has ended: the token expired or was revoked. Sign in again."
_REFUSED = "This token is not valid: it is unknown, expired or revoked. Look whether all of it was copied."


async def _ask(visit: Visit) -> Shown:
    return _form(visit, _ENDED if visit.asked("why") == "ended" else "")


async def _sign_in(visit: Visit) -> Shown:
    """The token is looked up as for any request, with its bound on guesses by address."""
    token, request = visit.given("token"), visit.request
    access: Access = request.app.state.access
    if not token.isascii() or not 0 < len(token) <= TOKEN_BYTES_MAX:
        return _form(visit, _REFUSED, 401)
    try:
        principal = await access.authenticate(token.encode(), request.client.host if request.client else "")
    except Unauthenticated:
        return _form(visit, _REFUSED, 401)
    response = RedirectResponse(inner_path(visit.given("next") or "/"), 303)
    left = None if principal.expires_at is None else principal.expires_at - time.time()
    sign_in(response, request, token, left)
    return response


async def _sign_out(visit: Visit) -> Shown:
    response = RedirectResponse(SIGN_IN, 303)
    sign_out(response, visit.request)
    return response


def _form(visit: Visit, wrong: str, status: int = 200) -> Shown:
    access: Access = visit.request.app.state.access
    if not access.is_controlled:
        return Redirect("/")
    url = visit.request.url
    told = {
        "wrong": wrong,
        "next": inner_path(visit.given("next") or visit.asked("next") or "/"),
        # A browser drops the cookie then, and the form would come back without a word.
        "needs_https": url.scheme == "http" and not on_this_machine(visit.request),
    }
    return View("sign_in.html", told, status)


PAGES = (
    Page(SIGN_IN, "Sign in", _ask, is_open=True),
    Action(SIGN_IN, "Sign in", _sign_in, is_open=True),
    Action(SIGN_OUT, "Sign out", _sign_out, is_open=True),
)
