"""Every route of both services: whom it lets in, and that a token bound to an account reaches that one alone."""

import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from contracts.access.guard import OPEN_PATHS, require_rules
from contracts.access.principal import Scope
from contracts.events import BATCH_CONTENT_TYPE
from image_service.access import RULES as IMAGE_RULES
from image_service.main import create_app as create_image_app
from ledger_service.api.access import RULES
from ledger_service.config import Settings
from ledger_service.main import create_app
from tests.builders import check, completed, lease, lease_plan, limit, new_id, plan
from tests.conftest import StartLedger
from tests.integration.image_harness import make_settings
from tests.servers import Ledger
from tests.tokens import AUTHORIZED

Exchange = tuple[str, dict[str, Any]]
MINE, THEIRS = "mine", "theirs"


@dataclass(frozen=True)
class Account:
    """Something of each kind that is found by its id alone."""

    id: str
    held: str
    lease_id: str
    lease_token: str


@dataclass(frozen=True)
class Route:
    """``scopes``: those that open it. ``kind``: whose matters it is about: an account's ("own"), all accounts' ("all"),
    nobody's ("nobody"). ``to``: a request about an account."""

    scopes: str
    kind: str
    to: Callable[[Account], Exchange]
    #: Answers about something of another account: that it is unknown, or that the token is not for this one.
    elsewhere: int = 403


