"""deploy/compose/nats.conf on a real server, with the certificates and keys of make_secrets.py."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import nats
import pytest
from nats.aio.client import Client

from contracts.access.nats_access import NatsAccess
from contracts.subjects import LEDGER_INBOX
from deploy.compose.make_secrets import Store, make_all
from deploy.local.errors import MissingServerError
from deploy.local.ports import HOST
from ledger_service.stream import create_stream
from tests.nats_tls import TlsServer, check_that_each_does_its_own

DEPLOY: Final = Path(__file__).parents[2] / "deploy"


class ComposeServer(TlsServer):
    """Runs the file itself; only paths and addresses are ours."""

    certified_name = "nats"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "nats")
        self.secrets = Store(folder / "secrets")
        make_all(self.secrets)

    def configuration(self) -> str:
        shutil.copy(DEPLOY / "nats" / "permissions.conf", self.data_dir)
        own = self.secrets.root / "nats"
        text = (DEPLOY / "compose" / "nats.conf").read_text()
        for written, real in (
            ("../../run/secrets", os.path.relpath(own, self.data_dir)),
            ("/run/secrets", str(own)),
            ('"/data"', f'"{self.data_dir}/jetstream"'),
            ("0.0.0.0:4222", f"{HOST}:{self.port}"),
            ('http: "127.0.0.1:8222"', ""),
        ):
            assert written in text, written
            text = text.replace(written, real)
        return text

    @property
    def ca_file(self) -> Path:
        return self.secrets.root / "ledger" / "ca.pem"

    async def connect(self, folder: str, inbox: str = LEDGER_INBOX) -> Client:
        """As the service whose secrets these are; the server is called "nats" there."""
        own = self.secrets.root / folder
        access = NatsAccess(f"tls://{HOST}:{self.port}", own / "nats.nk", own / "ca.pem", inbox)
        options = {
            **access.options(),
            "tls_hostname": self.certified_name,
            "max_reconnect_attempts": 1,
            "allow_reconnect": False,
        }
        return await nats.connect(**options)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ComposeServer]:
    made = ComposeServer(tmp_path)
    try:
        made.start()
        yield made
    except MissingServerError as error:
        pytest.skip(str(error))
    finally:
        made.stop()


async def test_each_service_gets_in_with_its_key_and_may_do_what_is_its_own(server: ComposeServer) -> None:
    deploying = await server.connect("migrate")
    await create_stream(deploying, replicas=1)
    await deploying.close()
    ledger = await server.connect("ledger")
    image = await server.connect("image", "_INBOX_image")
    await check_that_each_does_its_own(ledger, image)
    await ledger.close()
    await image.close()


async def test_a_key_that_nobody_made_known_does_not_get_in(server: ComposeServer, tmp_path: Path) -> None:
    others = Store(tmp_path / "others")
    make_all(others)
    shutil.copy(others.root / "ledger" / "nats.nk", server.secrets.root / "ledger" / "nats.nk")
    with pytest.raises(nats.errors.Error):
        await server.connect("ledger")
