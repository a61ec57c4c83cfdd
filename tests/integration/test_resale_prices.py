"""What customers are charged: put, changed, refused, and in the log."""

import asyncpg

from tests.builders import completed
from tests.rebuilds import differences
from tests.servers import Ledger

PRICE = {"valid_from": "2026-01-01T00:00:00Z", "unit_price": "0.08", "reason": "list 2026"}
GENERAL = "/v1/resale-prices/generate/a/b"
OWN = "/v1/accounts/acme/resale-prices/generate/a/b"


async def test_a_price_is_put_once_and_changed_by_version(
    ledger: Ledger, database: "asyncpg.Connection[asyncpg.Record]", database_url: str
) -> None:
    await ledger.send(completed())
    stored = (await ledger.http.put(GENERAL, json=PRICE)).json()
    assert stored == {
        **PRICE, "unit_price": "0.080000000", "account_id": None, "operation": "generate", "model": "a/b", "version": 1,
    }  # fmt: skip
    assert (await ledger.http.put(GENERAL, json=PRICE)).json() == stored
    changed = (await ledger.http.put(GENERAL, json={**PRICE, "unit_price": "0"})).json()
    assert (changed["version"], changed["unit_price"]) == (2, "0.000000000")
    own = (await ledger.http.put(OWN, json={**PRICE, "valid_from": "2026-02-01T01:00:00+01:00"})).json()
    assert (own["account_id"], own["valid_from"], own["version"]) == ("acme", "2026-02-01T00:00:00Z", 1)
    assert (await ledger.http.get("/v1/resale-prices")).json()["items"] == [changed]
    assert (await ledger.http.get("/v1/accounts/acme/resale-prices")).json()["items"] == [own]
    logged = (await ledger.http.get("/v1/changes", params={"type": "ledger.resale_price.changed.v1"})).json()["items"]
    assert [one["data"]["version"] for one in logged] == [2, 1], "the same again is no event"
    assert logged[0]["author"]["name"] == "tests"
    assert await differences(database_url) == []
    assert await database.fetchval("select count(*) from resale_prices") == 2


async def test_a_price_that_is_none_is_refused_and_nothing_is_stored(ledger: Ledger) -> None:
    await ledger.send(completed())
    for changes, field in (
        ({"unit_price": 0.08}, "unit_price"),
        ({"unit_price": "-1"}, "unit_price"),
        ({"unit_price": "0.0000000001"}, "unit_price"),
        ({"unit_price": "NaN"}, "unit_price"),
        ({"valid_from": "2026-01-01"}, "valid_from"),
        ({"valid_from": 1767225600}, "valid_from"),
        ({"reason": "a\u0000b"}, "reason"),
        ({"currency": "EUR"}, "currency"),
    ):
        answer = await ledger.http.put(GENERAL, json={**PRICE, **changes})
        assert answer.status_code == 422, changes
        assert [one["field"] for one in answer.json()["errors"]] == [field]
    assert (await ledger.http.put(OWN.replace("acme", "nobody"), json=PRICE)).status_code == 404
    assert (await ledger.http.get("/v1/accounts/nobody/resale-prices")).status_code == 404
    assert (await ledger.http.put("/v1/resale-prices/Generate!/m", json=PRICE)).status_code == 422
    assert (await ledger.http.get("/v1/resale-prices")).json() == {"items": []}
