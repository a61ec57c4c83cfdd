"""One soak: servers, load, verification."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import monotonic

import asyncpg
import httpx
import nats

from tests.quick_clients import Spread
from tests.soak.facts import Body, account_id, is_strict, make_plans
from tests.soak.load import Load
from tests.soak.stack import Stack
from tests.soak.verifier import Findings, verify_account
from tests.tokens import AUTHORIZED


@dataclass(frozen=True)
class Size:
    checks: int
    accounts: int
    callers: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What the load did, what the verifier found, and how long the load took."""

    findings: Findings
    did: Mapping[str, int]
    checks_per_second: float


async def soak(
    stack: Stack,
    size: Size,
    *,
    checked: Callable[[int], object] = lambda _: None,
    verified: Callable[[int], object] = lambda _: None,
) -> Outcome:
    """Puts the load on, waits until all is taken in, and verifies; ``checked`` and ``verified`` hear of progress."""
    plans = make_plans(size.seed, size.checks // size.accounts, size.checks)
    async with AsyncExitStack() as opened:
        connection = await nats.connect(stack.nats_url)
        opened.push_async_callback(connection.close)
        https = [
            await opened.enter_async_context(
                httpx.AsyncClient(base_url=ledger.url, headers=AUTHORIZED, timeout=60, transport=Spread())
            )
            for ledger in stack.ledgers
        ]
        load = Load(
            connection, https, seed=size.seed, checks=size.checks, accounts=size.accounts, callers=size.callers,
            advance=checked,
        )  # fmt: skip
        await load.set_up(plans)
        began = monotonic()
        await load.run()
        seconds = monotonic() - began
        await load.settled(stack.database_url)
    findings = await verify(stack.database_url, size.accounts, plans, verified, load.unheard)
    decided = findings.seen["allowed"] + findings.seen["denied"] - findings.seen["ledger.reservation.moved.v1"]
    if decided != size.checks:
        findings.add("not one decision a check", f"{decided} decisions of {size.checks} checks")
    if findings.fingerprint != load.fingerprint:
        findings.add("callers heard other answers than the log has", "the fingerprints differ")
    return Outcome(findings, load.did, size.checks / seconds)


async def verify(
    database_url: str,
    accounts: int,
    plans: Mapping[str, list[Body]],
    verified: Callable[[int], object],
    unheard: Collection[str] = (),
) -> Findings:
    """Replays every account's log; of the operations ``unheard``, nobody got the decision."""
    findings = Findings(unheard=unheard)
    connection = await asyncpg.connect(database_url)
    try:
        for index in range(accounts):
            account = account_id(index)
            await verify_account(connection, account, plans, findings, strict=is_strict(account))
            verified(1)
    finally:
        await connection.close()
    return findings
