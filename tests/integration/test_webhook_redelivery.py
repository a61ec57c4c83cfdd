"""What happened while nobody was told of it can be asked for, however quiet it was since."""

from datetime import UTC, datetime

from tests.builders import ACCOUNT, Body, check, limit
from tests.conftest import StartLedger
from tests.receivers import QUICK_WEBHOOKS, receiving
from tests.servers import Ledger, eventually

TYPES = ["limit_check.denied"]


async def deny(ledger: Ledger) -> str:
    asked = check(account_id=ACCOUNT)
    assert not (await ledger.check(asked))["allowed"]
    return str(asked["operation_id"])


async def put(ledger: Ledger, url: str, *types: str) -> None:
    answer = await ledger.http.put("/v1/webhooks/main", json={"url": url, "types": list(types or TYPES)})
    assert answer.status_code == 200, answer.text


class Again:
    """Asks for what was since then until so many were queued: what has just happened may be told a moment later."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._since = ledger, datetime.now(UTC)
        self._queued = 0

    async def queued(self, wanted: int) -> bool:
        body = {"from": self._since.isoformat()}
        answer = (await self._ledger.http.post("/v1/webhooks/main:redeliver", json=body)).json()
        assert answer["next_cursor"] is None
        self._queued += int(answer["queued"])
        return self._queued == wanted


async def test_what_happened_while_it_was_off_is_sent_again_though_nothing_happened_since(
    start_ledger: StartLedger,
) -> None:
    ledger = await start_ledger(**QUICK_WEBHOOKS)
    await ledger.set_up(limit(maximum=0))
    again = Again(ledger)
    async with receiving(otherwise=410) as receiver:
        await put(ledger, receiver.url())
        await deny(ledger)

        async def is_off() -> bool:
            found: Body = (await ledger.http.get("/v1/webhooks/main")).json()
            return bool(found["disabled_reason"] == "gone")

        await eventually(is_off, "it is disabled")
        meanwhile = [await deny(ledger) for _ in range(3)]
        receiver.otherwise = 200
        assert (await ledger.http.post("/v1/webhooks/main:resume")).status_code == 200
        await eventually(lambda: len(receiver.taken) == 1, "what was pending goes on")
        await eventually(lambda: again.queued(3), "what happened meanwhile is found")
        await eventually(lambda: len(receiver.taken) == 4, "and goes there")
        assert [one.data["operation_id"] for one in receiver.taken[1:]] == meanwhile
