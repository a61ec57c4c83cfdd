"""TLS to PostgreSQL: the ledger speaks to a server that it can verify, or not at all; and the files for production."""

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import ValidationError

from deploy.local.ports import HOST, free_port
from deploy.local.unprivileged import NOBODY
from deploy.postgres.roles import FINANCE, OWNER, ROLES, SERVICE, make_roles
from ledger_service.config import Settings
from ledger_service.database_url import is_safe, verified
from ledger_service.store.pool import UNAVAILABLE, open_pool
from tests.certificates import certify
from tests.servers import PASSWORDS, as_service

CONF = Path(__file__).parents[2] / "deploy" / "postgres"
PASSWORD = "the-superuser-of-this-test"
_NOT_AS_ROOT: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
Heard = list[bytes]


@asynccontextmanager
async def between(url: str, tls: Path | None) -> AsyncIterator[tuple[str, Heard]]:
    """Somebody between us and a real PostgreSQL, who ends TLS with this certificate; None: who says "no TLS here".

    Yields the URL through him, and what he heard in clear before he answered.
    """
    to = urlsplit(url)
    heard: Heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            first = await reader.readexactly(8)
            if first == SSL_REQUEST and tls is not None:
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                context.load_cert_chain(tls / "server.pem", tls / "server-key.pem")
                writer.write(b"S")
                await writer.start_tls(context)
                first = await reader.readexactly(8)
            elif first == SSL_REQUEST:
                writer.write(b"N")
                first = await reader.readexactly(8)
            heard.append(first)
            behind, to_behind = await asyncio.open_connection(to.hostname, to.port)
            to_behind.write(first)
            await asyncio.gather(_copy(reader, to_behind, heard), _copy(behind, writer, []))
        writer.close()

    async with await asyncio.start_server(serve, HOST, 0) as server:
        place = f"{to.netloc.rpartition('@')[0]}@{HOST}:{server.sockets[0].getsockname()[1]}"
        yield to._replace(netloc=place).geturl(), heard
        server.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Heard) -> None:
    while some := await reader.read(65536):
        heard.append(some)
        writer.write(some)
    writer.close()


async def test_a_server_with_the_right_certificate_is_used(database_url: str, tmp_path: Path) -> None:
    tls = certify(tmp_path / "tls")
    async with between(as_service(database_url), tls) as (url, _):
        settings = Settings(database_url=url, database_ca_file=tls / "ca.pem")
        pool = await open_pool(settings.database_url, 1)
        assert await pool.fetchval("select count(*) from event_log") == 0
        await pool.close()


async def test_a_server_of_another_name_or_authority_is_not_spoken_to(database_url: str, tmp_path: Path) -> None:
    other = certify(tmp_path / "other", host="127.0.0.2")
    trusted = certify(tmp_path / "trusted")
    for ca in (other / "ca.pem", trusted / "ca.pem"):
        async with between(as_service(database_url), other) as (url, heard):
            settings = Settings(database_url=url, database_ca_file=ca)
            with pytest.raises(UNAVAILABLE):
                await open_pool(settings.database_url, 1)
            assert heard == [], "not a word before the server is known"


async def test_nobody_in_between_talks_us_out_of_tls(database_url: str, tmp_path: Path) -> None:
    tls = certify(tmp_path / "tls")
    async with between(as_service(database_url), None) as (url, heard):
        settings = Settings(database_url=url, database_ca_file=tls / "ca.pem")
        with pytest.raises(UNAVAILABLE):
            await open_pool(settings.database_url, 1)
        assert not any(SERVICE.encode() in one for one in heard)
        # What a client does by itself: it is talked out of TLS, and says who it is in clear.
        pool = await open_pool(url, 1)
        await pool.close()
        assert any(SERVICE.encode() in one for one in heard)


