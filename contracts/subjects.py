"""Names on NATS: the stream, its subjects, the ledger's own subjects and the headers used on them."""

from typing import Final

STREAM: Final = "USAGE"
STREAM_SUBJECTS: Final = ("usage.v1.operation.requested", "usage.v1.operation.completed", "usage.v1.operation.failed")
#: The durable consumer from which the ledger ingests.
INGEST_CONSUMER: Final = "ledger"
#: Core NATS, ledger → producers: which events of a source are committed. See events.RecordedRanges.
RECORDED: Final = "usage.v1.recorded"
#: JetStream, ledger → whoever keeps watch: the signed checkpoints of the log, as text.
SEALS_STREAM: Final = "SEALS"
SEALS: Final = "ledger.v1.seals"
#: JetStream, ledger → whoever wants to know: what happened, as webhooks are told it. A subject for each type.
NOTIFICATIONS_STREAM: Final = "NOTIFICATIONS"
NOTIFICATIONS: Final = "ledger.v1.notifications"
#: Of notifications: the account that they are about, where that is one.
ACCOUNT_HEADER: Final = "Ledger-Account"
#: NATS request-reply: limit checks, and the holds that they placed.
SERVICE_NAME: Final = "ledger"
LIMITS_CHECK: Final = "ledger.v1.limits.check"
LIMITS_CHECK_BATCH: Final = "ledger.v1.limits.check_batch"
RESERVATIONS_RELEASE: Final = "ledger.v1.reservations.release"
RESERVATIONS_EXTEND: Final = "ledger.v1.reservations.extend"
RESERVATIONS_MOVE: Final = "ledger.v1.reservations.move"
LEASES_PLACE: Final = "ledger.v1.leases.place"
LEASES_RETURN: Final = "ledger.v1.leases.return"
#: Where the ledger's own answers from NATS come to; no producer may listen there.
LEDGER_INBOX: Final = "_INBOX_ledger"
#: JetStream's own duplicate filter; always the event_id.
MSG_ID_HEADER: Final = "Nats-Msg-Id"

_TYPE_PREFIX: Final = "usage.operation."


def subject_of(event_type: str) -> str:
    """``usage.operation.completed.v1`` → ``usage.v1.operation.completed``; any version goes to the same subject."""
    kind = event_type.removeprefix(_TYPE_PREFIX).split(".", 1)[0]
    return f"usage.v1.operation.{kind}"


def notification_subject(notification_type: str) -> str:
    """``limit.threshold_reached`` → ``ledger.v1.notifications.limit.threshold_reached``."""
    return f"{NOTIFICATIONS}.{notification_type}"


#: On what the ledger says that it committed: the log position it committed that as, for readers to demand
#: (min_position). Over HTTP as well.
POSITION_HEADER: Final = "Ledger-Position"
