"""What is remembered of tokens, and what is not."""

import asyncio

import pytest

from contracts.access.authenticator import Authenticator, Memory
from contracts.access.errors import Unauthenticated
from contracts.access.principal import ANYBODY, Principal
from contracts.access.service_tokens import make_token


async def test_what_was_looked_up_while_it_was_revoked_is_believed_by_nobody_who_comes_later() -> None:
    token, asked = make_token().encode(), asyncio.Queue[asyncio.Future[Principal | None]]()

    async def find(_: str) -> Principal | None:
        answer: asyncio.Future[Principal | None] = asyncio.get_running_loop().create_future()
        asked.put_nowait(answer)
        return await answer

    access = Authenticator(find, Memory(3600.0, 3600.0))
    early = asyncio.create_task(access.authenticate(token))
    first = await asked.get()
    access.forget()  # its row was read just before
    late = asyncio.create_task(access.authenticate(token))
    second = await asyncio.wait_for(asked.get(), 10)
    second.set_result(None)
    with pytest.raises(Unauthenticated):
        await late
    first.set_result(ANYBODY)
    assert await early is ANYBODY
    later = asyncio.create_task(access.authenticate(token))
    (await asyncio.wait_for(asked.get(), 10)).set_result(None)
    with pytest.raises(Unauthenticated):
        await later
    await access.close()
