"""The rush at a budget while ledgers are killed, and started again."""

import asyncio
import random
import signal
from collections.abc import Sequence

import asyncpg
import nats

from tests.builders import Body
from tests.e2e.budget import (
    CALLERS,
    FITS,
    SPEND,
    Answers,
    Database,
    Door,
    HttpDoor,
    NatsDoor,
    assert_log_is_right,
    checks,
    clients_of,
    states,
)
from tests.servers import LedgerProcess


class _FatalDoor:
    """Kills a ledger once so many answers have come; the others are on their way then."""

    def __init__(self, door: Door, victim: LedgerProcess, answers_before: int) -> None:
        self._door, self._victim, self._left = door, victim, answers_before

    async def ask(self, check: Body) -> bytes:
        answer = await self._door.ask(check)
        self._left -= 1
        if self._left == 0:
            self._victim.end(signal.SIGKILL)
        return answer


async def rounds_with_kills(
    ledgers: Sequence[LedgerProcess], database: "Database[asyncpg.Record]", nats_url: str, rounds: int, seed: int
) -> None:
    """In each round a hundred callers rush at the budget of an account of its own, and a ledger is killed meanwhile.

    Callers ask again elsewhere until they are told. Exactly nineteen operations are held, and nobody is told otherwise
    when the killed ledger is back.
    """
    chance = random.Random(seed)
    connection = await nats.connect(nats_url)
    asked_again = 0
    try:
        async with clients_of(ledgers) as clients:
            await clients[0].put_plan(SPEND)
            for number in range(rounds):
                account_id = f"round-{seed}-{number}"
                await clients[0].put_account(account_id)
                doors: list[Door] = [HttpDoor(clients), NatsDoor(connection, timeout_seconds=1)]
                victim = chance.choice(ledgers)
                fatal = _FatalDoor(doors[number % 2], victim, chance.randint(1, 60))
                answers, wave = Answers(), checks(account_id=account_id)
                await answers.rush(fatal, wave)
                assert victim.exit_code() == -signal.SIGKILL, "nothing was killed"
                asked_again += answers.asked_again
                assert len(answers.allowed) == FITS, f"round {number} of seed {seed}"
                victim.start()
                await asyncio.gather(*(answers.rush(door, wave) for door in doors))
                found = await states(database, account_id)
                assert set(found["held"]) == set(answers.allowed)
                assert len(found["denied"]) == CALLERS - FITS
                await assert_log_is_right(database, account_id, SPEND)
    finally:
        await connection.close()
    assert asked_again, "no kill met a caller: the rounds proved nothing"
