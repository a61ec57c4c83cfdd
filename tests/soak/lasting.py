"""``python -m tests.soak --minutes N``: mixed load for so long, a fault a minute, and did anything grow or go wrong?"""

import asyncio
import secrets
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.builders import limit
from tests.e2e.driver import AccountClient, Workload, customer
from tests.faults.arena import Arena, arena_in
from tests.faults.catalogue import CATALOGUE
from tests.faults.direct import DirectCustomers
from tests.faults.ordeal import audit, chosen_names, draw, settle, strike
from tests.soak.judging import Judgement, judge
from tests.soak.plot import Line, Mark, page, panel
from tests.soak.samples import Sample, Sampler

MINUTE: Final = 60.0
SAMPLE_SECONDS: Final = 3.0
#: After a fault: what it held up has been made good, and new processes have come up.
RECOVERY_SECONDS: Final = 15.0
IMAGE_CLIENTS: Final = 3
DIRECT_CLIENTS: Final = 5
PAUSE_SECONDS: Final = 0.25
#: Title, and the columns of a sample that are its lines.
PANELS: Final = (
    ("resident memory, MB", ("image_memory", "ledger_memory")),
    ("open files", ("image_files", "ledger_files")),
    ("threads", ("image_threads", "ledger_threads")),
    ("asyncio tasks", ("image_tasks", "ledger_tasks")),
    ("PostgreSQL connections, open holds", ("connections", "holds")),
    ("latency of image operations, ms", ("image_p50", "image_p99")),
    ("latency of the ledger's HTTP, ms", ("check_p50", "check_p99")),
    (f"answers in {SAMPLE_SECONDS:g} s", ("operations",)),
)


@dataclass(frozen=True)
class Outcome:
    wrong: list[str]
    judgements: list[Judgement]
    report: Path

    @property
    def good(self) -> bool:
        return not self.wrong and all(one.good for one in self.judgements)


async def last(
    minutes: int, seed: int, arena: Arena, folder: Path, say: Callable[[str], None], advance: Callable[[float], None]
) -> Outcome:
    """``say`` hears of each fault, ``advance`` of the seconds since it heard last."""
    names = chosen_names(arena)
    async with AsyncExitStack() as opened:
        accounts = await _customers(arena, opened)
        http = await opened.enter_async_context(httpx.AsyncClient(headers=arena.stack.headers, trust_env=False))
        workload = Workload(seed, accounts[:3], pause_seconds=PAUSE_SECONDS)
        direct = DirectCustomers(seed, arena, accounts[3:], http)
        marks: list[Mark] = []

        def is_calm() -> bool:
            return all(sampler.now() > mark.until + RECOVERY_SECONDS for mark in marks)

        sampler = Sampler(arena, workload.seconds, direct.seconds, is_calm)
        enough = asyncio.Event()
        works = [
            asyncio.create_task(workload.run(IMAGE_CLIENTS, enough)),
            asyncio.create_task(direct.run(DIRECT_CLIENTS, enough, PAUSE_SECONDS)),
        ]
        sampling = asyncio.create_task(sampler.run(SAMPLE_SECONDS))
        ticking = asyncio.create_task(_tick(advance))
        try:
            for number, together in enumerate(draw(seed, minutes, names)):
                await _minute(arena, seed, number, together, sampler, marks, say)
        finally:
            arena.heal()
            enough.set()
            for task in (sampling, ticking):
                task.cancel()
            await asyncio.gather(sampling, ticking, return_exceptions=True)
        say("settling, then comparing with what every client was told")
        await arena.ready()
        await asyncio.gather(works[0], direct.give_up_after(works[1]))
        await settle(arena, direct, outlast_holds=True)
        idle_after = await sampler.take()
        wrong = await audit(arena, workload, direct)
    judgements = judge(sampler.samples, idle_after)
    folder.mkdir(parents=True, exist_ok=True)
    sampler.write(folder / "samples.csv")
    said = f"seed {seed}, {len(workload.told):,} image requests, {len(direct.records):,} checks, {len(marks)} faults"
    report = folder / "report.html"
    report.write_text(_report(minutes, said, sampler.samples, marks, judgements, wrong))
    return Outcome(wrong, judgements, report)


