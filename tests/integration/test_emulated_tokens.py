"""OpenAI's and Gemini's emulators, which bill by tokens, against what is documented (addresses in deploy/emulators)."""

import base64
from typing import Any

import httpx
import pytest

from contracts.money import format_nanos
from tests.emulators import Emulators, opened, picture

OPENAI = {"Authorization": "Bearer sk-proj-emulator-key"}
GEMINI = {"x-goog-api-key": "AIza-emulator-key"}
PRO = "gemini-3-pro-image"
FLASH = "gemini-2.5-flash-image"


# --- OpenAI


def generate(emulators: Emulators, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    url = f"{emulators.url('openai')}/v1/images/generations"
    return emulators.http.post(url, headers=OPENAI if headers is None else headers, json=body)


def edit(emulators: Emulators, files: list[tuple[str, bytes]], **fields: str) -> httpx.Response:
    sent = [(name, (f"{name}.png", content, "image/png")) for name, content in files]
    return emulators.http.post(f"{emulators.url('openai')}/v1/images/edits", headers=OPENAI, data=fields, files=sent)


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """ErrorResponse: message, type, param and code are all required."""
    assert answer.status_code == status, answer.text[:200]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_the_documented_request_gets_the_documented_answer(emulators: Emulators) -> None:
    """createImage's example: created, data[].b64_json and usage with its details."""
    answer = generate(emulators, model="gpt-image-1.5", prompt="A cute baby sea otter", n=1, size="1024x1024")
    body = answer.json()
    assert answer.headers["x-request-id"].startswith("req_")
    assert isinstance(body["created"], int)
    assert opened(base64.b64decode(body["data"][0]["b64_json"], validate=True)).size == (1024, 1024)
    usage = body["usage"]
    assert usage["input_tokens_details"] == {"text_tokens": 6, "image_tokens": 0}
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (6, 1056, 1062)
    assert (body["size"], body["quality"], body["output_format"]) == ("1024x1024", "medium", "png")
    assert body["background"] == "opaque"


#: Output tokens by the guide's table, and their price: https://community.openai.com/t/1371851.
TABLE = [
    ("gpt-image-1", "low", "1024x1024", 272, 10_880_000),
    ("gpt-image-1", "high", "1024x1536", 6240, 249_600_000),
    ("gpt-image-1.5", "medium", "1536x1024", 1568, 50_176_000),
    ("gpt-image-1-mini", "high", "1024x1024", 4160, 33_280_000),
    ("gpt-image-2", "high", "1024x1024", 7024, 210_720_000),
    ("gpt-image-2", "high", "1536x1024", 5488, 164_640_000),
]


@pytest.mark.parametrize(("model", "quality", "size", "tokens", "nanos"), TABLE)
def test_what_is_billed_is_what_the_usage_says(
    emulators: Emulators, model: str, quality: str, size: str, tokens: int, nanos: int
) -> None:
    body = generate(emulators, model=model, prompt="xxxx", quality=quality, size=size, output_format="jpeg").json()
    assert body["usage"]["output_tokens"] == tokens
    text = 2_000 if model.endswith("mini") else 5_000
    assert emulators.amounts() == [format_nanos(nanos + text)]


def test_several_images_are_as_many_times_as_dear(emulators: Emulators) -> None:
    more: dict[str, Any] = {"model": "gpt-image-1", "prompt": "x", "quality": "low", "output_format": "webp"}
    assert len(generate(emulators, n=3, **more).json()["data"]) == 3
    assert emulators.amounts() == [format_nanos(3 * (10_880_000 + 5_000))]


def test_an_edit_takes_images_and_a_mask_of_the_same_size(emulators: Emulators) -> None:
    image, mask = picture(64, 48), picture(64, 48, "RGBA")
    answer = edit(
        emulators, [("image[]", image), ("image[]", image), ("mask", mask)], prompt="a hat", model="gpt-image-1"
    )
    assert answer.json()["usage"]["input_tokens_details"] == {"text_tokens": 2, "image_tokens": 2 * (65 + 2 * 129)}
    assert (
        error_of(edit(emulators, [("image", image), ("mask", picture(32, 32, "RGBA"))], prompt="x"), 400)["param"]
        == "mask"
    )
    assert error_of(edit(emulators, [("image", image), ("mask", picture(64, 48))], prompt="x"), 400)["param"] == "mask"
    assert error_of(edit(emulators, [("image", b"none")], prompt="x"), 400)["code"] == "invalid_image_file"
    assert error_of(edit(emulators, [("mask", mask)], prompt="x"), 400)["param"] == "image"
    assert len(emulators.amounts()) == 1


def test_faithful_input_has_more_tokens(emulators: Emulators) -> None:
    answer = edit(emulators, [("image", picture())], prompt="x", model="gpt-image-1", input_fidelity="high")
    assert answer.json()["usage"]["input_tokens_details"]["image_tokens"] == 65 + 129 + 4160


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "x", "size": "512x512"}, "size"),
        ({"prompt": "x", "size": "1025x1024", "model": "gpt-image-2"}, "size"),
        ({"prompt": "x", "size": "4096x1024", "model": "gpt-image-2"}, "size"),
        ({"prompt": "x", "quality": "hd"}, "quality"),
        ({"prompt": "x", "n": 11}, "n"),
        ({"prompt": "x", "n": "many"}, "n"),
        ({"prompt": "x" * 32_001}, "prompt"),
        ({"prompt": "x", "background": "transparent", "output_format": "jpeg"}, "background"),
        ({"prompt": "x", "width": 4}, "width"),
        ({"prompt": "x", "stream": True}, "stream"),
    ],
)
def test_openai_says_which_parameter_is_wrong(emulators: Emulators, body: dict[str, Any], param: str) -> None:
    error = error_of(generate(emulators, **body), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert emulators.amounts() == []


def test_openais_keys_models_and_moderation(emulators: Emulators) -> None:
    assert error_of(generate(emulators, headers={}, prompt="x"), 401)["code"] == "invalid_api_key"
    assert error_of(generate(emulators, prompt="x", model="dall-e-9"), 404)["code"] == "model_not_found"
    for prompt, count in (("x [refused]", 0), ("x [filtered]", 1)):
        error = error_of(generate(emulators, prompt=prompt), 400)
        assert (error["type"], error["code"]) == ("image_generation_user_error", "moderation_blocked")
        assert emulators.amounts() == ["0.000000000"] * count
    assert error_of(generate(emulators, prompt="x [fails]"), 500)["type"] == "server_error"
    assert emulators.amounts() == ["0.000000000"] * 2


def test_openais_two_reasons_for_429(emulators: Emulators) -> None:
    emulators.fault("status", status=429)
    emulators.fault("status", status=429, code="insufficient_quota")
    limited, spent = (error_of(generate(emulators, prompt="x"), 429) for _ in range(2))
    assert (limited["type"], limited["code"]) == ("requests", "rate_limit_exceeded")
    assert (spent["type"], spent["code"]) == ("insufficient_quota", "insufficient_quota")


def test_a_transparent_background_is_one(emulators: Emulators) -> None:
    body = generate(emulators, prompt="x", background="transparent").json()
    assert opened(base64.b64decode(body["data"][0]["b64_json"])).mode == "RGBA"


def test_a_stuck_answer_ends_at_the_gateway_and_is_billed(emulators: Emulators) -> None:
    emulators.pace(wait=0.05)
    emulators.fault("job_stuck")
    assert generate(emulators, prompt="x", quality="low").status_code == 504
    assert emulators.amounts() != ["0.000000000"]


# --- Gemini


def ask(
    emulators: Emulators, model: str, *parts: dict[str, Any], headers: dict[str, str] = GEMINI, **more: Any
) -> httpx.Response:
    url = f"{emulators.url('gemini')}/v1beta/models/{model}:generateContent"
    return emulators.http.post(url, headers=headers, json={"contents": [{"parts": list(parts)}], **more})


def image_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text[:200]
    (part,) = answer.json()["candidates"][0]["content"]["parts"]
    assert part["inlineData"]["mimeType"] == "image/png"
    return base64.b64decode(part["inlineData"]["data"], validate=True)


def test_an_image_comes_inline_with_what_it_cost(emulators: Emulators) -> None:
    """1290 tokens of $30 a million and a prompt of $0.30 a million, https://ai.google.dev/gemini-api/docs/pricing."""
    answer = ask(emulators, FLASH, {"text": "a nano banana"})
    assert opened(image_of(answer)).size == (1024, 1024)
    body = answer.json()
    assert (body["candidates"][0]["finishReason"], body["modelVersion"]) == ("STOP", FLASH)
    assert body["usageMetadata"] == {
        "promptTokenCount": 4,
        "candidatesTokenCount": 1290,
        "totalTokenCount": 1294,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 4}],
        "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1290}],
    }
    assert emulators.amounts() == [format_nanos(1290 * 30_000 + 4 * 300)]


