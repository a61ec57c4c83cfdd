"""What whoever meets a problem does about it: one sentence or two for each code."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: By code; a test holds it against PROBLEM_TYPES.
ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "malformed_json": "Send JSON: `detail` says where it stops being that.",
        "malformed_request": "Whatever wrote the request is no HTTP client; look at proxies in between.",
        "invalid_request": "Put right each field that `errors` names; the same request again fails again.",
        "unsupported_media_type": "Send the content type that the route's reference names.",
        "unauthenticated": "Send `Authorization: Bearer …` with a token that is not expired or revoked.",
        "forbidden": "Use a token with the scope, and for the account, that `detail` names.",
        "access_unavailable": "Repeat; if it stays, the issuer's keys or the ledger's database cannot be reached.",
        "query_too_large": "Ask for less, as `detail` says: a shorter time, larger intervals, a filter, `top`.",
        "not_found": "Look at the id and the path; another account's operations and leases are not found either.",
        "method_not_allowed": "Use a method that the header `Allow` names.",
        "too_large": "Send less at once: split batches; the bound is in `detail`.",
        "headers_too_large": "Send fewer or shorter headers; usually it is cookies.",
        "request_timeout": "Send the whole request without pauses; look at the network in between.",
        "conflict": "The id belongs to another request: take a new one, or send what was sent first.",
        "version_changed": "Read it again, and decide anew whether your change still fits.",
        "operation_conflict": "Do not repeat: the operation's outcome stands. What differs is a correction.",
        "in_future": "Set the producer's clock right. The event is kept: have its dead letter corrected or redriven.",
        "operation_finished": "Nothing is held any more; read the decision to see how it ended.",
        "operation_in_progress": "Repeat with the same key; the answer is the first request's.",
        "idempotency_key_reused": "Take a new key for another request.",
        "reservation_closed": "Nothing to do where it is over; to go on, check the limit again under a new id.",
        "lease_invalid": "Use the token that came with this lease; take a new lease if it is lost.",
        "lease_closed": "Take a new lease.",
        "dead_letter_closed": "Look at the letter: it says who dealt with it, and how.",
        "webhook_disabled": "Mend the receiver, and resume the webhook; nothing is sent there until then.",
        "already_voided": "Nothing: it counts no more.",
        "not_sealed_yet": "Repeat after the next checkpoint.",
        "seal_mismatch": "Change nothing, and run `ledger seals verify`: it names what is not what was sealed.",
        "period_archived": "Ask from a later month on, or bring the month back first (`ledger unarchive`).",
        "position_unknown": "Drop positions from before the database was restored; read without one.",
        "position_not_reached": "Repeat: another process has not read so far yet.",
        "moment_unsettled": "Repeat, or ask for an earlier `as_of`.",
        "limit_exceeded": "`decision.denial` names the limit. Wait for its next window, or have it raised.",
        "rate_limited": "Wait as `Retry-After` says, and send fewer a second.",
        "operation_failed": "`error` has the provider's own code: it says whether the same request can ever work.",
        "provider_unavailable": "Repeat later, or name another provider.",
        "provider_not_configured": "Set the provider's key, `IMAGE_…_KEY`, or choose another provider.",
        "store_unavailable": "Repeat with the same ids. If it stays: is PostgreSQL up, with connections left?",
        "ledger_unavailable": "Repeat with the same key. If it stays: is the ledger up, and `IMAGE_LEDGER_URL` right?",
        "recording_unavailable": "Repeat later. Whoever runs the service looks at its disk and at the ledger.",
        "overloaded": "Repeat after a pause that grows each time.",
        "internal": "Repeat once; then report it with the time and the operation's id: the log has the cause.",
    }
)
