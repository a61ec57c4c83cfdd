"""What is sent to fal through Hugging Face's router, and what its answers mean."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import SecretStr

from image_service.artifacts import Content
from image_service.images import Bounds, SourceImage
from image_service.providers import huggingface as fal
from image_service.providers import huggingface_models as models
from image_service.providers.base import Model, OutcomeUnknownError, ProviderError, RefusedRequestError
from image_service.providers.downloads import Downloads
from image_service.providers.http import Answer, Channel, Pace, TroubleError
from image_service.providers.jobs import Done, Finisher, Job, NotDone, Seen, partly_billed
from image_service.providers.requests import GenerateRequest, ThreeDRequest, UpscaleRequest, VideoRequest
from tests.attempts import attempt_of

JOB = "/fal-ai/flux/requests/764cabcf-b745-4b3e-ae38-1200304cf45b"


def image(width: int = 64, height: int = 64) -> SourceImage:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return SourceImage(Content(buffer.getvalue()), "image/png", width, height)


def answer(status: int, content: bytes, **headers: str) -> Answer:
    return Answer(status, httpx.Headers({name.replace("_", "-"): value for name, value in headers.items()}), content)


def test_only_the_path_of_an_answer_s_url_is_used() -> None:
    """The example of https://fal.ai/docs/api-reference/inference-api; the token is for the router alone."""
    assert fal.read_path({"response_url": f"https://queue.fal.run{JOB}"}) == JOB
    for url in (
        "https://queue.fal.run/fal-ai/flux/requests/x/../../../v1/keys",
        "https://queue.fal.run/fal-ai/flux",
        f"https://queue.fal.run{JOB}/status",
        "https://queue.fal.run//evil.example/x/requests/1",
        "",
        None,
    ):
        with pytest.raises(ValueError, match="no URL"):
            fal.read_path({"response_url": url})


def test_what_is_sent() -> None:
    planned = models.plan(models.FLUX_DEV, GenerateRequest("a cat", 1300, 1025, 7, 2, steps=20), seed=0)
    assert planned.body([], 1) == {
        "prompt": "a cat", "num_images": 1, "output_format": "png", "num_inference_steps": 20,
        "image_size": {"width": 1296, "height": 1024}, "enable_safety_checker": True, "seed": 8,
    }  # fmt: skip
    assert (planned.size, planned.made, planned.units, planned.wanted) == ((1300, 1025), (1296, 1024), 2, 2)
    video = models.plan(models.SEEDANCE, VideoRequest(image(), "it moves", 5, "720p"), seed=3)
    assert video.body(["data:x"], 0) == {
        "prompt": "it moves", "duration": "5", "resolution": "720p", "seed": 3, "image_url": "data:x",
    }  # fmt: skip


def test_holds_are_in_the_units_of_the_price() -> None:
    quote = models.quote(Model(models.FLUX_DEV, "generate", unit="megapixel"), GenerateRequest("x", 1300, 1025, 7, 3))
    assert (quote.quantity, quote.attributes["size"], quote.attributes["megapixels"]) == (6, "1296x1024", 2)
    clip = models.quote(Model(models.SEEDANCE, "image_to_video"), VideoRequest(image(), "x", 8, "480p"))
    assert (clip.quantity, clip.attributes["resolution"]) == (8, "480p")
    larger = UpscaleRequest(image(640, 480), "creative", 1920, 1440)
    assert models.quote(Model(models.CLARITY, "upscale"), larger).quantity == 3


