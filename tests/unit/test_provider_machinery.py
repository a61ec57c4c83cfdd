"""Breaker, pace, Retry-After, result URLs and what results have to be."""

import asyncio
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from contracts.public_hosts import is_public
from deploy.emulators import glb, mp4
from image_service.config import Settings
from image_service.images import Bounds
from image_service.providers import http
from image_service.providers.attempt import Attempt
from image_service.providers.base import OutcomeUnknownError, ProviderError
from image_service.providers.breaker import Breaker
from image_service.providers.deliverables import (
    BadResultError,
    decoded,
    glb_from,
    image_from,
    image_of_size,
    mp4_from,
)
from image_service.providers.downloads import BadResultUrlError, Downloads
from image_service.providers.http import Pace
from image_service.providers.jobs import OUTPUTS_MAX, Done, Finisher, Job, Seen, at_once
from tests.attempts import attempt_of
from tests.emulators import picture
from tests.integration.image_harness import eventually

BOUNDS = Bounds(pixels_max=1_000_000, edge_pixels_max=4_000)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestBreaker:
    def test_it_opens_after_failures_in_a_row_and_one_probe_closes_it(self) -> None:
        clock = Clock()
        breaker = Breaker(3, 10.0, clock)
        for _ in range(2):
            breaker.failed()
        breaker.succeeded()
        for _ in range(2):
            breaker.failed()
        assert breaker.available
        breaker.failed()
        assert (breaker.available, breaker.enter()) == (False, False)
        clock.now = 10.0
        assert (breaker.available, breaker.enter()) == (True, True)
        assert (breaker.available, breaker.enter()) == (False, False), "one at a time"
        breaker.succeeded()
        assert [breaker.enter(), breaker.enter()] == [True, True]

    def test_who_came_before_it_opened_lets_no_second_probe_in(self) -> None:
        clock = Clock()
        breaker = Breaker(1, 10.0, clock)
        assert breaker.enter()
        before = breaker.probe
        breaker.failed()
        clock.now = 10.0
        assert breaker.enter()
        probe = breaker.probe
        breaker.leave(before)
        assert not breaker.enter(), "one at a time"
        breaker.failed()
        clock.now = 20.0
        assert breaker.enter()
        breaker.leave(probe)
        assert not breaker.enter(), "nor does a probe that failed, and goes on"
        breaker.leave(breaker.probe)
        assert breaker.enter()

    def test_a_probe_that_fails_opens_it_again_and_one_that_says_nothing_leaves_its_place(self) -> None:
        clock = Clock()
        breaker = Breaker(1, 10.0, clock)
        breaker.failed()
        clock.now = 10.0
        assert breaker.enter()
        probe = breaker.probe
        breaker.failed()
        breaker.leave(probe)
        assert not breaker.available
        clock.now = 20.0
        assert breaker.enter()
        breaker.leave(breaker.probe)
        assert breaker.available


def test_no_window_has_more_requests_than_allowed() -> None:
    limiter = Pace(requests_max=150, per_seconds=10.0).limiter()
    assert limiter is not None
    assert limiter.max_rate + 10.0 * limiter.max_rate / limiter.time_period == pytest.approx(150)
    assert Pace().limiter() is None


@pytest.mark.parametrize("text", ["a.example, *.b.example", '["a.example", "*.b.example"]', "a.example,*.b.example,"])
def test_hosts_in_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_RESULT_HOSTS", text)
    assert Settings().result_hosts == ("a.example", "*.b.example")


def test_keys_do_not_show() -> None:
    settings = Settings.model_validate({"wavespeed_key": "ws-secret"})
    assert "ws-secret" not in repr(settings)
    assert "ws-secret" not in settings.model_dump_json()


