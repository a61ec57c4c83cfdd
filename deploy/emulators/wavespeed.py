"""WaveSpeed, ``https://api.wavespeed.ai``.

What it does, and where that stands:

- submit, poll, the members of an answer and the four states: https://wavespeed.ai/docs/submit-task,
  https://wavespeed.ai/docs/get-result, https://wavespeed.ai/docs/shared/submit-response
- ``enable_sync_mode`` may end with the job still processing: https://wavespeed.ai/docs/sync-mode, and code 5004 as
  https://github.com/WaveSpeedAI/wavespeed-python/blob/main/tests/test_api.py has it
- the parameters of a model, ``enable_base64_output`` ("naked base64, no data: prefix") among them: the llms.txt of each
  model, such as https://wavespeed.ai/models/wavespeed-ai/image-face-swap/llms.txt
- uploads, which cost nothing: https://wavespeed.ai/docs-common-api/media-upload
- billing: "Failed requests are automatically refunded" (https://wavespeed.ai/docs/troubleshooting-guide); a picture
  that the checker flags is delivered with ``has_nsfw_contents`` true, and is paid for

Assumed, because nothing was found that says it: the words of errors, their form ``{"code", "message"}`` with the HTTP
status as code, 404 for an unknown model or job, and that a job refused before it is queued costs nothing.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Final, Literal

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deploy.emulators.emulation import REFUSED_WORD, Emulation, Provider, Work, dollars, seed_of
from deploy.emulators.jobs import Job, State
from deploy.emulators.media import Form, NotAnImageError, Result, Upload, read_reference, read_upload

SYNC_TIMED_OUT: Final = 5004
EDGE_MIN: Final = 256
EDGE_MAX: Final = 4096
IMAGES_MAX: Final = 10
UPLOADS_MAX: Final = 100
_SIZE: Final = re.compile(r"([0-9]{2,5})\*([0-9]{2,5})")
_RESOLUTIONS: Final = {"2k": 2048, "4k": 4096, "8k": 7680}


@dataclass(frozen=True)
class Model:
    """One line of the catalogue. ``price`` in dollars, a piece; of a clip: by its seconds."""

    price: str | Mapping[int, str]
    images: Sequence[str] = ()
    takes: Literal["size", "source", "resolution"] = "source"
    form: Form = Form.IMAGE
    prompt: bool = True
    many: str | None = None
    cut_out: bool = False


MODELS: Final[Mapping[str, Model]] = {
    "wavespeed-ai/flux-dev": Model("0.012", takes="size", many="num_images"),
    "wavespeed-ai/flux-dev-ultra-fast": Model("0.005", takes="size", many="num_images"),
    "wavespeed-ai/z-image/turbo": Model("0.005", takes="size"),
    "bytedance/seedream-v4": Model("0.027", takes="size"),
    "bytedance/seedream-v4/edit": Model("0.027", images=("images",), takes="size"),
    "bytedance/seedream-v4/sequential": Model("0.027", takes="size", many="max_images"),
    "luma/photon-flash": Model("0.005", takes="size"),
    "wavespeed-ai/flux-kontext-dev": Model("0.025", images=("image",), many="num_images"),
    "wavespeed-ai/flux-kontext-dev-ultra-fast": Model("0.02", images=("image",), many="num_images"),
    "ideogram-ai/ideogram-character": Model("0.15", images=("image",)),
    "wavespeed-ai/instant-character": Model("0.1", images=("image",), takes="size"),
    "wavespeed-ai/image-face-swap": Model("0.01", images=("image", "face_image"), prompt=False),
    "wavespeed-ai/image-upscaler": Model("0.01", images=("image",), takes="resolution", prompt=False),
    "wavespeed-ai/ultimate-image-upscaler": Model("0.06", images=("image",), takes="resolution", prompt=False),
    "wavespeed-ai/image-background-remover": Model("0.01", images=("image",), prompt=False, cut_out=True),
    "wavespeed-ai/image-eraser": Model("0.025", images=("image", "mask_image"), prompt=False),
    "wavespeed-ai/hunyuan3d-v3/image-to-3d": Model("0.25", images=("image",), form=Form.MODEL, prompt=False),
    "wavespeed-ai/wan-2.1/i2v-720p": Model({5: "0.30", 10: "0.45"}, images=("image",), form=Form.CLIP),
    "wavespeed-ai/wan-2.2/i2v-480p-ultra-fast": Model({5: "0.05", 8: "0.08"}, images=("image",), form=Form.CLIP),
    "wavespeed-ai/wan-2.2/image-to-video": Model(
        {5: "0.30", 8: "0.48"}, images=("image",), takes="size", form=Form.CLIP
    ),
}


class RefusedError(Exception):
    """A request that is not taken on."""


class WaveSpeed(Provider):
    name: ClassVar[str] = "wavespeed"
    default_key: ClassVar[str] = "ws-emulator-key"
    prices: ClassVar[Mapping[str, str]] = {
        name: f"{model.price} each"
        if isinstance(model.price, str)
        else ", ".join(f"{price} for {seconds} s" for seconds, price in model.price.items())
        for name, model in MODELS.items()
    }

    def __init__(self, emulation: Emulation) -> None:
        super().__init__(emulation)
        self.uploaded: dict[str, bytes] = {}

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/api/v3/predictions/{job_id}/result", self.result),
            Route("/api/v3/predictions/{job_id}", self.result),
            Route("/api/v3/media/upload/binary", self.upload, methods=["POST"]),
            Route("/api/v3/{model:path}", self.submit, methods=["POST"]),
        ]

    def error(self, status: int, message: str, code: str | None = None) -> Response:  # noqa: ARG002 - one form only
        return JSONResponse({"code": status, "message": message}, status)

    async def upload(self, request: Request) -> Response:
        """Keeps the file under a URL that a request may name. Costs nothing."""
        if self.bearer(request) is None:
            return self.error(401, "Unauthorized: invalid API key")
        async with request.form() as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                return self.error(400, "file is required")
            content = await file.read()
        url = f"{self.emulation.cdn_origin}/media/{self.emulation.fresh(self.name)}.bin"
        self.uploaded[url] = content
        while len(self.uploaded) > UPLOADS_MAX:
            del self.uploaded[next(iter(self.uploaded))]
        data = {"type": "image", "download_url": url, "filename": file.filename, "size": len(content)}
        return JSONResponse({"code": 200, "message": "success", "data": data})

    async def submit(self, request: Request) -> Response:
        key = self.bearer(request)
        if key is None:
            return self.error(401, "Unauthorized: invalid API key")
        name = request.path_params["model"]
        model = MODELS.get(name)
        if model is None:
            return self.error(404, f"model not found: {name}")
        try:
            body = await request.json()
        except ValueError:
            return self.error(400, "invalid request body: not JSON")
        if not isinstance(body, dict):
            return self.error(400, "invalid request body: not an object")
        try:
            work = _work(name, model, body, self.uploaded)
        except RefusedError as error:
            return self.error(400, str(error))
        job = self.accept(request, key, work, waits=True)
        job.memo = {
            "base64": bool(body.get("enable_base64_output")),
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if body.get("enable_sync_mode"):
            return await self._wait(job)
        return self._answer(job, State.CREATED)

    async def result(self, request: Request) -> Response:
        if (key := self.bearer(request)) is None:
            return self.error(401, "Unauthorized: invalid API key")
        job = self.emulation.book.find(self.name, request.path_params["job_id"])
        now = self.emulation.clock()
        if job is None or job.key != key or job.state(now) is State.FORGOTTEN:
            return self.error(404, "prediction not found")
        return self._answer(job, job.state(now))

    async def _wait(self, job: Job) -> Response:
        """Until it is done, or for as long as is waited; then the answer says that it goes on."""
        takes = job.pace.queue + job.pace.run
        if job.last_state not in (State.PROCESSING, State.FORGOTTEN) and takes <= job.pace.wait:
            await asyncio.sleep(takes)
            return self._answer(job, job.last_state)
        await asyncio.sleep(job.pace.wait)
        message = "Sync mode timed out. The task is still processing asynchronously."
        return self._answer(job, State.PROCESSING, error=message, code=SYNC_TIMED_OUT)

    def _answer(self, job: Job, state: State, error: str = "", code: int | None = None) -> Response:
        done = state in (State.COMPLETED, State.FILTERED)
        outputs: list[str] = []
        if done and not job.no_output:
            outputs = [
                output.base64() if job.memo["base64"] else self.emulation.file_url(job, number)
                for number, output in enumerate(job.outputs)
            ]
        data: dict[str, object] = {
            "id": job.job_id,
            "model": job.model,
            "outputs": outputs,
            "urls": {"get": f"{self.url}/api/v3/predictions/{job.job_id}/result"},
            "has_nsfw_contents": [state is State.FILTERED] * len(outputs),
            "status": "completed" if done else state.value,
            "created_at": job.memo["created_at"],
            "error": "The model failed on this input." if state is State.FAILED else error,
            "executionTime": round(job.pace.run * 1000) if done else 0,
            "timings": {"inference": round(job.pace.run * 1000) if done else 0},
        }
        if code is not None:
            data["code"] = code
        return JSONResponse({"code": 200, "message": "success", "data": data})


def _work(name: str, model: Model, body: Mapping[str, object], uploaded: Mapping[str, bytes]) -> Work:
    """Raises RefusedError with what is wrong."""
    prompt = body.get("prompt", "")
    if not isinstance(prompt, str) or (model.prompt and not prompt.strip()):
        raise RefusedError("property 'prompt' is missing or no text")
    if REFUSED_WORD in prompt:
        raise RefusedError("content flagged as potentially sensitive, please try different prompts or images")
    uploads = [upload for field in model.images for upload in _uploads(field, body.get(field), uploaded)]
    source = uploads[0] if uploads else None
    width, height = _size(model, body, source)
    seconds = _seconds(model, body)
    count = _count(model, body)
    price = model.price if isinstance(model.price, str) else model.price[seconds]
    seed = body.get("seed", -1)
    media_type = _media_type(body, "png" if model.cut_out else "jpeg")
    results = [
        Result(
            width,
            height,
            seed_of(name, prompt, seed, number, *(upload.content for upload in uploads)),
            media_type,
            source.preview if source else None,
            cut_out=model.cut_out,
            form=model.form,
            seconds=seconds,
        )
        for number in range(count)
    ]
    parameters: dict[str, object] = {"size": f"{width}*{height}", "images": count}
    if seconds:
        parameters["seconds"] = seconds
    return Work(name, parameters, dollars(price) * count, results, prompt, filtered_nanos=dollars(price) * count)


def _uploads(field: str, value: object, uploaded: Mapping[str, bytes]) -> list[Upload]:
    given: list[object] = value if isinstance(value, list) else [value]
    values = [one for one in given if isinstance(one, str) and one]
    if not values or len(values) < len(given):
        raise RefusedError(f"property '{field}' is missing or not an image")
    try:
        return [read_upload(uploaded[one]) if one in uploaded else read_reference(one) for one in values]
    except NotAnImageError as error:
        raise RefusedError(f"property '{field}': {error}") from error


def _size(model: Model, body: Mapping[str, object], source: Upload | None) -> tuple[int, int]:
    if model.takes == "resolution":
        name = str(body.get("target_resolution", "4k")).lower()
        if name not in _RESOLUTIONS or source is None:
            raise RefusedError(f"property 'target_resolution' must be one of {', '.join(_RESOLUTIONS)}")
        scale = _RESOLUTIONS[name] / max(source.width, source.height)
        return max(1, round(source.width * scale)), max(1, round(source.height * scale))
    if "size" in body and model.takes == "size":
        match = _SIZE.fullmatch(str(body["size"]))
        if match is None:
            raise RefusedError("property 'size' must be width*height, such as 1024*1024")
        width, height = int(match[1]), int(match[2])
        if not (EDGE_MIN <= width <= EDGE_MAX and EDGE_MIN <= height <= EDGE_MAX):
            raise RefusedError(f"property 'size': each side must be {EDGE_MIN} to {EDGE_MAX}")
        return width, height
    if model.form is Form.CLIP:
        return 1280, 720
    return (source.width, source.height) if source else (1024, 1024)


def _seconds(model: Model, body: Mapping[str, object]) -> int:
    if isinstance(model.price, str):
        return 0
    seconds = body.get("duration", min(model.price))
    if seconds not in model.price or not isinstance(seconds, int):
        raise RefusedError(f"property 'duration' must be one of {', '.join(map(str, model.price))}")
    return seconds


def _count(model: Model, body: Mapping[str, object]) -> int:
    count = body.get(model.many, 1) if model.many else 1
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= IMAGES_MAX:
        raise RefusedError(f"property '{model.many}' must be 1 to {IMAGES_MAX}")
    return count


def _media_type(body: Mapping[str, object], default: str) -> str:
    name = body.get("output_format", default)
    if name not in ("jpeg", "png", "webp"):
        raise RefusedError("property 'output_format' must be one of jpeg, png, webp")
    return f"image/{name}"
