"""`ledger doctor` on real servers: as they should be, and each broken on purpose. Always a finding, no traceback."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import nats
import pytest
from nats.js.api import DiscardPolicy
from typer.testing import CliRunner

from contracts.exit_codes import ExitCode
from contracts.subjects import INGEST_CONSUMER, STREAM, STREAM_SUBJECTS
from deploy.local.ports import free_port
from deploy.local.servers import NatsServer
from ledger_service.cli import app
from ledger_service.config import Settings
from ledger_service.doctor import database as asking_postgres
from ledger_service.doctor import nats as asking_nats
from ledger_service.store import connections
from ledger_service.store import doctor as store
from ledger_service.store import seals as seal_store
from ledger_service.stream import stream_config
from tests.builders import completed, limit
from tests.conftest import StartLedger
from tests.servers import as_role, as_service, eventually

#: What test servers have otherwise, to be quick.
OF_TEST_SERVERS: Final = {
    f"postgres.{one}" for one in ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")
}
Finding = dict[str, str]


async def doctor(database_url: str, nats_url: str, *options: str, **environment: str) -> dict[str, Finding]:
    """The findings by their id, as --json tells them; the exit code is that of the worst."""
    variables = {"LEDGER_DATABASE_URL": database_url, "LEDGER_NATS_URL": nats_url, **environment}
    runner = CliRunner(env=variables)
    run = await asyncio.to_thread(runner.invoke, app, ["doctor", "--json", *options])
    assert run.exception is None or isinstance(run.exception, SystemExit), run.exception
    assert run.stderr == ""
    told = json.loads(run.stdout)
    codes = {"failure": ExitCode.FAILED, "warning": ExitCode.WARNINGS, "unknown": ExitCode.WARNINGS}
    assert run.exit_code == codes.get(told["status"], ExitCode.DONE)
    return {one["id"]: one for one in told["findings"]}


def failing(findings: dict[str, Finding]) -> set[str]:
    return {one for one, finding in findings.items() if finding["status"] == "failure"}


def nowhere(scheme: str) -> str:
    return f"{scheme}://somebody:secret@127.0.0.1:{free_port()}/ledger"


async def test_of_a_ledger_that_works_only_what_test_servers_leave_out_is_wrong(
    start_ledger: StartLedger, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    seals = {"seals_key_file": tmp_path / "key.pem", "seals_file": tmp_path / "checkpoints"}
    ledger = await start_ledger(**seals, seals_interval_seconds=0.05)
    await ledger.set_up(limit())
    await ledger.send(completed())
    environment = {f"LEDGER_{name.upper()}": str(path) for name, path in seals.items()}

    async def is_sealed() -> bool:
        findings = await doctor(as_service(database_url), nats_url, "--ledger-url", ledger.url, **environment)
        assert failing(findings) <= OF_TEST_SERVERS
        return "rows are sealed" in findings["seals.chain"]["found"]

    await eventually(is_sealed, "the log is sealed")
    findings = await doctor(as_service(database_url), nats_url, "--ledger-url", ledger.url, **environment)
    assert findings["ledger.ready"]["status"] == "ok"
    assert findings["ledger.running"]["status"] == "ok"
    assert findings["clock.postgres"]["status"] == findings["clock.nats"]["status"] == "ok"
    assert {one: of["found"] for one, of in findings.items() if of["status"] == "unknown"} == {}
    for one in ("roles.rights", "roles.append_only", "roles.powers", "roles.readers", "schema.version"):
        assert findings[one]["status"] == "ok", findings[one]

    # The chain is put back behind what was published, as a restored backup would be.
    owner = await asyncpg.connect(database_url)
    async with owner.transaction():
        # Or the ledger would seal the same rows again at once, and all would be well.
        await owner.execute("select pg_advisory_xact_lock($1)", seal_store.LOCK)
        other = await asyncpg.connect(database_url)
        await other.execute("delete from seals")
        await other.close()
        findings = await doctor(as_service(database_url), nats_url, **environment)
    await owner.close()
    assert findings["seals.chain"]["status"] == "failure"
    assert "published further" in findings["seals.chain"]["found"]


async def test_a_ledger_that_works_meanwhile_has_lost_nothing(
    start_ledger: StartLedger,
    database_url: str,
    database: "asyncpg.Connection[asyncpg.Record]",
    nats_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events come in, and are sealed, while the doctor goes from one question to the next."""
    seals = {"seals_key_file": tmp_path / "key.pem", "seals_file": tmp_path / "checkpoints"}
    ledger = await start_ledger(**seals, seals_interval_seconds=0.05)
    await ledger.set_up(limit())
    loop, ask, seen = asyncio.get_running_loop(), asking_nats._Server.api, threading.Event()
    through = "select coalesce(max(committed_through), 0) from stream_marks"
    sealed = "select coalesce(max(size), 0) from seals"

    async def work() -> None:
        """One more event in the stream, the database and the seals than before."""
        before, size = await database.fetchval(through), await database.fetchval(sealed)
        client = await nats.connect(nats_url)
        await client.jetstream().publish("usage.v1.operation.completed", json.dumps(completed()).encode())
        await client.close()
        await eventually(lambda: _is_above(database, through, before), "it is in the log")
        await eventually(lambda: _is_above(database, sealed, size), "it is sealed")

    async def api(server: asking_nats._Server, subject: str, question: bytes = b"") -> asking_nats.Json:
        answer = await ask(server, subject, question)
        if subject == f"STREAM.INFO.{STREAM}":
            seen.set()
        return answer

    async def flow(connection: Any) -> object:
        # In the middle of PostgreSQL's questions, after NATS told where the stream ends.
        assert await asyncio.to_thread(seen.wait, 20)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), loop))
        return await read_flow(connection)

    read_flow = store.read_flow
    monkeypatch.setattr(asking_nats._Server, "api", api)
    monkeypatch.setattr(store, "read_flow", flow)
    await work()
    environment = {f"LEDGER_{name.upper()}": str(path) for name, path in seals.items()}
    findings = await doctor(as_service(database_url), nats_url, "--ledger-url", ledger.url, **environment)
    assert failing(findings) <= OF_TEST_SERVERS, findings


