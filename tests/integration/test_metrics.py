"""Both services tell Prometheus what they declare, in units that their names say, and nothing that they do not know."""

import asyncio
import re
import time
from pathlib import Path

import asyncpg
import httpx
import pytest
from nats.aio.client import Client as NatsClient
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from contracts.access.errors import AccessUnavailable
from contracts.access.service_tokens import make_token
from contracts.metrics import Metric
from image_service import metric_names as image_names
from ledger_service import metric_names as ledger_names
from ledger_service.metrics import READ_TIMEOUT_SECONDS
from tests.builders import check, completed, limit, to_bytes
from tests.conftest import StartLedger
from tests.integration.image_harness import GENERATE, image_service, make_settings
from tests.servers import WAIT_SECONDS, Ledger, eventually

#: What a name may end in: a unit, or a thing that is counted.
UNITS = re.compile(
    r"_(seconds|bytes|dollars|events|checks|decisions|denials|errors|letters|expired|operations|failures|calls|waiting"
    r"|open|open_by_code|diverged|connected|deliveries|disabled|paused|recoveries|available|unfinished|build_info)(_total)?$"
)
NOT_ALWAYS = {
    # Only where there is something of the kind.
    *(ledger_names.DENIALS, ledger_names.LETTERS_OPEN_BY_CODE, ledger_names.DEAD_LETTERS),
    *(ledger_names.SEAL_LAG_EVENTS, ledger_names.SEAL_LAG_SECONDS),
    *(image_names.PROVIDER_ERRORS, image_names.FAILURES),
}


