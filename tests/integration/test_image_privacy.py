"""What a provider gets of an upload, in the bytes that arrive: the picture, and nothing of who took it, and where."""

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from image_service.providers.registry import REMOTES
from tests.integration.image_harness import ScriptedLedger, allowed_at, image_service, make_settings, serving
from tests.provider_orders import emulator_of

SECRET = b"52.5163N 13.3777E"
EDIT = {"kind": "general", "prompt": "blue"}
FIELDS = {"stability": {"kind": "remove_background"}}


def snapshot(form: str, turned: bool) -> bytes:
    """With a place in it; one that needs no turning is passed on without being decoded and compressed again."""
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    buffer = io.BytesIO()
    # Noise: as PNG it has over a quarter of a megabyte, and so lies in a file on its way.
    Image.effect_noise((600, 600), 90).convert("RGB").save(buffer, form, exif=exif, comment=SECRET)
    return buffer.getvalue()


def said(body: bytes) -> bytes:
    """With what stands in it in base64."""
    return body + b"".join(base64.b64decode(found) for found in re.findall(rb"[A-Za-z0-9+/]{1000,}={0,2}", body))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_no_provider_gets_the_place_of_a_picture(tmp_path: Path, form: str) -> None:
    arrived: dict[str, bytes] = {}

    async def take(request: Request) -> Response:
        arrived[request.path_params["name"]] = said(await request.body())
        return JSONResponse({}, 400)

    ledger = ScriptedLedger(otherwise=allowed_at(90_000_000))
    async with (
        serving(Starlette(routes=[Route("/{name}/{rest:path}", take, methods=["POST"])])) as providers,
        serving(ledger.app()) as url,
    ):
        known = {remote.key: "key" for remote in REMOTES}
        known |= {f"{emulator_of(remote)}_url": f"{providers}/{remote.name}" for remote in REMOTES}
        async with image_service(make_settings(tmp_path, url, **known)) as client:
            for turned in (False, True):
                content = snapshot(form, turned)
                assert SECRET in content
                for remote in REMOTES:
                    fields = {**FIELDS.get(remote.name, EDIT), "provider": remote.name}
                    answer = await client.post("/v1/images/edit", data=fields, files={"image": content})
                    assert answer.json()["error"]["code"] == "invalid_input", answer.text
                assert {name: SECRET in body for name, body in arrived.items()} == dict.fromkeys(
                    (remote.name for remote in REMOTES), False
                )
                pixels = content[len(content) // 2 :][:1000]
                assert all((pixels in body) is not turned for body in arrived.values()), "the picture as it was"
                arrived.clear()
    assert list((tmp_path / "data").rglob("*.part")) == []
