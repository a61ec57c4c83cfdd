"""`make bench` in parts: the figures of one take the place of its own alone."""

import json
from pathlib import Path

from tests.bench.report import Figure, Report


def kept(file: Path) -> list[tuple[str, str, float]]:
    return [(one["part"], one["name"], one["value"]) for one in json.loads(file.read_text())]


def test_a_part_that_is_measured_again_replaces_what_it_had_and_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    parts = ["ingest", "checks"]
    Report([Figure("checks", 1.0, "/s"), Figure("more checks", 2.0, "/s")]).keep(file, "checks", parts)
    Report([Figure("events", 3.0, "/s")]).keep(file, "ingest", parts)
    Report([Figure("checks", 4.0, "/s")]).keep(file, "checks", parts)
    assert kept(file) == [("ingest", "events", 3.0), ("checks", "checks", 4.0)]


def test_figures_are_told_as_they_come() -> None:
    told: list[Figure] = []
    report = Report(tell=told.append)
    figure = Figure("checks", 1.0, "/s", (">=", 2.0))
    report.add(figure)
    assert told == report.figures == [figure]
