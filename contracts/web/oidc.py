"""Signing in at an OIDC issuer, and out there: the pages between the sign-in page and the issuer's.

What the browser then holds is the issuer's token, in the same cookie as any other; who it is, and until when, the
authenticator finds in it at every request.
"""

import time

from starlette.responses import RedirectResponse

from contracts.access.errors import Unauthenticated
from contracts.access.guard import Access
from contracts.access.oidc_attempts import SECONDS_MAX, Attempt
from contracts.access.oidc_login import LoginRefusedError
from contracts.problems import NOT_FOUND, ProblemError
from contracts.web.pages import SIGN_IN, Page, Redirect, Shown, View, Visit
from contracts.web.sessions import TOKEN_BYTES_MAX, inner_path, keep_attempt, kept_attempt, sign_in
from contracts.web.signing_in import LEAVING, LEFT, sign_in_form

BEGIN = "/sign-in/issuer"
CALLBACK = "/sign-in/callback"
_ANSWER_MAX = 8192
_STALE = "The sign-in took longer than ten minutes, or began in another browser. Begin again."
_FOREIGN = (
    "The issuer's token is for another service. Whoever runs this one has to name its audience in OIDC_AUDIENCES, or "
    "have the issuer make tokens for it (OIDC_AUTHORIZE)."
)
_TOO_LONG = (
    f"The issuer's token is too long: browsers keep {TOKEN_BYTES_MAX} bytes in a cookie. It may carry fewer claims."
)


async def _begin(visit: Visit) -> Shown:
    """By a link, and no form: those may lead to this service alone."""
    login = _access(visit).login
    if login is None:
        raise ProblemError(NOT_FOUND, "no issuer is set: sign in with a token")
    attempt = Attempt.begin(time.time(), inner_path(visit.asked("next") or "/"))
    response = RedirectResponse(await login.begin(attempt, _address(visit, CALLBACK)), 303)
    keep_attempt(response, visit.request, attempt.cookie, SECONDS_MAX)
    return response


async def _come_back(visit: Visit) -> Shown:
    """With the issuer's code, which is good once, and here alone."""
    access, request = _access(visit), visit.request
    if access.login is None:
        raise ProblemError(NOT_FOUND, "no issuer is set: sign in with a token")
    attempt = Attempt.read(kept_attempt(request), time.time())
    if attempt is None:
        return sign_in_form(visit, _STALE, 400)
    answer = {name: value for name, value in request.query_params.items() if len(value) <= _ANSWER_MAX}
    address = request.client.host if request.client else ""
    try:
        tokens = await access.login.finish(attempt, answer, _address(visit, CALLBACK), address)
    except LoginRefusedError as error:
        return sign_in_form(visit, str(error), 400, attempt.next)
    for token in tokens:
        try:
            principal = await access.authenticate(token.encode(), address)
        except Unauthenticated:
            continue
        if len(token) > TOKEN_BYTES_MAX:
            return sign_in_form(visit, _TOO_LONG, 400, attempt.next)
        response = RedirectResponse(inner_path(attempt.next), 303)
        sign_in(response, request, token, None if principal.expires_at is None else principal.expires_at - time.time())
        keep_attempt(response, request, "", 0)
        return response
    return sign_in_form(visit, _FOREIGN, 403, attempt.next)


async def _leave(visit: Visit) -> Shown:
    """On to the issuer, for whoever has just signed out by a form: a link of others must sign out nobody."""
    login = _access(visit).login
    url = None if login is None or kept_attempt(visit.request) != LEFT else await login.end(_address(visit, SIGN_IN))
    if login is None or url is None:
        return Redirect(SIGN_IN)
    return View("leaving.html", {"issuer": login.name, "leads_to": url})


def _access(visit: Visit) -> Access:
    access: Access = visit.request.app.state.access
    return access


def _address(visit: Visit, path: str) -> str:
    """Of a page of ours, as the browser has it: what the issuer has to know before."""
    return str(visit.request.url.replace(path=path, query="", fragment=""))


PAGES = (
    Page(BEGIN, "Sign in", _begin, is_open=True, asks=None),
    Page(CALLBACK, "Sign in", _come_back, is_open=True, asks=None),
    Page(LEAVING, "Signed out", _leave, is_open=True, asks=None),
)
