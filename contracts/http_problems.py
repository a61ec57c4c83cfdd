"""Problems over HTTP, the same in both services: every error leaves as application/problem+json."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contracts.identifiers import uuid7
from contracts.problems import (
    CONTENT_TYPE,
    ERRORS_MAX,
    INTERNAL,
    INVALID_REQUEST,
    MALFORMED_JSON,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    TOO_LARGE,
    UNSUPPORTED_MEDIA_TYPE,
    FieldError,
    Problem,
    ProblemError,
    ProblemType,
    describe,
    field_path,
    problem,
)

log = structlog.get_logger()

_BY_STATUS: Final = {
    kind.status: kind for kind in (NOT_FOUND, METHOD_NOT_ALLOWED, TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST)
}
#: Where FastAPI found it; a body's own fields are named as the caller wrote them.
_BODY: Final = "body"
#: Headers of a problem that are those of its page, too.
_KEPT: Final = frozenset({"allow", "retry-after"})


def problem_response(problem: Problem, kind: ProblemType | None = None) -> Response:
    """The response for a problem, with Retry-After where its kind says when to come back."""
    headers = {"Retry-After": str(kind.retry_after_seconds)} if kind and kind.retry_after_seconds else None
    return Response(problem.model_dump_json(), problem.status, headers, CONTENT_TYPE)


#: A page for whoever asked in a browser, under the id that the log has; None where a program asked.
Show: TypeAlias = Callable[[Request, Problem, str], Response | None]


def install_problems(
    app: FastAPI,
    translate: Mapping[type[Exception], Callable[[Exception], ProblemError]],
    show: Show,
) -> None:
    """Makes every error of the app a problem. ``translate`` is the table from domain errors to problem types, ``show``
    makes pages of them."""

    def answer(
        request: Request,
        found: Problem,
        kind: ProblemType | None = None,
        headers: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> Response:
        response = problem_response(found, kind)
        response.headers.update(headers or {})
        try:
            page = show(request, found, request_id)
        except Exception as error:  # whatever it is, the program's answer is there
            log.error("no_problem_page", path=request.url.path, exc_info=error)
            page = None
        if page is None:
            return response
        page.headers.update({name: value for name, value in response.headers.items() if name in _KEPT})
        return page

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return answer(request, error.problem, error.kind, error.headers)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(request, _invalid_request(error))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = str(error.detail)
        kind = _BY_STATUS.get(error.status_code) or ProblemType("http_error", error.status_code, detail)
        return answer(request, problem(kind, detail), kind, error.headers)

    async def on_disconnect(request: Request, _: Exception) -> Response:
        log.info("client_gone", path=request.url.path)
        return Response(status_code=400)  # to nobody

    async def on_translated(request: Request, error: Exception) -> Response:
        known = next(make for kind, make in translate.items() if isinstance(error, kind))(error)
        log.warning(known.kind.code, error=str(error))
        return answer(request, known.problem, known.kind)

    async def on_bug(request: Request, error: Exception) -> Response:
        # The server logs the trace; the caller learns nothing of our internals.
        request_id = str(uuid7())
        log.error("internal_error", path=request.url.path, request_id=request_id, exc_info=error)
        headers = {"X-Request-Id": request_id}
        return answer(request, problem(INTERNAL, "the error was logged"), None, headers, request_id)

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    for kind in translate:
        app.add_exception_handler(kind, on_translated)
    app.add_exception_handler(Exception, on_bug)


def _invalid_request(error: RequestValidationError) -> Problem:
    found = error.errors()
    errors = []
    for item in found[:ERRORS_MAX]:
        if item["type"] == "json_invalid":
            return problem(MALFORMED_JSON, f"not JSON: {item['ctx'].get('error', item['msg'])}")
        location = tuple(item["loc"])
        if location and location[0] == _BODY:
            location = location[1:]
        errors.append(FieldError(field=field_path(location), rule=item["type"], message=item["msg"]))
    return problem(INVALID_REQUEST, describe(errors, len(found)), errors)
