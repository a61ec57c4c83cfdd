"""Calls of a service's own HTTP API from within its process, as a page's visitor.

Through the whole application, but no socket: rules, limits, problems and figures are those that any other client of the
API meets, so a page cannot show what its visitor may not see, nor another number than the API has.
"""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlencode

import orjson
from starlette.types import ASGIApp, Message, Scope

from contracts.problems import CONTENT_TYPE, INTERNAL, Problem, problem

#: Parameters of a query; None and "" are left out, as an empty field of a form means "not asked for".
Parameters = Mapping[str, str | int | float | bool | Sequence[str] | None]
#: A part of the API's JSON. Its shapes are in the API's reference; templates take them as they are.
Document: TypeAlias = Any  # checked by the API's own tests
JSON: Final = "application/json"
#: Of contracts.identifiers.NAME_PATTERN, what `quote` would encode.
_IN_NAMES: Final = ":@+"


class ApiProblem(Exception):  # noqa: N818  what it carries
    """The API's answer was a problem; ``retry_after``: its header, where it has one."""

    def __init__(self, found: Problem, retry_after: str | None = None) -> None:
        super().__init__(f"{found.code}: {found.detail}")
        self.problem = found
        self.retry_after = retry_after


class Answer:
    """A 2xx answer of the API: its bytes, its JSON, its headers (names in lower case)."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status, self.headers, self.content = status, headers, content

    @property
    def json(self) -> Document:
        return orjson.loads(self.content)


class OwnApi:
    """``token``: the visitor's, None where access is not controlled. ``client``: where the visitor is."""

    def __init__(self, app: ASGIApp, token: bytes | None, client: tuple[str, int] | None) -> None:
        self._app, self._token, self._client = app, token, client

    async def get(self, path: str, parameters: Parameters | None = None, *, accept: str = "application/json") -> Answer:
        """Raises ApiProblem for whatever is no 2xx. Answers are collected whole: ask for bounded ones."""
        return await self.call("GET", path, parameters, accept=accept)

    async def send(self, method: str, path: str, body: object = None, parameters: Parameters | None = None) -> Answer:
        """POST, PUT or DELETE with a JSON body, as it was read from a form. Raises ApiProblem."""
        return await self.call(method, path, parameters, b"" if body is None else orjson.dumps(body))

    async def call(
        self,
        method: str,
        path: str,
        parameters: Parameters | None = None,
        body: bytes = b"",
        *,
        accept: str = "",
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any call, with what headers it needs beside the visitor's token. Raises ApiProblem."""
        given = {**(headers or {}), **({"accept": accept} if accept else {})}
        if body:
            given |= {"content-type": content_type, "content-length": str(len(body))}
        sent = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in given.items()]
        if self._token is not None:
            sent.append((b"authorization", b"Bearer " + self._token))
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": query_of(parameters or {}).encode(),
            "root_path": "",
            "headers": sent,
            "client": self._client,
            "server": None,
            "state": {},
        }
        status, answered, content = await _exchange(self._app, scope, body)
        if 200 <= status < 300:
            return Answer(status, answered, content)
        raise ApiProblem(_problem_in(answered.get("content-type", ""), content), answered.get("retry-after"))


def multipart(fields: Mapping[str, str], files: Sequence[tuple[str, str, str, bytes]]) -> tuple[str, bytes]:
    """The content type and body of a form (RFC 7578). ``files``: name of the field, of the file, media type, bytes."""
    boundary = secrets.token_hex(16)
    parts: list[bytes] = []
    for name, value in fields.items():
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{quote(name)}"\r\n\r\n'.encode())
        parts.append(value.encode() + b"\r\n")
    for name, file_name, media_type, content in files:
        said = f'form-data; name="{quote(name)}"; filename="{quote(file_name)}"'
        kind = quote(media_type, safe="/+.-")
        parts.append(f"--{boundary}\r\nContent-Disposition: {said}\r\nContent-Type: {kind}\r\n\r\n".encode())
        parts.append(content + b"\r\n")
    parts.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(parts)


def query_of(parameters: Parameters) -> str:
    """As it stands in an address, without what is empty."""
    given = {name: value for name, value in parameters.items() if value is not None and value != ""}
    return urlencode(
        {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}, doseq=True
    )


def path_of(template: str, **names: str) -> str:
    """``path_of("/v1/plans/{plan_id}", plan_id="a/b")`` → ``/v1/plans/a%2Fb``: a name never leaves its place.

    All that a name may hold stands for itself, so that the path is the same for browsers and, as nobody decodes it
    there, for `OwnApi`; what stays encoded is no name, and refused.
    """
    return template.format(**{name: quote(value, safe=_IN_NAMES) for name, value in names.items()})


async def _exchange(app: ASGIApp, scope: Scope, body: bytes) -> tuple[int, dict[str, str], bytes]:
    unread = [body]
    status, headers, parts, answered = 0, {}, list[bytes](), asyncio.Event()

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await answered.wait()  # the page stays until it has all: answers that come in pieces listen for that
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        else:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                answered.set()

    try:
        await app(scope, receive, send)
    except Exception:
        if not status:  # else it was answered, and is raised on for the server to log
            raise
    return status, headers, b"".join(parts)


def _problem_in(content_type: str, content: bytes) -> Problem:
    if content_type.startswith(CONTENT_TYPE):
        return Problem.model_validate_json(content)
    return problem(INTERNAL, "the API answered with something that is no problem document")
