"""Lines over time as SVG in one HTML file that needs nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import Final

WIDTH: Final = 1000
HEIGHT: Final = 170
LEFT: Final = 70
RIGHT: Final = 20
TOP: Final = 26
BOTTOM: Final = 22
STEPS: Final = 4
COLOURS: Final = ("#1f6feb", "#d1570b", "#2da44e", "#8250df")


@dataclass(frozen=True)
class Line:
    """``points``: (seconds, value); a None breaks the line."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Mark:
    """A moment, with what happened then."""

    at: float
    until: float
    text: str


def panel(title: str, lines: Sequence[Line], marks: Sequence[Mark], seconds: float) -> str:
    """One diagram, as an SVG element; faults are grey bands that say what they were."""
    step = _nice(max((value for line in lines for _, value in line.points if value is not None), default=1.0) / STEPS)
    most = STEPS * step

    def x(at: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at / max(seconds, 1.0)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / most)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">']
    for mark in marks:
        width = max(2.0, x(mark.until) - x(mark.at))
        parts.append(
            f'<rect x="{x(mark.at):.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}" fill="#ddd">'
            f"<title>{escape(mark.text)}</title></rect>"
        )
    parts += [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#eee"/>'
        f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,g}</text>'
        for value in (step * number for number in range(STEPS + 1))
    ]
    parts += [
        f'<text x="{x(minute * 60):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{minute} min</text>'
        for minute in range(0, int(seconds / 60) + 1, max(1, int(seconds / 60 / 10)))
    ]
    parts.append(f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>')
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<text x="{LEFT + 330 + 130 * number}" y="16" fill="{colour}">{escape(line.name)}</text>')
        parts.append(f'<path d="{_path(line, x, y)}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    return "".join([*parts, "</svg>"])


def _nice(step: float) -> float:
    """The next round number: 1, 2, 2.5 or 5 of something."""
    power = 10.0 ** floor(log10(step)) if step > 0 else 1.0
    return next((power * round_ for round_ in (1, 2, 2.5, 5) if power * round_ >= step), 10 * power)


def _path(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    path, pen_down = [], False
    for at, value in line.points:
        if value is None:
            pen_down = False
            continue
        path.append(f"{'L' if pen_down else 'M'}{x(at):.1f} {y(value):.1f}")
        pen_down = True
    return "".join(path)


def page(title: str, summary: str, panels: Sequence[str], rows: Sequence[tuple[str, str, str]]) -> str:
    """The whole file. ``rows``: a table of three columns, of which the second is a verdict."""
    table = "".join(
        f'<tr><td>{escape(a)}</td><td class="{escape(b)}">{escape(b)}</td><td>{escape(c)}</td></tr>' for a, b, c in rows
    )
    style = (
        "body{font:14px system-ui;max-width:1040px;margin:2em auto}svg{width:100%;font:11px system-ui}"
        "td{padding:2px 12px 2px 0;vertical-align:top}.bad{color:#c00;font-weight:bold}.good{color:#080}"
    )
    return (
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{style}</style>"
        f"<h1>{escape(title)}</h1><p>{escape(summary)}</p><table>{table}</table>{''.join(panels)}\n"
    )
