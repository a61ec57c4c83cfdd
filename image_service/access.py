"""Who may use which route of the image service, and for whom an operation is done."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from contracts.access.authenticator import FindServiceToken
from contracts.access.errors import AccessUnavailable, Forbidden
from contracts.access.guard import guarded
from contracts.access.principal import Principal, Scope
from contracts.access.rules import About, Rules, needs, not_your_account
from contracts.client import LedgerClient, LedgerUnavailable, TokenRefused
from contracts.problems import LEDGER_UNAVAILABLE, ProblemError, invalid
from image_service.calls import Caller
from image_service.operations import OPERATIONS

_LOOKER: Final = "anybody"

#: An operation checks limits and spends; with act-as, on somebody else's account.
_OPERATE: Final = needs(About.TOKEN, Scope.LIMITS_CHECK, Scope.ACT_AS)

#: Whose operations have no outcome yet is about all accounts.
_OVERSEE: Final = needs(About.EVERYBODY, Scope.ADMIN, Scope.USAGE_READ_ALL)

RULES: Final[Rules] = {
    **{("POST", operation.path): _OPERATE for operation in OPERATIONS.values()},
    ("GET", "/v1/images"): _OPERATE,
    ("GET", "/v1/in-doubt"): _OVERSEE,
    ("GET", "/v1/operations"): _OPERATE,
    ("GET", "/v1/operations/{operation_id}"): _OPERATE,
    ("GET", "/v1/operations/{operation_id}/events"): _OPERATE,
    ("GET", "/v1/results/{operation_id}/{number}"): _OPERATE,
}

ImageRoute: Final = guarded(RULES)

_ACCOUNT, _USER, _PROJECT, _API_KEY = HEADERS = tuple(str(field.alias) for field in Caller.model_fields.values())


def caller_of(principal: Principal, headers: Mapping[str, str]) -> Caller:
    """Whom the token speaks for; with act-as, whom the headers name, within the token's account if it has one.

    Raises Forbidden where headers contradict a token without act-as: to ignore them would book the operation on
    somebody whom the caller does not expect. Raises ProblemError (invalid_request) naming the header.
    """
    named = {name: value for name in HEADERS if (value := headers.get(name)) is not None}
    own = _of_token(principal) if principal.account_id is not None else {}
    if Scope.ACT_AS in principal.scopes:
        if own and named.get(_ACCOUNT, own[_ACCOUNT]) != own[_ACCOUNT]:
            raise not_your_account()
        try:
            return Caller.model_validate({**own, **named})
        except ValidationError as error:
            raise invalid(error) from error
    if not own:
        raise Forbidden("the token names no account, and only one with the scope act-as may name one in X-Account-Id")
    for name, value in named.items():
        if own.get(name) != value:
            raise Forbidden(f"{name}: the token says who calls; only one with the scope act-as may say otherwise")
    try:
        return Caller.model_validate(own)
    except ValidationError:
        # The value is the issuer's, not the caller's: it cannot be put right in a request.
        raise Forbidden("the token does not say in usable names who calls: see the claims of the settings") from None


def account_of(principal: Principal, headers: Mapping[str, str], named: str | None) -> str:
    """The account whose operations are looked at: ``named`` in the address, or as `caller_of` has it.

    Raises Forbidden and ProblemError as that does.
    """
    if named is None:
        return caller_of(principal, headers).account_id
    # Who of the account looks is nothing to a look.
    looking = {_ACCOUNT: named}
    if Scope.ACT_AS in principal.scopes:
        looking[_USER] = _LOOKER
        principal = replace(principal, project_id=None, api_key_id=None)
    return caller_of(principal, looking).account_id


def _of_token(principal: Principal) -> dict[str, str]:
    said = {
        _ACCOUNT: principal.account_id,
        _USER: principal.user_id,
        _PROJECT: principal.project_id,
        _API_KEY: principal.api_key_id,
    }
    return {name: value for name, value in said.items() if value is not None}


def ask_ledger(ledger: LedgerClient) -> FindServiceToken:
    """Service tokens are the ledger's: it is asked whose one is."""

    async def find(token: str) -> Principal | None:
        try:
            return (await ledger.introspect(token)).principal()
        except TokenRefused as error:
            # It answers, and not to us: what we remember of others' tokens is not to be relied upon either.
            raise ProblemError(LEDGER_UNAVAILABLE, "the token cannot be verified at this moment; try again") from error
        except LedgerUnavailable as error:
            raise AccessUnavailable(error.reason, LEDGER_UNAVAILABLE) from error

    return find
