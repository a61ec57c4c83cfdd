"""Who may use which route of the ledger: the one table."""

from http import HTTPStatus
from typing import Final

from fastapi import Request

from contracts.access.guard import guarded
from contracts.access.principal import Scope
from contracts.access.rules import About, Rules, needs
from contracts.problems import ProblemError
from ledger_service.calls import STORE_ERRORS, store_unavailable
from ledger_service.services import Services

_CHECK: Final = needs(About.BODY, Scope.LIMITS_CHECK)
_WRITE: Final = needs(About.BODY, Scope.EVENTS_WRITE)
_READ: Final = needs(About.PATH, Scope.USAGE_READ, Scope.USAGE_READ_ALL)
_READ_SETTINGS: Final = needs(About.PATH, Scope.USAGE_READ, Scope.USAGE_READ_ALL, Scope.ADMIN)
_CHANGE: Final = needs(About.PATH, Scope.ADMIN)
_CHANGE_ALL: Final = needs(About.EVERYBODY, Scope.ADMIN)
_RUNS: Final = needs(About.EVERYBODY, Scope.USAGE_READ_ALL, Scope.ADMIN)
#: The catalogue is the same for all, and what a check is held at shows its prices anyway.
_PRICES: Final = needs(About.NOBODY, Scope.LIMITS_CHECK, Scope.USAGE_READ, Scope.USAGE_READ_ALL, Scope.ADMIN)
_SEALS: Final = needs(About.NOBODY, Scope.USAGE_READ, Scope.USAGE_READ_ALL, Scope.ADMIN)

_WEBHOOK: Final = "/v1/webhooks/{webhook_id}"
_OWN_WEBHOOK: Final = "/v1/accounts/{account_id}/webhooks/{webhook_id}"

