"""The files that jobs made, on a host of their own, as the providers' content networks have them: no key is needed.

A credential that is sent here all the same has left for a third party. It is refused, as a presigned URL refuses a
second way to sign (``InvalidArgument: Only one auth mechanism allowed``), and noted as a leak.
"""

from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.emulators.emulation import Emulation
from deploy.emulators.jobs import Outcome

_CREDENTIALS: Final = ("authorization", "x-goog-api-key", "cookie")


def files_app(emulation: Emulation) -> Starlette:
    """``GET /{provider}/{job_id}/{number}.{suffix}``."""

    async def download(request: Request) -> Response:
        if leaked := [name for name in _CREDENTIALS if name in request.headers]:
            emulation.leaks.append(f"{request.url.path}: {leaked[0]}")
            return file_error(400, "Only one auth mechanism allowed", "InvalidArgument")
        job = emulation.book.find(request.path_params["provider"], request.path_params["job_id"])
        number, _, suffix = request.path_params["file"].partition(".")
        known = job is not None and job.outcome is not Outcome.FAILED and number.isdigit()
        if job is None or not known or int(number) >= len(job.outputs):
            return file_error(404, "The specified key does not exist.", "NoSuchKey")
        output = job.outputs[int(number)]
        if suffix != output.result.suffix:
            return file_error(404, "The specified key does not exist.", "NoSuchKey")
        headers = {"content-length": str(output.size), "cache-control": "public, max-age=604800"}
        return StreamingResponse(output.pieces(), media_type=output.result.content_type, headers=headers)

    return Starlette(routes=[Route("/{provider}/{job_id}/{file}", download)])


def file_error(status: int, message: str, code: str | None) -> Response:
    """As an object store words it."""
    text = f"<Error><Code>{code or 'InternalError'}</Code><Message>{message}</Message></Error>"
    return PlainTextResponse(text, status, media_type="application/xml")
