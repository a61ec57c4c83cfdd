"""The real clients against the emulators: what is settled is what was billed, whatever goes wrong on the way."""

import time
from pathlib import Path
from typing import Any

import pytest

from contracts.money import parse_nanos
from image_service.providers.base import RefusedRequestError
from image_service.providers.requests import GenerateRequest, UpscaleRequest
from tests.emulators import Emulators
from tests.provider_orders import ALL, DEADLINE_SECONDS, PICTURE, Asked, Became, quick_providers, run

#: Of every way in which a provider answers, one: several jobs, one with uploads, several answers that are the image, a
#: job whose result is the answer; an upload that is answered with the image, several answers with one each, several in
#: a queue.
CHOSEN = [
    asked
    for asked in ALL
    if asked.model in ("wavespeed-ai/flux-dev-ultra-fast", "wavespeed-ai/image-eraser", "stable-image-core",
                       "replace-background-and-relight", "gpt-image-2", "gemini-2.5-flash-image", "fal-ai/flux/schnell")
    and (asked.model, asked.operation) not in (("gpt-image-2", "generate"), ("gemini-2.5-flash-image", "character"))
    and asked.request.kind not in ("general", "inpaint")
]  # fmt: skip

#: Those that only a deadline ends, and that deadline. Of a job that failed, Stability's results say 500, which may be
#: trouble of the moment as well.
NEVER_ENDS, SOON = ("hangs beyond the deadline", "job is stuck", "job fails"), 0.4
ORDER, LOOK = "POST *", "GET *"
#: Name of the fault: itself, and what it may lead to: "delivered", a known failure's code, "doubt".
FAULTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({"kind": "delay", "seconds": 0.01}, {"delivered"}),
    "429": ({"kind": "status", "status": 429, "route": ORDER}, {"delivered"}),
    "429 for a while": (
        {"kind": "status", "status": 429, "route": ORDER, "times": 50}, {"provider_overloaded"}),
    "429 for long": (
        {"kind": "status", "status": 429, "route": ORDER, "retry_after": "600"}, {"provider_overloaded"}),
    "429 for want of credit": (
        {"kind": "status", "status": 429, "route": ORDER, "code": "insufficient_quota"},
        {"provider_credit", "delivered"}),
    "400": ({"kind": "status", "status": 400, "route": ORDER}, {"invalid_input"}),
    "401": ({"kind": "status", "status": 401, "route": ORDER}, {"provider_credentials"}),
    "402": ({"kind": "status", "status": 402, "route": ORDER}, {"provider_credit"}),
    "403": ({"kind": "status", "status": 403, "route": ORDER}, {"content_filtered", "provider_credentials"}),
    "500 before": ({"kind": "status", "status": 500, "route": ORDER}, {"doubt"}),
    "500 after": ({"kind": "status", "status": 500, "route": ORDER, "at": "after"}, {"doubt"}),
    "504 after": ({"kind": "status", "status": 504, "route": ORDER, "at": "after"}, {"doubt"}),
    "503 before": ({"kind": "status", "status": 503, "route": ORDER}, {"doubt"}),
    "reset before": ({"kind": "reset", "route": ORDER}, {"doubt"}),
    "reset after": ({"kind": "reset", "route": ORDER, "at": "after"}, {"doubt"}),
    "close after": ({"kind": "close", "route": ORDER, "at": "after"}, {"doubt"}),
    "hangs after": ({"kind": "hang", "route": ORDER, "at": "after", "seconds": 0.1}, {"doubt"}),
    "hangs beyond the deadline": ({"kind": "hang", "route": ORDER, "at": "after", "seconds": 0.6}, {"doubt"}),
    "order cut off": ({"kind": "truncate", "route": ORDER}, {"doubt", "result_unusable"}),
    "order without a body": ({"kind": "empty", "route": ORDER, "at": "after"}, {"doubt"}),
    "order answered by a web page": ({"kind": "wrong_content_type", "route": ORDER, "at": "after"}, {"doubt"}),
    "order answered by no JSON": ({"kind": "malformed_json", "route": ORDER, "at": "after"}, {"doubt"}),
    "redirected": ({"kind": "redirect", "route": ORDER, "url": "http://169.254.169.254/"}, {"doubt"}),
    "looks fail": ({"kind": "status", "status": 503, "route": LOOK, "times": 3}, {"delivered"}),
    "looks are reset": ({"kind": "reset", "route": LOOK, "times": 2}, {"delivered"}),
    "looks are cut off": ({"kind": "truncate", "route": LOOK, "times": 2}, {"delivered"}),
    "looks are no JSON": ({"kind": "malformed_json", "route": LOOK, "at": "after", "times": 2}, {"delivered"}),
    "job fails": ({"kind": "job_fails", "route": ORDER}, {"job_failed", "doubt", "delivered"}),
    "job is stuck": ({"kind": "job_stuck", "route": ORDER}, {"doubt"}),
    "job is filtered": ({"kind": "job_filtered", "route": ORDER}, {"content_filtered", "delivered"}),
    "job is forgotten": ({"kind": "job_forgotten", "route": ORDER}, {"doubt", "delivered"}),
    "no output": ({"kind": "no_output", "route": ORDER}, {"result_unusable", "doubt"}),
    "output elsewhere": (
        {"kind": "output_url", "route": ORDER, "url": "http://169.254.169.254/x"}, {"result_unusable", "delivered"}),
    "output empty": ({"kind": "output_empty", "route": ORDER}, {"result_unusable"}),
    "output cut off": ({"kind": "output_truncated", "route": ORDER}, {"result_unusable"}),
    "output too large": (
        {"kind": "output_oversized", "route": ORDER, "size": 9 * 1024 * 1024}, {"result_unusable", "delivered"}),
    "output garbage": ({"kind": "output_garbage", "route": ORDER}, {"result_unusable"}),
    "output a bomb": ({"kind": "output_bomb", "route": ORDER}, {"result_unusable"}),
    "files fail": ({"kind": "status", "status": 503, "provider": "cdn", "times": 8}, {"delivered"}),
    "files cut off": ({"kind": "truncate", "provider": "cdn", "times": 2}, {"delivered"}),
    "files gone": ({"kind": "status", "status": 404, "provider": "cdn"}, {"result_unusable", "delivered"}),
    "files redirect into a private network": (
        {"kind": "redirect", "provider": "cdn", "url": "http://10.0.0.1/"}, {"result_unusable", "delivered"}),
}  # fmt: skip


