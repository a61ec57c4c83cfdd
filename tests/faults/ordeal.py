"""One run: a random workload, faults drawn from the catalogue, and then the books. All of it follows from the seed."""

import asyncio
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Final

import asyncpg
import httpx

from tests.e2e.books import Books
from tests.e2e.driver import AccountClient, Workload, customer, workload_limits
from tests.faults.arena import HOLD_SECONDS, Arena
from tests.faults.catalogue import CATALOGUE, CLOCK_SECONDS_MAX
from tests.faults.direct import DirectCustomers
from tests.soak.verifier import Findings, verify_account

#: One fault takes no longer than this, or it is broken itself.
FAULT_SECONDS_MAX: Final = 60.0
READY_SECONDS_MAX: Final = 90.0
VERIFY_SECONDS_MAX: Final = 120.0
#: How often there is time to recover, and to do some work, before the next fault.
RECOVERS: Final = 0.6
#: What a fault may need that a better machine would have.
MACHINE: Final = ("clocks", "disk")


def chosen_names(arena: Arena, default: Sequence[str] = ()) -> list[str]:
    """What FAULTS_ONLY says, else the default, else all; without those that this machine cannot do, which are named."""
    only = [name for name in os.environ.get("FAULTS_ONLY", "").split(",") if name]
    unknown = set(only) - set(CATALOGUE)
    assert not unknown, f"FAULTS_ONLY: there is no fault {', '.join(sorted(unknown))}; there are {', '.join(CATALOGUE)}"
    names = only or list(default or CATALOGUE)
    for name in names:
        reason = arena.missing.get(CATALOGUE[name].needs or "")
        if reason is not None and CATALOGUE[name].needs in MACHINE:
            print(f"left out, for this machine cannot: {name} ({reason})")
    return [name for name in names if (CATALOGUE[name].needs or "") not in arena.missing]


