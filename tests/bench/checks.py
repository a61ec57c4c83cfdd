"""Limit checks over NATS and HTTP, each beside the same transport with nothing behind it, and beside itself with one
check per transaction."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from contracts.client.settings import Transport
from contracts.subjects import LIMITS_CHECK
from tests.bench import empty_nats_service
from tests.bench.client_load import ClientLoad, run_client_load
from tests.bench.load import Load, Measured, run_load
from tests.bench.machine import Servers, Service, service
from tests.bench.nats_load import NatsLoad, run_nats_load
from tests.bench.report import Figure, Report
from tests.bench.workload import make_check, make_check_body

CALLERS = (1, 8, 64, 256)
SCOPES = (1, 4)
FSYNCS = 300
NATS_RATIO_AIM, NATS_P99_AIM_MS = (">=", 0.28), ("<=", 20.0)
HTTP_RATIO_AIM = (">=", 0.6)
FSYNC_RATIO_AIM = ("<=", 2.5)
#: By callers, of the four scopes: checks a second that we aim for over NATS, spread and hot.
NATS_AIMS = {64: (8_000.0, 11_000.0), 256: (12_000.0, 12_000.0)}

Run = Callable[[int, int, bool, int], Measured]


class _Transport(NamedTuple):
    name: str
    run: Run
    plain: Callable[[int, int], Measured]
    plain_name: str


def measure_checks(made: Servers, report: Report, requests: int, repeats: int) -> None:
    """``requests`` at 64 callers and more; fewer callers send fewer."""
    # Nobody settles these holds: to expire hundreds of thousands of them meanwhile is no part of a check.
    environment = made.environment(LEDGER_RESERVATION_TTL_SECONDS="86400")
    one_by_one = {**environment, "LEDGER_CHECK_BATCH_MAX": "1", "LEDGER_CHECK_WRITERS": "8"}
    with (
        service("ledger_service", "LEDGER_PORT", environment) as ledger,
        service("tests.bench.empty_service", "EMPTY_PORT", environment) as empty,
        service("tests.bench.empty_nats_service", "EMPTY_PORT", environment, wait=False),
    ):
        for transport in (_nats(made), _http(ledger, empty)):
            for callers in CALLERS:
                _measure(report, transport, callers, max(200, requests * min(callers, 64) // 64), repeats)
        _measure_client(report, made, ledger, requests, repeats)
        report.add(Figure("ledger's memory under checks", ledger.memory_mib, "MiB", ("<=", 200)))
    with service("ledger_service", "LEDGER_PORT", one_by_one):
        for hot in (False, True):
            runs = [_nats(made).run(64, requests // 4, hot, 4) for _ in range(repeats)]
            name = f"the same with one check per transaction, 64 at once, 4 scopes, {_where(hot)}"
            report.add(_plain_figure(name, runs))


def _measure_client(report: Report, made: Servers, ledger: Service, requests: int, repeats: int) -> None:
    """Of 4 scopes, by callers in one process, whose checks travel together."""
    transports: tuple[Transport, ...] = ("nats", "http")
    for transport in transports:
        for callers in (64, 256):
            for hot in (False, True):
                make_body = partial(make_check_body, hot=hot, scopes=max(SCOPES))
                load = ClientLoad(transport, made.nats_url, ledger.url, callers, requests, make_body)
                name = f"the same through the client over {transport.upper()}, {callers} at once, {_where(hot)}"
                report.add(_plain_figure(name, [run_client_load(load) for _ in range(repeats)]))


def _measure(report: Report, transport: _Transport, callers: int, requests: int, repeats: int) -> None:
    for scopes in SCOPES:
        # One after another, so that all see the same machine.
        runs = [
            (
                transport.plain(callers, requests),
                transport.run(callers, requests, False, scopes),
                transport.run(callers, requests, True, scopes),
                _fsync_ms(),
            )
            for _ in range(repeats)
        ]
        plains, spreads, hots, fsyncs = zip(*runs, strict=True)
        plain = _median(plains)
        for hot, measured in ((False, _median(spreads)), (True, _median(hots))):
            report.add(_figure(transport, callers, scopes, hot, measured, plain))
            if callers == 1:
                name = f"one caller's p50 over {transport.name}, {_scopes(scopes)}, {_where(hot)}"
                fsync = statistics.median(fsyncs)
                report.add(Figure(name, measured.p50_ms, "ms", None, "one fsync", fsync, FSYNC_RATIO_AIM))
            if callers == 64 and transport.name == "NATS" and scopes == max(SCOPES):
                report.add(Figure(f"its p99, {_where(hot)}", measured.p99_ms, "ms", NATS_P99_AIM_MS))


def _figure(transport: _Transport, callers: int, scopes: int, hot: bool, measured: Measured, plain: Measured) -> Figure:
    value_aim = ratio_aim = None
    if transport.name == "NATS" and scopes == max(SCOPES) and callers in NATS_AIMS:
        value_aim = (">=", NATS_AIMS[callers][hot])
        ratio_aim = NATS_RATIO_AIM if callers == 64 else None
    if transport.name == "HTTP" and callers == 64:
        ratio_aim = HTTP_RATIO_AIM
    latency = f"p50 {measured.p50_ms:.1f} ms, p99 {measured.p99_ms:.1f} ms"
    return Figure(
        name=f"limit checks over {transport.name}, {callers} at once, {_scopes(scopes)}, {_where(hot)} ({latency})",
        value=measured.per_second,
        unit="/s",
        value_aim=value_aim,
        beside=transport.plain_name,
        beside_value=plain.per_second,
        ratio_aim=ratio_aim,
    )


def _plain_figure(name: str, runs: list[Measured]) -> Figure:
    measured = _median(tuple(runs))
    return Figure(f"{name} (p50 {measured.p50_ms:.1f} ms, p99 {measured.p99_ms:.1f} ms)", measured.per_second, "/s")


def _nats(made: Servers) -> _Transport:
    def run(callers: int, requests: int, hot: bool, scopes: int) -> Measured:
        make_body = partial(make_check_body, hot=hot, scopes=scopes)
        return run_nats_load(NatsLoad(made.nats_url, LIMITS_CHECK, callers, requests, make_body))

    def plain(callers: int, requests: int) -> Measured:
        make_body = partial(make_check_body, hot=False, scopes=1)
        return run_nats_load(NatsLoad(made.nats_url, empty_nats_service.SUBJECT, callers, requests, make_body))

    return _Transport("NATS", run, plain, "empty NATS service")


def _http(ledger: Service, empty: Service) -> _Transport:
    def run(callers: int, requests: int, hot: bool, scopes: int) -> Measured:
        return run_load(Load(ledger.url, "POST", callers, requests, partial(make_check, hot=hot, scopes=scopes)))

    def plain(callers: int, requests: int) -> Measured:
        return run_load(Load(empty.url, "POST", callers, requests, partial(make_check, hot=False)))

    return _Transport("HTTP", run, plain, "empty FastAPI route, same models")


def _fsync_ms() -> float:
    """The median of writing 8 KiB behind the others and having it on the disk: what a commit waits for."""
    times = []
    with tempfile.NamedTemporaryFile(prefix="usage-ledger-bench-") as file:
        os.posix_fallocate(file.fileno(), 0, FSYNCS * 8192)
        for _ in range(FSYNCS):
            begin = time.perf_counter()
            os.write(file.fileno(), b"x" * 8192)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def _scopes(scopes: int) -> str:
    return f"{scopes} scope{'s' if scopes > 1 else ''}"


def _where(hot: bool) -> str:
    return "one hot account" if hot else "10,000 accounts"


def _median(runs: tuple[Measured, ...]) -> Measured:
    return sorted(runs, key=lambda run: run.per_second)[len(runs) // 2]
