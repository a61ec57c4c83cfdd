"""What can go wrong. A fault is a function that does it, waits, and undoes it, and one line in CATALOGUE.

All that is random in it comes from the chance that it is given, so that a seed repeats it. It returns in words what it
did. The stack heals by itself afterwards, or it is not a fault to be survived.
"""

import asyncio
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

import asyncpg
import httpx
import nats.errors

from contracts.events import BATCH_CONTENT_TYPE
from contracts.subjects import MSG_ID_HEADER, subject_of
from tests.e2e.driver import REQUEST_SECONDS, eventually
from tests.faults.arena import CLOCKS, Arena
from tests.faults.points import POINTS

PAUSE_SECONDS_MAX: Final = 4.0
POINT_SECONDS_MAX: Final = 6.0
CONNECTIONS_MAX: Final = 400
REPEATS_MAX: Final = 200
#: How far the database's clock jumps, at most.
CLOCK_SECONDS_MAX: Final = 40.0
RECOVERY_MEGABYTES: Final = 120


@dataclass(frozen=True)
class Fault:
    """``needs``: what of the machine, see Arena.missing. ``alone``: not while another one is under way."""

    strike: Callable[[Arena, Random], Awaitable[str]]
    weight: int = 2
    needs: str | None = None
    alone: bool = False


# --- processes ---


async def kill(arena: Arena, chance: Random) -> str:
    victims = chance.sample(arena.servers, chance.choice((1, 1, 1, 2, len(arena.servers))))
    for victim in victims:
        arena.stack.signal(victim)
    return "+".join(victims)


async def kill_at_point(arena: Arena, chance: Random) -> str:
    """kill -9 by its own hand, at a place that only the process itself can know of."""
    service = chance.choice(sorted(POINTS))
    point = chance.choice(POINTS[service])
    return await kill_at(arena, service, point.name, chance.choice((1, 1, 2, 5)))


async def kill_at(arena: Arena, service: str, point: str, passes: int) -> str:
    armed = arena.points / service
    whole = armed.with_suffix(".new")
    whole.write_text(f"{point} {passes}")
    whole.replace(armed)
    try:
        await eventually(lambda: _exists(armed), lambda exists: not exists, POINT_SECONDS_MAX)
    except AssertionError:
        armed.unlink(missing_ok=True)
        return f"{service} {point}, not passed"
    return f"{service} {point} (pass {passes})"


async def _exists(path: Path) -> bool:
    return path.exists()


async def stop(arena: Arena, chance: Random) -> str:
    """SIGTERM: to a service as a deployment does, to PostgreSQL as an impatient administrator."""
    victim = chance.choice(arena.servers)
    arena.stack.signal(victim, signal.SIGQUIT if victim == "postgres" else signal.SIGTERM)
    return victim


async def pause(arena: Arena, chance: Random) -> str:
    """SIGSTOP of all its processes: it holds its connections and does nothing."""
    victim, seconds = chance.choice(arena.servers), chance.uniform(0.5, PAUSE_SECONDS_MAX)
    frozen = arena.family(victim)
    try:
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
    finally:
        for pid in frozen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return f"{victim} {seconds:.1f} s"


# --- network ---


async def _misbehave(arena: Arena, chance: Random, **changes: float | bool) -> str:
    name, seconds = chance.choice(sorted(arena.network.wires)), chance.uniform(0.5, PAUSE_SECONDS_MAX)
    wire = arena.network.wires[name]
    try:
        wire.behave(**changes)
        await asyncio.sleep(seconds)
    finally:
        wire.behave()
    return f"{name} {seconds:.1f} s"


async def delay(arena: Arena, chance: Random) -> str:
    seconds = chance.choice((0.01, 0.1, 0.5, 1.5))
    return f"{seconds} s on {await _misbehave(arena, chance, delay_seconds=seconds)}"


async def throttle(arena: Arena, chance: Random) -> str:
    rate = chance.choice((2_000, 20_000))
    return f"{rate} bytes/s on {await _misbehave(arena, chance, bytes_per_second=rate)}"


async def stall(arena: Arena, chance: Random) -> str:
    return await _misbehave(arena, chance, stalled=True)


async def half_open(arena: Arena, chance: Random) -> str:
    return await _misbehave(arena, chance, half_open=True)


async def cut(arena: Arena, chance: Random) -> str:
    return await _misbehave(arena, chance, refusing=True)


async def flap(arena: Arena, chance: Random) -> str:
    """All connections of a wire are reset, again and again."""
    name, times = chance.choice(sorted(arena.network.wires)), chance.randrange(2, 8)
    for _ in range(times):
        arena.network.wires[name].cut()
        await asyncio.sleep(chance.uniform(0.05, 0.5))
    return f"{name} {times} times"


# --- NATS ---


