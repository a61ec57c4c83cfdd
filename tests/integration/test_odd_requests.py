"""Requests that no program writes by mistake are refused in words, and no error of ours; in both services alike."""

import asyncio
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


#: An address in brackets that ends nowhere: what reads addresses refuses it by raising.
NO_ADDRESS = "http://["


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sign-in?next=//[", 200),
        ("/sign-in?next=//%E2%84%80.example", 200),
        ("/static/%00", 404),
        ("/static/" + "a" * 5_000, 404),
        ("/static/..%2f..%2fpages.py", 404),
    ],
)
async def test_addresses_that_are_none(client: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await client.get(path, headers={"Accept": "text/html"})
    assert answer.status_code == status
    if status == 200:
        assert 'name="next" value="/"' in answer.text


async def test_headers_that_name_no_address(client: httpx.AsyncClient) -> None:
    assert (await client.get("/sign-in?said=x", headers={"Referer": NO_ADDRESS})).status_code == 200
    assert (await client.post("/sign-in", data={"token": TOKEN}, headers={"Origin": NO_ADDRESS})).status_code == 403


@pytest.mark.parametrize("host", ["[", "a[b", "[::1", "x:y", "a b", ""])
async def test_a_host_that_is_none(client: httpx.AsyncClient, host: str) -> None:
    for path, accept in (("/sign-in", "text/html"), ("/", "text/html"), ("/livez", "*/*"), ("/nowhere", "text/html")):
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode())
        status = int((await reader.read()).split()[1])
        writer.close()
        assert status < 500, (host, path)