READ = "usage:read usage:read-all"
READ_OR_ADMIN = f"{READ} admin"
PRICES = f"limits:check {READ_OR_ADMIN}"
PRICE = {"unit": "image", "valid_from": "2026-01-01T00:00:00Z", "variants": [{"when": {}, "price": "0.01"}]}
RESALE = {"valid_from": "2026-01-01T00:00:00Z", "unit_price": "0.08"}
DAYS = {"from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "limits": []}
REPRICE = {"from": "2026-01-01T00:00:00Z", "to": "2026-02-01T00:00:00Z", "reason": "no reason"}
CLOSE = {"reason": "no reason"}
BECAUSE = {"author": "tests", "reason": "no reason"}
WEBHOOK = {"url": "https://hooks.example.com/w", "types": ["period.closed"]}
NOBODYS = "01920000-0000-7000-8000-000000000000"
#: Of no hold that there is.
MOVE = {"placed_at": "2026-01-01T00:00:00Z", "provider": "local", "model": "render-1"}
OVERRIDE = {"meter": "calls", "window": "day", "maximum": 9}


def at(path: str, **body: Any) -> Callable[[Account], Exchange]:
    """``{id}`` and ``{held}`` in the path are the account's; so is what ``body`` makes of it."""

    def exchange(account: Account) -> Exchange:
        made = {key: value(account) if callable(value) else value for key, value in body.items()}
        return path.format(id=account.id, held=account.held, lease=account.lease_id), made

    return exchange


def gift(account_id: str) -> dict[str, Any]:
    return {
        "adjustment_id": new_id(),
        "account_id": account_id,
        "kind": "adjustment",
        "reason": "no reason",
        "cost": "-1",
    }


#: Written anew, and not taken from the services' own tables: a wrong line there is to be seen.
LEDGER = {
    ("POST", "/v1/limit-checks"): Route(
        "limits:check", "own", at("/v1/limit-checks", json=lambda of: check(account_id=of.id))
    ),
    ("POST", "/v1/limit-checks:batch"): Route(
        "limits:check",
        "own",
        at("/v1/limit-checks:batch", json=lambda of: {"checks": [check(account_id=of.id)]}),
        elsewhere=200,
    ),
    ("POST", "/v1/reservations/{operation_id}:release"): Route(
        "limits:check", "own", at("/v1/reservations/{held}:release"), elsewhere=404
    ),
    ("POST", "/v1/reservations/{operation_id}:extend"): Route(
        "limits:check", "own", at("/v1/reservations/{held}:extend"), elsewhere=404
    ),
    ("POST", "/v1/reservations/{operation_id}:move"): Route(
        "limits:check", "own", at("/v1/reservations/{held}:move", json=MOVE), elsewhere=404
    ),
    ("POST", "/v1/leases"): Route("limits:check", "own", at("/v1/leases", json=lambda of: lease(account_id=of.id))),
    ("POST", "/v1/leases/{lease_id}:return"): Route(
        "limits:check", "own", at("/v1/leases/{lease}:return", json=lambda of: {"token": of.lease_token})
    ),
    ("POST", "/v1/events"): Route("events:write", "own", at("/v1/events", json=lambda of: completed(account_id=of.id))),
    ("GET", "/v1/decisions/{operation_id}"): Route(READ, "own", at("/v1/decisions/{held}"), elsewhere=404),
    ("GET", "/v1/adjustments"): Route(READ, "own", at("/v1/adjustments?account_id={id}")),
    ("GET", "/v1/denials"): Route(READ, "own", at("/v1/denials?account_id={id}")),
    ("GET", "/v1/denials:counts"): Route(READ, "own", at("/v1/denials:counts?account_id={id}")),
    ("GET", "/v1/accounts/{account_id}/limits:standing"): Route(READ, "own", at("/v1/accounts/{id}/limits:standing")),
    ("GET", "/v1/accounts/{account_id}/holds"): Route(READ, "own", at("/v1/accounts/{id}/holds")),
    ("GET", "/v1/limits:nearest"): Route("usage:read-all admin", "all", at("/v1/limits:nearest")),
    ("GET", "/v1/accounts"): Route("usage:read-all admin", "all", at("/v1/accounts")),
    ("GET", "/v1/plans"): Route("usage:read-all admin", "all", at("/v1/plans")),
    ("GET", "/v1/accounts/{account_id}/periods"): Route(READ_OR_ADMIN, "own", at("/v1/accounts/{id}/periods")),
    ("GET", "/v1/accounts/{account_id}/usage"): Route(READ, "own", at("/v1/accounts/{id}/usage")),
    ("GET", "/v1/accounts/{account_id}/usage-log"): Route(READ, "own", at("/v1/accounts/{id}/usage-log")),
    ("GET", "/v1/accounts/{account_id}/alerts"): Route(READ, "own", at("/v1/accounts/{id}/alerts")),
    ("GET", "/v1/accounts/{account_id}/statements/{period}"): Route(
        READ, "own", at("/v1/accounts/{id}/statements/2026-01")
    ),
    ("POST", "/v1/limits:backtest"): Route(
        READ, "own", at("/v1/limits:backtest", json=lambda of: {**DAYS, "account_id": of.id})
    ),
    ("GET", "/v1/reports/estimates"): Route(READ, "own", at("/v1/reports/estimates?account_id={id}")),
    ("GET", "/v1/usage"): Route(READ, "own", at("/v1/usage?from=2026-11-01&account_id={id}")),
    ("GET", "/v1/usage-log/{operation_id}"): Route(READ, "own", at("/v1/usage-log/{held}"), elsewhere=404),
    ("GET", "/v1/usage/dimensions"): Route(READ, "nobody", at("/v1/usage/dimensions")),
    ("GET", "/v1/exports/usage-log"): Route(READ, "own", at("/v1/exports/usage-log?format=csv&account_id={id}")),
    ("GET", "/v1/exports/focus"): Route(READ, "own", at("/v1/exports/focus?format=csv&account_id={id}")),
    ("GET", "/v1/plans/{plan_id}"): Route("usage:read-all admin", "all", at("/v1/plans/basic")),
    ("PUT", "/v1/plans/{plan_id}"): Route("admin", "all", at("/v1/plans/other", json=plan(limit()))),
    ("GET", "/v1/accounts/{account_id}"): Route(READ_OR_ADMIN, "own", at("/v1/accounts/{id}")),
    ("PUT", "/v1/accounts/{account_id}"): Route("admin", "own", at("/v1/accounts/{id}", json={"plan_id": "basic"})),
    ("GET", "/v1/accounts/{account_id}/limits"): Route(READ_OR_ADMIN, "own", at("/v1/accounts/{id}/limits")),
    ("PUT", "/v1/accounts/{account_id}/limits/{limit_id}"): Route(
        "admin", "own", at("/v1/accounts/{id}/limits/own", json=OVERRIDE)
    ),
    ("DELETE", "/v1/accounts/{account_id}/limits/{limit_id}"): Route("admin", "own", at("/v1/accounts/{id}/limits/x")),
    ("GET", "/v1/accounts/{account_id}/credit-grants"): Route(
        READ_OR_ADMIN, "own", at("/v1/accounts/{id}/credit-grants")
    ),
    ("PUT", "/v1/accounts/{account_id}/credit-grants/{grant_id}"): Route(
        "admin", "own", at("/v1/accounts/{id}/credit-grants/gift", json={"limit_id": "images"})
    ),
    ("DELETE", "/v1/accounts/{account_id}/credit-grants/{grant_id}"): Route(
        "admin", "own", at("/v1/accounts/{id}/credit-grants/gift")
    ),
    ("GET", "/v1/prices"): Route(PRICES, "nobody", at("/v1/prices")),
    ("GET", "/v1/prices/{provider}/{operation}/{model}"): Route(PRICES, "nobody", at("/v1/prices/a/edit/b/c")),
    ("PUT", "/v1/prices/{provider}/{operation}/{model}"): Route(
        "admin", "all", at("/v1/prices/a/edit/b/c", json=PRICE)
    ),
    ("POST", "/v1/prices:rate"): Route(
        PRICES, "nobody", at("/v1/prices:rate", json={"provider": "a", "operation": "edit", "model": "b"})
    ),
    ("GET", "/v1/resale-prices"): Route("usage:read-all admin", "all", at("/v1/resale-prices")),
    ("PUT", "/v1/resale-prices/{operation}/{model}"): Route(
        "admin", "all", at("/v1/resale-prices/edit/b/c", json=RESALE)
    ),
    ("GET", "/v1/accounts/{account_id}/resale-prices"): Route(
        READ_OR_ADMIN, "own", at("/v1/accounts/{id}/resale-prices")
    ),
    ("PUT", "/v1/accounts/{account_id}/resale-prices/{operation}/{model}"): Route(
        "admin", "own", at("/v1/accounts/{id}/resale-prices/edit/b/c", json=RESALE)
    ),
    ("GET", "/v1/changes"): Route("admin", "own", at("/v1/changes?account_id={id}")),
    ("POST", "/v1/adjustments"): Route("admin", "own", at("/v1/adjustments", json=lambda of: gift(of.id))),
    ("PUT", "/v1/periods/{period}:close"): Route("admin", "all", at("/v1/periods/2020-01:close", json=CLOSE)),
    ("PUT", "/v1/accounts/{account_id}/periods/{period}:close"): Route(
        "admin", "own", at("/v1/accounts/{id}/periods/2020-01:close", json=CLOSE)
    ),
    ("POST", "/v1/repricings"): Route(
        "admin", "own", at("/v1/repricings", json=lambda of: {**REPRICE, "repricing_id": new_id(), "account_id": of.id})
    ),
    ("GET", "/v1/dead-letters"): Route("admin", "all", at("/v1/dead-letters")),
    ("GET", "/v1/dead-letters/{dead_letter_id}"): Route("admin", "all", at("/v1/dead-letters/1")),
    ("POST", "/v1/dead-letters/{dead_letter_id}:redrive"): Route(
        "admin", "all", at("/v1/dead-letters/1:redrive", json=BECAUSE)
    ),
    ("POST", "/v1/dead-letters/{dead_letter_id}:discard"): Route(
        "admin", "all", at("/v1/dead-letters/1:discard", json=BECAUSE)
    ),
    ("POST", "/v1/dead-letters:redrive"): Route("admin", "all", at("/v1/dead-letters:redrive", json=BECAUSE)),
    ("POST", "/v1/dead-letters:discard"): Route("admin", "all", at("/v1/dead-letters:discard", json=BECAUSE)),
    ("GET", "/v1/seals"): Route(READ_OR_ADMIN, "nobody", at("/v1/seals")),
    ("GET", "/v1/seals/key"): Route(READ_OR_ADMIN, "nobody", at("/v1/seals/key")),
    ("GET", "/v1/seals/{size}"): Route(READ_OR_ADMIN, "nobody", at("/v1/seals/1")),
    ("GET", "/v1/seals:consistency"): Route(READ_OR_ADMIN, "nobody", at("/v1/seals:consistency?from=1&to=2")),
    ("GET", "/v1/usage-log/{operation_id}/proof"): Route(READ, "own", at("/v1/usage-log/{held}/proof"), elsewhere=404),
    ("GET", "/v1/status"): Route("usage:read-all admin", "all", at("/v1/status")),
    ("GET", "/v1/operations:in-doubt"): Route(READ, "own", at("/v1/operations:in-doubt?doubt=open&account_id={id}")),
    ("GET", "/v1/operations:recent"): Route(READ, "own", at("/v1/operations:recent?account_id={id}")),
    ("GET", "/v1/operations:stream"): Route(READ, "own", at("/v1/operations:stream?account_id={id}&seconds=0.01")),
    ("GET", "/v1/sources"): Route("usage:read-all admin", "all", at("/v1/sources")),
    ("POST", "/v1/sources:give-up"): Route(
        "admin",
        "all",
        at(
            "/v1/sources:give-up", json={"source": "image-1", "first_sequence": 1, "last_sequence": 1, "reason": "lost"}
        ),
    ),
    **{
        (method, f"{prefix}/webhooks{path}"): Route("admin", kind, at(f"{called}/webhooks{address}", **body))
        for prefix, called, kind in (
            ("/v1", "/v1", "all"),
            ("/v1/accounts/{account_id}", "/v1/accounts/{id}", "own"),
        )
        for method, path, address, body in (
            ("GET", "", "", {}),
            ("PUT", "/{webhook_id}", "/w", {"json": WEBHOOK}),
            ("GET", "/{webhook_id}", "/w", {}),
            ("DELETE", "/{webhook_id}", "/none", {}),
            ("POST", "/{webhook_id}:pause", "/w:pause", {}),
            ("POST", "/{webhook_id}:resume", "/w:resume", {}),
            ("POST", "/{webhook_id}:rotate-secret", "/w:rotate-secret", {"json": {}}),
            ("POST", "/{webhook_id}:test", "/w:test", {}),
            ("POST", "/{webhook_id}:redeliver", "/w:redeliver", {"json": {"from": "2026-01-01T00:00:00Z"}}),
            ("GET", "/{webhook_id}/deliveries", "/w/deliveries", {}),
            ("GET", "/{webhook_id}/deliveries/{message_id}", f"/w/deliveries/{NOBODYS}", {}),
            ("POST", "/{webhook_id}/deliveries/{message_id}:redeliver", f"/w/deliveries/{NOBODYS}:redeliver", {}),
        )
    },
    ("GET", "/v1/tokens"): Route("admin", "all", at("/v1/tokens")),
    ("POST", "/v1/tokens"): Route(
        "admin", "all", at("/v1/tokens", json=lambda _: {"name": new_id(), "scopes": ["admin"]})
    ),
    ("DELETE", "/v1/tokens/{token_id}"): Route("admin", "all", lambda _: (f"/v1/tokens/{new_id()}", {})),
    ("POST", "/v1/tokens:introspect"): Route("limits:check", "all", at("/v1/tokens:introspect", data={"token": "x"})),
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def make_token(ledger: Ledger, *scopes: str, **fields: Any) -> dict[str, str]:
    body = {"name": f"t-{new_id()}", "scopes": list(scopes), **fields}
    answer = await ledger.http.post("/v1/tokens", json=body)
    assert answer.status_code == 200, answer.text
    return bearer(answer.json()["token"])


async def make_account(ledger: Ledger, account_id: str) -> Account:
    await ledger.put_account(account_id)
    asked, leased = check(account_id=account_id), lease(account_id=account_id)
    assert (await ledger.check(asked))["allowed"]
    placed = (await ledger.http.post("/v1/leases", json=leased)).json()
    return Account(account_id, asked["operation_id"], leased["lease_id"], placed["token"])


@pytest.fixture
async def mine(ledger: Ledger) -> Account:
    body = lease_plan(limit("images", maximum=1000))
    assert (await ledger.http.put("/v1/plans/basic", json=body)).status_code == 200
    return await make_account(ledger, MINE)


@pytest.fixture
async def theirs(ledger: Ledger, mine: Account) -> Account:
    return await make_account(ledger, THEIRS)


@pytest.fixture
async def bare(ledger: Ledger) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends no token by itself."""
    async with httpx.AsyncClient(base_url=ledger.url, timeout=20) as http:
        yield http


async def send(
    bare: httpx.AsyncClient, route: tuple[str, str], account: Account, headers: dict[str, str]
) -> httpx.Response:
    path, body = LEDGER[route].to(account)
    return await bare.request(route[0], path, headers=headers, **body)


def lets_in(answer: httpx.Response) -> bool:
    """Whether the token was good enough, whatever then became of the request."""
    code = answer.json().get("code") if answer.headers["content-type"] == "application/problem+json" else None
    return code not in ("unauthenticated", "forbidden")


# --- every route is in the table ---


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    return {
        (method, str(context.path_format))
        for context in iter_route_contexts(app.routes)
        if context.path not in OPEN_PATHS and not getattr(context.original_route, "IS_GUARDED", False)  # pages
        for method in context.methods or {"*"}
    }


def test_each_route_of_the_ledger_has_its_rule_and_its_examples() -> None:
    assert routes_of(create_app(Settings())) == set(RULES) == set(LEDGER)


async def test_each_route_of_the_image_service_has_its_rule(tmp_path: Path) -> None:
    app = create_image_app(make_settings(tmp_path, "http://127.0.0.1:1"))
    assert routes_of(app) == set(IMAGE_RULES) >= {("POST", "/v1/images/generate")}


def test_a_router_that_says_nothing_keeps_the_service_from_starting() -> None:
    router = APIRouter()
    router.add_api_route("/v1/secrets", lambda: None, methods=["GET"])
    app = create_app(Settings())
    app.include_router(router)
    with pytest.raises(LookupError, match="/v1/secrets is not guarded"):
        require_rules(app)


def test_a_route_that_no_rule_names_cannot_be_made() -> None:
    [guarded_class] = {
        type(context.original_route)
        for context in iter_route_contexts(create_app(Settings()).routes)
        if isinstance(context.original_route, APIRoute)
    }
    router = APIRouter(route_class=guarded_class)
    with pytest.raises(LookupError, match="GET /v1/secrets"):
        router.add_api_route("/v1/secrets", lambda: None, methods=["GET"])


async def test_the_documentation_says_which_routes_want_a_token(ledger: Ledger) -> None:
    async with httpx.AsyncClient(base_url=ledger.url) as stranger:
        document = (await stranger.get("/openapi.json")).json()
        assert (await stranger.get("/docs")).status_code == 200
        assert (await stranger.get("/livez")).status_code == 200
        assert (await stranger.get("/readyz")).status_code == 200
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation.get("security") == (None if path in OPEN_PATHS else [{"bearer": []}])


# --- who gets in ---


NO_TOKENS: tuple[dict[str, str], ...] = (
    {},
    {"Authorization": ""},
    {"Authorization": "Bearer"},
    bearer("ult_" + "A" * 43),
    bearer("not-even-one"),
    {"Authorization": AUTHORIZED["Authorization"].removeprefix("Bearer ")},
    {"Authorization": AUTHORIZED["Authorization"].replace("Bearer", "Basic")},
    {"Authorization": AUTHORIZED["Authorization"] + "x"},
    bearer("x" * 9000),
)


async def test_without_a_valid_token_no_route_answers(start_ledger: StartLedger, mine: Account) -> None:
    patient = await start_ledger(rate_failures_per_second=0)  # these are more guesses than an address has
    async with httpx.AsyncClient(base_url=patient.url, timeout=20) as bare:
        for route, headers in itertools.product(LEDGER, NO_TOKENS):
            answer = await send(bare, route, mine, headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), (route, headers)
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="usage-ledger"')
            assert answer.headers["content-type"] == "application/problem+json"


async def test_two_authorization_headers_are_refused(bare: httpx.AsyncClient, mine: Account) -> None:
    twice = [("Authorization", AUTHORIZED["Authorization"])] * 2
    assert (await bare.get(f"/v1/accounts/{mine.id}", headers=twice)).status_code == 401


async def test_each_scope_opens_its_routes_and_no_other(ledger: Ledger, bare: httpx.AsyncClient, mine: Account) -> None:
    for scope in Scope:
        bound = await make_token(ledger, scope, account_id=mine.id)
        # On its own usage:read is for nobody; with act-as, which opens no route here, it can be made for all.
        unbound = await make_token(ledger, scope, *([Scope.ACT_AS] if scope is Scope.USAGE_READ else []))
        for key, route in LEDGER.items():
            opens = scope in route.scopes.split()
            answer = await send(bare, key, mine, unbound if route.kind == "all" else bound)
            assert lets_in(answer) == opens, (scope, key, answer.text)
            if route.kind == "own":
                answer = await send(bare, key, mine, unbound)
                assert lets_in(answer) == (opens and scope != Scope.USAGE_READ), (scope, key, answer.text)


# --- one account only ---


async def rows_of(database: "asyncpg.Connection[asyncpg.Record]", account_id: str) -> list[str]:
    rows = await database.fetch(
        """
        select event_id::text from event_log where account_id = $1
        union all select operation_id || state || coalesce(expires_at::text, '') from decisions where account_id = $1
        order by 1
        """,
        account_id,
    )
    return [row[0] for row in rows]


async def test_a_bound_token_reaches_its_own_account_and_nothing_of_another(
    ledger: Ledger,
    bare: httpx.AsyncClient,
    mine: Account,
    theirs: Account,
    database: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    token = await make_token(ledger, *Scope, account_id=mine.id)
    before = await rows_of(database, theirs.id)
    unknown = Account("nobody", new_id(), new_id(), "none.at.all")
    for key, route in LEDGER.items():
        if route.kind == "nobody":
            continue
        answers = [await send(bare, key, other, token) for other in (theirs, unknown)]
        if route.kind == "all":
            assert [answer.json()["code"] for answer in answers] == ["forbidden"] * 2, key
            continue
        # Whether it exists makes no difference to what is said.
        assert [answer.status_code for answer in answers] == [route.elsewhere] * 2, (key, answers[0].text)
        words = [
            answer.text.replace(other.held, "ID").replace(other.id, "WHO")
            for other, answer in zip((theirs, unknown), answers, strict=True)
        ]
        assert words[0] == words[1], key
        assert lets_in(await send(bare, key, mine, token)), key
    assert await rows_of(database, theirs.id) == before


async def test_what_is_found_by_id_alone_is_found_in_ones_own_account(
    ledger: Ledger, bare: httpx.AsyncClient, mine: Account
) -> None:
    token = await make_token(ledger, "limits:check", "usage:read", account_id=mine.id)
    assert (await send(bare, ("GET", "/v1/decisions/{operation_id}"), mine, token)).json()["allowed"] is True
    released = await send(bare, ("POST", "/v1/reservations/{operation_id}:release"), mine, token)
    assert released.json()["state"] == "released"
    returned = await send(bare, ("POST", "/v1/leases/{lease_id}:return"), mine, token)
    assert returned.json()["account_id"] == mine.id


async def test_each_check_and_each_event_of_a_batch_is_looked_at(
    ledger: Ledger, mine: Account, theirs: Account, database: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    token = await make_token(ledger, "limits:check", "events:write", account_id=mine.id)
    before = await rows_of(database, theirs.id)
    whose = (mine.id, theirs.id, mine.id, "nobody")
    async with httpx.AsyncClient(base_url=ledger.url, headers=token) as http:
        checks = {"checks": [check(account_id=account_id) for account_id in whose]}
        results = (await http.post("/v1/limit-checks:batch", json=checks)).json()["results"]
        told = [one["problem"]["code"] if "problem" in one else one["decision"]["allowed"] for one in results]
        assert told == [True, "forbidden", True, "forbidden"]
        events = [completed(account_id=account_id) for account_id in whose]
        # One whose envelope is about us, and its data about somebody else.
        events.append(completed(account_id=theirs.id, subject=mine.id))
        headers = {"Content-Type": BATCH_CONTENT_TYPE}
        taken = (await http.post("/v1/events", content=json.dumps(events), headers=headers)).json()
        assert (taken["accepted"], [one["index"] for one in taken["rejected"]]) == (2, [1, 3, 4])
        assert [one["problem"]["code"] for one in taken["rejected"]][:2] == ["forbidden", "forbidden"]
    assert await rows_of(database, theirs.id) == before


async def test_what_may_be_about_all_accounts_is_about_the_tokens_own(
    ledger: Ledger, mine: Account, theirs: Account
) -> None:
    for account in (mine, theirs):
        asked = check(account_id=account.id, estimated_cost="0.04", model=f"of-{account.id}")
        await ledger.check(asked)
        await ledger.send(completed(asked))
    token = await make_token(ledger, "usage:read-all", account_id=mine.id)
    async with httpx.AsyncClient(base_url=ledger.url, headers=token, timeout=20) as http:
        report = (await http.get("/v1/reports/estimates")).json()
        assert (report["account_id"], [line["model"] for line in report["lines"]]) == (mine.id, [f"of-{mine.id}"])
        lines = (await http.post("/v1/limits:backtest", json=DAYS)).text.splitlines()
        result = json.loads(lines[-1])["result"]
        assert [one["account_id"] for one in result["by_account"]] == [mine.id]
        asked_for = {key: value for key, value in DAYS.items() if key != "limits"}
        refused = await http.post("/v1/limits:backtest", json={**asked_for, "plan_id": "basic"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


async def test_no_spelling_of_a_query_names_another_account(
    ledger: Ledger, bare: httpx.AsyncClient, mine: Account, theirs: Account
) -> None:
    token = await make_token(ledger, "usage:read", account_id=mine.id)
    spellings = {
        "account_id=theirs": 403,
        "account_id=mine&account_id=theirs": 403,
        "account_id=theirs&account_id=mine": 403,
        "account%5Fid=theirs": 403,
        "account_id=": 403,
        "account_id=mine": 404,
        "ACCOUNT_ID=theirs": 422,
        "x=1;account_id=theirs": 422,
    }
    for query, status in spellings.items():
        answer = await bare.get(f"/v1/decisions/{theirs.held}?{query}", headers=token)
        assert answer.status_code == status, (query, answer.text)