@pytest.fixture
def emulators(emulators: Emulators) -> Emulators:
    emulators.pace(queue=0.01, run=0.01, wait=0.6)
    return emulators


def billed(emulators: Emulators) -> int:
    return parse_nanos(emulators.billed()["total"])


def ended(became: Became) -> str:
    if became.cost_nanos is None:
        return "doubt"
    return became.code or "delivered"


async def test_every_operation_is_done_and_costs_what_was_billed(emulators: Emulators, tmp_path: Path) -> None:
    wrong = []
    async with quick_providers(emulators) as providers:
        for asked in ALL:
            before = billed(emulators)
            became = await run(providers, asked, tmp_path)
            if ended(became) != "delivered" or became.cost_nanos != billed(emulators) - before:
                wrong.append((str(asked), became, billed(emulators) - before))
    assert wrong == []
    assert list(emulators.server.emulation.leaks) == []


@pytest.mark.parametrize("count", [1, 3])
async def test_what_the_checker_refuses_is_a_unit_each_and_what_is_blackened_the_whole_price(
    emulators: Emulators, tmp_path: Path, count: int
) -> None:
    """Of images with two megapixels, which are two units each."""
    async with quick_providers(emulators) as providers:
        for prompt, units in (("[refused] a cat", 1), ("[filtered] a cat", 2)):
            emulators.forget()
            emulators.pace(queue=0.01, run=0.01)
            request = GenerateRequest(prompt, 1536, 1024, None, count)
            became = await run(providers, Asked("fal", "generate", "fal-ai/flux/dev", request), tmp_path)
            assert (became.code, became.cost_nanos) == ("content_filtered", units * count * 25_000_000)
            assert became.cost_nanos == billed(emulators) <= became.held_nanos


