"""Templates and files of the pages, and the headers under which they leave."""

import gzip
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from contracts.access.principal import Principal
from contracts.problems import NOT_FOUND, ProblemError
from contracts.web.sessions import host_of

if TYPE_CHECKING:
    from jinja2 import Environment  # a ledger that nobody looks at needs none

SHARED: Final = Path(__file__).parent
STATIC: Final = "/static"
#: Nothing from elsewhere, nothing inline, in no other site's frame. Pictures: our own, and what a page made itself.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_FOR_EVER: Final = "public, max-age=31536000, immutable"


class Listed(Protocol):
    """What a menu needs of a page."""

    path: str
    menu: str | None
    group: str

    def opens_to(self, principal: Principal) -> bool: ...


class Site:
    """The pages of one service: its name, and the folders of its own templates and files, before the shared ones."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folders = (folder, SHARED)
        #: Of files that templates name, each looked for once.
        self._addresses: dict[str, str] = {}
        self.pages: Sequence[Any] = ()  # Any: `Listed`, which frozen dataclasses are not to mypy

    def respond(
        self,
        request: Request,
        principal: Principal | None,
        path: str,
        template: str,
        told: Mapping[str, object],
        status: int = 200,
    ) -> Response:
        """A page as HTML: what the page itself tells, and what every page has around it."""
        around = {
            "site": self.name,
            "here": path,
            "principal": principal,
            "menu": self._menu(principal),
            "said": _said(request),
            "query": request.query_params,
            "now": datetime.now(UTC),
        }
        html = self._templates.get_template(template).render({**around, **told})
        return Response(html, status, {**_HEADERS, "Cache-Control": "no-store"}, "text/html")

    def _menu(self, principal: Principal | None) -> dict[str, list[Listed]]:
        """What this visitor may open, by group."""
        groups: dict[str, list[Listed]] = {}
        for page in self.pages if principal else ():
            if page.menu and page.opens_to(principal):
                groups.setdefault(page.group, []).append(page)
        return groups

    @cached_property
    def _templates(self) -> "Environment":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        templates = Environment(
            loader=FileSystemLoader([folder / "templates" for folder in self._folders]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        templates.filters.update(FILTERS)
        templates.globals["static"] = self._address
        return templates

    # --- files

    def file_routes(self) -> list[BaseRoute]:
        route = Route(f"{STATIC}/{{name:path}}", self._serve_file, methods=["GET"], include_in_schema=False)
        route.IS_GUARDED = True  # type: ignore[attr-defined]  # open to all: scripts, styles, no data
        return [route]

    def _address(self, name: str) -> str:
        """Of a file, with what is in it, so that browsers keep it for ever and miss no new one."""
        found = self._addresses.get(name)
        if found is None:
            found = self._addresses[name] = f"{STATIC}/{name}?v={_file(self._find(name)).digest}"
        return found

    def _find(self, name: str) -> Path:
        for folder in self._folders:
            inside = (folder / "static").resolve()
            with suppress(OSError, ValueError):  # a name that no file can have
                found = (inside / name).resolve()
                if found.is_relative_to(inside) and found.is_file():
                    return found
        raise ProblemError(NOT_FOUND, "there is no such file")

    async def _serve_file(self, request: Request) -> Response:
        file = _file(self._find(request.path_params["name"]))
        headers = {**_HEADERS, "Cache-Control": _FOR_EVER, "Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            # Swagger UI takes a tenth of a second, once.
            zipped = await run_in_threadpool(lambda: file.zipped)
            return Response(zipped, 200, {**headers, "Content-Encoding": "gzip"}, file.media_type)
        return Response(file.content, 200, headers, file.media_type)


def _said(request: Request) -> str:
    """What the page before has done, as its redirect says; nothing where another site's link would have us say it."""
    before = host_of(request.headers.get("referer", ""))
    return request.query_params.get("said", "")[:500] if before == request.headers.get("host") else ""


class _File:
    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.digest = sha256(self.content).hexdigest()[:16]
        self.media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"

    @cached_property
    def zipped(self) -> bytes:
        return gzip.compress(self.content, mtime=0)


@cache
def _file(path: Path) -> _File:
    """Read once: the files are part of the program."""
    return _File(path)


# --- how templates write numbers and times

NOTHING: Final = "\N{EN DASH}"


def money(amount: str | Decimal | None, decimals: int = 2) -> str:
    """``"1234.500000000"`` → ``$1,234.50``; below a dollar as many decimals as it has, or three digits take."""
    if amount is None:
        return NOTHING
    value = Decimal(amount)
    shown = decimals
    while shown < 9 and value and abs(value) < Decimal(10).scaleb(1 - shown) and round(value, shown) != value:
        shown += 1
    return f"{'-' if value < 0 else ''}${abs(value):,.{shown}f}"


def count(number: int | str | Decimal | None) -> str:
    """``1234567`` → ``1,234,567``"""
    return NOTHING if number is None else f"{Decimal(number).normalize():,f}"


def moment(time: str | datetime | None) -> str:
    """``2026-11-22 13:04:05``, UTC; times of a page are all of one zone, which its heading names."""
    if time is None:
        return NOTHING
    read = datetime.fromisoformat(time) if isinstance(time, str) else time
    return read.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """``95`` → ``1 min 35 s``: the two largest units."""
    if seconds is None:
        return NOTHING
    left = round(abs(seconds))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def json_text(document: object) -> str:
    """A document as people read it: indented."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()


def with_cursor(query: Mapping[str, str], cursor: str) -> str:
    """An address's parameters, for the next page of the same list."""
    return urlencode({**query, "cursor": cursor})


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "money": money,
    "count": count,
    "moment": moment,
    "duration": duration,
    "json": json_text,
    "with_cursor": with_cursor,
}