async def nats_forgets(arena: Arena, chance: Random) -> str:
    """It is killed, and comes back without what it took, acknowledged and did not sync in the last seconds."""
    seconds = chance.uniform(0.3, 2.0)
    store = arena.stack.data / "nats" / "jetstream"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "jetstream")
        pid = arena.stack.signal("nats", signal.SIGSTOP)
        try:
            await asyncio.to_thread(shutil.copytree, store, copy)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(seconds)
        with arena.supervision_suspended():
            pid = arena.stack.signal("nats")
            await eventually(lambda: _ended(pid), bool)
            arena.forget_after(copy)
    return f"the last {seconds:.1f} s"


async def _ended(pid: int) -> bool:
    """Its files are closed: a zombie's are."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def leader_killed(arena: Arena, chance: Random) -> str:
    """kill -9 of the server that leads the stream; another one has to take over before it is back."""
    leader, seconds = await arena.cluster.leader(), chance.uniform(0.0, 2 * PAUSE_SECONDS_MAX)
    assert leader.pid is not None
    os.kill(leader.pid, signal.SIGKILL)
    await asyncio.sleep(seconds)
    await arena.cluster.whole()
    return f"{leader.name}, back after {seconds:.1f} s"


async def leader_paused(arena: Arena, chance: Random) -> str:
    """The one that leads stops, is replaced, and wakes up believing that it leads."""
    leader, seconds = await arena.cluster.leader(), chance.uniform(2.0, 3 * PAUSE_SECONDS_MAX)
    assert leader.pid is not None
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    return f"{leader.name} {seconds:.1f} s"


async def quorum_lost(arena: Arena, chance: Random) -> str:
    """Two of three are killed, so that nothing can be acknowledged; sometimes all."""
    killed = arena.cluster.some(chance, chance.choice((2, 2, 3)))
    seconds = chance.uniform(1.0, 2 * PAUSE_SECONDS_MAX)
    for node in killed:
        assert node.pid is not None
        os.kill(node.pid, signal.SIGKILL)
    await asyncio.sleep(seconds)
    await arena.cluster.whole()
    return f"{', '.join(node.name for node in killed)} for {seconds:.1f} s"


# --- PostgreSQL ---


async def no_connections(arena: Arena, chance: Random) -> str:
    """A greedy client takes every connection that is left, and the ledger is killed, so that it needs new ones."""
    seconds = chance.uniform(1.0, PAUSE_SECONDS_MAX)
    async with AsyncExitStack() as taken:
        count = 0
        refused = False
        arena.stack.signal("ledger")
        while not refused and count < CONNECTIONS_MAX:
            try:
                connection = await asyncpg.connect(arena.stack.state.database_url, timeout=5)
            except asyncpg.TooManyConnectionsError:
                refused = True
            else:
                taken.callback(connection.terminate)
                count += 1
        await asyncio.sleep(seconds)
    return f"{count} taken for {seconds:.1f} s"


async def long_recovery(arena: Arena, chance: Random) -> str:
    """It crashes, and is held up in its recovery: meanwhile it answers that it is starting up."""
    seconds = chance.uniform(1.0, PAUSE_SECONDS_MAX)
    with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection = await asyncpg.connect(arena.stack.state.database_url, timeout=5)
        try:
            for _ in range(RECOVERY_MEGABYTES // 4):  # so that the recovery takes long enough to be met
                await connection.execute("select pg_logical_emit_message(false, 'faults', repeat('x', 4194304))")
        finally:
            connection.terminate()
    await arena.stack.kill("postgres")

    async def recovering() -> int | None:
        for pid in arena.family("postgres"):
            with suppress(OSError):
                if b"startup" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGSTOP)
                    return pid
        return None

    deadline = asyncio.get_running_loop().time() + 10
    while (pid := await recovering()) is None:
        if asyncio.get_running_loop().time() > deadline:
            return "too quick to be held up"
        await asyncio.sleep(0)
    try:
        await asyncio.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return f"{seconds:.1f} s"


async def disk_full(arena: Arena, chance: Random) -> str:
    """PostgreSQL's disk is full; sometimes with a crash, for its log has to grow at that moment."""
    assert arena.disk is not None
    seconds, grow = chance.uniform(1.0, PAUSE_SECONDS_MAX), chance.random() < 0.5
    try:
        await asyncio.to_thread(arena.disk.fill)
        if grow:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                connection = await asyncpg.connect(arena.stack.state.database_url, timeout=5)
                try:
                    for _ in range(100):
                        await connection.execute("select pg_logical_emit_message(false, 'faults', 'x')", timeout=5)
                        await connection.execute("select pg_switch_wal()", timeout=5)
                finally:
                    connection.terminate()
        await asyncio.sleep(seconds)
    finally:
        arena.disk.empty()
    return f"{seconds:.1f} s{', its log too' if grow else ''}"


# --- clocks ---


