"""Service tokens: made once and shown once, kept as hashes, revoked within seconds, believed for a while offline."""

import asyncio
import hmac
import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from typer.testing import Result

from contracts.access.authenticator import Authenticator, Memory
from contracts.access.errors import AccessUnavailable, Unauthenticated
from contracts.access.principal import ALL_SCOPES, Principal, Scope
from contracts.access.service_tokens import BootstrapToken, is_service_token, make_token
from contracts.client import ClientSettings, LedgerClient, TokenRefused
from contracts.problems import OVERLOADED, ProblemError
from deploy.local.ports import free_port
from ledger_service.service_tokens import hashing_key, know_tokens
from tests.builders import ACCOUNT, check, completed, limit, new_id
from tests.commands import ledger_command
from tests.conftest import StartLedger
from tests.integration.client_harness import OPERATION, settings_of
from tests.integration.image_harness import GENERATE, image_service, make_settings, start_process
from tests.integration.test_access_routes import bearer
from tests.integration.test_client_leases import Gate
from tests.servers import Ledger, LedgerProcess, eventually
from tests.tokens import TOKEN

Database = asyncpg.Connection
USAGE = f"/v1/accounts/{ACCOUNT}/usage"


async def make(ledger: Ledger, *scopes: str, **fields: Any) -> dict[str, Any]:
    body = {"name": f"t-{new_id()}", "scopes": list(scopes), **fields}
    answer = await ledger.http.post("/v1/tokens", json=body)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def status(ledger: Ledger, token: str, path: str = USAGE) -> int:
    return (await ledger.http.get(path, headers=bearer(token))).status_code


def test_a_token_has_256_random_bits_and_a_form_that_scanners_know() -> None:
    made = {make_token() for _ in range(1000)}
    assert len(made) == 1000
    assert all(is_service_token(token.encode()) and len(token) == 47 for token in made)
    for other in (
        b"",
        b"ult_",
        b"ult_" + b"x" * 42,
        b"ult_" + b"x" * 44,
        b"xlt_" + b"x" * 43,
        b"ult_" + b"x" * 42 + b"\n",
    ):
        assert not is_service_token(other)


# --- made, listed, revoked ---