async def _is_above(database: "asyncpg.Connection[asyncpg.Record]", question: str, before: int) -> bool:
    return bool(await database.fetchval(question) > before)


async def test_the_connections_of_a_ledger_are_all_counted(
    start_ledger: StartLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, make = list[int](), asyncpg.Pool.__init__

    def counted(self: Any, *arguments: Any, max_size: int, **fields: Any) -> None:
        opened.append(max_size)
        make(self, *arguments, max_size=max_size, **fields)

    monkeypatch.setattr(asyncpg.Pool, "__init__", counted)
    await start_ledger(seals_key_file=tmp_path / "key.pem")
    # Backtests and repricings have one each, while they run.
    settings = Settings()
    by_settings = settings.read_connections_max + settings.check_writers + settings.ingest_writers
    assert sum(opened) + 2 * connections.STREAMS_MAX == by_settings + connections.BESIDE_SETTINGS


async def test_a_setting_is_that_of_the_ledgers_role_in_its_database(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    name = (await database.fetchval("select current_database()")).replace('"', "")
    fsync = await database.fetchval("show fsync")
    for change in (
        "synchronous_commit = on",
        "default_transaction_isolation = serializable",
        "timezone = 'Asia/Tokyo'",
    ):
        await database.execute(f'alter database "{name}" set {change}')
    findings = await doctor(as_service(database_url), nats_url)
    assert findings["postgres.synchronous_commit"]["status"] == "ok"
    assert findings["postgres.fsync"]["status"] == ("ok" if fsync == "on" else "failure")
    assert findings["postgres.fsync"]["found"] == f"fsync = {fsync}"
    assert findings["postgres.isolation"]["status"] == "failure"
    assert findings["postgres.time_zone"]["found"] == "TimeZone = Asia/Tokyo"


async def test_a_database_that_is_away_leaves_the_rest_to_be_looked_at(nats_url: str) -> None:
    findings = await doctor(nowhere("postgresql"), nats_url)
    assert failing(findings) == {"postgres.reachable", "ledger.running"}
    assert "nobody listens there" in findings["postgres.reachable"]["found"]
    assert "secret" not in json.dumps(findings)
    assert findings["postgres.fsync"]["status"] == findings["flow.holes"]["status"] == "unknown"
    assert findings["nats.stream"]["status"] == findings["nats.consumer"]["status"] == "ok"


async def test_nats_that_is_away_leaves_the_rest_to_be_looked_at(database_url: str) -> None:
    findings = await doctor(as_service(database_url), nowhere("nats"))
    assert failing(findings) - OF_TEST_SERVERS == {"nats.reachable", "ledger.running"}
    assert "nobody listens there" in findings["nats.reachable"]["found"]
    assert "secret" not in json.dumps(findings)
    assert findings["schema.version"]["status"] == "ok"


async def test_why_a_database_lets_nobody_in_is_told_apart(database_url: str, nats_url: str) -> None:
    user, place = database_url.rpartition("@")[0], database_url.rpartition("@")[2]
    wrong = {
        f"postgresql://ledger_service:wrong@{place}": "does not let us in",
        f"{user}@{place.rpartition('/')[0]}/no_such": "does not exist",
        "postgresql://ledger@no-such-host.invalid/x": "has no address",
        "not a url at all": "cannot be used",
        "postgresql://127.0.0.1:port/x": "cannot be used",
    }
    for url, words in wrong.items():
        finding = (await doctor(url, nats_url))["postgres.reachable"]
        assert (finding["status"], words in finding["found"]) == ("failure", True), finding


@pytest.fixture
def silent_place() -> Iterator[str]:
    """Takes connections, and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_servers_that_say_nothing_are_given_up(silent_place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_postgres, "CONNECT_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(asking_nats, "_CONNECT_SECONDS_MAX", 0.3)
    begin = time.monotonic()
    findings = await doctor(f"postgresql://x@{silent_place}/x", f"nats://{silent_place}")
    assert time.monotonic() - begin < 5
    for one in ("postgres.reachable", "nats.reachable"):
        assert "no answer in time" in findings[one]["found"]


async def test_a_database_without_a_schema_says_so(empty_database_url: str, nats_url: str) -> None:
    findings = await doctor(empty_database_url, nats_url)
    assert findings["schema.version"]["found"] == "the database has no schema"
    assert "ledger migrate" in findings["schema.version"]["advice"]
    assert "the schema has no such thing" in findings["flow.dead_letters"]["found"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("delete from schema_migrations where name like '0018%'", "older than this ledger: it misses 0018"),
        ("insert into schema_migrations values ('9999_future.sql', 'x')", "newer than this ledger: 9999_future.sql"),
        ("update schema_migrations set digest = 'x' where name = '0001_ledger.sql'", "in another form: 0001_ledger"),
    ],
)
async def test_a_schema_of_another_version_says_which(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str, change: str, words: str
) -> None:
    await database.execute(change)
    finding = (await doctor(as_service(database_url), nats_url))["schema.version"]
    assert (finding["status"], words in finding["found"]) == ("failure", True), finding


async def test_a_newer_schema_that_this_version_works_with_is_no_failure(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    await database.execute("insert into ledger_schema.additions values ('9999_future.sql', 'x', '0018', '99.0.0')")
    finding = (await doctor(as_service(database_url), nats_url))["schema.version"]
    assert (finding["status"], "goes on beside it: 9999_future.sql" in finding["found"]) == ("warning", True), finding


async def test_a_role_with_too_few_rights_is_told_what_it_lacks(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    await database.execute("revoke insert on event_log from ledger_service; revoke select on plans from ledger_service")
    finding = (await doctor(as_service(database_url), nats_url))["roles.rights"]
    assert finding["status"] == "failure"
    assert finding["found"] == "ledger_service may not: event_log (insert), plans (select)"

    await database.execute("revoke usage on schema public from ledger_service")
    findings = await doctor(as_service(database_url), nats_url)
    assert findings["roles.rights"]["status"] == "failure"
    assert findings["schema.version"]["status"] == "unknown"


async def test_a_role_with_too_many_rights_is_told(database_url: str, nats_url: str) -> None:
    findings = await doctor(database_url, nats_url)
    assert findings["roles.powers"]["status"] == findings["roles.append_only"]["status"] == "warning"
    assert "superuser" in findings["roles.powers"]["found"]
    assert "may change what is in the log" in findings["roles.append_only"]["found"]


async def test_readers_with_too_many_rights_are_told(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    await database.execute("grant select on event_log to finance")
    name = await database.fetchval("select current_database()")
    await database.execute(f'grant connect on database "{name}" to public')
    findings = await doctor(as_service(database_url), nats_url)
    assert (findings["roles.readers"]["status"], findings["roles.readers"]["found"]) == (
        "failure", "finance reads event_log",
    )  # fmt: skip
    assert findings["roles.strangers"]["status"] == "warning"


async def test_as_a_reader_it_finds_what_the_ledger_would_lack(database_url: str, nats_url: str) -> None:
    findings = await doctor(as_role(database_url, "finance"), nats_url)
    assert findings["roles.rights"]["status"] == "failure"
    assert findings["roles.append_only"]["status"] != "failure"


async def test_nats_without_streams_says_so(database_url: str, bare_nats_url: str) -> None:
    findings = await doctor(as_service(database_url), bare_nats_url)
    for one in ("nats.stream", "nats.consumer", "nats.seals_stream"):
        assert (findings[one]["status"], "there is no" in findings[one]["found"]) == ("failure", True)
        assert "ledger migrate" in findings[one]["advice"]


async def test_a_stream_that_is_not_as_it_must_be_is_told_by_its_settings(database_url: str, nats_url: str) -> None:
    connection = await nats.connect(nats_url)
    jetstream = connection.jetstream()
    wrong = stream_config(1)
    wrong.discard, wrong.duplicate_window, wrong.max_bytes = DiscardPolicy.OLD, 60, 1_000_000
    await jetstream.update_stream(wrong)
    await jetstream.delete_consumer(STREAM, INGEST_CONSUMER)
    await connection.close()
    findings = await doctor(as_service(database_url), nats_url)
    assert "discard = old" in findings["nats.stream"]["found"]
    assert "discard = new" in findings["nats.stream"]["expected"]
    assert findings["nats.room"]["status"] == "ok"
    assert failing(findings) >= {"nats.stream", "nats.consumer", "ledger.running"}


async def test_what_waits_in_the_stream_is_counted_from_its_time(database_url: str, nats_url: str) -> None:
    connection = await nats.connect(nats_url)
    for _ in range(3):
        await connection.jetstream().publish(STREAM_SUBJECTS[1], b"{}")
    await connection.close()
    finding = (await doctor(as_service(database_url), nats_url))["flow.ingest"]
    assert re.fullmatch(r"3 messages are not in the log yet, the oldest for \d+(\.\d)? s", finding["found"])


async def test_an_identity_that_may_not_ask_is_told_at_once(database_url: str, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", guarded=True)
    server.start()
    try:
        begin = time.monotonic()
        findings = await doctor(as_service(database_url), server.url_of("producer"))
        assert time.monotonic() - begin < 3
        assert "may not listen for answers at LEDGER_NATS_INBOX_PREFIX" in findings["nats.stream"]["found"]
        assert findings["nats.reachable"]["status"] == "ok"

        wrong = server.url.replace("://", "://ledger:wrong@")
        assert "does not let us in" in (await doctor(as_service(database_url), wrong))["nats.reachable"]["found"]

        begin = time.monotonic()
        inbox = {"LEDGER_NATS_INBOX_PREFIX": "_INBOX_auditor"}
        findings = await doctor(as_service(database_url), server.url_of("auditor"), **inbox)
        assert time.monotonic() - begin < 3
        assert "may not ask $JS.API.STREAM.INFO.USAGE" in findings["nats.stream"]["found"]

        findings = await doctor(as_service(database_url), server.url_of("ledger"))
        assert findings["nats.stream"]["found"] == "there is no stream USAGE"
    finally:
        server.stop()


async def test_dead_letters_and_holes_are_named(start_ledger: StartLedger, database_url: str, nats_url: str) -> None:
    ledger = await start_ledger()
    await ledger.set_up()
    await ledger.send(completed(sourcesequence=1, source="image-1"), completed(sourcesequence=4, source="image-1"))
    connection = await nats.connect(nats_url)
    await connection.jetstream().publish(STREAM_SUBJECTS[1], b"no event")
    await connection.close()

    async def is_a_letter() -> bool:
        findings = await doctor(as_service(database_url), nats_url)
        assert findings["flow.holes"]["found"].endswith("image-1 (2)")
        return findings["flow.dead_letters"]["status"] == "warning"

    await eventually(is_a_letter, "the message is a dead letter")


async def test_endpoints_that_take_nothing_are_named(
    start_ledger: StartLedger, database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    ledger = await start_ledger()
    for name in ("gone", "slow"):
        await ledger.http.put(f"/v1/webhooks/{name}", json={"url": "https://example.com", "types": ["period.closed"]})
    findings = await doctor(as_service(database_url), nats_url)
    assert findings["webhooks.enabled"]["status"] == findings["webhooks.lag"]["status"] == "ok"
    await database.execute(
        "update webhooks set disabled_at = now(), disabled_reason = 'answered 410' where webhook_id = 'gone'"
    )
    findings = await doctor(as_service(database_url), nats_url)
    assert findings["webhooks.enabled"]["found"] == "1 endpoint is disabled: nothing is sent there"
    assert findings["webhooks.enabled"]["see"].endswith("WebhooksDisabled.md")


async def test_a_slot_that_nobody_uses_is_named(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str
) -> None:
    await database.execute("select pg_create_physical_replication_slot('forgotten', true)")
    try:
        finding = (await doctor(as_service(database_url), nats_url))["postgres.slots"]
    finally:
        await database.execute("select pg_drop_replication_slot('forgotten')")
    assert (finding["status"], "forgotten (nobody uses it)" in finding["found"]) == ("warning", True), finding


async def test_who_holds_the_log_back_is_named(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    other = await asyncpg.connect(database_url, server_settings={"application_name": "somebody"})
    async with other.transaction():
        await other.fetchval("select pg_current_xact_id()")
        found = await store.read_horizon(database)
    await other.close()
    assert "somebody, idle in transaction" in found.oldest[0]
    assert found.oldest_seconds is not None


async def test_a_locked_table_is_not_waited_for(
    database_url: str, database: "asyncpg.Connection[asyncpg.Record]", nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking_postgres, "_LOCK_SECONDS_MAX", 0.1)
    async with database.transaction():
        await database.execute("lock table dead_letters")
        findings = await doctor(as_service(database_url), nats_url)
    assert findings["flow.dead_letters"]["status"] == "unknown"
    assert "holds a lock" in findings["flow.dead_letters"]["found"]
    assert findings["schema.version"]["status"] == "ok"


async def test_settings_that_cannot_be_read_and_names_that_are_none(database_url: str, nats_url: str) -> None:
    findings = await doctor(database_url, nats_url, LEDGER_PORT="many", LEDGER_DATABSE_URL="x")
    assert failing(findings) == {"settings.readable", "postgres.reachable", "nats.reachable"}
    assert findings["settings.readable"]["found"].startswith("LEDGER_PORT: ")
    assert findings["settings.names"]["found"] == "no setting has this name: LEDGER_DATABSE_URL"
    assert findings["settings.tokens"]["status"] == "unknown"


async def test_files_that_settings_name_are_looked_at(database_url: str, nats_url: str, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("no key")
    environment = {
        "LEDGER_SEALS_KEY_FILE": str(key), "LEDGER_NATS_NKEY_FILE": str(tmp_path / "none"),
        "LEDGER_ARCHIVE_FOLDER": str(tmp_path / "no-folder"),
    }  # fmt: skip
    findings = await doctor(as_service(database_url), nats_url, **environment)
    for name in environment:
        assert name in findings["settings.files"]["found"]
    assert findings["nats.reachable"]["status"] == "failure"


async def test_a_ledger_that_was_named_and_is_not_there_fails(database_url: str, nats_url: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert (await doctor(as_service(database_url), nats_url, "--ledger-url", nobody))["ledger.ready"]["status"] == (
        "failure"
    )
    port = {"LEDGER_PORT": str(free_port())}
    assert (await doctor(as_service(database_url), nats_url, **port))["ledger.ready"]["status"] == "skipped"
    other = await doctor(as_service(database_url), nats_url, "--ledger-url", nats_url.replace("nats://", "http://"))
    assert other["ledger.ready"]["status"] == "failure"


def test_a_check_that_there_is_not_cannot_be_accepted() -> None:
    run = CliRunner(env={"LEDGER_DATABASE_URL": nowhere("postgresql")}).invoke(
        app, ["doctor", "--accept", "postgres.fysnc"]
    )
    assert run.exit_code == ExitCode.WRONG_OPTIONS
    assert "postgres.fysnc" in run.stderr
    assert run.stdout == ""
