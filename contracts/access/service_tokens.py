"""Service tokens: made by the ledger for services and people, known to it by their keyed hashes alone."""

import re
import secrets
from datetime import datetime
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from contracts.access.principal import Principal, Scope
from contracts.identifiers import Name
from contracts.moments import Moment

#: So that people, and scanners for leaked secrets, know one when they see it.
PREFIX: Final = "ult_"
SECRET_BYTES: Final = 32
_FORM: Final = re.compile(rb"ult_[A-Za-z0-9_-]{43}")


def make_token() -> str:
    """A new one, of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def is_service_token(token: bytes) -> bool:
    """By its form alone."""
    return _FORM.fullmatch(token) is not None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TokenRequest(_Body):
    """A token to be made. With ``account_id`` it is for that account alone, else for all of them.

    ``name`` is also the user and the api key that operations of the image service are booked on, where the token is
    bound to an account.
    """

    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    account_id: Name | None = None
    expires_at: Moment | None = None

    @field_validator("scopes")
    @classmethod
    def _each_scope_once(cls, scopes: list[Scope]) -> list[Scope]:
        if len(set(scopes)) != len(scopes):
            raise PydanticCustomError("scope_twice", "a scope stands twice")
        return scopes

    @model_validator(mode="after")
    def _reading_ones_own_needs_an_account(self) -> Self:
        if self.account_id is None and set(self.scopes) == {Scope.USAGE_READ}:
            raise PydanticCustomError(
                "account_needed", "usage:read is for one account: name it in account_id, or use usage:read-all"
            )
        return self


class BootstrapToken(TokenRequest):
    """One that is made known before there is anybody who could make one over the API. A secret of the deployment."""

    model_config = ConfigDict(hide_input_in_errors=True)

    token: SecretStr

    @field_validator("token")
    @classmethod
    def _has_the_form(cls, token: SecretStr) -> SecretStr:
        if not is_service_token(token.get_secret_value().encode()):
            raise PydanticCustomError("token_form", "a token is ult_ and 43 characters, base64url of 256 random bits")
        return token


class TokenStored(_Body):
    """A token as it is known: all but the token itself."""

    token_id: str
    name: str
    scopes: list[Scope]
    account_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def principal(self) -> Principal:
        bound = self.account_id is not None
        return Principal(
            subject=self.name,
            scopes=frozenset(self.scopes),
            account_id=self.account_id,
            any_account=not bound,
            user_id=self.name if bound else None,
            api_key_id=self.name if bound else None,
            expires_at=None if self.expires_at is None else self.expires_at.timestamp(),
            token_id=self.token_id,
        )


class TokenMade(TokenStored):
    """The answer to a TokenRequest, and the only one that ever has the token in it."""

    token: str


class Tokens(_Body):
    tokens: list[TokenStored]


class Introspection(BaseModel):
    """Whose service token it is (RFC 7662, 2.2). ``active`` false: nobody's, any more; then there is nothing else."""

    model_config = ConfigDict(frozen=True)

    active: bool
    #: The token's id.
    jti: str | None = None
    #: The token's name.
    sub: str | None = None
    #: With spaces between.
    scope: str | None = None
    #: Unix seconds; none = it does not expire.
    exp: float | None = None
    account_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None

    @classmethod
    def of(cls, principal: Principal) -> Self:
        return cls(
            active=True,
            jti=principal.token_id,
            sub=principal.subject,
            scope=" ".join(sorted(principal.scopes)),
            exp=principal.expires_at,
            account_id=principal.account_id,
            user_id=principal.user_id,
            api_key_id=principal.api_key_id,
        )

    def principal(self) -> Principal | None:
        if not self.active or self.sub is None:
            return None
        held = (self.scope or "").split()
        return Principal(
            subject=self.sub,
            scopes=frozenset(scope for scope in Scope if scope in held),
            account_id=self.account_id,
            any_account=self.account_id is None,
            user_id=self.user_id,
            api_key_id=self.api_key_id,
            expires_at=self.exp,
            token_id=self.jti,
        )
