"""Metrics: name, kind, labels and meaning of each, from where both services declare them."""

from typing import Final

from contracts.metrics import Metric
from deploy.docs.markdown import code, table
from image_service.metric_names import METRICS as IMAGE_METRICS
from ledger_service.metric_names import METRICS as LEDGER_METRICS

SERVICES: Final = (("The ledger", LEDGER_METRICS), ("The image service", IMAGE_METRICS))


def page() -> str:
    parts = [
        "# Metrics\n",
        (
            "At `/metrics` of each process, in Prometheus' text format, without a token;"
            " [the guide](../how-to/observability.md) says what to do with them. Alert rules on them:"
            " [deploy/alerts](../source/deploy/alerts/index.md). Each process tells of itself, too.\n"
        ),
    ]
    for title, metrics in SERVICES:
        rows = ((code(one.name), one.kind, ", ".join(map(code, one.labels)), one.help) for one in metrics)
        parts += [f"## {title}\n", table(("metric", "kind", "labels", "what"), rows)]
    return "\n".join(parts)


def metrics() -> list[Metric]:
    return [one for _, metrics in SERVICES for one in metrics]
