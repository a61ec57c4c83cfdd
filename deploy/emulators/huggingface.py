"""Hugging Face's inference router in front of fal, ``https://router.huggingface.co``.

What it does, and where that stands:

- the router takes ``/fal-ai/`` and the model's name at fal, such as ``/fal-ai/fal-ai/flux/dev``, with a Hugging Face
  token; ``?_subdomain=queue`` makes it the queue: ``_prepare_route`` in
  https://github.com/huggingface/huggingface_hub/blob/main/src/huggingface_hub/inference/_providers/fal_ai.py
- of the queue's answer that client takes the *path* of ``response_url`` alone and asks the router for it, with
  ``/status`` for the state. The addresses themselves lead to ``queue.fal.run``, which is not the router and takes
  another key; here as there
- states, 202 until COMPLETED, and the members of each: https://fal.ai/docs/documentation/model-apis/inference/queue
- ``images[]``, sizes by name or as width and height: https://fal.ai/models/fal-ai/flux/dev/api
- errors of a model: ``{"detail": [{"loc", "msg", "type"}]}``, https://fal.ai/docs/documentation/model-apis/errors;
  requests that failed: ``{"detail", "error_type"}`` and the header X-Fal-Error-Type,
  https://fal.ai/docs/documentation/model-apis/request-errors
- ``upscale_factor`` from 1 to 4, by default 2: https://fal.ai/models/fal-ai/clarity-upscaler/llms.txt
- billing: "you pay only for successful outputs", server errors are never charged, 422 "may still be charged if a runner
  spent GPU time" (https://fal.ai/docs/documentation/model-apis/faq); the router adds nothing
  (https://huggingface.co/docs/inference-providers/pricing)

Assumed, because nothing was found that says it: of the errors with 422, ``content_policy_violation`` is charged, for it
is found by looking, and all others are not; a megapixel is 1024 x 1024 pixels, begun ones count whole.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from deploy.emulators.emulation import REFUSED_WORD, Provider, Work, dollars, seed_of
from deploy.emulators.jobs import Job, Outcome, State
from deploy.emulators.media import Form, NotAnImageError, Result, Upload, read_reference

#: What a failed request is said to have died of.
FAILED_TYPE: Final = "runner_server_error"
QUEUE_ORIGIN: Final = "https://queue.fal.run"
MEGAPIXEL: Final = 1024 * 1024
EDGE_MAX: Final = 4096
IMAGES_MAX: Final = 4
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
_CLIPS: Final = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}


@dataclass(frozen=True)
class Model:
    """One line of the catalogue. ``price`` in dollars a ``unit``; of a clip: a second, by its resolution."""

    price: str | Mapping[str, str]
    unit: str = "image"
    image: bool = False
    prompt: bool = True
    answers: str = "images"
    form: Form = Form.IMAGE
    scale: int = 1
    #: Bounds of ``upscale_factor``, where the model takes one instead of its ``scale``.
    factors: tuple[float, float] | None = None
    cut_out: bool = False


_SECONDS: Final = {"480p": "0.1346", "720p": "0.3034", "1080p": "0.682"}
MODELS: Final[Mapping[str, Model]] = {
    "fal-ai/flux/dev": Model("0.025", "megapixel"),
    "fal-ai/flux/schnell": Model("0.003", "megapixel"),
    "fal-ai/flux-pro/v1.1-ultra": Model("0.06"),
    "fal-ai/qwen-image": Model("0.02", "megapixel"),
    "fal-ai/bytedance/seedream/v4/text-to-image": Model("0.03"),
    "fal-ai/flux-pro/kontext": Model("0.04", image=True),
    "fal-ai/clarity-upscaler": Model(
        "0.03", "megapixel", image=True, prompt=False, answers="image", scale=2, factors=(1.0, 4.0)
    ),
    "fal-ai/recraft/upscale/crisp": Model("0.004", image=True, prompt=False, answers="image", scale=4),
    "fal-ai/bria/background/remove": Model("0.018", image=True, prompt=False, answers="image", cut_out=True),
    "fal-ai/trellis": Model("0.02", image=True, prompt=False, answers="model_mesh", form=Form.MODEL),
    "bytedance/seedance-2.0/image-to-video": Model(_SECONDS, "second", image=True, answers="video", form=Form.CLIP),
}


@dataclass
class RefusedError(Exception):
    """An input that the model does not take, in the words of fal."""

    message: str
    type: str
    where: Sequence[object] = field(default_factory=lambda: ["body"])

    @property
    def body(self) -> dict[str, object]:
        return {"detail": [{"loc": list(self.where), "msg": self.message, "type": self.type}]}


class HuggingFace(Provider):
    name: ClassVar[str] = "huggingface"
    default_key: ClassVar[str] = "hf_emulator_key"
    prices: ClassVar[Mapping[str, str]] = {
        name: f"{model.price} a {model.unit}"
        if isinstance(model.price, str)
        else ", ".join(f"{price} a {model.unit} of {resolution}" for resolution, price in model.price.items())
        for name, model in MODELS.items()
    }

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/fal-ai/{app:path}/requests/{job_id}/status", self.status),
            Route("/fal-ai/{app:path}/requests/{job_id}", self.result),
            Route("/fal-ai/{model:path}", self.run, methods=["POST"]),
        ]

    def error(self, status: int, message: str, code: str | None = None) -> Response:  # noqa: ARG002 - one form only
        """The router's own words up to 429, those of fal behind it from 500 on."""
        return JSONResponse({"detail" if status >= 500 else "error": message}, status)

    async def run(self, request: Request) -> Response:
        key = self.bearer(request)
        if key is None:
            return self.error(401, "Invalid username or password.")
        name = request.path_params["model"]
        model = MODELS.get(name)
        if model is None:
            return JSONResponse({"detail": f"Application '{name}' not found"}, 404)
        try:
            body = await request.json()
        except ValueError:
            return JSONResponse(RefusedError("JSON decode error", "json_invalid").body, 422)
        queued = request.query_params.get("_subdomain") == "queue"
        try:
            work, refused = _work(name, model, body if isinstance(body, dict) else {}), None
        except RefusedError as error:
            if not queued and error.type != "content_policy_violation":
                return JSONResponse(error.body, 422)
            work, refused = _refused_work(name, model, error), error
        if queued:
            work = replace(work, job_id=str(uuid.UUID(self.emulation.fresh(self.name))))
        job = self.accept(request, key, work, waits=queued)
        given = body if isinstance(body, dict) else {}
        job.memo = {
            "refused": refused,
            "inline": bool(given.get("sync_mode")),
            "prompt": given.get("prompt", ""),
            "seed": given.get("seed") or int(job.request_id[:8], 16),
        }
        if queued:
            return JSONResponse({**self._addresses(job), "status": "IN_QUEUE", "queue_position": 0})
        return await self.work_on(job) or self._output(job)

    async def status(self, request: Request) -> Response:
        job = self._find(request)
        if isinstance(job, Response):
            return job
        state = job.state(self.emulation.clock())
        body = self._addresses(job)
        if state is State.CREATED:
            return JSONResponse({**body, "status": "IN_QUEUE", "queue_position": 0}, 202)
        if state is State.PROCESSING:
            return JSONResponse({**body, "status": "IN_PROGRESS", "logs": None}, 202)
        return JSONResponse({**body, "status": "COMPLETED", "logs": None, "metrics": {"inference_time": job.pace.run}})

    async def result(self, request: Request) -> Response:
        job = self._find(request)
        if isinstance(job, Response):
            return job
        if job.state(self.emulation.clock()) in (State.CREATED, State.PROCESSING):
            return JSONResponse({"detail": "Request is still in progress"}, 400)
        return self._output(job)

    def _find(self, request: Request) -> Job | Response:
        key = self.bearer(request)
        if key is None:
            return self.error(401, "Invalid username or password.")
        job = self.emulation.book.find(self.name, request.path_params["job_id"])
        known = job is not None and job.key == key and job.outcome is not Outcome.FORGOTTEN
        if job is None or not known or _app(job.model) != request.path_params["app"]:
            return JSONResponse({"detail": "Request not found"}, 404)
        return job

    def _addresses(self, job: Job) -> dict[str, object]:
        response_url = f"{QUEUE_ORIGIN}/{_app(job.model)}/requests/{job.job_id}"
        return {
            "request_id": job.job_id,
            "response_url": response_url,
            "status_url": f"{response_url}/status",
            "cancel_url": f"{response_url}/cancel",
        }

    def _output(self, job: Job) -> Response:
        refused = job.memo["refused"]
        if isinstance(refused, RefusedError):
            return JSONResponse(refused.body, 422)
        if job.outcome is Outcome.FAILED:
            failed = {"detail": "Internal Server Error", "error_type": FAILED_TYPE}
            return JSONResponse(failed, 500, headers={"x-fal-error-type": FAILED_TYPE})
        files = [] if job.no_output else [self._file(job, number) for number in range(len(job.outputs))]
        answers = MODELS[job.model].answers
        if answers == "images":
            body: dict[str, object] = {
                "images": files,
                "timings": {"inference": job.pace.run},
                "has_nsfw_concepts": [job.outcome is Outcome.FILTERED] * len(files),
                "prompt": job.memo["prompt"],
            }
        else:
            body = {answers: files[0]} if files else {}
        body["seed"] = job.memo["seed"]
        return JSONResponse(body, headers={"x-fal-request-id": job.request_id})

    def _file(self, job: Job, number: int) -> dict[str, object]:
        output = job.outputs[number]
        result = output.result
        inline = job.memo["inline"] and job.output_url is None
        url = f"data:{result.content_type};base64,{output.base64()}" if inline else self.emulation.file_url(job, number)
        described: dict[str, object] = {"url": url, "content_type": result.content_type}
        if result.form is Form.IMAGE:
            return {**described, "width": result.width, "height": result.height}
        return {**described, "file_name": f"{number}.{result.suffix}", "file_size": output.size}


