"""What a page is, and the routes that pages become.

A page is one module with a `Page` (and `Action` for each of its forms), a template beside it, and one line in its
service's list of pages. `Visit` is what it is given; what it returns is shown.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Final, TypeAlias
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Message

from contracts.access.bearer import session_token
from contracts.access.errors import Unauthenticated
from contracts.access.guard import NAME_SHOWN_MAX, Access
from contracts.access.principal import ANYBODY, Principal, Scope
from contracts.http_forms import form_of
from contracts.problems import FORBIDDEN, TOO_LARGE, ProblemError, broken_rule
from contracts.web.own_api import ApiProblem, OwnApi
from contracts.web.problem_pages import problem_page
from contracts.web.rendering import Site
from contracts.web.sessions import came_from_us

FORM_BYTES_MAX: Final = 256 * 1024
FORM_FIELDS_MAX: Final = 2000
SIGN_IN: Final = "/sign-in"


@dataclass(frozen=True)
class View:
    """A template, and what it is told. ``status`` is that of the answer."""

    template: str
    told: Mapping[str, object] = field(default_factory=dict)
    status: int = 200


@dataclass(frozen=True)
class Redirect:
    """On to another page, as after a form that changed something; ``said`` is shown there once."""

    path: str
    said: str = ""


Shown: TypeAlias = View | Redirect | Response


@dataclass(frozen=True)
class SentFile:
    """A file of a form; name and media type are what the browser says of it."""

    name: str
    media_type: str
    content: bytes


class Visit:
    """One request of a person: who it is, what was asked for, and the API to ask in turn."""

    def __init__(
        self,
        request: Request,
        principal: Principal,
        api: OwnApi,
        form: Mapping[str, Sequence[str]],
        files: Mapping[str, Sequence[SentFile]] = MappingProxyType({}),
        asks: frozenset[str] | None = None,
    ) -> None:
        self.request, self.principal, self.api = request, principal, api
        self._asks = asks
        #: A form's fields; empty for a page that is only looked at.
        self.form = form
        #: Files of a form that takes some, without those that were left empty.
        self.files = files

    @property
    def query(self) -> QueryParams:
        return self.request.query_params

    def asked(self, name: str, default: str = "") -> str:
        """A parameter of the address, without spaces around it. Raises LookupError for one that the page does not say
        that it asks for: nobody could give it."""
        if self._asks is not None and name not in self._asks:
            raise LookupError(
                f"{self.request.url.path} reads the parameter {name}, which its page does not name in asks"
            )
        return self.query.get(name, default).strip()

    def asked_all(self, name: str) -> list[str]:
        """A parameter that may stand there several times, as it is written. Raises LookupError, as above."""
        self.asked(name)
        return self.query.getlist(name)

    def given(self, name: str) -> str:
        """A field of the form, without spaces around it; "" where it is empty or not there."""
        return (self.form.get(name) or [""])[-1].strip()

    @property
    def account_id(self) -> str | None:
        """The account that the token is bound to, else the one that the address names, else None: all."""
        return self.principal.account_id or self.asked("account_id") or None


@dataclass(frozen=True)
class Page:
    """Something to look at. ``menu``: its name in the menu, None where links lead to it; ``group``: beside which.

    ``scopes``: any of them opens it (none: everybody who is signed in). ``for_all``: it is about all accounts, so a
    token that is bound to one does not open it. ``is_open``: no sign-in is needed. ``asks``: the parameters of its
    address; with any other it is refused, as what was filtered by nothing would look as if it were. None: whatever
    comes.
    """

    path: str
    title: str
    show: Callable[[Visit], Awaitable[Shown]]
    menu: str | None = None
    group: str = ""
    scopes: frozenset[Scope] = frozenset()
    for_all: bool = False
    is_open: bool = False
    asks: frozenset[str] | None = frozenset()
    method: ClassVar[str] = "GET"

    def opens_to(self, principal: Principal) -> bool:
        if self.for_all and principal.account_id is not None:
            return False
        return not self.scopes or bool(self.scopes & principal.scopes)


@dataclass(frozen=True)
class Action(Page):
    """A form that was sent: ``show`` does it, and returns where to go, or the page again with what was wrong."""

    asks: frozenset[str] | None = None
    method: ClassVar[str] = "POST"
    #: Of the whole form. One with files (multipart/form-data) says how much it takes.
    bytes_max: int = FORM_BYTES_MAX
    #: 0: a form without files.
    files_max: int = 0
    #: A form with files is in memory within it, and waits for it on disk: a semaphore, of a service that bounds these.
    places: AbstractAsyncContextManager[object] = field(default_factory=nullcontext)


class PageRoute(Route):
    """The route of a page; `contracts.access.guard.require_rules` knows that it looks after who comes."""

    IS_GUARDED: ClassVar = True

    def __init__(self, page: Page, site: Site) -> None:
        super().__init__(page.path, _endpoint(page, site), methods=[page.method], include_in_schema=False)


def page_routes(pages: Sequence[Page], site: Site) -> list[BaseRoute]:
    """The routes of all pages, and of the files that they use."""
    site.pages = pages
    return [*(PageRoute(page, site) for page in pages), *site.file_routes()]


def _endpoint(page: Page, site: Site) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        principal: Principal | None = None
        try:
            principal, token = await _who(page, request)
            if principal is not None and not page.opens_to(principal):
                raise ProblemError(FORBIDDEN, _why_closed(page))
            _refuse_unknown(page, request)
            api = OwnApi(request.app, token, request.scope["client"])
            sent = _form(request, page) if isinstance(page, Action) else nullcontext(_NOTHING_SENT)
            async with sent as (form, files):
                shown = await page.show(Visit(request, principal or _NOBODY, api, form, files, page.asks))
        except Unauthenticated:
            return _to_sign_in(request)
        except ApiProblem as error:
            if error.problem.status == 401:  # revoked since the page began
                return _to_sign_in(request)
            return _when_again(problem_page(site, request, principal, error.problem), error.retry_after)
        except ProblemError as error:
            seconds = error.kind.retry_after_seconds
            after = error.headers.get("Retry-After") or (str(seconds) if seconds else None)
            return _when_again(problem_page(site, request, principal, error.problem), after)
        return _answer(shown, site, page, request, principal)

    return serve


def _when_again(response: Response, retry_after: str | None) -> Response:
    if retry_after is not None:
        response.headers["Retry-After"] = retry_after
    return response


#: What a page that led here says.
_SAID: Final = "said"


def _refuse_unknown(page: Page, request: Request) -> None:
    """As the API does: raises ProblemError where the address has a parameter that the page knows nothing of."""
    if page.asks is None:
        return
    for name in request.query_params:
        if name not in page.asks and name != _SAID:
            known = ", ".join(sorted(page.asks)) or "none"
            shown = name[:NAME_SHOWN_MAX]
            raise broken_rule(f"query.{shown}", "unknown", f"no parameter of this page; it takes: {known}")


#: Of a page that is open to all, before anybody signed in.
_NOBODY: Final = Principal("nobody", frozenset())


async def _who(page: Page, request: Request) -> tuple[Principal | None, bytes | None]:
    access: Access = request.app.state.access
    if not access.is_controlled:
        return ANYBODY, None
    if page.is_open:
        return None, None
    token = session_token(request.scope["headers"])
    client = request.scope["client"]
    return await access.authenticate(token, client[0] if client else ""), token


_Sent: TypeAlias = tuple[dict[str, list[str]], dict[str, list[SentFile]]]
_NOTHING_SENT: Final[_Sent] = ({}, {})


@asynccontextmanager
async def _form(request: Request, page: Action) -> AsyncIterator[_Sent]:
    """What was sent. One with files has its place in memory until the context ends."""
    if not came_from_us(request.headers):
        raise ProblemError(FORBIDDEN, "the form was not sent by a page of this service")
    if page.files_max and request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with _form_with_files(request, page) as sent:
            yield sent
        return
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > page.bytes_max:
            raise _too_large(page)
    fields: dict[str, list[str]] = {}
    text = body.decode("utf-8", "replace")
    if text.count("&") >= FORM_FIELDS_MAX:
        raise ProblemError(TOO_LARGE, f"a form has at most {FORM_FIELDS_MAX} fields")
    for name, value in parse_qsl(text, keep_blank_values=True):
        fields.setdefault(name, []).append(value)
    yield fields, {}


@asynccontextmanager
async def _form_with_files(request: Request, page: Action) -> AsyncIterator[_Sent]:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > page.bytes_max:
        raise _too_large(page)
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > page.bytes_max:  # what a client says of its size proves nothing
            raise _too_large(page)
        return message

    fields: dict[str, list[str]] = {}
    files: dict[str, list[SentFile]] = {}
    bounds = {"fields_max": FORM_FIELDS_MAX, "field_bytes_max": FORM_BYTES_MAX}
    # Whoever sends slowly does so to the disk.
    async with form_of(Request(request.scope, receive), files_max=page.files_max, **bounds) as form, page.places:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields.setdefault(name, []).append(value)
            elif value.filename or value.size:  # else a field for a file in which there is none
                sent = SentFile(value.filename or "", value.content_type or "", await value.read())
                files.setdefault(name, []).append(sent)
        yield fields, files


def _too_large(page: Action) -> ProblemError:
    return ProblemError(TOO_LARGE, f"this form has at most {page.bytes_max:,} bytes, its files included")


def _answer(shown: Shown, site: Site, page: Page, request: Request, principal: Principal | None) -> Response:
    if isinstance(shown, Redirect):
        said = f"{'&' if '?' in shown.path else '?'}{urlencode({'said': shown.said})}" if shown.said else ""
        return _redirect(request, shown.path + said)
    if isinstance(shown, View):
        told = {"title": page.title, **shown.told}
        return site.respond(request, principal, page.path, shown.template, told, shown.status)
    return shown


def _to_sign_in(request: Request) -> Response:
    if request.method == "POST":
        return _redirect(request, f"{SIGN_IN}?why=ended")
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    why = "&why=ended" if request.headers.get("cookie") else ""
    return _redirect(request, f"{SIGN_IN}?next={quote(here, safe='')}{why}")


def _redirect(request: Request, path: str) -> Response:
    if request.headers.get("hx-request"):
        # htmx would put the other page into a part of this one.
        return Response(status_code=204, headers={"HX-Redirect": path})
    return RedirectResponse(path, 303)


def _why_closed(page: Page) -> str:
    if page.for_all:
        return "this page is about all accounts: it needs a token that is bound to none"
    return f"this page needs a token with the scope {' or '.join(sorted(page.scopes))}"
