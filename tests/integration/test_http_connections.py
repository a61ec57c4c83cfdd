"""HTTP where whoever it leads to accepts connections and resets them at once, as a dying balancer does."""

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

import httpx
import uvloop

from contracts.client.asking import AnswerLostError, NotSentError, Question
from contracts.client.http_transport import HttpTransport
from image_service.providers.breaker import Breaker
from image_service.providers.downloads import Downloads
from image_service.providers.http import Channel, Order, Pace
from tests.attempts import attempt_of

ATTEMPTS = 200
AT_ONCE = 20
ORDER = Order("/order")
RESET = struct.pack("ii", 1, 0)


@contextmanager
def _one_that_resets() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_reset_all, args=(listener,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


async def _ask_one_that_resets() -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with _one_that_resets() as url:
        transport = HttpTransport(url, connect_timeout_seconds=1, attempt_seconds=1)
        for _ in range(ATTEMPTS):
            try:
                await transport.ask(Question("/v1/limit-checks", b"{}", "", b"{}"))
            except (NotSentError, AnswerLostError) as error:
                outcomes[type(error).__name__] += 1
        assert not await transport.is_ready()
        await transport.close()
    return outcomes


async def _order_of_one_that_resets() -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with _one_that_resets() as url:
        downloads = Downloads((), (httpx.URL(url).netloc.decode(),), bytes_max=100, wait_seconds=0.001)
        breaker = Breaker(failures_max=100 * ATTEMPTS)
        channel = Channel("some", url, {}, pace=Pace(), breaker=breaker, backoff_seconds=0.001)

        async def count(asked: Coroutine[object, object, object]) -> None:
            try:
                await asked
            except Exception as error:  # noqa: BLE001  which one it is, is the question
                outcomes[type(error).__name__] += 1

        for _ in range(ATTEMPTS // AT_ONCE):
            await asyncio.gather(*(count(downloads.fetch(f"{url}/a", attempt_of("generate"))) for _ in range(AT_ONCE)))
            await asyncio.gather(*(count(channel.look("/job")) for _ in range(AT_ONCE)))
            await asyncio.gather(*(count(channel.order(ORDER, attempt_of("generate"))) for _ in range(AT_ONCE)))
        await downloads.close()
        await channel.close()
    return outcomes


def _reset_all(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()


def test_a_connection_that_is_reset_at_once_is_a_ledger_that_is_away() -> None:
    """On uvloop, as the services run: anyio meets a connection without a socket there."""
    assert uvloop.run(_ask_one_that_resets()).total() == ATTEMPTS


def test_a_provider_that_resets_at_once_is_looked_at_again() -> None:
    """And so is the host of its results. Of an order nobody knows whether it was read, unless no connection came
    about."""
    outcomes = uvloop.run(_order_of_one_that_resets())
    assert (outcomes["DownloadError"], outcomes["TroubleError"]) == (ATTEMPTS, ATTEMPTS), outcomes
    assert outcomes["OutcomeUnknownError"] + outcomes["ProviderError"] == ATTEMPTS, outcomes
