"""Gemini's image models, ``https://generativelanguage.googleapis.com``.

What it does, and where that stands:

- the request and the answer: https://ai.google.dev/api/generate-content and the types of
  https://github.com/googleapis/python-genai (google/genai/types.py: ImageConfig, FinishReason, BlockedReason,
  GenerateContentResponseUsageMetadata); JSON names are camelCase, and snake_case is understood as for every protobuf
- errors ``{"error": {"code", "message", "status", "details"}}``: https://ai.google.dev/gemini-api/docs/troubleshooting,
  with google.rpc details as python-genai's errors.py reads them
- sizes by aspect ratio: https://ai.google.dev/gemini-api/docs/image-generation
- billing is by the tokens of ``usageMetadata``, at https://ai.google.dev/gemini-api/docs/pricing: a blocked prompt is
  answered with 200 and the tokens that it had, which are paid; so is an image that is held back (IMAGE_SAFETY), without
  the tokens of an image; "if your request fails with a 400 or 500 error, you won't be charged"
  (https://ai.google.dev/gemini-api/docs/billing)

Assumed, because nothing was found that says it: four characters are a token of text, and what comes back is one picture
without text and without thoughts.
"""

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deploy.emulators.emulation import REFUSED_WORD, Provider, Work, seed_of
from deploy.emulators.jobs import Job, Outcome
from deploy.emulators.media import NotAnImageError, Result, Upload, read_upload

CHARACTERS_A_TOKEN: Final = 4
RATIOS: Final[Mapping[str, tuple[int, int]]] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
_SCALES: Final = {"512": 0.5, "1K": 1.0, "2K": 2.0, "4K": 4.0}
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TOP: Final = {"contents", "generationConfig", "safetySettings", "systemInstruction", "tools", "toolConfig", "model"}


@dataclass(frozen=True)
class Model:
    """Prices in nano-dollars a token; how many tokens an image is, in and, by its resolution, out."""

    input: int
    output: int
    image_in: int
    image_out: Mapping[str, int]


_PRO: Final = Model(2_000, 120_000, 560, {"1K": 1120, "2K": 1120, "4K": 2000})
_FLASH: Final = Model(500, 60_000, 1120, {"512": 747, "1K": 1120, "2K": 1680, "4K": 2520})
_LITE: Final = Model(250, 30_000, 1120, {"1K": 1120})
MODELS: Final[Mapping[str, Model]] = {
    "gemini-2.5-flash-image": Model(300, 30_000, 258, {"1K": 1290}),
    "gemini-3-pro-image": _PRO,
    "gemini-3-pro-image-preview": _PRO,
    "gemini-3.1-flash-image": _FLASH,
    "gemini-3.1-flash-image-preview": _FLASH,
    "gemini-3.1-flash-lite-image": _LITE,
    "gemini-nano-banana-2.1": _LITE,
}


class RefusedError(Exception):
    """An argument that is not valid."""


class Gemini(Provider):
    name: ClassVar[str] = "gemini"
    default_key: ClassVar[str] = "AIza-emulator-key"
    prices: ClassVar[Mapping[str, str]] = {
        name: f"{model.input / 1000:g} in, {model.output / 1000:g} out, each for a million tokens"
        for name, model in MODELS.items()
    }

    def routes(self) -> Sequence[BaseRoute]:
        # The official client asks v1 since its third version; the documentation writes v1beta.
        versions = ("v1beta", "v1")
        return [Route(f"/{one}/models/{{model}}:generateContent", self.generate, methods=["POST"]) for one in versions]

    def error(self, status: int, message: str, code: str | None = None) -> Response:
        details: list[object] = []
        if status == 429:
            details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"}]
        return self._error(status, message, details, code)

    def _error(self, status: int, message: str, details: Sequence[object], name: str | None = None) -> Response:
        error: dict[str, object] = {
            "code": status,
            "message": message,
            "status": name or _STATUSES.get(status, "UNKNOWN"),
        }
        if details:
            error["details"] = list(details)
        return JSONResponse({"error": error}, status)

    async def generate(self, request: Request) -> Response:
        key = request.headers.get("x-goog-api-key") or request.query_params.get("key")
        if not key:
            return self.error(403, "Method doesn't allow unregistered callers. Please use API Key.")
        if key not in self.keys:
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
            details = [{**info, "domain": "googleapis.com"}]
            return self._error(400, "API key not valid. Please pass a valid API key.", details)
        name = request.path_params["model"]
        model = MODELS.get(name)
        if model is None:
            return self.error(404, f"models/{name} is not found for API version v1beta.")
        try:
            body = _camel(await request.json())
        except ValueError:
            return self.error(400, "Invalid JSON payload received.")
        try:
            work, refused = _work(name, model, body if isinstance(body, dict) else {})
        except RefusedError as error:
            return self.error(400, str(error))
        job = self.accept(request, key, work, waits=False)
        return await self.work_on(job) or self._answer(job, refused)

    def _answer(self, job: Job, refused: bool) -> Response:
        if job.outcome is Outcome.FAILED:
            return self.error(500, "An internal error has occurred. Please retry.")
        prompt = job.parameters["prompt_tokens"]
        assert isinstance(prompt, list)
        count = sum(one["tokenCount"] for one in prompt)
        usage: dict[str, object] = {"promptTokenCount": count, "totalTokenCount": count, "promptTokensDetails": prompt}
        body: dict[str, object] = {"usageMetadata": usage, "modelVersion": job.model, "responseId": job.request_id}
        if refused:
            body["promptFeedback"] = {"blockReason": "PROHIBITED_CONTENT"}
            return JSONResponse(body)
        candidate: dict[str, object] = {"index": 0, "finishReason": "STOP"}
        if job.outcome is Outcome.FILTERED:
            candidate["finishReason"] = "IMAGE_SAFETY"
            candidate["finishMessage"] = "The generated image was held back because of its content."
        elif job.no_output:
            candidate["finishReason"] = "NO_IMAGE"
        if candidate["finishReason"] == "STOP":
            output = job.outputs[0]
            inline = {"mimeType": output.result.media_type, "data": output.base64()}
            candidate["content"] = {"role": "model", "parts": [{"inlineData": inline}]}
        if job.outcome is not Outcome.FILTERED:
            tokens = job.parameters["image_tokens"]
            assert isinstance(tokens, int)
            usage["candidatesTokenCount"] = tokens
            usage["candidatesTokensDetails"] = [{"modality": "IMAGE", "tokenCount": tokens}]
            usage["totalTokenCount"] = count + tokens
        body["candidates"] = [candidate]
        return JSONResponse(body)


