"""The price catalogue over HTTP: versions, what is in force, what a check would be held at."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio

from contracts.limits import LimitCheck
from ledger_service.domain.rating import Catalogue, worst_case
from ledger_service.page_cursors import encode_cursor
from ledger_service.store.prices import CatalogueCache, read_catalogue
from tests.builders import ABSENT, Body, at, check, limit
from tests.conftest import StartLedger
from tests.servers import Databases, Ledger, LedgerProcess, as_service, serving

#: One ledger for most of them: each test prices a model of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")
#: Of those about the catalogue as a whole, with a ledger to themselves: another loop, as the shared one stands still
#: meanwhile.
alone = pytest.mark.asyncio(loop_scope="function")

Database = asyncpg.Connection


@dataclass
class Own:
    """What a test prices where it names nothing."""

    model: str = "render-1"

    @property
    def path(self) -> str:
        return f"/v1/prices/local/generate/{self.model}"


own = Own()


@pytest.fixture
def ledger(lent_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(own, "model", f"render-{secrets.token_hex(4)}")
    return lent_ledger


@pytest.fixture
async def own_ledger(start_ledger: StartLedger) -> Ledger:
    return await start_ledger()


def variant(price: str, **when: Any) -> Body:
    return {"when": when, "price": price}


def price(*variants: Body, valid_from: str = "2026-01-01", **fields: Any) -> Body:
    """``price(variant("0.04", size="1024x1024"), valid_from="2026-02-01")``."""
    body = {"valid_from": f"{valid_from}T00:00:00Z", "variants": list(variants) or [variant("0.04")], **fields}
    return {name: value for name, value in body.items() if value is not ABSENT}


async def put(ledger: Ledger, body: Body, path: str | None = None) -> Body:
    answer = await ledger.http.put(path or own.path, json=body)
    assert answer.status_code == 200, answer.text
    stored: Body = answer.json()
    return stored


async def get(ledger: Ledger, path: str | None = None, **query: Any) -> Body:
    answer = await ledger.http.get(path or own.path, params=query)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


async def rate(ledger: Ledger, **fields: Any) -> Body:
    body = {"provider": "local", "operation": "generate", "model": own.model, **fields}
    answer = await ledger.http.post("/v1/prices:rate", json=body)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def fields_of(answer: httpx.Response) -> list[str]:
    return [error["field"] for error in answer.json()["errors"]]


async def events(database: "Database[asyncpg.Record]") -> list[Body]:
    rows = await database.fetch(
        "select account_id, body::text from event_log where type = 'ledger.price.changed.v1' "
        "order by transaction_id, position"
    )
    assert {row["account_id"] for row in rows} <= {""}
    return [json.loads(row["body"])["data"] for row in rows]


async def catalogue_version(database: "Database[asyncpg.Record]") -> int:
    version: int = await database.fetchval("select version from price_catalogue")
    return version


# --- versions ---


async def test_a_price_is_stored_and_read_back(ledger: Ledger) -> None:
    body = price(
        variant("0.04", size=["512x512", "1024x1024"], steps={"at_most": 30}),
        variant("0.1"),
        valid_until="2027-01-01T01:00:00+01:00",
        unit="megapixel",
        source="https://example.org/prices",
        read_on="2026-11-22",
        as_of="2026-11-01",
    )
    stored = await put(ledger, body)
    assert {name: stored[name] for name in ("provider", "operation", "model", "version", "shipped")} == {
        "provider": "local", "operation": "generate", "model": own.model, "version": 1, "shipped": False,
    }  # fmt: skip
    assert stored["valid_from"] == "2026-01-01T00:00:00Z"
    assert stored["valid_until"] == stored["in_force_until"] == "2027-01-01T00:00:00Z"
    assert stored["variants"] == [
        {
            "when": {"size": ["512x512", "1024x1024"], "steps": {"at_least": None, "at_most": 30}},
            "price": "0.040000000",
        },
        {"when": {}, "price": "0.100000000"},
    ]
    assert [stored[name] for name in ("unit", "source", "read_on", "as_of")] == [
        "megapixel", "https://example.org/prices", "2026-11-22", "2026-11-01",
    ]  # fmt: skip
    history = await get(ledger)
    assert history["versions"] == [stored]
    assert (history["in_force"], history["model"]) == ("2026-01-01T00:00:00Z", own.model)
    assert await put(ledger, {name: stored[name] for name in body}) == stored, "what was read can be put again"


@alone
async def test_a_change_is_the_next_version_and_the_same_again_is_none(
    own_ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    first = await put(own_ledger, price(variant("0.04")))
    assert await put(own_ledger, price(variant("0.04"))) == first
    assert (await put(own_ledger, price(variant("0.05"))))["version"] == 2
    assert (await put(own_ledger, price(variant("0.06"), valid_from="2026-06-01")))["version"] == 1
    assert await catalogue_version(database) == 3
    assert [(one["version"], one["variants"][0]["price"], one["model"]) for one in await events(database)] == [
        (1, "0.040000000", "render-1"),
        (2, "0.050000000", "render-1"),
        (1, "0.060000000", "render-1"),
    ]


async def test_the_history_shows_versions_oldest_first_and_every_form_they_had(ledger: Ledger) -> None:
    for amount, start in [("3", "2099-01-01"), ("1", "2026-01-01"), ("2", "2026-06-01"), ("1.5", "2026-01-01")]:
        await put(ledger, price(variant(amount), valid_from=start))
    await put(ledger, price(variant("9")), f"{own.path}-2")
    history = await get(ledger, changes=True)
    shown = [(one["variants"][0]["price"][:3], one["version"], one["in_force_until"]) for one in history["versions"]]
    assert shown == [("1.5", 2, "2026-06-01T00:00:00Z"), ("2.0", 1, "2099-01-01T00:00:00Z"), ("3.0", 1, None)]
    assert history["in_force"] == "2026-06-01T00:00:00Z"
    assert [one["variants"][0]["price"][:3] for one in history["changes"]] == ["1.5", "2.0", "1.0", "3.0"]
    assert (await get(ledger))["changes"] is None


async def test_none_is_in_force_before_the_first_and_after_an_end(ledger: Ledger) -> None:
    await put(ledger, price(valid_from="2099-01-01"))
    assert (await get(ledger))["in_force"] is None
    await put(ledger, price(valid_until="2026-02-01T00:00:00Z"))
    assert (await get(ledger))["in_force"] is None


async def test_a_model_may_hold_slashes(ledger: Ledger) -> None:
    path = "/v1/prices/replicate/generate/stability-ai/sdxl:1.0"
    assert (await put(ledger, price(), path))["model"] == "stability-ai/sdxl:1.0"
    assert (await get(ledger, path))["versions"][0]["model"] == "stability-ai/sdxl:1.0"
    assert (await rate(ledger, provider="replicate", model="stability-ai/sdxl:1.0"))["estimated_cost"] == "0.040000000"


async def test_a_price_that_does_not_exist_is_not_found(ledger: Ledger) -> None:
    answer = await ledger.http.get(own.path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert f"generate with {own.model} of local" in answer.json()["detail"]


# --- overlaps, and others at the same time ---


@alone
@pytest.mark.parametrize(
    ("body", "field", "named"),
    [
        (price(valid_from="2026-01-01", valid_until="2026-03-02T00:00:00Z"), "valid_until", "2026-03-01"),
        (price(valid_from="2026-04-01"), "valid_from", "2026-05-01"),
        (price(valid_from="2026-02-28", valid_until="2026-12-01T00:00:00Z"), "valid_until", "2026-03-01"),
    ],
)
async def test_overlapping_versions_are_refused_and_the_other_is_named(
    own_ledger: Ledger, database: "Database[asyncpg.Record]", body: Body, field: str, named: str
) -> None:
    await put(own_ledger, price(valid_from="2026-03-01", valid_until="2026-05-01T00:00:00Z"))
    answer = await own_ledger.http.put(own.path, json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert [(error["field"], error["rule"]) for error in problem["errors"]] == [(field, "overlap")]
    assert named in problem["errors"][0]["message"]
    assert problem["other"] == {"valid_from": "2026-03-01T00:00:00Z", "valid_until": "2026-05-01T00:00:00Z"}
    assert len((await get(own_ledger))["versions"]) == 1
    assert (await catalogue_version(database), len(await events(database))) == (1, 1), "nothing half-done"


@alone
async def test_changes_at_the_same_time_are_one_after_another(
    own_ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    bodies = [price(variant(f"0.{number:02}")) for number in range(1, 31)]
    stored = await asyncio.gather(*(put(own_ledger, body) for body in bodies))
    assert sorted(one["version"] for one in stored) == list(range(1, 31))
    told = await events(database)
    assert [one["version"] for one in told] == list(range(1, 31))
    [standing] = (await get(own_ledger))["versions"]
    assert (standing["version"], standing["variants"]) == (30, told[-1]["variants"])
    assert await catalogue_version(database) == 30


async def test_of_two_at_once_that_overlap_one_is_refused(ledger: Ledger) -> None:
    for round_ in range(10):
        path = f"/v1/prices/local/generate/model-{round_}"
        bodies = [
            price(valid_from="2026-01-01", valid_until="2026-06-01T00:00:00Z"),
            price(valid_from="2026-05-01", valid_until="2026-09-01T00:00:00Z"),
        ]
        answers = await asyncio.gather(*(ledger.http.put(path, json=body) for body in bodies))
        assert sorted(answer.status_code for answer in answers) == [200, 422]
        assert len((await get(ledger, path))["versions"]) == 1


# --- bad input ---

BROKEN: dict[str, tuple[Body | bytes, str]] = {
    "no variants": (price(variants=[]), "variants"),
    "variants left out": (price(variants=ABSENT), "variants"),
    "too many variants": (price(*(variant("1", steps=number) for number in range(201))), "variants"),
    "the same conditions twice": (price(variant("1", size=["a", "b"]), variant("2", size=["b", "a"])), "variants"),
    "the same number as a text": (price(variant("1", steps=30), variant("2", steps="030")), "variants"),
    "a price as a number": (price({"when": {}, "price": 0.04}), "variants[0].price"),
    "a price as a whole number": (price({"price": 4}), "variants[0].price"),
    "ten decimals": (price(variant("0.0000000001")), "variants[0].price"),
    "a negative price": (price(variant("-0.01")), "variants[0].price"),
    "more than an operation may cost": (price(variant("1000000.01")), "variants[0].price"),
    "no price": (price({"when": {}}), "variants[0].price"),
    "NaN": (price(variant("NaN")), "variants[0].price"),
    "an unknown field": (price(colour="red"), "colour"),
    "an unknown field of a variant": (price({"price": "1", "if": {}}), "variants[0].if"),
    "a condition that is true": (price(variant("1", hd=True)), "variants[0].when.hd"),
    "a condition that is null": (price(variant("1", hd=None)), "variants[0].when.hd"),
    "a condition with a fraction": (price(variant("1", steps=1.5)), "variants[0].when.steps"),
    "an empty list": (price(variant("1", size=[])), "variants[0].when.size"),
    "a list in a list": (price(variant("1", size=[["a"]])), "variants[0].when.size"),
    "an empty text": (price(variant("1", size="")), "variants[0].when.size"),
    "a control character": (price(variant("1", size="a\nb")), "variants[0].when.size"),
    "an open range": (price(variant("1", steps={})), "variants[0].when.steps"),
    "an empty range": (price(variant("1", steps={"at_least": 5, "at_most": 4})), "variants[0].when.steps"),
    "a negative end": (price(variant("1", steps={"at_least": -5})), "variants[0].when.steps"),
    "a misspelt end": (price(variant("1", steps={"atmost": 5})), "variants[0].when.steps"),
    "an attribute's name": (price(variant("1", **{"Si ze": "a"})), "variants[0].when.Si ze.[key]"),
    "no beginning": (price(valid_from=ABSENT) | {"valid_from": None}, "valid_from"),
    "a beginning without its offset": (price() | {"valid_from": "2026-01-01T00:00:00"}, "valid_from"),
    "a bare date": (price() | {"valid_from": "2026-01-01"}, "valid_from"),
    "a Unix time": (price() | {"valid_from": 1767225600}, "valid_from"),
    "a beginning in another age": (price() | {"valid_from": "0001-01-01T00:00:00+14:00"}, "valid_from"),
    "a beginning after the end of time": (price() | {"valid_from": "9999-12-31T23:59:59-14:00"}, "valid_from"),
    "an end before the beginning": (price(valid_until="2025-12-31T00:00:00Z"), "valid_until"),
    "an end at the beginning": (price(valid_until="2026-01-01T00:00:00Z"), "valid_until"),
    "a unit with blanks": (price(unit="per image"), "unit"),
    "a source too long": (price(source="x" * 501), "source"),
    "a NUL in the source": (price(source="a\0b"), "source"),
    "a day that is none": (price(read_on="2026-02-30"), "read_on"),
    "a day as a number": (price(read_on=20261122), "read_on"),
    "a list": (b"[]", ""),
}  # fmt: skip


@alone
async def test_a_broken_price_is_refused_and_its_field_is_named(
    own_ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    for name, (body, field) in BROKEN.items():
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await own_ledger.http.put(own.path, content=content, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), f"{name}: {answer.text}"
        assert fields_of(answer) == [field], name
    assert await catalogue_version(database) == 0


@pytest.mark.parametrize("content", [b"{", b"", b"\xff", b'{"valid_from": "2026-01-01T00:00:00Z"'])
async def test_a_body_that_is_no_json(refusing: Ledger, content: bytes) -> None:
    answer = await refusing.http.put(own.path, content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


async def test_a_body_that_is_too_large(refusing: Ledger) -> None:
    answer = await refusing.http.put(own.path, content=b" " * (1024 * 1024 + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/prices/a%20b/generate/m", "path.provider"),
        ("/v1/prices/local/Generate/m", "path.operation"),
        ("/v1/prices/local/generate/-m", "path.model"),
    ],
)
async def test_a_name_of_the_wrong_shape(refusing: Ledger, path: str, field: str) -> None:
    for answer in (await refusing.http.put(path, json=price()), await refusing.http.get(path)):
        assert (answer.status_code, fields_of(answer)) == (422, [field])


# --- the list ---


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listed(databases: Databases, shared_nats_url: str) -> AsyncIterator[Ledger]:
    """With ALL, and nothing else."""
    with databases.cloned() as url:
        async with serving(database_url=as_service(url), nats_url=shared_nats_url) as running:
            await fill(running)
            yield running


async def fill(ledger: Ledger) -> None:
    for path, starts in {
        "b/generate/one": ["2026-01-01", "2026-06-01", "2026-09-01"],
        "a/upscale/x/y": ["2026-03-01"],
        "a/generate/two": ["2026-01-01"],
    }.items():
        for start in starts:
            await put(ledger, price(valid_from=start), f"/v1/prices/{path}")


ALL = [
    ("a", "generate", "two", "2026-01-01"),
    ("a", "upscale", "x/y", "2026-03-01"),
    ("b", "generate", "one", "2026-01-01"),
    ("b", "generate", "one", "2026-06-01"),
    ("b", "generate", "one", "2026-09-01"),
]


def named(page: Body) -> list[tuple[str, ...]]:
    return [(one["provider"], one["operation"], one["model"], one["valid_from"][:10]) for one in page["items"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ALL),
        ({"provider": "a"}, ALL[:2]),
        ({"operation": "generate"}, [ALL[0], *ALL[2:]]),
        ({"provider": "b", "operation": "upscale"}, []),
        ({"at": "2026-02-01T00:00:00Z"}, [ALL[0], ALL[2]]),
        ({"at": "2026-06-01T00:00:00Z", "provider": "b"}, [ALL[3]]),
        ({"at": "2026-06-01T01:59:59+02:00", "provider": "b"}, [ALL[2]]),
        ({"at": "2025-12-31T23:59:59Z"}, []),
    ],
    ids=str,
)
async def test_the_list_shows_what_its_filters_choose(
    listed: Ledger, query: dict[str, str], expected: list[tuple[str, ...]]
) -> None:
    assert named(await get(listed, "/v1/prices", **query)) == expected


async def test_all_pages_together_show_each_version_once(listed: Ledger) -> None:
    walked: list[tuple[str, ...]] = []
    cursor: dict[str, str] = {}
    for _ in range(5):
        page = await get(listed, "/v1/prices", limit=2, **cursor)
        walked += named(page)
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert walked == ALL


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"provider": "a b"}, "query.provider"),
        ({"operation": "A"}, "query.operation"),
        ({"at": "2026-01-01"}, "query.at"),
        ({"at": "now"}, "query.at"),
        ({"limit": "0"}, "query.limit"),
        ({"limit": "1001"}, "query.limit"),
        ({"cursor": "x"}, "query.cursor"),
        ({"cursor": "WzFd"}, "query.cursor"),
        ({"cursor": encode_cursor(at("2026-11-05"), "a\0", "b", "c")}, "query.cursor"),
        ({"cursor": "x" * 1001}, "query.cursor"),
    ],
    ids=str,
)
async def test_a_filter_of_the_wrong_shape(refusing: Ledger, query: dict[str, str], field: str) -> None:
    answer = await refusing.http.get("/v1/prices", params=query)
    assert (answer.status_code, fields_of(answer)) == (422, [field])


# --- what a check would be held at ---

SIZES = price(
    variant("0.04", size="1024x1024", quality="standard"),
    variant("0.08", size="1024x1024", quality="hd"),
    variant("0.12", size=["1024x1792", "1792x1024"], quality="hd"),
    variant("0.01", steps={"at_most": 10}),
)


async def test_rating_tells_the_cost_and_why(ledger: Ledger) -> None:
    await put(ledger, price())
    await put(ledger, SIZES)
    answer = await rate(ledger, quantity=3, attributes={"size": "1024x1024"})
    assert answer["estimated_cost"] == "0.240000000"
    assert answer["price"] == {
        "version": 2, "valid_from": "2026-01-01T00:00:00Z", "unit": "image", "unit_price": "0.080000000",
    }  # fmt: skip
    assert [(one["index"], one["price"], one["assumed"], one["dearest"]) for one in answer["variants"]] == [
        (0, "0.040000000", ["quality"], False),
        (1, "0.080000000", ["quality"], True),
        (3, "0.010000000", ["steps"], False),
    ]
    assert (answer["quantity"], answer["reason"]) == (3, None)


async def test_rating_at_another_time(ledger: Ledger) -> None:
    await put(ledger, price(variant("1"), valid_from="2026-01-01"))
    await put(ledger, price(variant("2"), valid_from="2026-06-01"))
    costs = [
        (await rate(ledger, at=f"2026-{month}-01T00:00:00Z"))["estimated_cost"] for month in ("01", "05", "06", "11")
    ]
    assert costs == ["1.000000000", "1.000000000", "2.000000000", "2.000000000"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model": "other"}, "there is no price for generate with other of local"),
        ({"at": "2025-01-01T00:00:00Z"}, "no price for generate with render-1 of local is in force at 2025-01-01"),
        ({"attributes": {"size": "1x1", "quality": "hd", "steps": 11}}, "none of the 4 variants fits"),
    ],
)
async def test_what_has_no_price_says_what_there_is_none_of(ledger: Ledger, fields: Body, reason: str) -> None:
    await put(ledger, SIZES)
    answer = await rate(ledger, **fields)
    assert (answer["estimated_cost"], answer["price"], answer["variants"]) == (None, None, [])
    assert reason.replace("render-1", own.model) in answer["reason"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"provider": None}, "provider"),
        ({"model": "a b"}, "model"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": 1_000_001}, "quantity"),
        ({"quantity": "1"}, "quantity"),
        ({"quantity": 1_000_000}, "quantity"),
        ({"attributes": {"size": ["a"]}}, "attributes.size"),
        ({"attributes": {"size": True}}, "attributes.size"),
        ({"attributes": {"size": "x" * 101}}, "attributes.size"),
        ({"attributes": {"steps": -1}}, "attributes.steps"),
        ({"attributes": {f"a{number}": 1 for number in range(21)}}, "attributes"),
        ({"at": "yesterday"}, "at"),
        ({"colour": 1}, "colour"),
    ],
)
async def test_a_broken_query_is_refused_and_its_field_is_named(ledger: Ledger, fields: Body, field: str) -> None:
    await put(ledger, price(variant("1000")))
    body = {"provider": "local", "operation": "generate", "model": own.model, **fields}
    answer = await ledger.http.post("/v1/prices:rate", json=body)
    assert (answer.status_code, fields_of(answer)) == (422, [field]), answer.text


# --- the copy that each process keeps ---


class Counting:
    """A connection that tells which statements ran on it."""

    def __init__(self, connection: "Database[asyncpg.Record]") -> None:
        self._connection = connection
        self.fetched = 0

    async def fetch(self, sql: str, *arguments: object) -> object:
        self.fetched += 1
        return await self._connection.fetch(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: object) -> object:
        return await self._connection.fetchval(sql, *arguments)


def unit_price(catalogue: Catalogue, model: str = "render-1") -> int | None:
    rated = worst_case(catalogue, LimitCheck.model_validate(check(model=model)), at("2026-11-20"))
    return None if rated is None else rated.unit_price_nanos


@alone
async def test_the_copy_is_read_again_only_when_a_price_changed(
    own_ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    connection: Any = Counting(database)
    cache = CatalogueCache()
    assert unit_price(await cache.get(connection)) is None
    assert connection.fetched == 0
    await put(own_ledger, price(variant("0.04")))
    first = await cache.get(connection)
    assert (unit_price(first), connection.fetched) == (40_000_000, 1)
    assert await cache.get(connection) is first
    await put(own_ledger, price(variant("0.04")))
    assert await cache.get(connection) is first, "the same price again is no change"
    await put(own_ledger, price(variant("0.05")))
    await put(own_ledger, price(variant("7")), "/v1/prices/local/generate/other")
    second = await cache.get(connection)
    assert connection.fetched == 2
    assert (unit_price(second), unit_price(second, "other")) == (50_000_000, 7 * 10**9)
    assert unit_price(first) == 40_000_000
    assert second.prices == (await read_catalogue(database)).prices


@alone
async def test_the_copy_follows_a_database_that_was_put_back(
    own_ledger: Ledger, database: "Database[asyncpg.Record]"
) -> None:
    cache = CatalogueCache()
    await put(own_ledger, price(variant("0.04")))
    await put(own_ledger, price(variant("0.05")))
    assert unit_price(await cache.get(database)) == 50_000_000
    await database.execute("delete from prices")
    await database.execute("update price_catalogue set version = 1")
    assert unit_price(await cache.get(database)) is None


@alone
async def test_every_look_sees_at_least_what_was_acknowledged_before(
    own_ledger: Ledger, database: "Database[asyncpg.Record]", database_url: str
) -> None:
    """Several users of one copy, while prices change as fast as they can."""
    cache = CatalogueCache()
    acknowledged = 0
    done = False

    async def change() -> None:
        nonlocal acknowledged, done
        for number in range(1, 61):
            await put(own_ledger, price(variant(f"{number}")))
            acknowledged = number
        done = True

    async def look() -> int:
        connection = await asyncpg.connect(database_url)
        looks = 0
        while not done:
            before = acknowledged
            assert (unit_price(await cache.get(connection)) or 0) >= before * 10**9
            looks += 1
        await connection.close()
        return looks

    _, *looks = await asyncio.gather(change(), look(), look(), look())
    assert min(looks) > 10


# --- held at, in a limit check ---


async def test_a_check_without_an_estimate_is_held_at_its_worst_case(ledger: Ledger) -> None:
    await put(ledger, SIZES)
    await ledger.set_up(limit("spend", meter="cost", maximum="1.00"))
    decision = await ledger.check(check(model=own.model, quantity=2, attributes={"size": "1024x1024"}))
    assert (decision["allowed"], decision["estimated_cost"]) == (True, "0.160000000")
    assert decision["price"] == {"version": 1, "valid_from": "2026-01-01T00:00:00Z", "unit_price": "0.080000000"}
    assert decision["limits"][0]["held"] == "0.160000000"
    await put(ledger, price(variant("0.25")))
    decision = await ledger.check(check(model=own.model))
    assert decision["limits"][0]["held"] == "0.410000000", "a change counts from the next check on"


async def test_a_check_of_an_unknown_model_is_denied_as_unpriced(ledger: Ledger) -> None:
    await put(ledger, SIZES)
    await ledger.set_up(limit("spend", meter="cost", maximum="1.00"))
    decision = await ledger.check(check(model="unknown"))
    assert (decision["allowed"], decision["denial"]["code"]) == (False, "unpriced_model")
    decision = await ledger.check(check(model=own.model, attributes={"size": "1x1", "steps": 11}))
    assert decision["denial"]["code"] == "unpriced_model"


async def test_a_check_that_may_cost_too_much_is_refused_alone(ledger: Ledger) -> None:
    await put(ledger, price(variant("1000")))
    await ledger.set_up(limit("spend", meter="cost", maximum="100000"))
    checks = [check(model=own.model, quantity=quantity) for quantity in (1, 1_000_000, 2)]
    answers = await asyncio.gather(*(ledger.http.post("/v1/limit-checks", json=body) for body in checks))
    assert [answer.status_code for answer in answers] == [200, 422, 200]
    assert fields_of(answers[1]) == ["quantity"]
    assert (await ledger.limit("spend"))["held"] == "3000.000000000"


@alone
async def test_another_process_holds_at_the_new_price_at_once(
    own_ledger: Ledger, ledger_process: Callable[..., LedgerProcess]
) -> None:
    await own_ledger.set_up(limit("spend", meter="cost", maximum="100"))
    process = ledger_process()
    async with process.client() as other:
        for amount in ("1", "2", "3"):
            await put(own_ledger, price(variant(amount)))
            assert (await other.check(check()))["estimated_cost"] == f"{amount}.000000000"