@pytest.mark.parametrize(
    ("model", "config", "size", "nanos"),
    [
        (FLASH, {"aspectRatio": "16:9"}, (1344, 768), 1290 * 30_000),
        (PRO, {"imageSize": "1K"}, (1024, 1024), 1120 * 120_000),
        (PRO, {"imageSize": "2K", "aspectRatio": "9:16"}, (1536, 2688), 1120 * 120_000),
        ("gemini-3.1-flash-image", {"imageSize": "512"}, (512, 512), 747 * 60_000),
    ],
)
def test_ratio_and_resolution(
    emulators: Emulators, model: str, config: dict[str, str], size: tuple[int, int], nanos: int
) -> None:
    answer = ask(emulators, model, {"text": "xxxx"}, generationConfig={"imageConfig": config})
    assert opened(image_of(answer)).size == size
    (amount,) = emulators.amounts()
    assert 0 < float(amount) - nanos / 1e9 < 0.00001


def test_names_and_bytes_as_a_protobuf_has_them_are_understood(emulators: Emulators) -> None:
    data = base64.urlsafe_b64encode(picture()).decode().rstrip("=")
    answer = ask(
        emulators,
        PRO,
        {"inline_data": {"mime_type": "image/png", "data": data}},
        {"text": "xxxx"},
        generation_config={"image_config": {"aspect_ratio": "3:2"}},
    )
    assert opened(image_of(answer)).size == (1248, 832)
    assert answer.json()["usageMetadata"]["promptTokensDetails"][1] == {"modality": "IMAGE", "tokenCount": 560}


