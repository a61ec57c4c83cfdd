"""The guide has every metric that the code declares."""

import pytest

from deploy.metric_tables import GUIDE, TABLES, with_tables


def test_the_tables_are_up_to_date() -> None:
    guide = GUIDE.read_text()
    assert guide == with_tables(guide), "run: python -m deploy.metric_tables"
    assert all(f"| `{metric.name}`" in guide for metrics in TABLES.values() for metric in metrics)


def test_a_guide_without_its_places_is_no_guide() -> None:
    with pytest.raises(ValueError, match="not one place for the metrics of ledger"):
        with_tables("# Metrics")
