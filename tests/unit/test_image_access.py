"""For whom something is done or looked at, by what a token says and what a request names."""

import pytest

from contracts.access.errors import Forbidden
from contracts.access.principal import Principal, Scope
from contracts.problems import ProblemError
from image_service.access import account_of, caller_of

OPERATOR = frozenset({Scope.LIMITS_CHECK, Scope.ACT_AS})
#: As issuers name people: nothing that usage can be booked on.
SUBJECT = "auth0|62f0"


def of_issuer(scopes: frozenset[Scope] = OPERATOR) -> Principal:
    return Principal(SUBJECT, scopes, "acme", user_id=SUBJECT, project_id="no name", issuer="https://issuer.example")


def test_whoever_may_act_for_others_looks_at_their_account_however_the_issuer_calls_them() -> None:
    assert account_of(of_issuer(), {}, "acme") == "acme"
    with pytest.raises(Forbidden):
        account_of(of_issuer(), {}, "globex")
    everybody = Principal("service", OPERATOR, any_account=True)
    assert account_of(everybody, {}, "globex") == "globex"
    for nobody in ("", "a b"):
        with pytest.raises(ProblemError):
            account_of(everybody, {}, nobody)


def test_nothing_is_booked_on_who_has_no_usable_name() -> None:
    with pytest.raises(ProblemError):
        caller_of(of_issuer(), {})
    bound = of_issuer(frozenset({Scope.LIMITS_CHECK}))
    with pytest.raises(Forbidden):
        caller_of(bound, {})
    with pytest.raises(Forbidden):
        account_of(bound, {}, "globex")


def test_a_token_of_one_account_names_no_other() -> None:
    token = Principal("t", frozenset({Scope.LIMITS_CHECK}), "acme", user_id="ann")
    assert (account_of(token, {}, None), account_of(token, {}, "acme")) == ("acme", "acme")
    for headers in ({"X-Account-Id": "globex"}, {"X-User-Id": "ben"}, {"X-Project-Id": "p"}):
        with pytest.raises(Forbidden):
            caller_of(token, headers)
    acting = Principal("t", OPERATOR, "acme", user_id="ann")
    assert caller_of(acting, {"X-User-Id": "ben"}).user_id == "ben"
    with pytest.raises(Forbidden):
        caller_of(acting, {"X-Account-Id": "globex"})
    with pytest.raises(Forbidden):
        caller_of(Principal("t", frozenset({Scope.LIMITS_CHECK}), any_account=True), {"X-Account-Id": "acme"})
