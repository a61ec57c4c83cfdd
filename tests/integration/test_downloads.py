"""Results behind URLs: what one host says is kept for no other, and a URL that is none is refused."""

from pathlib import Path

import pytest

from image_service.providers.downloads import BadResultUrlError, Downloads
from tests.attempts import attempt_of
from tests.receivers import receiving


async def test_cookies_of_a_host_are_sent_to_no_other_at_its_address(tmp_path: Path) -> None:
    downloads = Downloads((), ("127.0.0.1",), bytes_max=1000)
    try:
        async with receiving(otherwise=(200, {"Set-Cookie": "seen=1; Path=/"})) as one, receiving() as another:
            for host in (one, another, one):
                await downloads.fetch(host.url("/result.png"), attempt_of("generate", spool_folder=tmp_path))
            cookies = [request.headers.get("cookie") for request in one.requests + another.requests]
            assert cookies == [None] * 3
    finally:
        await downloads.close()


async def test_a_host_in_punycode_that_says_nothing_is_refused(tmp_path: Path) -> None:
    downloads = Downloads(("*.example.com",), bytes_max=1000)
    try:
        with pytest.raises(BadResultUrlError):
            await downloads.fetch("https://xn--a.example.com/x", attempt_of("generate", spool_folder=tmp_path))
    finally:
        await downloads.close()
