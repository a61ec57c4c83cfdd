"""What tests of NATS with TLS share: a server that is asked whether it answers as one, and what two services may do."""

import asyncio
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from nats.aio.client import Client

from contracts.subjects import LIMITS_CHECK
from deploy.local.nats import NatsServer
from deploy.local.ports import HOST
from tests.nats_flush import flushed


class TlsServer(NatsServer):
    """One that speaks TLS from the first byte, by a certificate for ``certified_name``."""

    certified_name: str = HOST

    @property
    def ca_file(self) -> Path:
        raise NotImplementedError

    def probe(self) -> bool:
        context = ssl.create_default_context(cafile=self.ca_file)
        with (
            suppress(OSError),
            socket.create_connection((HOST, self.port), 1) as plain,
            context.wrap_socket(plain, server_hostname=self.certified_name) as connection,
        ):
            return connection.recv(5) == b"INFO "
        return False


async def check_that_each_does_its_own(ledger: Client, image: Client) -> None:
    """The image service asks for limit checks, which the ledger answers; it may not answer them itself."""

    async def answer(message: object) -> None:
        await message.respond(b"yes")  # type: ignore[attr-defined]  # nats-py's Msg

    await ledger.subscribe(LIMITS_CHECK, cb=answer)
    await flushed(ledger)
    assert (await image.request(LIMITS_CHECK, b"{}", timeout=2)).data == b"yes"
    await image.subscribe(LIMITS_CHECK)
    await flushed(image)
    await asyncio.sleep(0.05)
    assert "permissions violation" in str(image.last_error).lower()