def _camel(value: object) -> object:
    """With names as JSON has them, where a client sent those of the protobuf."""
    if isinstance(value, list):
        return [_camel(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = {}
    for name, one in value.items():
        first, *rest = str(name).split("_")
        named[first + "".join(part.capitalize() for part in rest)] = _camel(one)
    return named


def _members(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise RefusedError(f"Invalid value at '{where}': an object is needed.")
    return value


def _work(name: str, model: Model, body: Mapping[str, object]) -> tuple[Work, bool]:
    """What is to be done, and whether the prompt is blocked. Raises RefusedError."""
    for member in body:
        if member not in _TOP:
            raise RefusedError(f'Invalid JSON payload received. Unknown name "{member}": Cannot find field.')
    prompt, uploads = _contents(body.get("contents"))
    width, height, resolution, seed = _settings(model, body.get("generationConfig", {}))
    tokens = [{"modality": "TEXT", "tokenCount": math.ceil(len(prompt) / CHARACTERS_A_TOKEN)}]
    if uploads:
        tokens.append({"modality": "IMAGE", "tokenCount": model.image_in * len(uploads)})
    asked = sum(int(str(one["tokenCount"])) for one in tokens) * model.input
    made = model.image_out[resolution]
    refused = REFUSED_WORD in prompt
    result = Result(
        width,
        height,
        seed_of(name, prompt, seed, *(upload.content for upload in uploads)),
        source=uploads[0].preview if uploads else None,
    )
    parameters: dict[str, object] = {
        "size": f"{width}x{height}",
        "resolution": resolution,
        "images": 0 if refused else 1,
        "prompt_tokens": tokens,
        "image_tokens": 0 if refused else made,
    }
    amount = asked if refused else asked + made * model.output
    outcome = Outcome.FILTERED if refused else None
    return Work(name, parameters, amount, [result], prompt, filtered_nanos=asked, outcome=outcome), refused


def _contents(contents: object) -> tuple[str, list[Upload]]:
    """The text and the images of all parts."""
    texts: list[str] = []
    uploads: list[Upload] = []
    turns = contents if isinstance(contents, list) else [contents]
    for turn in turns:
        parts = turn.get("parts") if isinstance(turn, dict) else None
        if not parts:
            raise RefusedError("* GenerateContentRequest.contents: contents is not specified")
        for part in parts if isinstance(parts, list) else [parts]:
            members = _members(part, "contents.parts")
            if isinstance(text := members.get("text"), str):
                texts.append(text)
            elif "inlineData" in members:
                data = _members(members["inlineData"], "contents.parts.inlineData")
                if not str(data.get("mimeType", "")).startswith("image/"):
                    raise RefusedError("Unsupported MIME type in inline_data.")
                try:
                    uploads.append(read_upload(_bytes(str(data.get("data", "")))))
                except (NotAnImageError, binascii.Error) as error:
                    raise RefusedError("Unable to process input image.") from error
            else:
                raise RefusedError("contents.parts must not be empty.")
    return "\n".join(texts), uploads


def _bytes(text: str) -> bytes:
    """Of JSON for a protobuf: base64 of either alphabet, padded or not; the official client sends the second one."""
    text = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _settings(model: Model, settings: object) -> tuple[int, int, str, object]:
    """Width, height, resolution and seed."""
    members = _members(settings, "generation_config")
    modalities = members.get("responseModalities", ["TEXT", "IMAGE"])
    if not isinstance(modalities, list) or "IMAGE" not in [str(one).upper() for one in modalities]:
        raise RefusedError("The requested combination of response modalities is not supported by the model.")
    if members.get("candidateCount", 1) != 1:
        raise RefusedError("Multiple candidates is not enabled for this model.")
    image = _members(members.get("imageConfig", {}), "generation_config.image_config")
    ratio, resolution = str(image.get("aspectRatio", "1:1")), str(image.get("imageSize", "1K"))
    if ratio not in RATIOS:
        raise RefusedError(f"Invalid aspect ratio {ratio}: it must be one of {', '.join(RATIOS)}.")
    if resolution not in model.image_out:
        raise RefusedError(f"Invalid image size {resolution}: it must be one of {', '.join(model.image_out)}.")
    width, height = RATIOS[ratio]
    scale = _SCALES[resolution]
    return round(width * scale), round(height * scale), resolution, members.get("seed")
