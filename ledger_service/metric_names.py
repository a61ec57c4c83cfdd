"""Every metric of the ledger. deploy/guides/observability.md has this as a table."""

from typing import Final

from contracts.metrics import Metric

#: A check takes a few milliseconds; a caller waits ten seconds at most.
_CHECK_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_INGEST_BOUNDS: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_BATCH_BOUNDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

CHECK_SECONDS: Final = Metric(
    "ledger_check_duration_seconds",
    "histogram",
    "From a limit check's arrival in the queue to its committed answer.",
    bounds=_CHECK_BOUNDS,
)
CHECK_BATCH: Final = Metric(
    "ledger_check_batch_checks", "histogram", "Limit checks that were decided in one transaction.", bounds=_BATCH_BOUNDS
)
DECISIONS: Final = Metric(
    "ledger_decisions_total",
    "counter",
    "New decisions by outcome, allowed or denied; without dry runs and repeats.",
    ("outcome",),
)
DENIALS: Final = Metric("ledger_denials_total", "counter", "New denials by code.", ("code",))
CHECK_ERRORS: Final = Metric(
    "ledger_check_errors_total",
    "counter",
    "Limit checks that got no decision, by the code of their problem: store_unavailable is the database's, and of "
    "access_unavailable it is not known who asks (a batch counts once).",
    ("code",),
)
INGESTED: Final = Metric(
    "ledger_ingested_events_total",
    "counter",
    "Events that were committed from JetStream and over HTTP: accepted, duplicate or dead_lettered.",
    ("outcome",),
)
INGEST_SECONDS: Final = Metric(
    "ledger_ingest_batch_duration_seconds",
    "histogram",
    "One batch of events from JetStream, read, committed and confirmed, waiting for the database included.",
    bounds=_INGEST_BOUNDS,
)
INGEST_BATCH: Final = Metric(
    "ledger_ingest_batch_events",
    "histogram",
    "Events from JetStream that were committed in one transaction.",
    bounds=_BATCH_BOUNDS,
)
DEAD_LETTERS: Final = Metric(
    "ledger_dead_letters_total",
    "counter",
    "Messages that could not enter the log, since this process started; the same bytes count each time.",
    ("code",),
)
HOLDS_EXPIRED: Final = Metric(
    "ledger_holds_expired_total", "counter", "Holds that this process ended because no outcome came in time."
)

SEALS_DIVERGED: Final = Metric(
    "ledger_seals_diverged",
    "gauge",
    "1: what was published of the seals does not go on in this database, so that nothing is sealed.",
)
INGEST_LAG_EVENTS: Final = Metric(
    "ledger_ingest_lag_events", "gauge", "Messages in the stream that the ledger has not acknowledged."
)
INGEST_LAG_SECONDS: Final = Metric(
    "ledger_ingest_lag_seconds",
    "gauge",
    "All that was in the stream so long ago is committed; about one second at rest, as it is looked at once a second.",
)
BUILD_INFO: Final = Metric("ledger_build_info", "gauge", "1, for the version that this process runs.", ("version",))
NATS_CONNECTED: Final = Metric("ledger_nats_connected", "gauge", "1: this process is connected to NATS.")

LETTERS_OPEN: Final = Metric("ledger_dead_letters_open", "gauge", "Dead letters that nobody has dealt with.")
LETTERS_OPEN_BY_CODE: Final = Metric(
    "ledger_dead_letters_open_by_code", "gauge", "The same by what is wrong with them.", ("code",)
)
HORIZON_AGE: Final = Metric(
    "ledger_transaction_horizon_age_seconds",
    "gauge",
    "All transactions that had begun so long ago have ended. While one stays open, nothing after it is sealed.",
)
HOLDS_OPEN: Final = Metric(
    "ledger_holds_open", "gauge", "Reservations without an outcome, leases among them; 100000 stands for that and more."
)
HOLDS_OVERDUE: Final = Metric(
    "ledger_holds_overdue_seconds", "gauge", "How long ago the oldest open hold should have expired; 0: none is due."
)
MISSING_EVENTS: Final = Metric(
    "ledger_missing_events",
    "gauge",
    "Sequence numbers of producers' journals that did not arrive though later ones did, over all sources.",
)
SEAL_LAG_EVENTS: Final = Metric(
    "ledger_seals_lag_events",
    "gauge",
    "Rows of the log that are in no seal yet; 100000 stands for that and more. Only where the log is sealed.",
)
SEAL_LAG_SECONDS: Final = Metric(
    "ledger_seals_lag_seconds",
    "gauge",
    "How long ago the oldest row without a seal was recorded; 0: all are sealed. Only where the log is sealed.",
)

WEBHOOK_REQUESTS: Final = Metric(
    "ledger_webhook_deliveries_total",
    "counter",
    "Requests to webhooks: delivered, failed (tried again later), given_up (the last), disabled (and its endpoint).",
    ("outcome",),
)
WEBHOOK_LAG: Final = Metric(
    "ledger_webhook_lag_seconds",
    "gauge",
    "For how long the oldest delivery waits, of endpoints neither disabled nor paused; 0: nothing waits. `owner`:"
    " `operator`, whose endpoints are told of all accounts, or `account`.",
    ("owner",),
)
WEBHOOK_OVERDUE: Final = Metric(
    "ledger_webhook_overdue_seconds",
    "gauge",
    "For how long a delivery has been due that nobody tries, of endpoints neither disabled nor paused; 0: none is due.",
)
WEBHOOKS_DISABLED: Final = Metric(
    "ledger_webhooks_disabled",
    "gauge",
    "Endpoints that answered 410, or took nothing for days: nothing is sent there. `owner`: `operator` or `account`.",
    ("owner",),
)
WEBHOOKS_PAUSED: Final = Metric(
    "ledger_webhooks_paused", "gauge", "Endpoints that somebody paused: what happens is queued until they are resumed."
)

METRICS: Final = (
    BUILD_INFO,
    CHECK_SECONDS, CHECK_BATCH, DECISIONS, DENIALS, CHECK_ERRORS, INGESTED, INGEST_SECONDS, INGEST_BATCH, DEAD_LETTERS,
    HOLDS_EXPIRED, SEALS_DIVERGED, INGEST_LAG_EVENTS, INGEST_LAG_SECONDS, NATS_CONNECTED, LETTERS_OPEN,
    LETTERS_OPEN_BY_CODE, HORIZON_AGE, HOLDS_OPEN, HOLDS_OVERDUE, MISSING_EVENTS, SEAL_LAG_EVENTS, SEAL_LAG_SECONDS,
    WEBHOOK_REQUESTS, WEBHOOK_LAG, WEBHOOK_OVERDUE, WEBHOOKS_DISABLED, WEBHOOKS_PAUSED,
)  # fmt: skip