async def samples(http: httpx.AsyncClient) -> list[Sample]:
    """What Prometheus reads: without a token."""
    answer = await http.get("/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]


async def scrape(http: httpx.AsyncClient) -> dict[str, float]:
    """Every sample by its name and labels."""
    told: dict[str, float] = {}
    for sample in await samples(http):
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        told[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return told


def names_of(told: dict[str, float]) -> set[str]:
    return {re.sub(r"_(bucket|sum|count|created)$", "", name.partition("{")[0]) for name in told}


@pytest.mark.parametrize("metric", [*ledger_names.METRICS, *image_names.METRICS], ids=lambda one: one.name)
def test_names_say_their_units(metric: Metric) -> None:
    assert metric.name.startswith(("ledger_", "image_"))
    assert UNITS.search(metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert bool(metric.bounds) == (metric.kind == "histogram")
    assert metric.help.endswith(".")


async def test_the_ledger_tells_what_it_declares(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger_service.metrics.DATABASE_SECONDS", 0.0)
    await ledger.set_up(limit("images", maximum=2))
    checks = [check() for _ in range(3)]
    for one in checks:
        await ledger.check(one)
    await ledger.check(checks[0])  # a repeat is no new decision
    await ledger.check(check(dry_run=True))
    event = completed(operation_id=checks[0]["operation_id"])
    await ledger.send(event)
    await ledger.send(event)
    told = await scrape(ledger.http)
    declared = {metric.name for metric in ledger_names.METRICS if metric not in NOT_ALWAYS}
    assert declared - names_of(told) == set()
    assert {name for name in names_of(told) if name.startswith("ledger_")} <= {one.name for one in ledger_names.METRICS}
    assert told["ledger_decisions_total{outcome=allowed}"] == 2
    assert told["ledger_decisions_total{outcome=denied}"] == 1
    assert told["ledger_denials_total{code=limit_exceeded}"] == 1
    assert told["ledger_check_duration_seconds_count"] == told["ledger_check_batch_checks_sum"] == 5
    assert 0 < told["ledger_check_duration_seconds_sum"] < 60
    assert told["ledger_ingested_events_total{outcome=accepted}"] == 1
    assert told["ledger_ingested_events_total{outcome=duplicate}"] == 1
    assert told["ledger_holds_open"] == 1
    assert told["ledger_missing_events"] == 0
    assert "ledger_seals_lag_events" not in told, "this one seals nothing"


async def test_lag_is_of_messages_that_wait_and_of_transactions_that_stay_open(
    start_ledger: StartLedger,
    database_url: str,
    database: "asyncpg.Connection[asyncpg.Record]",
    nats_client: NatsClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ledger_service.metrics.DATABASE_SECONDS", 0.0)
    monkeypatch.setattr("ledger_service.workers.freshness.INTERVAL_SECONDS", 0.05)
    ledger = await start_ledger()
    blocker = await asyncpg.connect(database_url)
    try:
        await scrape(ledger.http)
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("lock table event_log in share mode")
        await blocker.execute("select pg_current_xact_id()")
        await database.execute("select pg_current_xact_id()")  # a later one that ends: the first holds up its readers
        for event in (completed(), completed()):
            await nats_client.jetstream().publish("usage.v1.operation.completed", to_bytes(event))

        async def waits() -> bool:
            told = await scrape(ledger.http)
            return bool(
                told["ledger_ingest_lag_events"] == 2
                and told["ledger_ingest_lag_seconds"] > 0.5
                and told["ledger_transaction_horizon_age_seconds"] > 0.5
            )

        await eventually(waits, "the two events and the transaction are seen to wait")
        await transaction.rollback()

        async def is_done() -> bool:
            told = await scrape(ledger.http)
            return bool(
                told["ledger_ingest_lag_events"] == 0
                and told["ledger_ingest_lag_seconds"] < 0.5
                and told["ledger_transaction_horizon_age_seconds"] < 0.5
                and told["ledger_ingested_events_total{outcome=accepted}"] == 2
            )

        await eventually(is_done, "they are committed, and nothing lags any more")
    finally:
        await blocker.close()


async def test_a_table_that_is_locked_silences_its_gauges_alone(
    ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_service.metrics.DATABASE_SECONDS", 0.0)
    monkeypatch.setattr("ledger_service.metrics.READ_TIMEOUT_SECONDS", 0.2)
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction():
            await blocker.execute("lock table sources in access exclusive mode")
            async with asyncio.timeout(WAIT_SECONDS):
                told = await scrape(ledger.http)
        assert "ledger_holds_open" not in told
        assert told["ledger_dead_letters_open"] == 0
        assert "ledger_holds_open" in await scrape(ledger.http)
    finally:
        await blocker.close()


async def test_while_the_database_says_nothing_the_rest_is_told_within_seconds(
    ledger: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger_service.metrics.DATABASE_SECONDS", 0.0)
    blocker = await asyncpg.connect(database_url)
    try:
        async with blocker.transaction():
            await blocker.execute("lock table sources, dead_letters, webhooks in access exclusive mode")
            began = time.monotonic()
            told = await scrape(ledger.http)
            assert time.monotonic() - began < 1.5 * READ_TIMEOUT_SECONDS
        assert told["ledger_nats_connected"] == 1
        assert not {"ledger_holds_open", "ledger_dead_letters_open", "ledger_webhooks_disabled"} & told.keys()
    finally:
        await blocker.close()
    assert READ_TIMEOUT_SECONDS <= 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(AccessUnavailable("no answer in time"), "access_unavailable"), (ConnectionRefusedError(), "store_unavailable")],
)
async def test_checks_whose_callers_cannot_be_known_count_as_failed(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """As it is over HTTP while the database is away: the token is looked up first."""

    async def find(*_: object) -> None:
        raise error

    await ledger.set_up(limit("images", maximum=2))
    name = f"ledger_check_errors_total{{code={code}}}"
    assert (await scrape(ledger.http))[name] == 0
    monkeypatch.setattr("ledger_service.service_tokens.find_token", find)
    stranger = {"Authorization": f"Bearer {make_token()}"}
    for path, body in (("/v1/limit-checks", check()), ("/v1/limit-checks:batch", {"checks": [check(), check()]})):
        answer = await ledger.http.post(path, json=body, headers=stranger)
        assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert (await ledger.http.get("/v1/plans", headers=stranger)).status_code == 503
    assert (await scrape(ledger.http))[name] == 2, "each request that asks for decisions, and no other"


async def test_the_image_service_tells_what_it_declares(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=2))
    async with image_service(make_settings(tmp_path, ledger.url)) as client:
        for _ in range(3):
            await client.post("/v1/images/generate", json=GENERATE)
        told = await scrape(client)
    declared = {metric.name for metric in image_names.METRICS if metric not in NOT_ALWAYS}
    assert declared - names_of(told) == set()
    assert {name for name in names_of(told) if name.startswith("image_")} <= {one.name for one in image_names.METRICS}
    assert told["image_operations_total{operation=generate,outcome=completed}"] == 2
    assert told["image_operations_total{operation=generate,outcome=denied}"] == 1
    assert told["image_denials_total{code=limit_exceeded}"] == 1
    assert told["image_provider_calls_total{provider=local}"] == 2
    assert told["image_provider_call_duration_seconds_count{operation=generate,provider=local}"] == 2
    assert told["image_journal_unconfirmed_events"] == 4, "nobody confirms: there is no NATS here"
    assert 0 <= told["image_journal_unconfirmed_age_seconds"] < 60
    assert told["image_journal_operations_unfinished"] == 0
    assert 0 < told["image_journal_used_bytes"] < told["image_journal_max_bytes"]
    assert told["image_provider_available{provider=local}"] == 1
    assert told["image_nats_connected"] == 0
