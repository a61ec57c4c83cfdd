"""Requests that no program writes by mistake are refused in words, and no error of ours; in both services alike."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from contracts.access.bearer import SESSION_COOKIE
from tests.integration.image_harness import image_service, picture
from tests.tokens import TOKEN

SIGNED_IN = {"Cookie": f"{SESSION_COOKIE}={TOKEN}", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def client(settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with image_service(settings) as running:
        yield running


@pytest.mark.parametrize("charset", ["undefined", "utf-7", "idna", "punycode", "utf-16", "zlib", "x" * 300])
async def test_a_form_is_utf_8(client: httpx.AsyncClient, charset: str) -> None:
    """Text that Python would decode in its own ways: by failing, or to halves of characters."""
    names = (b"+2AA-", b"factor", b"account_id")
    fields = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n\xff+2AA-%b\r\n' % (name, b"." * 70) for name in names
    )
    file = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="+2AA-"\r\n\r\n' + picture() + b"\r\n--x--\r\n"
    )
    said = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    for path, more in (("/v1/images/upscale", {}), ("/", SIGNED_IN)):
        answer = await client.post(path, content=fields + file, headers={**said, **more})
        assert (answer.status_code, "utf-8" in answer.text) == (422, True), path