async def test_a_failed_job_of_fal_s_is_known_as_one_and_free(emulators: Emulators, tmp_path: Path) -> None:
    request = GenerateRequest("a cat [fails]", 512, 512, None, 1)
    async with quick_providers(emulators) as providers:
        became = await run(providers, Asked("fal", "generate", "fal-ai/flux/dev", request), tmp_path)
    assert (became.code, became.cost_nanos, billed(emulators)) == ("job_failed", 0, 0)


@pytest.mark.parametrize(
    ("provider", "model", "request_"),
    [
        ("wavespeed", "wavespeed-ai/image-upscaler", UpscaleRequest(PICTURE, "fast", 512, 300)),
        ("wavespeed", "wavespeed-ai/image-upscaler", UpscaleRequest(PICTURE, "fast", 6_000, 6_000)),
        ("stability", "upscale-fast", UpscaleRequest(PICTURE, "fast", 300, 512)),
        ("stability", "upscale-conservative", UpscaleRequest(PICTURE, "conservative", 512, 900, prompt="a cat")),
        ("fal", "fal-ai/clarity-upscaler", UpscaleRequest(PICTURE, "creative", 512, 300)),
    ],
)
async def test_what_would_be_billed_and_of_no_use_is_not_ordered(
    emulators: Emulators, tmp_path: Path, provider: str, model: str, request_: UpscaleRequest
) -> None:
    """An image of other proportions than were asked for, or with more pixels than are taken in."""
    async with quick_providers(emulators) as providers:
        with pytest.raises(RefusedRequestError):
            await run(providers, Asked(provider, "upscale", model, request_), tmp_path)
    assert billed(emulators) == 0


@pytest.mark.parametrize("asked", CHOSEN, ids=str)
async def test_whatever_goes_wrong_what_is_settled_was_billed_and_the_rest_is_in_doubt(
    emulators: Emulators, tmp_path: Path, asked: Asked
) -> None:
    assert await _wrong(emulators, tmp_path, asked) == []


@pytest.mark.faults
@pytest.mark.parametrize("asked", [asked for asked in ALL if asked not in CHOSEN], ids=str)
async def test_whatever_goes_wrong_with_any_other_order(emulators: Emulators, tmp_path: Path, asked: Asked) -> None:
    """With those above: every operation, model and kind of every provider of the registry, and every fault."""
    assert await _wrong(emulators, tmp_path, asked) == []


async def _wrong(emulators: Emulators, folder: Path, asked: Asked) -> list[tuple[object, ...]]:
    """The faults with which what was settled is not what was billed, or the order ended as it should not."""
    wrong: list[tuple[object, ...]] = []
    async with quick_providers(emulators) as providers:
        for name, (fault, allowed) in FAULTS.items():
            emulators.forget()
            emulators.pace(queue=0.01, run=0.01, wait=0.6)
            emulators.server.emulation.clock = _clock_of_its_own()
            emulators.fault(**{"provider": asked.emulator, **_for_orders(fault, asked)})
            became = await run(providers, asked, folder, SOON if name in NEVER_ENDS else DEADLINE_SECONDS)
            owed = billed(emulators)
            is_right = owed <= became.held_nanos if became.cost_nanos is None else became.cost_nanos == owed
            hit = bool(emulators.hits())
            if not is_right or ended(became) not in (allowed if hit else {"delivered"}):
                wrong.append((name, ended(became), became.cost_nanos, owed, hit))
    return wrong


_moments = iter(range(1_000, 10_000_000, 1_000))


def _clock_of_its_own() -> Any:
    """Past every rate limit's time-out."""
    begins, offset = time.monotonic(), next(_moments)
    return lambda: offset + time.monotonic() - begins


def _for_orders(fault: dict[str, Any], asked: Asked) -> dict[str, Any]:
    """Uploads are POSTs as well."""
    if fault.get("route") == ORDER and asked.provider == "wavespeed":
        return {**fault, "route": f"POST /api/v3/{asked.model}"}
    return fault
