"""Whether something grew: slopes of what processes use, over each of their lives, and latency at both ends of a run."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from tests.soak.samples import SERVICES, Sample

#: Imports, pools and caches fill in this time of a process's life.
WARM_SECONDS: Final = 45.0
#: How much may be added in ten minutes: noise of the allocator and of the moment, no leak that matters.
GROWTH_MAX: Final = {"memory": 12.0, "files": 4.0, "threads": 3.0, "tasks": 6.0}
LATENCY_FACTOR_MAX: Final = 1.6
LATENCY_SLACK_MS: Final = {"p50": 10.0, "p99": 150.0}
CONNECTIONS_MORE_MAX: Final = 4
_TEN_MINUTES: Final = 600.0
_FEW: Final = 6


@dataclass(frozen=True)
class Judgement:
    what: str
    good: bool
    detail: str


def growth(samples: Sequence[Sample], service: str, what: str) -> float | None:
    """In ten minutes: the slope that fits all lives of the process best, each with a level of its own.

    None where no life was long enough to tell.
    """
    lives: dict[int, list[tuple[float, float]]] = defaultdict(list)
    began: dict[int, float] = {}
    for sample in samples:
        pid, value = getattr(sample, f"{service}_pid"), getattr(sample, f"{service}_{what}")
        if pid is None or value is None:
            continue
        if sample.at - began.setdefault(pid, sample.at) >= WARM_SECONDS and sample.calm:
            lives[pid].append((sample.at, value))
    along = across = 0.0
    for life in lives.values():
        if len(life) < _FEW:
            continue
        middle = sum(at for at, _ in life) / len(life)
        level = sum(value for _, value in life) / len(life)
        along += sum((at - middle) ** 2 for at, _ in life)
        across += sum((at - middle) * (value - level) for at, value in life)
    return _TEN_MINUTES * across / along if along else None


def judge(samples: Sequence[Sample], idle_after: Sample) -> list[Judgement]:
    """``idle_after``: when nothing was under way any more."""
    found = []
    for service in SERVICES:
        for what, most in GROWTH_MAX.items():
            grew = growth(samples, service, what)
            unit = " MB" if what == "memory" else ""
            detail = (
                "no life was long enough" if grew is None else f"{grew:+.1f}{unit} in ten minutes, at most {most:g}"
            )
            found.append(Judgement(f"{service} {what}", grew is None or grew <= most, detail))
    calm = [sample for sample in samples if sample.calm]
    third = len(calm) // 3
    for name in ("image", "check"):
        for share in ("p50", "p99"):
            values = [getattr(sample, f"{name}_{share}") for sample in calm]
            first = [value for value in values[:third] if value is not None]
            last = [value for value in values[-third:] if value is not None]
            if len(first) < _FEW or len(last) < _FEW:
                found.append(Judgement(f"{name} {share}", True, "too few calm moments"))
                continue
            before, after = median(first), median(last)
            flat = after <= LATENCY_FACTOR_MAX * before + LATENCY_SLACK_MS[share]
            found.append(
                Judgement(f"{name} {share}", flat, f"{before:.0f} ms in the first third, {after:.0f} in the last")
            )
    found.append(Judgement("holds", idle_after.holds == 0, f"{idle_after.holds} open at the end"))
    seen = [sample.connections for sample in calm[: max(third, 1)] if sample.connections is not None]
    most, left = max(seen, default=0) + CONNECTIONS_MORE_MAX, idle_after.connections or 0
    detail = f"to PostgreSQL: {left} at the end, with the {CONNECTIONS_MORE_MAX} allowed more than at first {most}"
    found.append(Judgement("connections", left <= most, detail))
    return found