async def clock_jump(arena: Arena, chance: Random) -> str:
    """One process's clock is wrong for a while, then right: two jumps, one of them backwards."""
    assert arena.clocks is not None
    name = chance.choice(CLOCKS)
    most = CLOCK_SECONDS_MAX if name == "postgres" else 3600.0  # by the database's clock holds end
    ahead = chance.choice((-1.0, 1.0)) * chance.choice((5.0, CLOCK_SECONDS_MAX, most))
    arena.database_clock_jumped |= name == "postgres"
    seconds = chance.uniform(0.5, PAUSE_SECONDS_MAX)
    try:
        arena.clocks.set(name, ahead)
        await asyncio.sleep(seconds)
    finally:
        arena.clocks.set(name, 0.0)
    return f"{name} {ahead:+g} s for {seconds:.1f} s"


# --- clients ---


async def duplicates(arena: Arena, chance: Random) -> str:
    """Events that the ledger has, sent again in another order, over NATS under new message ids and over HTTP."""
    try:
        rows = await arena.stack.fetch(
            "select body::text from event_log where type like 'usage.%' order by random() limit $1", REPEATS_MAX
        )
        events = [row["body"] for row in rows]
        async with arena.producer() as client:
            for event in events:
                headers = {MSG_ID_HEADER: f"again-{chance.random()}"}
                await client.jetstream().publish(
                    subject_of(json.loads(event)["type"]), event.encode(), timeout=2, headers=headers
                )
        if events:
            async with httpx.AsyncClient(headers=arena.stack.headers, trust_env=False, timeout=REQUEST_SECONDS) as http:
                await http.post(
                    f"{arena.stack.state.ledger_url}/v1/events",
                    content=f"[{','.join(events)}]",
                    headers={"content-type": BATCH_CONTENT_TYPE},
                )
    except (OSError, httpx.HTTPError, nats.errors.Error, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return f"as far as it came: {type(error).__name__}"
    return f"{len(events)} over both"


async def poison(arena: Arena, chance: Random) -> str:
    """Messages that are no events. Each ends among the dead letters, once a delivery."""
    kinds = (b"", b"not json", b"[]", b'{"specversion": "1.0"}', b"\xff\xfe", b"null", b'{"id": 7}')
    count = chance.randrange(1, 30)
    sent = 0
    try:
        async with arena.producer() as client:
            for _ in range(count):
                body = chance.choice(kinds) + b" " * chance.randrange(3)
                arena.poison.add(body)
                await client.jetstream().publish("usage.v1.operation.completed", body, timeout=2)
                sent += 1
                arena.poison_taken.add(body)
    except (OSError, nats.errors.Error) as error:
        return f"{sent} of {count}: {type(error).__name__}"
    return f"{sent}"


async def flood(arena: Arena, chance: Random) -> str:
    """Hundreds of checks at once on one account, from a client that hears no answer."""
    account_id, count = f"flooded-{chance.randrange(10)}", chance.randrange(100, 400)
    body = {"user_id": "flood", "operation": "generate", "provider": "local", "model": "render-1"}

    async def ask(http: httpx.AsyncClient, number: int) -> None:
        check = {**body, "account_id": account_id, "operation_id": f"01890000-0000-7000-8000-{number:012x}"}
        with suppress(httpx.HTTPError):
            await http.post(f"{arena.stack.state.ledger_url}/v1/limit-checks", json=check)

    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(headers=arena.stack.headers, trust_env=False, timeout=5, limits=limits) as http:
        first = chance.randrange(2**40)
        await asyncio.gather(*(ask(http, first + number) for number in range(count)))
    return f"{count} checks on {account_id}"


CATALOGUE: Final[dict[str, Fault]] = {
    "kill": Fault(kill, weight=4),
    "kill-at-point": Fault(kill_at_point, weight=6),
    "stop": Fault(stop),
    "pause": Fault(pause, weight=3),
    "delay": Fault(delay),
    "throttle": Fault(throttle, weight=1),
    "stall": Fault(stall),
    "half-open": Fault(half_open, weight=3),
    "cut": Fault(cut),
    "flap": Fault(flap),
    "nats-forgets": Fault(nats_forgets, needs="nats", alone=True),
    "leader-killed": Fault(leader_killed, weight=12, needs="cluster", alone=True),
    "leader-paused": Fault(leader_paused, weight=6, needs="cluster", alone=True),
    "quorum-lost": Fault(quorum_lost, weight=8, needs="cluster", alone=True),
    "no-connections": Fault(no_connections),
    "long-recovery": Fault(long_recovery),
    "disk-full": Fault(disk_full, needs="disk"),
    "clock-jump": Fault(clock_jump, weight=3, needs="clocks"),
    "duplicates": Fault(duplicates),
    "poison": Fault(poison),
    "flood": Fault(flood),
}
