"""OpenAI's images, ``https://api.openai.com``.

What it does, and where that stands: the OpenAPI document in https://github.com/openai/openai-python
(api_reference/openapi.transformed.yml: createImage, createImageEdit, ImagesResponse, ErrorResponse) and its types
(src/openai/types/image_generate_params.py, image_edit_params.py, images_response.py);

- billing is by the tokens of ``usage``, at the prices of https://developers.openai.com/api/docs/pricing; output tokens
  of the models up to gpt-image-1.5 by the table of the image generation guide, of gpt-image-2 by the formula that
  https://community.openai.com/t/1382699 took from OpenAI's calculator; more than one image is billed as if each had
  been asked for by itself
- moderation: 400, type ``image_generation_user_error``, code ``moderation_blocked``; quota and rate: 429 with the codes
  ``insufficient_quota`` and ``rate_limit_exceeded``, of which only the second is worth another try
  (https://platform.openai.com/docs/guides/error-codes)

Assumed, because nothing was found that says it: an answer without ``usage``, so every error, costs nothing; four
characters are a token of text; ``auto`` means medium and square. Streaming is refused.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deploy.emulators.emulation import REFUSED_WORD, Provider, Work, seed_of
from deploy.emulators.jobs import Job, Outcome
from deploy.emulators.media import NotAnImageError, Result, Upload, read_upload
from deploy.emulators.openai_tokens import IMAGES_MAX, MODELS, Usage, image_tokens, output_tokens, size_of, text_tokens

PROMPT_MAX: Final = 32_000
UPLOADS_MAX: Final = 16
UPLOAD_BYTES_MAX: Final = 50 * 1024 * 1024
_CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "background": ("transparent", "opaque", "auto"),
    "moderation": ("low", "auto"),
    "output_format": ("png", "jpeg", "webp"),
    "quality": ("low", "medium", "high", "auto"),
    "input_fidelity": ("high", "low"),
}
_KNOWN: Final = {*_CHOICES, "model", "prompt", "n", "size", "output_compression", "user", "stream", "partial_images"}
_TYPES: Final = {401: "invalid_request_error", 403: "invalid_request_error", 404: "invalid_request_error"}
_CODES: Final = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass
class RefusedError(Exception):
    """A request that is not taken on, as the error object has it."""

    message: str
    param: str | None = None
    code: str | None = "invalid_value"
    type: str = "invalid_request_error"
    status: int = 400


class OpenAI(Provider):
    name: ClassVar[str] = "openai"
    default_key: ClassVar[str] = "sk-proj-emulator-key"
    prices: ClassVar[Mapping[str, str]] = {
        name: f"{model.text / 1000:g} text in, {model.image / 1000:g} image in, {model.output / 1000:g} image out, "
        "each for a million tokens"
        for name, model in MODELS.items()
    }

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/v1/images/generations", self.generations, methods=["POST"]),
            Route("/v1/images/edits", self.edits, methods=["POST"]),
        ]

    def error(self, status: int, message: str, code: str | None = None) -> Response:
        if code is None:
            code = _CODES.get(status)
        if status >= 500:
            kind = "server_error"
        elif status == 429:
            kind = "insufficient_quota" if code == "insufficient_quota" else "requests"
        else:
            kind = _TYPES.get(status, "invalid_request_error")
        return self._error(RefusedError(message, None, code, kind, status))

    def _error(self, refused: RefusedError) -> Response:
        error: dict[str, object] = {
            "message": refused.message,
            "type": refused.type,
            "param": refused.param,
            "code": refused.code,
        }
        headers = {"x-request-id": f"req_{self.emulation.fresh('openai/error')}"}
        return JSONResponse({"error": error}, refused.status, headers)

    async def generations(self, request: Request) -> Response:
        try:
            body = await request.json()
        except ValueError:
            return self._error(RefusedError("We could not parse the JSON body of your request.", code=None))
        return await self._do(request, body if isinstance(body, dict) else {}, [], None)

    async def edits(self, request: Request) -> Response:
        fields: dict[str, object] = {}
        uploads: list[Upload] = []
        mask: Upload | None = None
        try:
            async with request.form() as form:
                for name, value in form.multi_items():
                    if not isinstance(value, UploadFile):
                        fields[name] = value
                    elif name in ("image", "image[]"):
                        uploads.append(await _read("image", value))
                    elif name == "mask":
                        mask = await _read("mask", value)
        except RefusedError as error:
            return self._error(error)
        except HTTPException as error:
            return self._error(RefusedError(str(error.detail), code=None))
        if not uploads:
            return self._error(_missing("image"))
        return await self._do(request, fields, uploads, mask)

    async def _do(
        self, request: Request, fields: Mapping[str, object], uploads: Sequence[Upload], mask: Upload | None
    ) -> Response:
        key = self.bearer(request)
        if key is None:
            return self.error(401, "Incorrect API key provided. You can find your API key in your account.")
        try:
            work, memo = _work(fields, uploads, mask)
        except RefusedError as error:
            return self._error(error)
        job = self.accept(request, key, work, waits=False)
        job.memo = memo
        return await self.work_on(job) or self._answer(job)

    def _answer(self, job: Job) -> Response:
        if job.outcome is Outcome.FAILED:
            return self.error(500, "The server had an error while processing your request. Sorry about that!")
        if job.outcome is Outcome.FILTERED:
            return self._error(_moderated())
        data = [] if job.no_output else [{"b64_json": output.base64()} for output in job.outputs]
        body = {"created": int(time.time()), "data": data, **job.memo}
        return JSONResponse(body, headers={"x-request-id": f"req_{job.request_id}"})


def _moderated() -> RefusedError:
    return RefusedError(
        "Your request was rejected by the safety system. If you believe this is an error, contact us at "
        "help.openai.com. safety_violations=[sexual].",
        code="moderation_blocked",
        type="image_generation_user_error",
    )


def _missing(param: str) -> RefusedError:
    return RefusedError(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


async def _read(param: str, file: UploadFile) -> Upload:
    content = await file.read()
    if len(content) > UPLOAD_BYTES_MAX:
        raise RefusedError("Image file is too large: at most 50MB.", param, "image_too_large")
    try:
        return read_upload(content)
    except NotAnImageError as error:
        raise RefusedError("Invalid image file or mode.", param, "invalid_image_file") from error


def _whole(fields: Mapping[str, object], name: str, default: int, low: int, high: int) -> int:
    """A form carries numbers as text."""
    value = fields.get(name, default)
    text = str(value)
    if isinstance(value, bool) or not text.isdigit() or not low <= int(text) <= high:
        raise RefusedError(f"Invalid value: '{text}'. Expected a whole number from {low} to {high}.", name)
    return int(text)


def _work(
    fields: Mapping[str, object], uploads: Sequence[Upload], mask: Upload | None
) -> tuple[Work, dict[str, object]]:
    """What is to be done, and what the answer says of it. Raises RefusedError."""
    for name in fields:
        if name not in _KNOWN:
            raise RefusedError(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    name = str(fields.get("model", "gpt-image-1.5"))
    model = MODELS.get(name)
    if model is None:
        raise RefusedError(f"The model '{name}' does not exist.", "model", "model_not_found", status=404)
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise _missing("prompt")
    if len(prompt) > PROMPT_MAX:
        raise RefusedError(
            f"The prompt is too long: at most {PROMPT_MAX} characters.", "prompt", "string_above_max_length"
        )
    for choice, allowed in _CHOICES.items():
        if fields.get(choice) is not None and fields[choice] not in allowed:
            supported = ", ".join(f"'{one}'" for one in allowed)
            raise RefusedError(f"Invalid value: '{fields[choice]}'. Supported values are: {supported}.", choice)
    if str(fields.get("stream", "false")).lower() == "true":
        raise RefusedError("Streaming is not emulated.", "stream", "unsupported_value")
    count = _whole(fields, "n", 1, 1, IMAGES_MAX)
    _whole(fields, "output_compression", 100, 0, 100)
    form = str(fields.get("output_format") or "png")
    clear = fields.get("background") == "transparent"
    if clear and form == "jpeg":
        raise RefusedError("Transparent background needs output format png or webp.", "background")
    _check_images(uploads, mask)
    try:
        width, height = size_of(model, str(fields.get("size") or "auto"))
    except ValueError as error:
        raise RefusedError(str(error), "size") from error
    if REFUSED_WORD in prompt:
        raise _moderated()
    quality = str(fields.get("quality") or "auto")
    quality = "medium" if quality == "auto" else quality
    faithful = model.always_faithful or fields.get("input_fidelity") == "high"
    usage = Usage(
        text=count * text_tokens(prompt),
        image=count * sum(image_tokens(upload, faithful) for upload in uploads),
        output=count * output_tokens(model, quality, width, height),
    )
    source = uploads[0].preview if uploads else None
    inputs = [*(upload.content for upload in uploads), mask.content if mask else b""]
    results = [
        Result(width, height, seed_of(name, prompt, number, *inputs), f"image/{form}", source, cut_out=clear)
        for number in range(count)
    ]
    size = f"{width}x{height}"
    memo: dict[str, object] = {
        "background": "transparent" if clear else "opaque",
        "output_format": form,
        "quality": quality,
        "size": size,
        "usage": usage.body(),
    }
    parameters: dict[str, object] = {"size": size, "quality": quality, "images": count, "usage": usage.body()}
    return Work(name, parameters, usage.nanos(model), results, prompt), memo


def _check_images(uploads: Sequence[Upload], mask: Upload | None) -> None:
    if len(uploads) > UPLOADS_MAX:
        raise RefusedError(f"Too many images: at most {UPLOADS_MAX}.", "image", "too_many_images")
    if mask is None:
        return
    if mask.media_type != "image/png" or not mask.has_alpha:
        raise RefusedError("Invalid mask: it must be a PNG with an alpha channel.", "mask", "invalid_image_file")
    if (mask.width, mask.height) != (uploads[0].width, uploads[0].height):
        raise RefusedError("Invalid mask: its size does not match the image's.", "mask", "invalid_image_file")
