"""Writes the tables of metrics into the guide: `python -m deploy.metric_tables`."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from contracts.metrics import Metric
from image_service import metric_names as image_names
from ledger_service import metric_names as ledger_names

GUIDE: Final = Path(__file__).parent / "guides" / "observability.md"
TABLES: Final = {"ledger": ledger_names.METRICS, "image-service": image_names.METRICS}


def with_tables(guide: str) -> str:
    """The guide with its tables as they should be, each between its two comments. Raises ValueError where one lacks."""
    for name, metrics in TABLES.items():
        place = re.compile(rf"(?<=<!-- metrics: {name} -->\n).*?(?=<!-- end -->)", re.DOTALL)
        if len(place.findall(guide)) != 1:
            raise ValueError(f"the guide has not one place for the metrics of {name}")
        guide = place.sub(table(metrics).replace("\\", r"\\"), guide)
    return guide


def table(metrics: Iterable[Metric]) -> str:
    """In Markdown, padded as its source is read too."""
    rows = [("Metric", "Kind", "Labels", "What it is"), *map(_row, metrics)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "| " + " | ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) + " |"
        for row in rows
    ]
    lines.insert(1, "| " + " | ".join(["-" * width for width in widths] + ["---"]) + " |")
    return "\n" + "\n".join(lines) + "\n\n"


def _row(metric: Metric) -> tuple[str, str, str, str]:
    return f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help


def main() -> None:
    GUIDE.write_text(with_tables(GUIDE.read_text()))


if __name__ == "__main__":
    main()
