"""Stability, ``https://api.stability.ai``.

What it does, and where that stands: the reference, https://platform.stability.ai/docs/api-reference, and what public
clients generated from its OpenAPI document carry of it:

- endpoints, required fields, ranges and sizes: `stability_endpoints.py`
- errors ``{"id", "name", "errors": []}``; moderation is 403 ``content_moderation`` with the words below, "you were not
  charged"
- ``Accept: image/*`` brings bytes with the headers ``finish-reason`` and ``seed``, ``application/json`` brings
  ``{"image", "finish_reason", "seed"}``; 3D comes as ``model/gltf-binary``
- creative upscale and relight answer 200 ``{"id"}`` of 64 characters; ``GET /v2beta/results/{id}`` answers 202
  ``{"id", "status": "in-progress"}`` until it is done, and only to the key that started it
- 150 requests in 10 seconds, then 429 and a time-out of 60 seconds
  (https://kb.stability.ai/knowledge-base/api-key-rate-limit-information)
- billing: credits of $0.01 (https://stability.ai/api-pricing-update-25), "you will not be charged for failed
  generations"; a result with CONTENT_FILTERED was made and delivered, blurred, so it is paid

Assumed, because nothing was found that says it: that such a result is paid, what an asynchronous job that fails answers
(500 in the form of an error), and that 3D comes as bytes whatever is accepted.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deploy.emulators.emulation import REFUSED_WORD, Emulation, Provider, Work, dollars, seed_of
from deploy.emulators.jobs import Job, State
from deploy.emulators.media import Form, NotAnImageError, Result, Upload, read_upload
from deploy.emulators.stability_endpoints import ENDPOINTS, PAYLOAD_BYTES_MAX, Endpoint, credits_of, size_of, wrong_with

REQUESTS_MAX: Final = 150
WINDOW_SECONDS: Final = 10.0
TIME_OUT_SECONDS: Final = 60.0
ID_DIGITS: Final = 64
MODERATED: Final = (
    "Your request was flagged by our content moderation system, as a result your request was denied and you were not "
    "charged."
)
_NAMES: Final = {
    400: "bad_request",
    401: "unauthorized",
    402: "payment_required",
    403: "content_moderation",
    404: "not_found",
    413: "payload_too_large",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "service_unavailable",
    504: "gateway_timeout",
}


class Stability(Provider):
    name: ClassVar[str] = "stability"
    default_key: ClassVar[str] = "sk-emulator-key"
    prices: ClassVar[Mapping[str, str]] = {
        name: f"{dollars_of} each" for endpoint in ENDPOINTS.values() for name, dollars_of in endpoint.prices.items()
    }

    def __init__(self, emulation: Emulation) -> None:
        super().__init__(emulation)
        self._windows: dict[str, _Window] = {}

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v2beta/results/{job_id}", self.result),
            *(Route(path, self.submit, methods=["POST"]) for path in ENDPOINTS),
        ]

    def error(self, status: int, message: str, code: str | None = None) -> Response:
        return self._errors(status, [message], code)

    def _errors(self, status: int, messages: Sequence[str], name: str | None = None) -> Response:
        body = {
            "id": self.emulation.fresh("stability/error"),
            "name": name or _NAMES.get(status, "error"),
            "errors": list(messages),
        }
        return JSONResponse(body, status)

    async def submit(self, request: Request) -> Response:
        key = self.bearer(request)
        if key is None:
            return self._errors(401, ["authorization: invalid or missing header value"])
        if self._limited(key):
            return self._errors(429, ["You have exceeded the rate limit of 150 requests within a 10 second period."])
        endpoint = ENDPOINTS[request.url.path]
        accept = request.headers.get("accept", "*/*")
        if not _acceptable(endpoint, accept):
            return self._errors(400, ["accept: must be one of: application/json, image/*"])
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            return self._errors(400, ["content-type: must be multipart/form-data"])
        if len(await request.body()) > PAYLOAD_BYTES_MAX:
            return self._errors(413, ["body: payload cannot be larger than 10MiB in size"])
        try:
            async with request.form() as form:
                fields, images, wrong = await _read(endpoint, form)
        except (MultiPartException, HTTPException) as error:
            return self._errors(400, [f"body: {error}"])
        wrong += wrong_with(endpoint, fields, images)
        if wrong:
            return self._errors(400, wrong)
        if any(REFUSED_WORD in text for text in fields.values()):
            return self._errors(403, [MODERATED])
        job = self.accept(request, key, self._work(endpoint, fields, images), waits=endpoint.asynchronous)
        job.memo = {"seed": int(fields.get("seed") or 0) or int(job.request_id[:8], 16) % 4_294_967_294}
        if endpoint.asynchronous:
            return JSONResponse({"id": job.job_id}, headers={"x-request-id": job.request_id})
        return await self.work_on(job) or self._finished(job, accept)

    async def result(self, request: Request) -> Response:
        key = self.bearer(request)
        if key is None:
            return self._errors(401, ["authorization: invalid or missing header value"])
        if self._limited(key):
            return self._errors(429, ["You have exceeded the rate limit of 150 requests within a 10 second period."])
        job = self.emulation.book.find(self.name, request.path_params["job_id"])
        state = job.state(self.emulation.clock()) if job is not None else State.FORGOTTEN
        if job is None or job.key != key or state is State.FORGOTTEN:
            return self._errors(404, ["id: not found; either it does not exist, it expired, or the key is another one"])
        if state in (State.CREATED, State.PROCESSING):
            return JSONResponse({"id": job.job_id, "status": "in-progress"}, 202)
        return self._finished(job, request.headers.get("accept", "*/*"))

    def _work(self, endpoint: Endpoint, fields: Mapping[str, str], images: Mapping[str, Upload]) -> Work:
        model, price = credits_of(endpoint, fields)
        width, height = size_of(endpoint, fields, images)
        source = next((images[name] for name in endpoint.images if name in images), None)
        result = Result(
            width,
            height,
            seed_of(model, sorted(fields.items()), *(upload.content for upload in images.values())),
            f"image/{fields.get('output_format', 'png')}",
            source.preview if source else None,
            cut_out=endpoint.cut_out,
            form=endpoint.form,
        )
        nanos = dollars(price)
        parameters: dict[str, object] = {"size": f"{width}x{height}", "images": 1}
        prompt = " ".join(fields.values())
        job_id = self.emulation.fresh(self.name, ID_DIGITS)
        return Work(model, parameters, nanos, [result], prompt, filtered_nanos=nanos, job_id=job_id)

    def _finished(self, job: Job, accept: str) -> Response:
        if job.last_state is State.FAILED:
            return self._errors(500, ["An internal error occurred; you have not been charged for this request."])
        filtered = job.last_state is State.FILTERED
        reason = "CONTENT_FILTERED" if filtered else "SUCCESS"
        output = job.outputs[0]
        seed = job.memo["seed"]
        headers = {"x-request-id": job.request_id, "finish-reason": reason, "seed": str(seed)}
        if accept.startswith("application/json") and output.result.form is Form.IMAGE:
            body: dict[str, object] = {"finish_reason": reason, "seed": seed}
            if not job.no_output:
                body["image"] = output.base64()
            return JSONResponse(body, headers=headers)
        content = b"" if job.no_output else b"".join(output.pieces())
        return Response(content, media_type=output.result.content_type, headers=headers)

    def _limited(self, key: str) -> bool:
        now = self.emulation.clock()
        return self._windows.setdefault(key, _Window()).exceeded(now)


class _Window:
    """The requests of one key."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()
        self._out_until = float("-inf")

    def exceeded(self, now: float) -> bool:
        while self._at and self._at[0] <= now - WINDOW_SECONDS:
            self._at.popleft()
        if now < self._out_until:
            return True
        if len(self._at) >= REQUESTS_MAX:
            self._out_until = now + TIME_OUT_SECONDS
            return True
        self._at.append(now)
        return False


def _acceptable(endpoint: Endpoint, accept: str) -> bool:
    return endpoint.form is not Form.IMAGE or accept.startswith(("application/json", "image/*", "*/*"))


async def _read(endpoint: Endpoint, form: FormData) -> tuple[dict[str, str], dict[str, Upload], list[str]]:
    """The text fields, the images, and what is wrong with the images."""
    fields: dict[str, str] = {}
    images: dict[str, Upload] = {}
    wrong: list[str] = []
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            fields[name] = value
        elif name in (*endpoint.images, *endpoint.optional_images):
            try:
                images[name] = read_upload(await value.read())
            except NotAnImageError:
                wrong.append(f"{name}: must be a valid image (jpeg, png or webp)")
    return fields, images, wrong