@given(st.integers(256, 2048), st.integers(256, 2048), st.integers(1, 10))
def test_fal_cannot_bill_more_than_was_held(width: int, height: int, count: int) -> None:
    request = GenerateRequest("x", width, height, None, count)
    model = Model(models.SCHNELL, "generate", unit="megapixel")
    asked = models.plan(models.SCHNELL, request, 0).body([], 0)["image_size"]
    billed = -(-asked["width"] * asked["height"] // (1024 * 1024)) * count
    assert models.quote(model, request).quantity == billed


@pytest.mark.parametrize(
    ("model", "request_", "field"),
    [
        (models.FLUX_DEV, GenerateRequest("x", 128, 512, None, 1), "width"),
        (models.SEEDREAM, GenerateRequest("x", 1024, 512, None, 1), "height"),
        (models.SCHNELL, GenerateRequest("x", 512, 512, None, 1, steps=20), "steps"),
        (models.FLUX_DEV, GenerateRequest("x", 512, 512, None, 1, "a dog"), "negative_prompt"),
        (models.FLUX_DEV, GenerateRequest("x", 512, 512, None, 1, quality="hd"), "quality"),
        (models.TRELLIS, ThreeDRequest(image(), 2048), "texture_resolution"),
        (models.SEEDANCE, VideoRequest(image(), None, 5, "720p"), "prompt"),
        (models.SEEDANCE, VideoRequest(image(), "x", 30, "720p"), "seconds"),
        (models.CLARITY, UpscaleRequest(image(), "creative", 640, 640), "width"),
    ],
)
def test_what_a_model_cannot_do_is_refused_by_name(model: str, request_: object, field: str) -> None:
    with pytest.raises(RefusedRequestError) as refused:
        models.plan(model, request_, 0)  # type: ignore[arg-type]  # one of several shapes
    assert refused.value.field == field


def test_what_the_checker_refuses_costs_one_unit_and_other_refusals_nothing() -> None:
    checked = b'{"detail": [{"loc": ["body", "prompt"], "msg": "a cat", "type": "content_policy_violation"}]}'
    refused = fal.refusal(answer(422, checked))
    assert refused is not None
    assert (refused.error.code, refused.error.cost_nanos, refused.units) == ("content_filtered", None, 1)
    assert "a cat" not in refused.error.message
    other = fal.refusal(answer(422, b'{"detail": [{"loc": ["body", "x"], "msg": "", "type": "missing"}]}'))
    assert other is not None
    assert (other.error.code, other.error.cost_nanos) == ("invalid_input", 0)
    assert fal.refusal(answer(500, b"{}")) is None


def test_a_failed_job_is_told_from_a_failing_way_to_it() -> None:
    """https://fal.ai/docs/documentation/model-apis/request-errors and /errors."""
    timed_out = answer(504, b'{"detail": "Request timed out", "error_type": "request_timeout"}',
                       x_fal_error_type="request_timeout")  # fmt: skip
    failed = fal.failure(timed_out)
    assert failed is not None
    assert (failed.error.code, failed.error.cost_nanos) == ("job_failed", 0)
    assert fal.failure(answer(500, b'{"detail": [{"type": "internal_server_error"}]}')) is not None
    behind_the_router = answer(503, b'{"detail": "Runner disconnected", "error_type": "runner_disconnected"}')
    assert fal.failure(behind_the_router) is not None, "a header may be lost on the way"
    assert fal.failure(answer(500, b'{"detail": "Internal Server Error"}')) is None
    assert fal.failure(answer(503, b"<html>")) is None


@asynccontextmanager
async def looking(body: bytes, status: int) -> AsyncIterator[tuple[fal.HuggingFace, Seen | Exception]]:
    """At a finished job whose result has this status, against a router that answers so."""

    async def router(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        is_status = b"/status?" in request.splitlines()[0]
        code, content = (200, b'{"status": "COMPLETED"}') if is_status else (status, body)
        head = f"HTTP/1.1 {code} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(router, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        provider = fal.HuggingFace(
            f"http://127.0.0.1:{port}", SecretStr("k"), Finisher(Downloads((), bytes_max=1), Bounds(1, 1))
        )
        provider._channel = Channel("fal", f"http://127.0.0.1:{port}", {}, pace=Pace(), backoff_seconds=0.001)
        try:
            seen: Seen | Exception = await provider._look(JOB)
        except (TroubleError, OutcomeUnknownError) as error:
            seen = error
        yield provider, seen
        await provider.close()


async def test_a_result_that_says_400_is_the_end_of_a_job_where_its_model_names_the_error() -> None:
    named = b'{"detail": [{"loc": ["body"], "msg": "a cat", "type": "downstream_service_error"}]}'
    async with looking(named, 400) as (_, seen):
        assert isinstance(seen, NotDone)
        assert (seen.error.code, seen.error.cost_nanos) == ("job_failed", 0)
    async with looking(b'{"detail": "Request is still in progress"}', 400) as (_, seen):
        assert isinstance(seen, TroubleError)


@pytest.mark.parametrize(("status", "named"), [(499, "client_cancelled"), (400, "bad_request")])
async def test_nobody_knows_what_a_job_costs_that_fal_ended(status: int, named: str) -> None:
    """Somebody cancelled it while it ran, say. It has ended, so there is nothing to wait for."""
    async with looking(f'{{"detail": "It was cancelled", "error_type": "{named}"}}'.encode(), status) as (_, seen):
        assert isinstance(seen, OutcomeUnknownError)


async def test_jobs_that_fail_are_no_trouble_of_the_provider() -> None:
    """Else two at once would have all others turned away."""
    failed = b'{"detail": "Internal Server Error", "error_type": "runner_server_error"}'
    async with looking(failed, 500) as (provider, seen):
        assert isinstance(seen, NotDone)
        for _ in range(4):
            await provider._look(JOB)
        assert provider.available
        provider._channel._breaker.failed()
        assert provider.available, "none of them counted"
    async with looking(b"<html>", 500) as (provider, seen):
        assert isinstance(seen, TroubleError)


def test_results() -> None:
    file = {"url": "https://v3.fal.media/files/a.png", "content_type": "image/png"}
    assert fal.read_result({"images": [file, file], "seed": 7, "has_nsfw_concepts": [False, False]}) == Done(
        (file["url"], file["url"]), 7
    )
    assert fal.read_result({"model_mesh": file}) == Done((file["url"],), None)
    assert fal.read_result({"video": file, "seed": -1}) == Done((file["url"],), None)
    assert fal.read_result({}) == Done((), None)
    black = fal.read_result({"images": [file], "has_nsfw_concepts": [True]})
    assert isinstance(black, NotDone)
    assert (black.error.code, black.error.cost_nanos) == ("content_filtered", None)


def test_jobs_noted_before_units_were_known_are_read() -> None:
    assert Job.read('{"ids": ["a"], "wanted": 1}').units is None
    attempt = attempt_of("generate")
    error = partly_billed([ProviderError("content_filtered", "no", cost_nanos=None)], 2, attempt, units=5)
    assert (error.cost_nanos, attempt.used_quantity) == (None, 5)
