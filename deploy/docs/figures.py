"""Measured figures, as one page: what `make bench` printed, where it is kept, and every paragraph of the decisions and
guides that says what was measured."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import orjson

from deploy.docs.markdown import lines_outside_code, table

#: What ``make bench BENCH_ARGS='--json deploy/docs/figures.json'`` writes.
KEPT: Final = Path(__file__).with_name("figures.json")
PAGE: Final = "explanation/figures.md"
_MEASURED: Final = re.compile(r"\b[Mm]easured\b|\bp(?:50|95|99)\b|[\d,]{3,} (?:\w+ )?a second\b|\d \w+/s\b|\d/s\b")
_LARGE: Final = 100
_SAID: Final = (
    "Two cores, shared by the callers, the services, PostgreSQL and NATS. The parts were run one after another, each"
    " with its own servers; what stands beside a figure was measured in the same run. Aims that were missed say so.\n"
)


def paragraphs(text: str) -> list[str]:
    """Those that have a measured figure: prose, rows of lists with what belongs to them, no tables and no code."""
    found, block = [], ""
    for _, line, prose in lines_outside_code(text):
        begins = (
            not prose or not line.strip() or line.lstrip().startswith(("- ", "#", "|")) or re.match(r"\d+\. ", line)
        )
        if begins:
            found.append(block)
            block = ""
        if prose and line.strip() and not line.lstrip().startswith(("#", "|")):
            block += line
    return [one for one in (*found, block) if _MEASURED.search(one) and re.search(r"\d", one)]


def page(documents: Iterable[tuple[str, str, str]]) -> str:
    """``documents``: of each its title, its address from this page, and its text with links as seen from here."""
    parts = [
        "# Measured figures\n",
        (
            "What was measured, each in the words of the decision or guide that it led to. `make bench` measures it"
            " again, each figure beside what the same machine does without us.\n"
        ),
    ]
    if KEPT.exists():
        head = ("what", "figure", "aim", "beside, in the same run", "its figure", "ratio", "aim", "")
        parts += ["## What make bench printed\n", _SAID, table(head, map(_row, orjson.loads(KEPT.read_bytes())))]
    for title, address, text in documents:
        told = paragraphs(text)
        if told:
            parts.append(f"## {title}\n")
            parts += [
                one if one.startswith(("- ", "> ")) else "> " + one.replace("\n", "\n> ").rstrip("> ") for one in told
            ]
            parts.append(f"[Read all of it]({address})\n")
    return "\n".join(parts)


def _row(figure: dict[str, Any]) -> tuple[str, ...]:  # Any: a figure of tests.bench.report, as JSON
    return (
        figure["name"],
        _number(figure["value"], figure["unit"]),
        _aim(figure["value_aim"]),
        figure["beside"],
        _number(figure["beside_value"], figure["unit"]),
        "" if figure["ratio"] is None else f"{figure['ratio']:.2f}",
        _aim(figure["ratio_aim"]),
        {True: "met", False: "**missed**", None: ""}[figure["met"]],
    )


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f} {unit}" if abs(value) >= _LARGE else f"{value:.2f} {unit}"


def _aim(aim: list[Any] | None) -> str:  # Any: ["<=", 2.5]
    return "" if aim is None else f"{'≤' if aim[0] == '<=' else '≥'} {aim[1]:,}"