async def _customers(arena: Arena, opened: AsyncExitStack) -> list[AccountClient]:
    """Half of them of the image service; of each half one whose budget ends soon, so that there are denials, too."""
    budgets = ("1", "1000000", "1000000")
    return [
        await opened.enter_async_context(
            customer(
                arena.stack,
                limit("operations", window="lifetime", maximum=10**9),
                limit("spend", meter="cost", window="lifetime", maximum=budget),
            )
        )
        for budget in budgets * 2
    ]


async def _minute(
    arena: Arena,
    seed: int,
    number: int,
    together: tuple[str, ...],
    sampler: Sampler,
    marks: list[Mark],
    say: Callable[[str], None],
) -> None:
    """A fault at some moment of its first half; the rest is for getting over it."""
    over = sampler.now() + MINUTE
    await asyncio.sleep(Random(f"{seed}/{number}").uniform(1.0, MINUTE / 2))
    at = sampler.now()
    done = await asyncio.gather(*(strike(arena, seed, number, name) for name in together))
    marks.append(Mark(at, sampler.now(), ", ".join(done)))
    say(f"{number + 1}: {', '.join(done)}")
    await asyncio.sleep(max(0.0, over - sampler.now()))


async def _tick(advance: Callable[[float], None]) -> None:
    while True:
        await asyncio.sleep(1)
        advance(1)


def _report(
    minutes: int,
    said: str,
    samples: list[Sample],
    marks: list[Mark],
    judgements: list[Judgement],
    wrong: list[str],
) -> str:
    seconds = samples[-1].at if samples else MINUTE
    panels = []
    for title, columns in PANELS:
        lines = [Line(name, [(one.at, getattr(one, name)) for one in samples]) for name in columns]
        panels.append(panel(title, lines, marks, seconds))
    rows = [(one.what, "good" if one.good else "bad", one.detail) for one in judgements]
    rows += [("books", "bad", line) for line in wrong] or [("books", "good", "as every client was told")]
    rows += [(f"fault at {mark.at / MINUTE:.1f} min", "", mark.text) for mark in marks]
    return page(f"Soak of {minutes} minutes", said, panels, rows)


def run_lasting(minutes: int, seed: int | None, console: Console) -> bool:
    """With a progress bar; writes the report below .data/ and says where. True where all was good."""
    chosen = secrets.randbelow(10**6) if seed is None else seed
    console.print(f"{minutes} minutes of mixed load, a fault a minute out of {len(CATALOGUE)}, seed {chosen}")
    folder = Path(".data", f"soak-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    columns = (TextColumn("{task.description:10}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with (
        tempfile.TemporaryDirectory(prefix="usage-ledger-soak-", ignore_cleanup_errors=True) as data,
        Progress(*columns, TimeRemainingColumn(), console=console) as progress,
    ):
        bar = progress.add_task("soaking", total=minutes * MINUTE)

        async def run() -> Outcome:
            async with arena_in(Path(data)) as arena:
                return await last(
                    minutes,
                    chosen,
                    arena,
                    folder,
                    say=lambda text: progress.console.print(f"  {text}", markup=False, highlight=False),
                    advance=lambda seconds: progress.advance(bar, seconds),
                )

        outcome = asyncio.run(run())
    show(outcome, chosen, minutes, console)
    return outcome.good


def show(outcome: Outcome, seed: int, minutes: int, console: Console) -> None:
    table = Table("what", "", "found", box=None)
    for one in outcome.judgements:
        table.add_row(one.what, "[green]flat[/green]" if one.good else "[red]grew[/red]", one.detail)
    console.print(table)
    for line in outcome.wrong[:20]:
        console.print(f"wrong: {line}", style="red", markup=False, highlight=False)
    if outcome.good:
        console.print("[green]nothing grew, and the books are as every client was told[/green]")
    else:
        console.print(f"replay: make soak MINUTES={minutes} SOAK_ARGS='--seed {seed}'", markup=False)
    console.print(f"report: {outcome.report}")