class TestResultUrls:
    async def refused(self, url: str) -> str:
        downloads = Downloads(("cdn.example.com", "*.media.example"), ("127.0.0.1:9",), bytes_max=100)
        try:
            with pytest.raises(BadResultUrlError) as error:
                await downloads.fetch(url, attempt_of("generate"))
            return str(error.value)
        finally:
            await downloads.close()

    @pytest.mark.parametrize(
        "url",
        ["http://cdn.example.com/a.png", "https://cdn.example.com:8443/a.png", "https://evil.example/a.png",
         "https://cdn.example.com.evil.example/", "https://user:word@cdn.example.com/", "ftp://cdn.example.com/",
         "file:///etc/passwd", "https://media.example/a", "https://127.0.0.1/", "http://127.0.0.1:10/",
         "https://[::1]/", "gopher://cdn.example.com", "https:///a", "x" * 10, "https://cdn.example.com/" + "a" * 9000],
    )  # fmt: skip
    async def test_not_on_the_list_not_https_or_no_url(self, url: str) -> None:
        assert "word" not in await self.refused(url)

    @pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fd00::1"])
    async def test_an_allowed_name_that_leads_into_a_private_network(
        self, address: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The one thing that is not real here: the machine's resolver.
        def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
            return [(2, 1, 6, "", ("93.184.216.34", 443)), (2, 1, 6, "", (address, 443))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        assert "private network" in await self.refused("https://a.media.example/x.png")

    async def test_names_that_are_resolved_slowly_hold_up_nothing_else(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither what is read from the disk, nor the results of others."""
        released, asked = threading.Event(), []

        def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
            asked.append(host)
            if host.endswith(".slow.example"):
                released.wait(30)
            return [(2, 1, 6, "", ("127.0.0.1", 443))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        downloads = Downloads(("*.slow.example", "cdn.example.com"), bytes_max=100)
        slow = [
            asyncio.create_task(downloads.fetch(f"https://{number}.slow.example/", attempt_of("generate")))
            for number in range(20)
        ]
        try:
            await eventually(lambda: len(asked) > 5)
            async with asyncio.timeout(5):
                await asyncio.to_thread(sum, ())
                with pytest.raises(BadResultUrlError):
                    await downloads.fetch("https://cdn.example.com/", attempt_of("generate"))
        finally:
            released.set()
            await asyncio.gather(*slow, return_exceptions=True)
            await downloads.close()

    @pytest.mark.parametrize(
        "address",
        ["0.0.0.0", "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1",
         "255.255.255.255", "::", "::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
         "2002:0a00:0001::", "2001:db8::1", "fec0::1", "::7f00:1", "::ffff:0:7f00:1", "64:ff9b:1::a00:1", "5f00::1",
         "3fff::1", "no address"],
    )  # fmt: skip
    def test_addresses_that_are_not_public(self, address: str) -> None:
        assert not is_public(address)

    @pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:93.184.216.34"])
    def test_addresses_that_are(self, address: str) -> None:
        assert is_public(address)


class TestDeliverables:
    def test_an_image_close_to_its_size_is_cut_to_it(self) -> None:
        found = image_of_size(picture(110, 60), BOUNDS, 109, 60)
        assert (found.width, found.height, found.media_type) == (109, 60, "image/png")

    def test_an_image_of_other_proportions_is_not_what_was_asked_for(self) -> None:
        with pytest.raises(BadResultError, match="110 x 60 pixels instead of 60 x 110"):
            image_of_size(picture(110, 60), BOUNDS, 60, 110)

    @pytest.mark.parametrize("content", [b"", b"<html>", picture(200, 200)[:-40], picture(4001, 2)])
    def test_images_that_are_none(self, content: bytes) -> None:
        with pytest.raises(BadResultError):
            image_from(content, BOUNDS)

    def test_a_whole_glb_and_none_that_is_cut_off(self, tmp_path: Path) -> None:
        whole = glb.textured_quad(picture(form="JPEG"))
        assert glb_from(whole).media_type == "model/gltf-binary"
        for broken in (whole[:-1], whole + b"x", whole[:11], b"", b"GLTF" + whole[4:], whole[:4] + b"\1" + whole[5:]):
            with pytest.raises(BadResultError):
                glb_from(broken)

    def test_a_whole_clip_with_its_length_and_none_that_is_cut_off(self) -> None:
        whole = mp4.clip([picture(form="JPEG")] * 24, 64, 64, 2)
        assert mp4_from(whole).duration_ms == 2000
        endless = struct.pack(">I4s", 0, b"ftyp")
        for broken in (whole[:-1], whole[: len(whole) // 2], b"", b"<html></html>", whole[8:], endless, b"\0" * 100):
            with pytest.raises(BadResultError):
                mp4_from(broken)

    def test_base64_as_it_is_or_as_a_data_url(self) -> None:
        assert decoded("aGk=") == decoded("data:image/png;base64,aGk=") == b"hi"
        with pytest.raises(BadResultError):
            decoded("no base64!")


async def test_not_known_of_one_order_is_not_known_of_the_operation() -> None:
    """But only once all have ended; of those that are known, what was made and what was not."""
    ended: list[str] = []

    async def order(name: str, error: Exception | None = None) -> str:
        await asyncio.sleep(0 if error else 0.01)
        ended.append(name)
        if error is not None:
            raise error
        return name

    failed = ProviderError("job_failed", "no")
    assert await at_once([order("a"), order("b", failed), order("c")]) == (["a", "c"], [failed])
    ended.clear()
    with pytest.raises(OutcomeUnknownError):
        await at_once([order("a", OutcomeUnknownError("who knows")), order("b", failed), order("c")])
    assert sorted(ended) == ["a", "b", "c"]


async def test_a_provider_that_asks_for_patience_gets_it_while_a_job_is_followed() -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        head = b"HTTP/1.1 429 X\r\nRetry-After: 600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        writer.write(head)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        channel = http.Channel("some", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", {}, pace=Pace())
        finisher = Finisher(Downloads((), bytes_max=1), BOUNDS, poll_seconds=(0.01, 0.01))

        async def look(job_id: str) -> Seen:
            await channel.look(f"/{job_id}")
            raise AssertionError("it is refused")

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await finisher.follow(Job(ids=("a", "b")), look, attempt_of("generate"))
        await channel.close()
        await finisher.close()
    assert asked == 1


async def cancelled_among_orders(*answers: bytes) -> Attempt:
    """What an attempt knows whose orders got these answers at once, and was cancelled then; none: it hangs."""
    left, all_answered = list(answers), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
        said = left.pop(0) if left else b""
        if not left:
            all_answered.set()
        if said:
            writer.write(b"HTTP/1.1 " + said + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
        else:
            await reader.read()
            writer.close()

    attempt = attempt_of("generate")
    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        channel = http.Channel("some", url, {}, pace=Pace(), backoff_seconds=60)
        orders = [channel.order(http.Order("/"), attempt) for _ in answers]
        ordering = asyncio.create_task(at_once(orders))
        await all_answered.wait()
        await asyncio.sleep(0.1)
        ordering.cancel()
        await asyncio.wait({ordering})
        await channel.close()
    return attempt


async def test_orders_that_were_all_refused_leave_no_doubt_when_cancelled() -> None:
    refused = b"429 Too Many Requests"
    assert not (await cancelled_among_orders(refused, refused)).may_be_billed
    assert (await cancelled_among_orders(refused, b"")).may_be_billed
    assert (await cancelled_among_orders(b"200 OK", refused)).may_be_billed


async def test_of_what_a_job_gives_no_more_is_fetched_than_could_be_ordered() -> None:
    finisher = Finisher(Downloads((), bytes_max=1), BOUNDS)
    found = await finisher.artifacts(Done((picture(32, 32),) * 1_000), Job(ids=("a",)), attempt_of("generate"))
    assert len(found) == OUTPUTS_MAX
    await finisher.close()


async def test_an_answer_without_end_is_not_read_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what only looks: what has no bound there takes the whole service with it."""
    monkeypatch.setattr(http, "ANSWER_BYTES_MAX", 100_000)
    sent = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 50000000\r\n\r\n")
        with suppress(ConnectionError):
            while sent < 50_000_000:
                writer.write(b" " * 1_000_000)
                await writer.drain()
                sent += 1_000_000
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        channel = http.Channel("some", f"http://127.0.0.1:{port}", {}, pace=Pace())
        try:
            with pytest.raises(http.TroubleError, match="too long"):
                await channel.look("/job")
            with pytest.raises(ProviderError, match="too long"):
                await channel.upload("/file", ("a.png", b"x", "image/png"))
        finally:
            await channel.close()
    assert sent < 50_000_000
