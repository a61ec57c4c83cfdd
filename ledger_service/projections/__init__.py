"""Projections of the log: how each follows it, and how each is rebuilt from it."""

from typing import Final

from ledger_service.projections import (
    accounts,
    counters,
    credit_grants,
    decisions,
    limit_alerts,
    limit_overrides,
    period_closings,
    plans,
    prices,
    resale_prices,
    sources,
    usage_daily_all,
    usage_hourly,
    usage_hourly_all,
    usage_log,
    usage_summary,
    webhooks,
)
from ledger_service.projections.projection import Projection

#: In the order in which ingest applies them, and in which they are rebuilt and replaced. Those without the lock come
#: first, to hold it as briefly as can be, and so that whoever needs several rows takes them in one order.
PROJECTIONS: Final[tuple[Projection, ...]] = (
    usage_summary.PROJECTION,
    usage_log.PROJECTION,
    decisions.PROJECTION,
    limit_alerts.PROJECTION,
    counters.PROJECTION,
    usage_hourly.PROJECTION,
    usage_hourly_all.PROJECTION,
    usage_daily_all.PROJECTION,
    limit_overrides.PROJECTION,
    credit_grants.PROJECTION,
    period_closings.PROJECTION,
    resale_prices.PROJECTION,
    accounts.PROJECTION,
    plans.PROJECTION,
    prices.PROJECTION,
    webhooks.PROJECTION,
    sources.PROJECTION,
)

#: Tables that no log could say again, or that are the log.
NO_PROJECTIONS: Final = {
    "event_log": "the log",
    "outcome_effects": "the log: in which order outcomes took effect",
    "seals": "what the log was when it was sealed",
    "seal_nodes": "the tree under the seals",
    "dead_letters": "what could not enter the log",
    "dead_letter_actions": "which events tell what was done about a letter: found by them, and never counted",
    "price_catalogue": "tells ledger processes which prices to read again, and which shipped file was followed",
    "signing_keys": "secrets",
    "service_tokens": "who may call: hashes of secrets, which the log does not have",
    "stream_marks": "how far the stream is in the log, for a database that is put back to an earlier state",
    "usage_archives": "which months of the usage log are in files",
    "denials_hourly": "counts of decisions, made once a day is over, and anew where a rebuild replaced any",
    "denials_daily": "the same",
    "denials_counted": "which days are counted",
    "stream_gaps": "what was read again after that",
    "source_accounts": "who may number events of a source: whose tokens sent them is in no event",
    "source_holes": "which missing numbers of sources were found, and told",
    "notification_cursors": "how far the log, the letters and the holes were told",
    "webhook_secrets": "secrets",
    "webhook_states": "how deliveries go",
    "webhook_lanes": "what is sent next",
    "webhook_deliveries": "what was told to whom, kept for a while",
    "webhook_attempts": "what receivers answered",
    "schema_migrations": "the schema",
}