async def test_a_token_is_shown_once_and_kept_as_a_keyed_hash(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    made = await make(ledger, "usage:read", name="app", account_id=ACCOUNT)
    assert is_service_token(made["token"].encode())
    listed = (await ledger.http.get("/v1/tokens")).json()["tokens"]
    assert {key: made[key] for key in made if key != "token"} in listed
    key = await hashing_key(database, None)
    stored = await database.fetchval("select token_hash from service_tokens where name = 'app'")
    assert stored == hmac.digest(key, made["token"].encode(), "sha256")
    events = await database.fetch("select type, body::text from event_log where type like 'ledger.service_token.%'")
    assert [row["type"] for row in events] == ["ledger.service_token.made.v1"]
    # Nowhere in the database, however it is looked at.
    tables = [row[0] for row in await database.fetch("select tablename from pg_tables where schemaname = 'public'")]
    for table in tables:
        assert not await database.fetchval(
            f"select count(*) from {table} as t where t::text like $1", f"%{made['token']}%"
        )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a b", "scopes": ["admin"]}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "a", "scopes": ["admin", "admin"]}, "scopes"),
        ({"name": "a", "scopes": ["usage:read"]}, ""),
        ({"name": "a", "scopes": ["admin"], "account_id": ""}, "account_id"),
        ({"name": "a", "scopes": ["admin"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a", "scopes": ["admin"], "token": "ult_x"}, "token"),
    ],
)
async def test_a_request_that_breaks_a_rule_makes_nothing(ledger: Ledger, body: dict[str, Any], field: str) -> None:
    answer = await ledger.http.post("/v1/tokens", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert len((await ledger.http.get("/v1/tokens")).json()["tokens"]) == 1


async def test_a_name_has_one_token_at_a_time(ledger: Ledger) -> None:
    first = await make(ledger, "admin", name="ops")
    again = await ledger.http.post("/v1/tokens", json={"name": "ops", "scopes": ["admin"]})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    for _ in range(2):
        revoked = await ledger.http.delete(f"/v1/tokens/{first['token_id']}")
        assert revoked.json()["revoked_at"] is not None
    second = await make(ledger, "admin", name="ops")
    assert (
        await status(ledger, first["token"], "/v1/tokens"),
        await status(ledger, second["token"], "/v1/tokens"),
    ) == (
        401,
        200,
    )
    ended = (await ledger.http.get("/v1/tokens", params={"ended": "true"})).json()["tokens"]
    assert [one["name"] for one in ended].count("ops") == 2


async def test_an_expired_token_is_nobodys(ledger: Ledger) -> None:
    await ledger.put_account()
    soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    made = await make(ledger, "usage:read-all", expires_at=soon)
    assert await status(ledger, made["token"]) == 200

    async def refused() -> bool:
        return await status(ledger, made["token"]) == 401

    await eventually(refused, "the token ends, though it is remembered", within_seconds=4)
    asked = await ledger.http.post("/v1/tokens:introspect", data={"token": made["token"]})
    assert asked.json() == {"active": False}


async def test_a_revocation_is_heard_of_at_once_here_and_in_time_elsewhere(start_ledger: StartLedger) -> None:
    here = await start_ledger()
    await here.put_account()
    elsewhere = await start_ledger(token_seconds=0.5)
    made = await make(here, "usage:read-all")
    for ledger in (here, elsewhere):
        assert await status(ledger, made["token"]) == 200
    await here.http.delete(f"/v1/tokens/{made['token_id']}")
    assert await status(here, made["token"]) == 401

    async def refused() -> bool:
        return await status(elsewhere, made["token"]) == 401

    await eventually(refused, "the other process hears of it", within_seconds=2)


async def test_bootstrap_tokens_are_known_once_and_a_new_one_takes_the_place_of_the_old(
    ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    key = await hashing_key(database, None)
    await ledger.put_account()

    async def know(token: str) -> list[str]:
        wanted = BootstrapToken(name="boot", scopes=[Scope.USAGE_READ_ALL], token=SecretStr(token))
        return [one.name for one in await know_tokens(database, key, [wanted])]

    old, new = make_token(), make_token()
    assert [await know(old), await know(old)] == [["boot"], []]
    assert await status(ledger, old) == 200
    assert await know(new) == ["boot"]
    assert (await status(ledger, new), await know(old)) == (200, [])
    listed = (await ledger.http.get("/v1/tokens")).json()["tokens"]
    [current] = [one for one in listed if one["name"] == "boot"]
    await ledger.http.delete(f"/v1/tokens/{current['token_id']}")
    # What was revoked stays so, however often it is made known again.
    assert await know(new) == []
    assert [await status(ledger, old), await status(ledger, new)] == [401, 401]


# --- introspection ---


async def test_introspection_says_whose_a_token_is_and_nothing_of_others(ledger: Ledger) -> None:
    made = await make(ledger, "limits:check", "act-as", name="shop", account_id=ACCOUNT)

    async def ask(token: str) -> dict[str, Any]:
        answer = await ledger.http.post("/v1/tokens:introspect", data={"token": token})
        assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
        found: dict[str, Any] = answer.json()
        return found

    assert await ask(made["token"]) == {
        "active": True, "sub": "shop", "scope": "act-as limits:check", "account_id": ACCOUNT, "user_id": "shop",
        "api_key_id": "shop", "jti": made["token_id"],
    }  # fmt: skip
    for other in (make_token(), "x", "ult_", "eyJhbGciOiJub25lIn0.e30."):
        assert await ask(other) == {"active": False}
    await ledger.http.delete(f"/v1/tokens/{made['token_id']}")
    assert await ask(made["token"]) == {"active": False}
    for body in ({}, {"token": ["a", "b"]}):
        assert (await ledger.http.post("/v1/tokens:introspect", data=body)).status_code == 422


# --- what is remembered, with a clock that the test moves ---


class World:
    """Who knows the tokens, and the time."""

    def __init__(self, memory: Memory) -> None:
        self.now = 1000.0
        self.knows: dict[str, Principal] = {}
        self.away = False
        self.asked = 0
        self.access = Authenticator(self.find, memory, clock=lambda: self.now, wall_clock=lambda: self.now)

    async def find(self, token: str) -> Principal | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise AccessUnavailable("away")
        return self.knows.get(token)

    async def lets_in(self, token: str) -> bool | None:
        """None: that cannot be found out."""
        try:
            await self.access.authenticate(token.encode())
        except Unauthenticated:
            return False
        except AccessUnavailable:
            return None
        return True


async def test_a_token_is_looked_up_once_in_its_time() -> None:
    world, token = World(Memory(30)), make_token()
    world.knows[token] = Principal("a", ALL_SCOPES)
    assert await asyncio.gather(*(world.lets_in(token) for _ in range(100))) == [True] * 100
    assert world.asked == 1
    world.now += 29
    del world.knows[token]
    assert (await world.lets_in(token), world.asked) == (True, 1)
    world.now += 2
    assert (await world.lets_in(token), await world.lets_in(token), world.asked) == (False, False, 2)


async def test_while_nobody_can_be_asked_known_tokens_stay_good_for_a_bounded_time() -> None:
    world, token, revoked, stranger = World(Memory(30, 3600)), make_token(), make_token(), make_token()
    world.knows = {token: Principal("a", ALL_SCOPES), revoked: Principal("b", ALL_SCOPES, expires_at=2000.0)}
    assert (await world.lets_in(token), await world.lets_in(revoked)) == (True, True)
    world.away = True
    world.now += 31
    assert (await world.lets_in(token), await world.lets_in(stranger)) == (True, None)
    world.now = 2001.0
    # Known, and over by itself: that needs no asking.
    assert (await world.lets_in(token), await world.lets_in(revoked)) == (True, False)
    world.now = 1000.0 + 30 + 3601
    assert await world.lets_in(token) is None
    world.away = False
    assert await world.lets_in(token) is True
    world.away = True
    world.now += 31
    assert await world.lets_in(token) is True
    # It is reached again, and has never heard of it.
    world.away, world.knows = False, {}
    world.now += 2
    await world.lets_in(token)
    await asyncio.sleep(0.01)
    assert await world.lets_in(token) is False


async def test_what_is_remembered_is_bounded_and_strangers_push_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.access.authenticator.TOKENS_MAX", 10)
    world, token = World(Memory(30)), make_token()
    world.knows[token] = Principal("a", ALL_SCOPES)
    assert await world.lets_in(token)
    for _ in range(50):
        assert await world.lets_in(make_token()) is False
    assert (await world.lets_in(token), world.asked) == (True, 51)
    assert len(world.access._bad) == 10
    assert token.encode() not in world.access._good


async def test_too_many_who_wait_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.access.authenticator.WAITING_MAX", 5)
    world = World(Memory(30))
    answers = await asyncio.gather(
        *(world.access.authenticate(make_token().encode()) for _ in range(8)), return_exceptions=True
    )
    told = [answer.kind for answer in answers if isinstance(answer, ProblemError) and answer.kind is OVERLOADED]
    assert len(told) == 3


# --- the image service, and the client ---


async def test_the_image_service_knows_tokens_of_the_ledger_also_while_it_is_away(
    ledger: Ledger, database: "Database[asyncpg.Record]", tmp_path: Path
) -> None:
    await ledger.set_up(limit("images", maximum=10))
    narrow = await make(ledger, "limits:check", "events:write", name="image-service")
    app = await make(ledger, "limits:check", name="app", account_id=ACCOUNT)
    late = await make(ledger, "limits:check", account_id=ACCOUNT)
    async with Gate(ledger.url) as gate:
        settings = make_settings(
            tmp_path, gate.url, ledger_token=narrow["token"], token_seconds=0.2, http_delivery_after_seconds=0.2
        )
        async with image_service(settings) as client:
            for name in ("X-Account-Id", "X-User-Id"):
                del client.headers[name]

            async def generate(token: str) -> tuple[int, str | None]:
                answer = await client.post("/v1/images/generate", json=GENERATE, headers=bearer(token))
                return answer.status_code, answer.json().get("code")

            assert await generate(app["token"]) == (200, None)
            # The service's own token names no account: with it nobody makes images.
            assert await generate(narrow["token"]) == (403, "forbidden")
            await gate.shut()
            await asyncio.sleep(0.3)
            # It is let in: what is missing is a decision. A token that it never saw is not.
            assert await generate(app["token"]) == (503, "ledger_unavailable")
            assert await generate(late["token"]) == (503, "ledger_unavailable")
            assert await generate("ult_nonsense") == (401, "unauthenticated")
            await gate.open_again()
            assert await generate(late["token"]) == (200, None)
            await ledger.http.delete(f"/v1/tokens/{app['token_id']}")
            await asyncio.sleep(0.3)
            assert await generate(app["token"]) == (401, "unauthenticated")
    placed = (
        "select body::json -> 'data' -> 'check' from event_log where type like '%placed%' order by position limit 1"
    )
    booked = json.loads(await database.fetchval(placed))
    assert (booked["account_id"], booked["user_id"], booked["api_key_id"]) == (ACCOUNT, "app", "app")


async def test_an_image_service_with_a_wrong_token_of_its_own_is_not_ready(ledger: Ledger, tmp_path: Path) -> None:
    good = await make(ledger, "limits:check", "events:write")
    revoked = await make(ledger, "limits:check", "events:write")
    await ledger.http.delete(f"/v1/tokens/{revoked['token_id']}")
    narrow = await make(ledger, "events:write")
    for number, (token, ready) in enumerate(
        [
            (good["token"], True),
            (revoked["token"], False),
            (make_token(), False),
            (narrow["token"], False),
            (None, False),
        ]
    ):
        async with image_service(make_settings(tmp_path / str(number), ledger.url, ledger_token=token)) as client:
            answer = await client.get("/readyz")
            part = answer.json()["parts"]["ledger_token"]
            assert (answer.status_code, part["ok"]) == (200 if ready else 503, ready)
            assert bool(part["refusal"]) is not ready
            assert (answer.json()["parts"]["ledger"]["ok"]) is True
            assert "ult_" not in answer.text
    # Nobody who could say so: that is the ledger's own part.
    async with image_service(make_settings(tmp_path / "away", "http://127.0.0.1:1")) as client:
        parts = (await client.get("/readyz")).json()["parts"]
        assert (parts["ledger"]["ok"], parts["ledger_token"]["ok"]) == (False, True)


async def test_a_client_whose_token_is_refused_starts_nothing_and_loses_nothing(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.set_up(limit("images", maximum=10))
    journal = tmp_path / "client" / "journal.db"
    for token in (None, make_token(), (await make(ledger, "events:write"))["token"]):
        async with LedgerClient.open(settings_of(ledger.url, None, journal_path=journal, token=token)) as client:
            with pytest.raises(TokenRefused):
                async with client.operation(**OPERATION):
                    raise AssertionError("it was not admitted")
    # An outcome that is refused for its token waits in the journal, and arrives with a better one.
    deaf = (await make(ledger, "limits:check"))["token"]
    settings = settings_of(ledger.url, None, journal_path=journal, token=deaf, flush_seconds=0)
    async with LedgerClient.open(settings) as client, client.operation(**OPERATION) as operation:
        operation.completed(cost="0.03", status_code=200)
    assert (await ledger.usage())["totals"]["calls"] == 0
    async with LedgerClient.open(settings_of(ledger.url, None, journal_path=journal, flush_seconds=5)):
        pass
    assert (await ledger.usage())["totals"]["calls"] == 1


def test_a_clients_token_is_not_in_what_it_says_of_itself() -> None:
    settings = ClientSettings(source="tests", ledger_url="http://127.0.0.1:1", token=SecretStr(TOKEN))
    assert TOKEN not in repr(settings) + str(settings) + settings.model_dump_json()


# --- secrets stay where they are ---


async def test_no_log_has_a_token_after_good_and_bad_requests(
    ledger_process: Callable[..., LedgerProcess], tmp_path: Path
) -> None:
    process = ledger_process()
    seen = {TOKEN, make_token(), "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJzZWNyZXQtc3ViamVjdCJ9.c2lnbmF0dXJl"}
    answers: list[str] = []
    async with process.client() as client:
        await client.put_account()
        made = (await client.http.post("/v1/tokens", json={"name": "x", "scopes": ["limits:check"]})).json()
        seen.add(made["token"])
        image_settings = make_settings(tmp_path, process.url, port=free_port())
        image = start_process(image_settings, IMAGE_LEDGER_TOKEN=TOKEN)
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{image_settings.port}", timeout=20) as http:

                async def up() -> bool:
                    try:
                        return (await http.get("/readyz")).status_code == 200
                    except httpx.TransportError:
                        return False

                await eventually(up, "the image service is ready")
                for token in seen:
                    for path, body in (
                        ("/v1/limit-checks", json.dumps(check())),
                        ("/v1/limit-checks", "{"),
                        ("/v1/events", json.dumps(completed())),
                        (f"/v1/tokens?token={new_id()}", json.dumps({"name": token, "scopes": [token]})),
                        ("/v1/tokens:introspect", f"token={token}"),
                    ):
                        answers.append((await client.http.post(path, content=body, headers=bearer(token))).text)
                    named = {**bearer(token), "X-Account-Id": ACCOUNT, "X-User-Id": "ada"}
                    answers.append((await http.post("/v1/images/generate", json=GENERATE, headers=named)).text)
                    answers.append((await http.post("/v1/images/generate", content=b"{", headers=named)).text)
        finally:
            image.terminate()
            out, err = await asyncio.to_thread(image.communicate)
    process.stop()
    logs = process.log_path.read_text() + out.decode() + err.decode()
    assert "token_refused" in logs
    for token in seen:
        assert token not in logs
        assert token not in "".join(answers)


async def test_access_that_is_not_controlled_is_said_loudly_and_lets_everybody_in(
    ledger_process: Callable[..., LedgerProcess],
) -> None:
    process = ledger_process(auth="off")
    async with httpx.AsyncClient(base_url=process.url) as stranger:
        assert (await stranger.get("/v1/prices")).status_code == 200
    assert "access_is_not_controlled" in process.log_path.read_text()


# --- the command ---


async def test_tokens_from_the_command_line(ledger: Ledger, database_url: str, tmp_path: Path) -> None:
    await ledger.put_account()

    async def run(*arguments: str) -> Result:
        return await ledger_command(database_url, "tokens", *arguments)

    made = await run("create", "cli", "--scope", "usage:read", "--account", ACCOUNT, "--days", "3")
    assert made.exit_code == 0, made.stderr
    token = made.stdout.removesuffix("\n")
    assert await status(ledger, token) == 200
    assert token not in made.stderr
    listed = await run("list")
    assert "cli" in listed.stdout
    assert token not in listed.stdout + listed.stderr
    file = tmp_path / "token"
    assert (await run("create", "filed", "--scope", "admin", "--file", str(file))).exit_code == 0
    assert (stat.S_IMODE(file.stat().st_mode), is_service_token(file.read_bytes().strip())) == (0o600, True)
    refused = await run("create", "cli", "--scope", "admin")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "revoke it, or take another name" in refused.stderr
    assert (await run("create", "more", "--scope", "root")).exit_code == 2
    assert (await run("revoke", "cli")).exit_code == 0
    assert (await run("revoke", "nobody")).exit_code == 1
    assert (await ledger.http.post("/v1/tokens:introspect", data={"token": token})).json() == {"active": False}
