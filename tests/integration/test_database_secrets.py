"""Passwords of the database are in no log, of nobody: neither where all goes well nor where they are wrong."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from deploy.local.ports import free_port
from deploy.local.postgres import PostgresServer
from deploy.local.services import ServiceProcess
from deploy.postgres.roles import FINANCE, OWNER, ROLES, SERVICE, make_roles
from tests.servers import LedgerProcess, eventually

#: With a character that URLs spell otherwise, as passwords that people choose have.
SECRETS = {role: f"Zecret+of+{role}" for role in ROLES}


def _url(server: PostgresServer, role: str, password: str) -> str:
    return server.url_as(role, password.replace("+", "%2B"))


def _has(log: Path, text: str) -> bool:
    return log.exists() and text in log.read_text()


async def test_no_log_has_a_password(own_postgres: PostgresServer, nats_url: str, tmp_path: Path) -> None:
    await make_roles(own_postgres.url, SECRETS)
    migration = ServiceProcess(
        "migrate",
        (sys.executable, "-m", "ledger_service.cli", "migrate"),
        {
            "LEDGER_OWNER_DATABASE_URL": _url(own_postgres, OWNER, SECRETS[OWNER]),
            "LEDGER_DATABASE_URL": _url(own_postgres, SERVICE, SECRETS[SERVICE]),
            "LEDGER_NATS_URL": nats_url,
        },
        tmp_path / "migrate.log",
    )
    await asyncio.to_thread(migration.start)
    logs = [own_postgres.log_path, migration.log_path]
    # As it should be; with a wrong password; with a word that no client knows.
    good = _url(own_postgres, SERVICE, SECRETS[SERVICE])
    urls = [good, _url(own_postgres, SERVICE, SECRETS[FINANCE]), f"{good}?sslmode=nonsense"]
    processes = [
        LedgerProcess(free_port(), tmp_path / f"ledger-{number}.log", {"database_url": url, "nats_url": nats_url})
        for number, url in enumerate(urls)
    ]
    for process in processes:
        process.launch()
    try:
        await eventually(lambda: _has(logs[0], "password authentication failed"), "one was refused")
        await eventually(lambda: all(_has(process.log_path, "\n") for process in processes), "all said something")
        for process in processes[1:]:
            assert not process.probe()
    finally:
        for process in processes:
            await asyncio.to_thread(process.stop)
    logs += [process.log_path for process in processes]
    # The server's log has statements that failed, one that sets a password too.
    admin = await asyncpg.connect(own_postgres.url)
    await admin.execute("create role locked; set role locked")
    with suppress(asyncpg.PostgresError):
        await admin.execute("alter role finance password 'SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy'")
    await admin.close()
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError)):
        await make_roles(_url(own_postgres, FINANCE, SECRETS[FINANCE]), SECRETS)
    superuser = urlsplit(own_postgres.url).password
    assert superuser
    for log in logs:
        text = log.read_text()
        for secret in (superuser, *SECRETS.values(), *(one.replace("+", "%2B") for one in SECRETS.values())):
            assert secret not in text, log
