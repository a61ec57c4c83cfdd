"""What is told of deliveries: those that wait for the operator's receivers beside those of accounts', and those that
nobody tries."""

import asyncpg

from ledger_service.store.webhooks import Figures, FiguresOfAll, read_figures
from tests.builders import check, limit
from tests.conftest import StartLedger
from tests.receivers import QUICK_WEBHOOKS, receiving
from tests.servers import as_service, eventually

NOTHING = Figures(0, 0, 0.0, 0.0)


async def test_an_accounts_receiver_is_not_the_operators_and_due_is_not_failing(
    start_ledger: StartLedger, database_url: str
) -> None:
    async with receiving() as receiver:
        ledger = await start_ledger(**QUICK_WEBHOOKS, webhook_retry_seconds=[3600.0])
        await ledger.set_up(limit(maximum=0))
        connection = await asyncpg.connect(as_service(database_url))
        try:
            receiver.otherwise = 500
            where = {"url": receiver.url(), "types": ["limit_check.denied"]}
            answer = await ledger.http.put("/v1/accounts/acme/webhooks/theirs", json=where)
            assert answer.is_success, answer.text
            assert await read_figures(connection) == FiguresOfAll(NOTHING, NOTHING)
            await ledger.check(check())

            async def rests() -> bool:
                return bool(await connection.fetchval("select count(*) from webhook_lanes where claim is null"))

            await eventually(lambda: receiver.requests, "it is tried")
            await eventually(rests, "the next try is in an hour")
            operator, accounts = await read_figures(connection)
            assert operator == NOTHING
            assert accounts.lag_seconds > 0
            assert accounts.overdue_seconds == 0, "it waits for its next try, and nobody neglects it"

            # As if nobody sent: nobody sees it before the transaction is undone.
            undone = connection.transaction()
            await undone.start()
            await connection.execute("update webhook_lanes set next_attempt_at = clock_timestamp() - interval '100 s'")
            assert 100 <= (await read_figures(connection)).accounts.overdue_seconds < 160
            await connection.execute("update webhooks set disabled_at = now(), disabled_reason = 'gone'")
            assert await read_figures(connection) == FiguresOfAll(NOTHING, Figures(1, 0, 0.0, 0.0))
            await undone.rollback()
        finally:
            await connection.close()
