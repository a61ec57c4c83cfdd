"""The worked example of deploy/guides/providers.md, taken from there and run: what a new provider takes."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from image_service.images import Bounds
from image_service.providers.downloads import Downloads
from image_service.providers.jobs import Finisher
from image_service.providers.registry import Providers
from tests.integration.image_harness import ScriptedLedger, allowed_at, image_service, make_settings, picture, serving

GUIDE = Path(__file__).parents[2] / "deploy" / "guides" / "providers.md"
ASKED = {"prompt": "a hill", "width": 48, "height": 32, "provider": "easel"}


def example() -> tuple[str, int]:
    """Its text, and how many lines the guide says that it has."""
    text = GUIDE.read_text(encoding="utf-8")
    said = re.search(r"Without its imports it has (\d+) lines", text)
    assert said is not None
    return text.split("```python\n")[1].split("```")[0], int(said[1])


def test_it_has_as_many_lines_as_the_guide_says() -> None:
    code, said = example()
    own = code[code.index("def drawing") :]
    assert len([line for line in own.splitlines() if line.strip()]) == said


async def test_it_serves_requests_meters_them_and_stays_honest(tmp_path: Path) -> None:
    namespace: dict[str, Any] = {}
    exec(compile(example()[0], str(GUIDE), "exec"), namespace)
    statuses = iter([200, 403, 500])

    async def draw(request: Request) -> Response:
        assert request.headers["authorization"] == "Bearer easel-key"
        width, height = (await request.json())["size"]
        image = base64.b64encode(picture((width, height))).decode()
        return JSONResponse({"images": [image], "cost": "0.07"}, next(statuses))

    ledger = ScriptedLedger(otherwise=allowed_at(90_000_000))
    downloads = Downloads((), bytes_max=1_000_000)
    finisher = Finisher(downloads, Bounds(1_000_000, 4_000))
    async with (
        serving(Starlette(routes=[Route("/v1/draw", draw, methods=["POST"])])) as url,
        serving(ledger.app()) as to,
    ):
        providers = Providers((namespace["Easel"](url, SecretStr("easel-key"), finisher),))
        async with image_service(make_settings(tmp_path, to), providers) as client:
            answers = [await client.post("/v1/images/generate", json=ASKED) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 502, 502], [answer.text for answer in answers]
    made = answers[0].json()
    assert (made["provider"], made["cost"], made["images"][0]["width"]) == ("easel", "0.070000000", 48)
    assert [answer.json()["error"]["code"] for answer in answers[1:]] == ["invalid_input", "outcome_unknown"]
    assert namespace["REMOTE"].variable == "IMAGE_EASEL_KEY"
    assert "easel-key" not in json.dumps([answer.text for answer in answers])
