"""Every metric of the image service. deploy/guides/observability.md has this as a table."""

from typing import Final

from contracts.metrics import Metric

#: Pictures take seconds, clips and 3D models minutes.
_CALL_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1800.0)

OPERATIONS: Final = Metric(
    "image_operations_total",
    "counter",
    "Operations that ended: completed, failed, denied by a limit, or refused as the ledger could not be asked.",
    ("operation", "outcome"),
)
OPERATION_SECONDS: Final = Metric(
    "image_operation_duration_seconds",
    "histogram",
    "From an operation's limit check to its recorded outcome, of those that were admitted.",
    ("operation",),
    _CALL_BOUNDS,
)
DENIALS: Final = Metric("image_denials_total", "counter", "Operations that a limit denied, by code.", ("code",))
FAILURES: Final = Metric(
    "image_failures_total",
    "counter",
    "Operations whose recorded outcome is a failure, by its error code; without those recovered after a restart.",
    ("code",),
)
RECOVERIES: Final = Metric(
    "image_recoveries_total",
    "counter",
    "Operations whose provider was asked what became of the call, after a restart too: completed, failed or in_doubt.",
    ("outcome",),
)
PROVIDER_SECONDS: Final = Metric(
    "image_provider_call_duration_seconds",
    "histogram",
    "One call of a provider, with its retries, polls and downloads; whatever came of it.",
    ("provider", "operation"),
    _CALL_BOUNDS,
)
PROVIDER_CALLS: Final = Metric("image_provider_calls_total", "counter", "Calls of a provider.", ("provider",))
PROVIDER_ERRORS: Final = Metric(
    "image_provider_errors_total",
    "counter",
    "Calls that brought no result, by the provider's error code, else timeout, cancelled or internal.",
    ("provider", "code"),
)
PROVIDER_COST: Final = Metric(
    "image_provider_cost_dollars_total",
    "counter",
    "What operations cost, by the provider that did them, without recoveries after a restart. The ledger is exact.",
    ("provider", "operation"),
)

IN_FLIGHT: Final = Metric(
    "image_journal_operations_unfinished",
    "gauge",
    "Operations in the journal without an outcome: they run, or their provider is being asked what became of them.",
)
UNCONFIRMED: Final = Metric(
    "image_journal_unconfirmed_events", "gauge", "Events in the journal that the ledger has not confirmed: its depth."
)
UNCONFIRMED_AGE: Final = Metric(
    "image_journal_unconfirmed_age_seconds", "gauge", "How long ago the oldest of them was made; 0: there is none."
)
JOURNAL_BYTES: Final = Metric(
    "image_journal_used_bytes", "gauge", "What is in the journal. New operations are refused above the next figure."
)
JOURNAL_BYTES_MAX: Final = Metric("image_journal_max_bytes", "gauge", "What may be in it: IMAGE_JOURNAL_BYTES_MAX.")
OUTCOMES_WAITING: Final = Metric(
    "image_outcomes_waiting", "gauge", "Outcomes that are known and that the journal could not take yet."
)
BUILD_INFO: Final = Metric("image_build_info", "gauge", "1, for the version that this process runs.", ("version",))
NATS_CONNECTED: Final = Metric("image_nats_connected", "gauge", "1: journalled events can go over NATS.")
PROVIDER_AVAILABLE: Final = Metric(
    "image_provider_available", "gauge", "0: the provider was in trouble and is left alone for a while.", ("provider",)
)

METRICS: Final = (
    BUILD_INFO,
    OPERATIONS, OPERATION_SECONDS, DENIALS, FAILURES, RECOVERIES, PROVIDER_SECONDS, PROVIDER_CALLS, PROVIDER_ERRORS,
    PROVIDER_COST, IN_FLIGHT, UNCONFIRMED, UNCONFIRMED_AGE, JOURNAL_BYTES, JOURNAL_BYTES_MAX, OUTCOMES_WAITING,
    NATS_CONNECTED, PROVIDER_AVAILABLE,
)  # fmt: skip