def test_the_authority_goes_into_each_url() -> None:
    ca = Path("/etc/ledger/ca of ours.pem")
    there = "postgresql://ledger:p@db.example.org/ledger"
    assert verified(there, ca) == f"{there}?sslmode=verify-full&sslrootcert=/etc/ledger/ca%20of%20ours.pem"
    assert verified(f"{there}?sslmode=verify-full&sslrootcert=/other", ca).endswith("sslrootcert=/other")
    for mode in ("prefer", "require", "disable", "verify-ca", ""):
        with pytest.raises(ValidationError, match="verify-full"):
            Settings(database_url=f"{there}?sslmode={mode}", database_ca_file=ca)
    settings = Settings(database_url=there, owner_database_url=f"{there}?application_name=x", database_ca_file=ca)
    assert settings.owner_database_url is not None
    assert is_safe(settings.owner_database_url)
    assert "application_name=x&sslmode=verify-full" in settings.owner_database_url


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("postgresql://u:p@127.0.0.1:5432/ledger", True),
        ("postgresql://u:p@[::1]:5432/ledger", True),
        ("postgresql://u:p@localhost/ledger", True),
        ("postgresql:///ledger?host=/run/postgresql", True),
        ("postgresql://u:p@%2Frun%2Fpostgresql/ledger", True),
        ("postgresql://u:p@db/ledger?sslmode=verify-full", True),
        ("postgresql://u:p@db/ledger", False),
        ("postgresql://u:p@db/ledger?sslmode=require", False),
        ("postgresql://u:p@db/ledger?sslmode=verify-ca", False),
        ("postgresql://u:p@127.0.0.1,db:5433/ledger", False),
        ("postgresql://u:p@127.0.0.1/ledger?host=db", False),
        ("postgresql://u:p@db/ledger?sslmode=verify-full&sslmode=disable", False),
    ],
)
def test_a_server_elsewhere_has_to_be_verified(url: str, safe: bool) -> None:
    assert is_safe(url) is safe


# --- the files for production, on a PostgreSQL that was built with TLS; that of the wheels was not


def distribution() -> Path | None:
    """The folder of such a server's programs on this machine."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in [Path(found).parent for found in [shutil.which("postgres")] if found] + places:
        if (place / "postgres").exists() and b"SSL_CTX_new" in (place / "postgres").read_bytes():
            return place
    return None


class ProductionServer:
    """A server on deploy/postgres/postgresql.conf; only paths and addresses are ours. PostgreSQL runs not as root."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.data, self._programs = folder, folder / "data", programs
        self.tls = certify(folder / "tls")
        self.port = free_port()
        self._process: subprocess.Popen[Any] | None = None

    def url(self, role: str, password: str, database: str = "ledger") -> str:
        return verified(f"postgresql://{role}:{password}@{HOST}:{self.port}/{database}", self.tls / "ca.pem")

    def make(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        _give(self.folder)
        initdb = [
            str(self._programs / "initdb"),
            "-D",
            str(self.data),
            "-U",
            "postgres",
            f"--pwfile={password}",
            "--no-sync",
        ]
        subprocess.run([*initdb, "--auth=scram-sha-256"], check=True, capture_output=True, cwd="/", **_NOT_AS_ROOT)
        text = (CONF / "postgresql.conf").read_text().replace("/etc/postgresql/tls", str(self.tls))
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(text)

    def use_access_file(self) -> None:
        shutil.copy(CONF / "pg_hba.conf", self.data / "pg_hba.conf")
        _give(self.data / "pg_hba.conf")

    def start(self) -> None:
        flags = ["-c", f"port={self.port}", "-c", f"listen_addresses={HOST}", "-c", "unix_socket_directories="]
        command = [str(self._programs / "postgres"), "-D", str(self.data), *flags]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **_NOT_AS_ROOT)
        until(lambda: "ready" in (self.data / "postmaster.pid").read_text(), OSError)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(20)


def _give(path: Path) -> None:
    for one in (path, *path.rglob("*")):
        if os.geteuid() == 0:
            shutil.chown(one, NOBODY, NOBODY)
        one.chmod(0o700 if one.is_dir() else 0o600)


def until(condition: Callable[[], bool], ignored: type[Exception]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(ignored):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("PostgreSQL did not start")


@pytest.fixture
def production() -> Iterator[ProductionServer]:
    programs = distribution()
    if programs is None:
        pytest.skip("no PostgreSQL that was built with TLS on this machine")
    folder = Path(tempfile.mkdtemp())
    server = ProductionServer(folder, programs)
    try:
        server.make()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


async def test_the_files_for_production_let_each_role_in_over_tls_alone(production: ProductionServer) -> None:
    await asyncio.to_thread(production.start)
    admin = await asyncpg.connect(production.url("postgres", PASSWORD, "postgres"))
    await admin.execute("create database ledger")
    await admin.close()
    await make_roles(production.url("postgres", PASSWORD), PASSWORDS)
    await asyncio.to_thread(production.stop)
    production.use_access_file()
    await asyncio.to_thread(production.start)
    for role in ROLES:
        url = production.url(role, PASSWORDS[role])
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        await connection.close()
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="reject"):
            await asyncpg.connect(url.partition("?")[0], ssl=False)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url, password="guessed")
    for url in (production.url("postgres", PASSWORD), production.url(FINANCE, PASSWORDS[FINANCE], "postgres")):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="reject"):
            await asyncpg.connect(url)
    log = (production.folder / "log").read_text()
    assert f"user={OWNER}" in log
    assert not any(secret in log for secret in (PASSWORD, "guessed", *PASSWORDS.values()))