def test_a_blocked_prompt_and_a_withheld_image_cost_their_prompt(emulators: Emulators) -> None:
    blocked = ask(emulators, FLASH, {"text": "x [refused]"}).json()
    assert blocked["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert "candidates" not in blocked
    withheld = ask(emulators, FLASH, {"text": "x [filtered]"}).json()
    assert withheld["candidates"][0]["finishReason"] == "IMAGE_SAFETY"
    assert "content" not in withheld["candidates"][0]
    for body in (blocked, withheld):
        assert "candidatesTokenCount" not in body["usageMetadata"]
    tokens = [body["usageMetadata"]["promptTokenCount"] for body in (blocked, withheld)]
    assert emulators.amounts() == [format_nanos(300 * count) for count in tokens]


def test_geminis_errors(emulators: Emulators) -> None:
    def status(answer: httpx.Response) -> tuple[int, str]:
        error = answer.json()["error"]
        assert error["code"] == answer.status_code
        assert error["message"]
        return answer.status_code, error["status"]

    wrong = ask(emulators, FLASH, {"text": "x"}, headers={"x-goog-api-key": "wrong"})
    assert status(wrong) == (400, "INVALID_ARGUMENT")
    assert wrong.json()["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    assert status(ask(emulators, FLASH, {"text": "x"}, headers={})) == (403, "PERMISSION_DENIED")
    assert status(ask(emulators, "gemini-9", {"text": "x"})) == (404, "NOT_FOUND")
    for config in (
        {"imageConfig": {"aspectRatio": "7:5"}},
        {"imageConfig": {"imageSize": "8K"}},
        {"candidateCount": 2},
    ):
        assert status(ask(emulators, FLASH, {"text": "x"}, generationConfig=config)) == (400, "INVALID_ARGUMENT")
    assert status(ask(emulators, FLASH, {"text": "x"}, nonsense=1)) == (400, "INVALID_ARGUMENT")
    assert status(ask(emulators, FLASH)) == (400, "INVALID_ARGUMENT")
    bad = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}
    assert status(ask(emulators, FLASH, bad)) == (400, "INVALID_ARGUMENT")
    assert emulators.amounts() == []
    assert status(ask(emulators, FLASH, {"text": "x [fails]"})) == (500, "INTERNAL")
    emulators.fault("status", status=429)
    limited = ask(emulators, FLASH, {"text": "x"})
    assert status(limited) == (429, "RESOURCE_EXHAUSTED")
    assert limited.json()["error"]["details"][0]["@type"].endswith("RetryInfo")
    assert emulators.amounts() == ["0.000000000"]
