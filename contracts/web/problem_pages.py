"""What went wrong, as a page: for whoever opens an address in a browser. Programs get the problem itself."""

from collections.abc import Callable
from types import MappingProxyType
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response

from contracts.access.principal import Principal
from contracts.identifiers import uuid7
from contracts.problem_advice import ADVICE
from contracts.problems import METHOD_NOT_ALLOWED, NOT_FOUND, Problem
from contracts.web.rendering import Site

log = structlog.get_logger()

#: Below it everything is for programs, whatever they accept.
_API: Final = "/v1/"
_JSON: Final = frozenset({"application/json", "application/problem+json"})
_PATH_SHOWN_MAX: Final = 200
#: For people who came by an address or a link: no header to look at, no id to repeat.
_ADVICE: Final = MappingProxyType(
    {
        NOT_FOUND.code: "Look at the address for a slip, or begin at the first page.",
        METHOD_NOT_ALLOWED.code: "Only forms of these pages lead here: go back to the page with the form.",
    }
)


def asked_by_a_browser(request: Request) -> bool:
    """Whether HTML is named, and preferred to JSON (``*/*`` names nothing); or htmx asks, to put it into a page."""
    if request.url.path.startswith(_API):
        return False
    if request.headers.get("hx-request"):
        return True
    wanted: dict[str, float] = {}
    for one in request.headers.get("accept", "").lower().split(","):
        name, *parameters = (part.strip() for part in one.split(";"))
        wanted[name] = next((_quality(text) for text in parameters if text.startswith("q=")), 1.0)
    return wanted.get("text/html", 0.0) > max((wanted.get(name, 0.0) for name in _JSON), default=0.0)


def _quality(parameter: str) -> float:
    try:
        return float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0


def problem_page(
    site: Site, request: Request, principal: Principal | None, found: Problem, request_id: str = ""
) -> Response:
    """The page, with the id under which the log has this request."""
    request_id = request_id or str(uuid7())
    path = request.url.path
    log.info("problem_shown", path=path, status=found.status, code=found.code, request_id=request_id)
    told = {
        "title": found.title,
        "problem": found,
        "advice": _ADVICE.get(found.code) or ADVICE.get(found.code, ""),
        "request_id": request_id,
        # What is not there now will not be there then.
        "may_help_again": found.code not in _ADVICE,
    }
    response = site.respond(request, principal, path, "problem.html", told, found.status)
    response.headers["X-Request-Id"] = request_id
    return response


def shown_by(site: Site) -> Callable[[Request, Problem, str], Response | None]:
    """Of errors that no page has met itself: unknown addresses, and bugs. None: a program asked."""

    def show(request: Request, found: Problem, request_id: str) -> Response | None:
        if not asked_by_a_browser(request):
            return None
        return problem_page(site, request, None, _in_words(request, found), request_id)

    return show


def _in_words(request: Request, found: Problem) -> Problem:
    path = request.url.path[:_PATH_SHOWN_MAX]
    match found.code:
        case NOT_FOUND.code:
            return found.model_copy(update={"title": "There is no page here", "detail": f"nothing is served at {path}"})
        case METHOD_NOT_ALLOWED.code:
            return found.model_copy(update={"detail": f"{path} does not take {request.method}"})
        case _:
            return found