RULES: Final[Rules] = {
    ("POST", "/v1/limit-checks"): _CHECK,
    ("POST", "/v1/limit-checks:batch"): _CHECK,
    ("POST", "/v1/reservations/{operation_id}:release"): _CHECK,
    ("POST", "/v1/reservations/{operation_id}:extend"): _CHECK,
    ("POST", "/v1/reservations/{operation_id}:move"): _CHECK,
    ("POST", "/v1/leases"): _CHECK,
    ("POST", "/v1/leases/{lease_id}:return"): _CHECK,
    ("POST", "/v1/events"): _WRITE,
    ("GET", "/v1/decisions/{operation_id}"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/denials"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/denials:counts"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/accounts/{account_id}/usage"): _READ,
    ("GET", "/v1/accounts/{account_id}/usage-log"): _READ,
    ("GET", "/v1/accounts/{account_id}/alerts"): _READ,
    ("GET", "/v1/accounts/{account_id}/statements/{period}"): _READ,
    ("GET", "/v1/accounts/{account_id}/limits:standing"): _READ,
    ("GET", "/v1/accounts/{account_id}/holds"): _READ,
    ("GET", "/v1/limits:nearest"): needs(About.EVERYBODY, Scope.USAGE_READ_ALL, Scope.ADMIN),
    ("GET", "/v1/usage"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/usage-log/{operation_id}"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/usage/dimensions"): needs(About.NOBODY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("POST", "/v1/limits:backtest"): needs(About.BODY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/exports/usage-log"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/exports/focus"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/reports/estimates"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    # Administration. Plans are shared by accounts, so whoever is bound to one sees its limits in its usage alone.
    ("GET", "/v1/plans"): needs(About.EVERYBODY, Scope.USAGE_READ_ALL, Scope.ADMIN),
    ("GET", "/v1/accounts"): needs(About.EVERYBODY, Scope.USAGE_READ_ALL, Scope.ADMIN),
    ("GET", "/v1/plans/{plan_id}"): needs(About.EVERYBODY, Scope.USAGE_READ_ALL, Scope.ADMIN),
    ("PUT", "/v1/plans/{plan_id}"): _CHANGE_ALL,
    ("GET", "/v1/accounts/{account_id}"): _READ_SETTINGS,
    ("PUT", "/v1/accounts/{account_id}"): _CHANGE,
    ("GET", "/v1/accounts/{account_id}/limits"): _READ_SETTINGS,
    ("PUT", "/v1/accounts/{account_id}/limits/{limit_id}"): _CHANGE,
    ("DELETE", "/v1/accounts/{account_id}/limits/{limit_id}"): _CHANGE,
    ("GET", "/v1/accounts/{account_id}/credit-grants"): _READ_SETTINGS,
    ("PUT", "/v1/accounts/{account_id}/credit-grants/{grant_id}"): _CHANGE,
    ("DELETE", "/v1/accounts/{account_id}/credit-grants/{grant_id}"): _CHANGE,
    ("GET", "/v1/prices"): _PRICES,
    ("GET", "/v1/prices/{provider}/{operation}/{model}"): _PRICES,
    ("PUT", "/v1/prices/{provider}/{operation}/{model}"): _CHANGE_ALL,
    ("POST", "/v1/prices:rate"): _PRICES,
    # What customers are charged: each may see its own, and nobody else's.
    ("GET", "/v1/resale-prices"): needs(About.EVERYBODY, Scope.USAGE_READ_ALL, Scope.ADMIN),
    ("PUT", "/v1/resale-prices/{operation}/{model}"): _CHANGE_ALL,
    ("GET", "/v1/accounts/{account_id}/resale-prices"): _READ_SETTINGS,
    ("PUT", "/v1/accounts/{account_id}/resale-prices/{operation}/{model}"): _CHANGE,
    # Who changed what: an account's own, or what is for all of them.
    ("GET", "/v1/changes"): needs(About.QUERY, Scope.ADMIN),
    ("GET", "/v1/adjustments"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("POST", "/v1/adjustments"): needs(About.BODY, Scope.ADMIN),
    ("PUT", "/v1/periods/{period}:close"): _CHANGE_ALL,
    ("PUT", "/v1/accounts/{account_id}/periods/{period}:close"): _CHANGE,
    ("GET", "/v1/accounts/{account_id}/periods"): _READ_SETTINGS,
    ("POST", "/v1/repricings"): needs(About.BODY, Scope.ADMIN),
    # What could not enter the log may be anybody's.
    ("GET", "/v1/dead-letters"): _CHANGE_ALL,
    ("GET", "/v1/dead-letters/{dead_letter_id}"): _CHANGE_ALL,
    ("POST", "/v1/dead-letters/{dead_letter_id}:redrive"): _CHANGE_ALL,
    ("POST", "/v1/dead-letters/{dead_letter_id}:discard"): _CHANGE_ALL,
    ("POST", "/v1/dead-letters:redrive"): _CHANGE_ALL,
    ("POST", "/v1/dead-letters:discard"): _CHANGE_ALL,
    # Checkpoints are hashes over the whole log: whoever proves a row of its own needs them.
    ("GET", "/v1/seals"): _SEALS,
    ("GET", "/v1/seals/key"): _SEALS,
    ("GET", "/v1/seals/{size}"): _SEALS,
    ("GET", "/v1/seals:consistency"): _SEALS,
    ("GET", "/v1/usage-log/{operation_id}/proof"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/operations:recent"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/operations:in-doubt"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    ("GET", "/v1/operations:stream"): needs(About.QUERY, Scope.USAGE_READ, Scope.USAGE_READ_ALL),
    # How the ledger itself stands.
    ("GET", "/v1/status"): _RUNS,
    ("GET", "/v1/sources"): _RUNS,
    ("POST", "/v1/sources:give-up"): _CHANGE_ALL,
    # Webhooks: an account's own tell what is about it.
    ("GET", "/v1/webhooks"): _CHANGE_ALL,
    ("PUT", _WEBHOOK): _CHANGE_ALL,
    ("GET", _WEBHOOK): _CHANGE_ALL,
    ("DELETE", _WEBHOOK): _CHANGE_ALL,
    ("POST", f"{_WEBHOOK}:pause"): _CHANGE_ALL,
    ("POST", f"{_WEBHOOK}:resume"): _CHANGE_ALL,
    ("POST", f"{_WEBHOOK}:rotate-secret"): _CHANGE_ALL,
    ("POST", f"{_WEBHOOK}:test"): _CHANGE_ALL,
    ("POST", f"{_WEBHOOK}:redeliver"): _CHANGE_ALL,
    ("GET", f"{_WEBHOOK}/deliveries"): _CHANGE_ALL,
    ("GET", f"{_WEBHOOK}/deliveries/{{message_id}}"): _CHANGE_ALL,
    ("POST", f"{_WEBHOOK}/deliveries/{{message_id}}:redeliver"): _CHANGE_ALL,
    ("GET", "/v1/accounts/{account_id}/webhooks"): _CHANGE,
    ("PUT", _OWN_WEBHOOK): _CHANGE,
    ("GET", _OWN_WEBHOOK): _CHANGE,
    ("DELETE", _OWN_WEBHOOK): _CHANGE,
    ("POST", f"{_OWN_WEBHOOK}:pause"): _CHANGE,
    ("POST", f"{_OWN_WEBHOOK}:resume"): _CHANGE,
    ("POST", f"{_OWN_WEBHOOK}:rotate-secret"): _CHANGE,
    ("POST", f"{_OWN_WEBHOOK}:test"): _CHANGE,
    ("POST", f"{_OWN_WEBHOOK}:redeliver"): _CHANGE,
    ("GET", f"{_OWN_WEBHOOK}/deliveries"): _CHANGE,
    ("GET", f"{_OWN_WEBHOOK}/deliveries/{{message_id}}"): _CHANGE,
    ("POST", f"{_OWN_WEBHOOK}/deliveries/{{message_id}}:redeliver"): _CHANGE,
    # Tokens: whoever may make them may do everything.
    ("GET", "/v1/tokens"): _CHANGE_ALL,
    ("POST", "/v1/tokens"): _CHANGE_ALL,
    ("DELETE", "/v1/tokens/{token_id}"): _CHANGE_ALL,
    # Another service asks whose the token is that it was sent: whoever asks has that token already.
    ("POST", "/v1/tokens:introspect"): needs(About.EVERYBODY, Scope.LIMITS_CHECK),
}

#: Whoever calls these waits for decisions.
_DECIDING: Final = frozenset({"/v1/limit-checks", "/v1/limit-checks:batch"})


def _count_check_errors(path: str, request: Request, error: Exception) -> None:
    """Also a check of which nobody can say whose it is gets no decision: over HTTP that is how an outage begins."""
    if path in _DECIDING:
        if isinstance(error, STORE_ERRORS):
            error = store_unavailable(error)
        if isinstance(error, ProblemError) and error.problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
            wired: Services = request.app.state.services
            wired.metrics.checks.failed(error.kind.code)


LedgerRoute: Final = guarded(RULES, strict_content_type=False, strict_query=True, on_error=_count_check_errors)
