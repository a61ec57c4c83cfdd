"""Hosts whose names are resolved slowly: their owner's deliveries fail in time, and nobody else's wait for them."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from contracts.public_hosts import OF_OWNER_MAX, NameLookups
from ledger_service.webhook_targets import Sender, Targets
from tests.receivers import Receiver, receiving
from tests.servers import eventually

HEADERS = {"webhook-id": "1"}
BODY = b'{"data": {}}'


class Resolver:
    """The system's, but that names in ``slow`` keep whoever asks until ``released``; those, in ``fine`` and in
    ``within``, are this machine."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: str, *rest: Any, **named: Any) -> Any:
        if host.endswith(".slow"):
            self.asked.append(host)
            self.released.wait(30)
        is_here = host.endswith((".slow", ".fine", ".within"))
        return self._real("127.0.0.1" if is_here else host, *rest, **named)


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.released.set()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def test_slow_names_of_one_owner_hold_up_no_other(resolver: Resolver, receiver: Receiver) -> None:
    slow = [f"{number}.slow" for number in range(50)]
    sender = Sender(Targets([*slow, "a.fine"]), 20.0, NameLookups(seconds_max=1.0))

    async def send(host: str, owner: str) -> tuple[int | None, str | None]:
        answer, _, _ = await sender.send(f"http://{host}:{receiver.port}/", HEADERS, BODY, owner)
        return answer.status, answer.error

    waiting = [asyncio.create_task(send(host, "slowly")) for host in slow]
    await eventually(lambda: len(resolver.asked) == OF_OWNER_MAX, "the first of them are looked up")
    assert await send("a.fine", "another") == (200, None)
    assert not any(task.done() for task in waiting)
    assert await asyncio.gather(*waiting) == [(None, f"{host} was not resolved within 1 s") for host in slow]

    # Whoever waited has gone, but the threads are still kept: no more of that owner's are begun, the same not twice.
    again = await asyncio.gather(*(send(slow[0], "slowly") for _ in range(10)), send(slow[-1], "slowly"))
    assert {error for _, error in again} == {f"{host} was not resolved within 1 s" for host in (slow[0], slow[-1])}
    assert len(resolver.asked) == OF_OWNER_MAX
    resolver.released.set()

    async def is_reached() -> bool:
        return await send(slow[-1], "slowly") == (200, None)

    await eventually(is_reached, "it is resolved")
    await sender.close()


async def test_a_public_name_with_a_private_address_is_not_connected_to(resolver: Resolver, receiver: Receiver) -> None:
    sender = Sender(Targets(), 20.0)
    answer, _, _ = await sender.send(f"https://a.within:{receiver.port}/", HEADERS, BODY, "")
    assert (answer.status, answer.error) == (None, "a.within leads into a private network")
    assert receiver.open_max == 0
    await sender.close()


async def test_what_has_no_address_says_so() -> None:
    sender = Sender(Targets(["nobody.invalid"]), 20.0)
    answer, _, _ = await sender.send("http://nobody.invalid/", HEADERS, BODY, "")
    assert (answer.status, answer.error) == (None, "nobody.invalid has no address at the moment")
    await sender.close()
