"""Which problems are whose: what each route may answer, beyond what all of them do."""

from typing import Final

from contracts.access.guard import ACCESS_PROBLEMS
from contracts.http_documents import Own
from contracts.problems import (
    ALREADY_VOIDED,
    CONFLICT,
    DEAD_LETTER_CLOSED,
    IN_FUTURE,
    LEASE_CLOSED,
    LEASE_INVALID,
    NOT_FOUND,
    NOT_SEALED_YET,
    OPERATION_CONFLICT,
    OPERATION_FINISHED,
    OVERLOADED,
    PERIOD_ARCHIVED,
    QUERY_TOO_LARGE,
    RESERVATION_CLOSED,
    STORE_UNAVAILABLE,
    UNSUPPORTED_MEDIA_TYPE,
    VERSION_CHANGED,
    WEBHOOK_DISABLED,
)

EVERYWHERE: Final = (*ACCESS_PROBLEMS, STORE_UNAVAILABLE)
_CHECKED: Final = (CONFLICT, OPERATION_FINISHED, RESERVATION_CLOSED, OVERLOADED)
_ACCOUNT: Final = "/v1/accounts/{account_id}"
_LETTER: Final = "/v1/dead-letters/{dead_letter_id}"

OWN: Final[Own] = {
    ("POST", "/v1/limit-checks"): _CHECKED,
    ("POST", "/v1/limit-checks:batch"): (OVERLOADED,),
    ("POST", "/v1/reservations/{operation_id}:release"): (NOT_FOUND, RESERVATION_CLOSED),
    ("POST", "/v1/reservations/{operation_id}:extend"): (NOT_FOUND, RESERVATION_CLOSED),
    ("POST", "/v1/reservations/{operation_id}:move"): (NOT_FOUND, RESERVATION_CLOSED, CONFLICT),
    ("POST", "/v1/leases"): _CHECKED,
    ("POST", "/v1/leases/{lease_id}:return"): (LEASE_INVALID, LEASE_CLOSED),
    ("POST", "/v1/events"): (UNSUPPORTED_MEDIA_TYPE, CONFLICT, OPERATION_CONFLICT, IN_FUTURE, OVERLOADED),
    ("GET", "/v1/decisions/{operation_id}"): (NOT_FOUND,),
    ("GET", "/v1/plans/{plan_id}"): (NOT_FOUND,),
    ("POST", "/v1/sources:give-up"): (NOT_FOUND,),
    ("PUT", "/v1/plans/{plan_id}"): (VERSION_CHANGED,),
    ("GET", _ACCOUNT): (NOT_FOUND,),
    ("GET", f"{_ACCOUNT}/usage"): (NOT_FOUND,),
    ("GET", "/v1/usage-log/{operation_id}"): (NOT_FOUND,),
    ("GET", f"{_ACCOUNT}/limits:standing"): (NOT_FOUND,),
    ("GET", "/v1/usage"): (NOT_FOUND, QUERY_TOO_LARGE, OVERLOADED, PERIOD_ARCHIVED),
    ("GET", f"{_ACCOUNT}/resale-prices"): (NOT_FOUND,),
    ("PUT", f"{_ACCOUNT}/resale-prices/{{operation}}/{{model}}"): (NOT_FOUND,),
    ("DELETE", f"{_ACCOUNT}/limits/{{limit_id}}"): (NOT_FOUND,),
    ("DELETE", f"{_ACCOUNT}/credit-grants/{{grant_id}}"): (NOT_FOUND,),
    ("GET", "/v1/prices/{provider}/{operation}/{model}"): (NOT_FOUND,),
    ("POST", "/v1/limits:backtest"): (NOT_FOUND, OVERLOADED, PERIOD_ARCHIVED),
    ("POST", "/v1/adjustments"): (NOT_FOUND, CONFLICT, ALREADY_VOIDED, PERIOD_ARCHIVED),
    ("GET", f"{_ACCOUNT}/statements/{{period}}"): (NOT_FOUND, PERIOD_ARCHIVED),
    ("GET", f"{_ACCOUNT}/usage-log"): (PERIOD_ARCHIVED,),
    ("GET", "/v1/reports/estimates"): (PERIOD_ARCHIVED,),
    ("PUT", f"{_ACCOUNT}/periods/{{period}}:close"): (NOT_FOUND,),
    ("POST", "/v1/repricings"): (NOT_FOUND, CONFLICT, OVERLOADED, PERIOD_ARCHIVED),
    ("GET", "/v1/exports/usage-log"): (OVERLOADED, PERIOD_ARCHIVED),
    ("GET", "/v1/exports/focus"): (OVERLOADED, PERIOD_ARCHIVED),
    ("POST", "/v1/tokens"): (CONFLICT,),
    ("DELETE", "/v1/tokens/{token_id}"): (NOT_FOUND,),
    ("GET", "/v1/seals"): (NOT_FOUND,),
    ("GET", "/v1/seals/key"): (NOT_FOUND,),
    ("GET", "/v1/seals/{size}"): (NOT_FOUND,),
    ("GET", "/v1/seals:consistency"): (NOT_FOUND,),
    ("GET", "/v1/usage-log/{operation_id}/proof"): (NOT_FOUND, NOT_SEALED_YET),
    ("GET", "/v1/operations:stream"): (OVERLOADED,),
    **{
        (method, f"{prefix}/webhooks/{{webhook_id}}{rest}"): (NOT_FOUND,)
        for prefix in ("/v1", _ACCOUNT)
        for method, rest in (
            *((method, "") for method in ("GET", "DELETE")),
            *(("POST", f":{act}") for act in ("resume", "rotate-secret", "test", "redeliver")),
            *(("GET", rest) for rest in ("/deliveries", "/deliveries/{message_id}")),
            ("POST", "/deliveries/{message_id}:redeliver"),
        )
    },
    ("PUT", f"{_ACCOUNT}/webhooks/{{webhook_id}}"): (NOT_FOUND,),
    **{
        ("POST", f"{prefix}/webhooks/{{webhook_id}}:pause"): (NOT_FOUND, WEBHOOK_DISABLED)
        for prefix in ("/v1", _ACCOUNT)
    },
    ("GET", _LETTER): (NOT_FOUND,),
    ("POST", f"{_LETTER}:redrive"): (NOT_FOUND, CONFLICT, OPERATION_CONFLICT, IN_FUTURE, DEAD_LETTER_CLOSED),
    ("POST", f"{_LETTER}:discard"): (NOT_FOUND, DEAD_LETTER_CLOSED),
}