def draw(seed: int, count: int, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Which faults, in which order; some of them two at a time."""
    chance = Random(f"{seed}/draw")
    weights = [CATALOGUE[name].weight for name in names]
    drawn: list[tuple[str, ...]] = []
    for _ in range(count):
        first, second = chance.choices(names, weights, k=2)
        together = chance.random() < 0.25 and not (CATALOGUE[first].alone or CATALOGUE[second].alone)
        drawn.append((first, second) if together and first != second else (first,))
    return drawn


@dataclass
class Verdict:
    """``wrong`` in words, empty where all is well; how to repeat the run; what it was."""

    wrong: list[str]
    replay: str
    operations: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [*self.wrong[:20], *([f"… and {len(self.wrong) - 20} more"] if len(self.wrong) > 20 else [])]
        return "\n".join([f"{len(self.wrong)} things are wrong:", *lines, f"replay: {self.replay}"])


@dataclass(frozen=True)
class Ordeal:
    """``count`` faults while image operations and direct checks go on; then until all is quiet; then the audit."""

    seed: int
    count: int
    image_clients: int = 4
    direct_clients: int = 6
    pause_seconds_max: float = 1.5
    #: Wait until the last hold has ended, and not only until none is past its time.
    outlast_holds: bool = True
    #: Empty: the whole catalogue.
    names: tuple[str, ...] = ()

    async def run(self, arena: Arena) -> Verdict:
        names = chosen_names(arena, self.names)
        replay = f"FAULTS_SEED={self.seed} FAULTS_COUNT={self.count}"
        if only := os.environ.get("FAULTS_ONLY") or ",".join(self.names):
            replay += f" FAULTS_ONLY={shlex.quote(only)}"
        test = os.environ.get("PYTEST_CURRENT_TEST", "tests/faults/test_faults.py").partition(" ")[0]
        replay += f" .venv/bin/python -m pytest -s -m '' '{test}'"
        print(f"\nreplay: {replay}")
        async with AsyncExitStack() as opened:
            accounts = await customers(arena, self.seed, opened)
            http = await opened.enter_async_context(httpx.AsyncClient(headers=arena.stack.headers, trust_env=False))
            workload, enough = Workload(self.seed, accounts[:3]), asyncio.Event()
            direct = DirectCustomers(self.seed, arena, accounts[3:], http)
            works = [
                asyncio.create_task(workload.run(self.image_clients, enough)),
                asyncio.create_task(direct.run(self.direct_clients, enough, 0.02)),
            ]
            try:
                done = await self._strike(arena, names)
            finally:
                arena.heal()
                enough.set()
            await arena.ready(READY_SECONDS_MAX)
            await asyncio.gather(works[0], direct.give_up_after(works[1]))
            await settle(arena, direct, outlast_holds=self.outlast_holds)
            wrong = await audit(arena, workload, direct)
            heard = Counter(told.status for told in workload.told)
            print(f"images {dict(heard)}; direct {dict(direct.statuses)}")
            if wrong:
                print(Verdict(wrong, replay))
            return Verdict(wrong, replay, len(workload.told) + len(direct.records), done)

    async def _strike(self, arena: Arena, names: Sequence[str]) -> list[str]:
        done = []
        chance = Random(f"{self.seed}/moments")
        for number, together in enumerate(draw(self.seed, self.count, names)):
            await asyncio.sleep(chance.uniform(0.1, self.pause_seconds_max))
            for said in await asyncio.gather(*(strike(arena, self.seed, number, name) for name in together)):
                print(f"  {number}: {said}", flush=True)
                done.append(said)
            if chance.random() < RECOVERS:
                await arena.ready(READY_SECONDS_MAX)
        return done


async def strike(arena: Arena, seed: int, number: int, name: str) -> str:
    """Does one fault; what it did."""
    async with asyncio.timeout(FAULT_SECONDS_MAX):
        return f"{name} {await CATALOGUE[name].strike(arena, Random(f'{seed}/{number}/{name}'))}"


async def customers(arena: Arena, seed: int, opened: AsyncExitStack) -> list[AccountClient]:
    """Three for the image service, then three that come by themselves, each on limits of its own."""
    chance = Random(f"{seed}/stack")
    return [
        await opened.enter_async_context(customer(arena.stack, *workload_limits(chance, roomier=number >= 3)))
        for number in range(6)
    ]


async def settle(arena: Arena, direct: DirectCustomers, *, outlast_holds: bool) -> None:
    """Returns when nothing is under way any more; with ``outlast_holds``, nothing held either."""
    await arena.ready(READY_SECONDS_MAX)
    if arena.nats_forgot:
        await direct.publish_again()
        arena.nats_forgot = False
    await arena.stack.quiet()
    async with asyncio.timeout(HOLD_SECONDS + CLOCK_SECONDS_MAX + 15):
        while outlast_holds and await arena.stack.holds():  # noqa: ASYNC110 - each question is a connection
            await asyncio.sleep(0.5)


async def audit(arena: Arena, workload: Workload, direct: DirectCustomers) -> list[str]:
    """What of the books is not as everybody was told, in words."""
    accounts = [*workload.accounts, *direct.accounts]
    books = await Books.audit(
        arena.stack, workload, others=direct.accounts, poison=arena.poison, poison_taken=arena.poison_taken
    )
    wrong = list(books.wrong)
    wrong += await direct.wrong(books.rows)
    wrong += await decisions_replayed(arena, accounts)
    wrong += await verified(arena)
    return wrong


async def decisions_replayed(arena: Arena, accounts: Sequence[AccountClient]) -> list[str]:
    """Every decision in the order of the commits: was there room at that moment, and does it say so?"""
    findings = Findings()
    database = await asyncpg.connect(arena.stack.state.database_url)
    try:
        for account in accounts:
            plans = {
                account.id: [{"selector": {}, "scope": "account", "mode": "hard", **one} for one in account.limits]
            }
            await verify_account(
                database, account.id, plans, findings, strict=False, by_effect=arena.database_clock_jumped
            )
    finally:
        await database.close()
    return findings.shown + [f"{rule}: {count} times" for rule, count in findings.broken.items()]


async def verified(arena: Arena) -> list[str]:
    """`ledger verify`, as an operator runs it: every projection of every account, against the log."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")},
        "LEDGER_DATABASE_URL": arena.stack.state.database_url or "",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ledger_service.cli", "verify",
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(VERIFY_SECONDS_MAX):
        output, _ = await process.communicate()
    return [] if process.returncode == 0 else [f"ledger verify, exit {process.returncode}: {output.decode()}"]
