"""deploy/nats/nats.conf on a real server: TLS before the first byte, and nkeys."""

import asyncio
import os
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import nkeys
import pytest

from contracts.access.nats_access import NatsAccess
from contracts.subjects import LEDGER_INBOX
from deploy.local.errors import MissingServerError
from deploy.local.ports import HOST
from ledger_service.stream import connect_nats, create_stream
from tests.certificates import certify
from tests.nats_tls import TlsServer, check_that_each_does_its_own

CONF = Path(__file__).parents[2] / "deploy" / "nats"


class Identity:
    """An nkey: the seed in a file, as a service has it, and the public key, as the server has it."""

    def __init__(self, folder: Path, name: str) -> None:
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        self.public = nkeys.from_seed(bytearray(seed)).public_key.decode()
        self.seed_file = folder / f"{name}.nk"
        self.seed_file.write_bytes(seed + b"\n")


class ProductionServer(TlsServer):
    """Runs deploy/nats/nats.conf itself; only paths, the address and the other servers of the cluster are ours."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "nats")
        self.tls = certify(folder / "tls")
        self.identities = {name: Identity(folder, name) for name in ("LEDGER", "DEPLOY", "IMAGE", "AUDITOR")}

    @property
    def url(self) -> str:
        return f"tls://{HOST}:{self.port}"

    def access(self, name: str, inbox: str = LEDGER_INBOX) -> NatsAccess:
        return NatsAccess(self.url, self.identities[name].seed_file, self.ca_file, inbox)

    def configuration(self) -> str:
        shutil.copy(CONF / "permissions.conf", self.data_dir)
        text = (CONF / "nats.conf").read_text()
        text = text.replace('"0.0.0.0:4222"', f'"{HOST}:{self.port}"').replace('"0.0.0.0:6222"', f'"{HOST}:-1"')
        text = text.replace("/etc/nats/tls", str(self.tls)).replace("/data", str(self.data_dir))
        text = text.replace("routes: [$NATS_ROUTES]", "").replace("$NATS_NAME", self._server_name)
        # On its own it would wait for the others of its cluster before it serves JetStream.
        text = text[: text.index("cluster {")]
        for name, identity in self.identities.items():
            text = text.replace(f"$NATS_{name}_NKEY", identity.public)
        return text

    @property
    def ca_file(self) -> Path:
        return self.tls / "ca.pem"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProductionServer]:
    made = ProductionServer(tmp_path)
    try:
        made.start()
        yield made
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        made.stop()


async def test_the_configuration_for_production_serves_each_identity(server: ProductionServer) -> None:
    deploying = await connect_nats(server.access("DEPLOY"), "deploy")
    await create_stream(deploying, replicas=1)
    await deploying.close()
    ledger = await connect_nats(server.access("LEDGER"), "ledger")
    image = await connect_nats(server.access("IMAGE", "_INBOX_image"), "image")
    try:
        await check_that_each_does_its_own(ledger, image)
    finally:
        await ledger.close()
        await image.close()


async def test_a_server_that_nobody_vouches_for_is_not_spoken_to(server: ProductionServer) -> None:
    unknown = NatsAccess(server.url, server.identities["LEDGER"].seed_file)
    with pytest.raises((ssl.SSLError, TimeoutError, OSError)):
        await connect_nats(unknown, "ledger")


async def test_nobody_in_between_talks_us_out_of_tls() -> None:
    """A server that says "no TLS here", as nats-py would believe, gets a greeting of TLS, and no password."""
    heard = asyncio.get_running_loop().create_future()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"tls_required":false}\r\n')
        said = await reader.read(4096)
        if not heard.done():
            heard.set_result(said)
        writer.close()

    async with await asyncio.start_server(between, HOST, 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        connecting = asyncio.create_task(connect_nats(NatsAccess(f"tls://ledger:a-secret@{HOST}:{port}"), "ledger"))
        said = await asyncio.wait_for(heard, 5)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
    assert said[:1] == b"\x16", "the first byte of a TLS handshake"
    assert b"a-secret" not in said
