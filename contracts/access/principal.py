"""Who a verified token speaks for, and what it may do."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import TypeAdapter, ValidationError

from contracts.access.errors import Unauthenticated
from contracts.identifiers import Name


class Scope(StrEnum):
    """What a token may do; see deploy/guides/access.md."""

    LIMITS_CHECK = "limits:check"
    EVENTS_WRITE = "events:write"
    USAGE_READ = "usage:read"
    USAGE_READ_ALL = "usage:read-all"
    ADMIN = "admin"
    ACT_AS = "act-as"


ALL_SCOPES: Final = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Principal:
    """``account_id``: the one account that the token is for. None with ``any_account``: it is for all of them.

    ``user_id``, ``project_id`` and ``api_key_id`` are as the token has them; whoever meters by them checks their form.
    ``expires_at``: Unix seconds. ``subject``: a service token's name, or the subject of a JWT.
    """

    subject: str
    scopes: frozenset[Scope]
    account_id: str | None = None
    any_account: bool = False
    user_id: str | None = None
    project_id: str | None = None
    api_key_id: str | None = None
    expires_at: float | None = None
    #: The service token's id; None: a JWT's.
    token_id: str | None = None
    #: Who vouches for a JWT; None: a service token's, which the ledger does.
    issuer: str | None = None

    @property
    def key(self) -> str:
        """Tells this caller from all others, whichever token it has of its issuer's."""
        if self.issuer is not None:
            return f"{self.issuer} {self.subject or f'{self.account_id} {self.user_id}'}"
        return self.token_id or self.subject


#: Whoever calls while access is not controlled.
ANYBODY: Final = Principal("anybody", ALL_SCOPES, any_account=True)


@dataclass(frozen=True)
class ClaimNames:
    """Which claims of a JWT say what; of several, the first that is there."""

    account: Sequence[str] = ("account_id",)
    user: Sequence[str] = ("user_id", "sub")
    project: Sequence[str] = ("project_id",)
    api_key: Sequence[str] = ("api_key_id",)
    scopes: Sequence[str] = ("scope", "scp")


_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


def principal_of(claims: Mapping[str, object], names: ClaimNames) -> Principal:
    """Of claims that were verified, with ``exp``. Raises Unauthenticated where one that is there makes no sense.

    Scopes that we do not know are other services'. Without an account it is for any only with the scope act-as: an
    issuer that forgets the claim must not open all accounts.
    """
    scopes = _scopes(_first(claims, names.scopes))
    account = _first(claims, names.account)
    if account is _ABSENT:
        account_id = None
    else:
        try:
            account_id = _NAME.validate_python(account, strict=True)
        except ValidationError:
            raise Unauthenticated("the account claim is no account id") from None
    return Principal(
        subject=_text(claims.get("sub", _ABSENT)) or "",
        scopes=scopes,
        account_id=account_id,
        any_account=account_id is None and Scope.ACT_AS in scopes,
        user_id=_text(_first(claims, names.user)),
        project_id=_text(_first(claims, names.project)),
        api_key_id=_text(_first(claims, names.api_key)),
        expires_at=_seconds(claims["exp"]),
        issuer=_text(claims.get("iss", _ABSENT)),
    )


_ABSENT: Final = object()
#: JSON has halves of surrogate pairs and NUL, which no UTF-8 and no database has.
_NAMING: Final = re.compile("[^\\0\ud800-\udfff]*")


def _first(claims: Mapping[str, object], names: Sequence[str]) -> object:
    return next((claims[name] for name in names if name in claims), _ABSENT)


def _scopes(claim: object) -> frozenset[Scope]:
    """A list, or one text with spaces between (RFC 8693, 4.2)."""
    if claim is _ABSENT:
        return frozenset()
    words = claim.split(" ") if isinstance(claim, str) else claim
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unauthenticated("the scope claim is neither text nor a list of texts")
    return frozenset(scope for scope in Scope if scope in words)


def _text(claim: object) -> str | None:
    if claim is _ABSENT or claim is None:
        return None
    if not isinstance(claim, str) or not _NAMING.fullmatch(claim):
        raise Unauthenticated("a claim that names somebody is no text")
    return claim


def _seconds(claim: object) -> float:
    # bool is an int to Python; NaN and infinity are numbers to its JSON.
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not 0 <= claim < 1e12:
        raise Unauthenticated("exp is no time")
    return float(claim)