def _app(model: str) -> str:
    """Owner and application, without the path behind them: what the queue's addresses have."""
    return "/".join(model.split("/")[:2])


def _refused_work(name: str, model: Model, error: RefusedError) -> Work:
    """A request that ends in an error; of a queue, later."""
    looked_at = error.type == "content_policy_violation"
    price = model.price if isinstance(model.price, str) else next(iter(model.price.values()))
    amount = dollars(price) if looked_at else 0
    return Work(name, {"refused": error.type}, amount, [], failed_nanos=amount, outcome=Outcome.FAILED)


def _work(name: str, model: Model, body: Mapping[str, object]) -> Work:
    """Raises RefusedError."""
    prompt = body.get("prompt", "")
    if model.prompt and "prompt" not in body:
        raise RefusedError("Field required", "missing", ["body", "prompt"])
    if not isinstance(prompt, str):
        raise RefusedError("Input should be a valid string", "string_type", ["body", "prompt"])
    if REFUSED_WORD in prompt:
        message = "The content could not be processed because it contained material flagged by a content checker."
        raise RefusedError(message, "content_policy_violation", ["body", "prompt"])
    source = _source(body) if model.image else None
    seed = body.get("seed", 0)
    if not isinstance(seed, int):
        raise RefusedError("Input should be a valid integer", "int_type", ["body", "seed"])
    resolution, seconds = _clip(body) if model.form is Form.CLIP else ("", 0)
    width, height = _CLIPS[resolution] if resolution else _size(model, body, source)
    count = body.get("num_images", 1)
    if not isinstance(count, int) or not 1 <= count <= IMAGES_MAX:
        raise RefusedError(f"Input should be from 1 to {IMAGES_MAX}", "less_than_equal", ["body", "num_images"])
    form = "png" if model.cut_out else body.get("output_format", "jpeg")
    if form not in ("jpeg", "png"):
        raise RefusedError("Input should be 'jpeg' or 'png'", "literal_error", ["body", "output_format"])
    price = dollars(model.price if isinstance(model.price, str) else model.price[resolution])
    units = {"megapixel": -(-width * height // MEGAPIXEL), "second": seconds}.get(model.unit, 1) * count
    content = source.content if source else b""
    results = [
        Result(
            width,
            height,
            seed_of(name, prompt, seed, number, content),
            f"image/{form}",
            source.preview if source else None,
            cut_out=model.cut_out,
            form=model.form,
            seconds=seconds,
        )
        for number in range(count)
    ]
    parameters: dict[str, object] = {
        "size": f"{width}x{height}",
        "images": count,
        "units": units,
        "unit": model.unit,
    }
    return Work(name, parameters, price * units, results, prompt, filtered_nanos=price * units)


def _source(body: Mapping[str, object]) -> Upload:
    value = body.get("image_url")
    if value is None and isinstance(urls := body.get("image_urls"), list) and urls:
        value = urls[0]
    if not isinstance(value, str):
        raise RefusedError("Field required", "missing", ["body", "image_url"])
    try:
        return read_reference(value)
    except NotAnImageError as error:
        raise RefusedError("Failed to load the image.", "image_load_error", ["body", "image_url"]) from error


def _size(model: Model, body: Mapping[str, object], source: Upload | None) -> tuple[int, int]:
    if source is not None and "image_size" not in body:
        factor = _factor(model, body)
        return round(source.width * factor), round(source.height * factor)
    size = body.get("image_size", "landscape_4_3")
    where = ["body", "image_size"]
    if isinstance(size, str) and size in SIZES:
        return SIZES[size]
    if not isinstance(size, dict):
        raise RefusedError(f"Input should be one of {', '.join(SIZES)}, or width and height", "enum", where)
    width, height = size.get("width"), size.get("height")
    if (
        not isinstance(width, int)
        or not isinstance(height, int)
        or not (0 < width <= EDGE_MAX and 0 < height <= EDGE_MAX)
    ):
        raise RefusedError(f"width and height should be from 1 to {EDGE_MAX}", "less_than_equal", where)
    return width, height


def _factor(model: Model, body: Mapping[str, object]) -> float:
    factor = body.get("upscale_factor", model.scale) if model.factors else model.scale
    if isinstance(factor, bool) or not isinstance(factor, int | float):
        raise RefusedError("Input should be a valid number", "float_type", ["body", "upscale_factor"])
    if model.factors and not model.factors[0] <= factor <= model.factors[1]:
        message = f"Input should be from {model.factors[0]:g} to {model.factors[1]:g}"
        raise RefusedError(message, "less_than_equal", ["body", "upscale_factor"])
    return factor


def _clip(body: Mapping[str, object]) -> tuple[str, int]:
    resolution, seconds = str(body.get("resolution", "720p")), str(body.get("duration", "5"))
    if resolution not in _CLIPS:
        raise RefusedError(f"Input should be one of {', '.join(_CLIPS)}", "literal_error", ["body", "resolution"])
    if not seconds.isdigit() or not 4 <= int(seconds) <= 15:
        raise RefusedError("Input should be from 4 to 15", "literal_error", ["body", "duration"])
    return resolution, int(seconds)
