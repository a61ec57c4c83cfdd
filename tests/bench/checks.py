"""Limit checks over HTTP, beside an empty FastAPI route with the same models."""

from functools import partial

from tests.bench.load import Load, Measured, run_load
from tests.bench.machine import Servers, service
from tests.bench.report import Figure, Report
from tests.bench.workload import make_check

CALLERS = (1, 8, 64)
RATIO_AIM_CALLERS, RATIO_AIM = 64, (">=", 0.6)


def measure_checks(made: Servers, report: Report, requests_per_caller: int, repeats: int) -> None:
    environment = made.environment()
    with (
        service("ledger_service", "LEDGER_PORT", environment) as ledger,
        service("tests.bench.empty_service", "EMPTY_PORT", environment) as empty,
    ):
        for callers in CALLERS:
            requests = requests_per_caller * max(callers, 8)
            # One after another, so that all three see the same machine.
            runs = [
                (
                    _run(empty.url, callers, requests, hot=False),
                    _run(ledger.url, callers, requests, hot=False),
                    _run(ledger.url, callers, requests, hot=True),
                )
                for _ in range(repeats)
            ]
            plain, spread, hot = (_median(column) for column in zip(*runs, strict=True))
            aim = RATIO_AIM if callers == RATIO_AIM_CALLERS else None
            for where, measured in (("10,000 accounts", spread), ("one hot account", hot)):
                report.add(_figure(callers, where, measured, plain, aim))
        report.add(Figure("ledger's memory under checks", ledger.memory_mib, "MiB", ("<=", 200)))


def _figure(callers: int, where: str, measured: Measured, plain: Measured, aim: tuple[str, float] | None) -> Figure:
    latency = f"p50 {measured.p50_ms:.1f} ms, p99 {measured.p99_ms:.1f} ms"
    return Figure(
        name=f"limit checks over HTTP, {callers} at once, {where} ({latency})",
        value=measured.per_second,
        unit="/s",
        beside="empty FastAPI route, same models",
        beside_value=plain.per_second,
        ratio_aim=aim,
    )


def _run(url: str, callers: int, requests: int, hot: bool) -> Measured:
    return run_load(Load(url, "POST", callers, requests, partial(make_check, hot=hot)))


def _median(runs: tuple[Measured, ...]) -> Measured:
    return sorted(runs, key=lambda run: run.per_second)[len(runs) // 2]
