"""Settings about access, the same in both services."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr, model_validator

from contracts.access.jwt_rules import ALGORITHMS, ALGORITHMS_DEFAULT, JwtRules
from contracts.access.principal import ClaimNames
from contracts.access.rates import Rate, RateRules

#: Where containers have their secrets: each in a file that is named like its setting, ledger_database_url.
SECRETS_FOLDER: Final = Path("/run/secrets")

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_NAMES: Final = ClaimNames()


def secrets_folder() -> Path | None:
    """Where a setting that the environment does not have is looked for in a file; None outside of containers."""
    return SECRETS_FOLDER if SECRETS_FOLDER.is_dir() else None


def is_safe_url(url: str) -> bool:
    """https, or http on this machine: keys that somebody else can replace on their way verify nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:  # https://[bad
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    )


def is_loopback(host: str) -> bool:
    """Whether a host's name is one of this machine's own, which nothing on a network answers to."""
    return host in _LOOPBACK


def _safe(url: str) -> str:
    if not is_safe_url(url):
        raise ValueError("https is needed, except on this machine")
    return url


def _algorithm(name: str) -> str:
    if name not in ALGORITHMS:
        raise ValueError(f"one of {', '.join(ALGORITHMS)}")
    return name


_Url = Annotated[str, AfterValidator(_safe)]
_Texts = Annotated[list[str], Field(min_length=1)]


class AccessSettings(BaseModel):
    """Lists are JSON in the environment: ``LEDGER_OIDC_AUDIENCES='["ledger"]'``."""

    #: off: everybody may do everything, as anybody. For a closed network, or to look for a fault.
    auth: Literal["required", "off"] = "required"
    #: The ``iss`` of tokens. None: there are service tokens only.
    oidc_issuer: _Url | None = None
    #: Tokens must be for one of these (``aud``).
    oidc_audiences: list[str] = []
    #: None: found by discovery, below the issuer.
    oidc_jwks_url: _Url | None = None
    #: Signatures that are believed; HMAC and ``none`` cannot be chosen.
    oidc_algorithms: Annotated[list[Annotated[str, AfterValidator(_algorithm)]], Field(min_length=1)] = list(
        ALGORITHMS_DEFAULT
    )
    #: How far the issuer's clock may be from ours.
    oidc_leeway_seconds: Annotated[float, Field(ge=0, le=300)] = 30.0

    #: This service, as the issuer knows it: people then sign in at the issuer. None: with a token alone.
    oidc_client_id: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    #: What it proves that with. None: it is a public client, by PKCE alone.
    oidc_client_secret: SecretStr | None = None
    #: What is asked for when somebody signs in; openid is among them.
    oidc_scopes: Annotated[list[str], Field(min_length=1)] = ["openid"]
    #: What else the issuer is asked with, as it needs to know whom its token is for: ``{"audience": "ledger"}``.
    oidc_authorize: dict[str, str] = {}

    #: Which claims say what; of several, the first that is there.
    claim_account: _Texts = list(_NAMES.account)
    #: Who acts, within the account.
    claim_user: _Texts = list(_NAMES.user)
    #: What the usage is booked on beside the user.
    claim_project: _Texts = list(_NAMES.project)
    #: The same of the key.
    claim_api_key: _Texts = list(_NAMES.api_key)
    #: What the token opens: one text with spaces between, or a list.
    claim_scopes: _Texts = list(_NAMES.scopes)

    #: Requests a second of each token, or subject of an issuer, that is bound to an account; 0 = as many as come. One
    #: that paused may send a burst. Of one process.
    rate_per_second: Annotated[float, Field(ge=0)] = 500.0
    #: So many at once, after a pause.
    rate_burst: Annotated[int, Field(ge=1)] = 1_000
    #: The same of each token that is bound to none: a service, which limits its own callers.
    rate_unbound_per_second: Annotated[float, Field(ge=0)] = 0.0
    #: So many at once, after a pause.
    rate_unbound_burst: Annotated[int, Field(ge=1)] = 10_000
    #: Tokens that are nobody's, from one address; beyond that, unknown ones from there are not looked up.
    rate_failures_per_second: Annotated[float, Field(ge=0)] = 5.0
    #: So many at once, after a pause.
    rate_failures_burst: Annotated[int, Field(ge=1)] = 200
    #: HTTP connections at once from one address; one more is refused. Behind a proxy: as many as there may be in all.
    connections_per_address_max: Annotated[int, Field(ge=1)] = 1_000

    @property
    def rate_rules(self) -> RateRules:
        return RateRules(
            Rate(self.rate_per_second, self.rate_burst),
            Rate(self.rate_unbound_per_second, self.rate_unbound_burst),
            Rate(self.rate_failures_per_second, self.rate_failures_burst),
        )

    @model_validator(mode="after")
    def _an_issuer_is_asked_for_somebody(self) -> Self:
        if self.oidc_issuer is not None and not self.oidc_audiences:
            raise ValueError("oidc_issuer needs oidc_audiences: a token for another service must not open this one")
        if self.oidc_issuer is None and self.oidc_jwks_url is not None:
            raise ValueError("oidc_jwks_url needs oidc_issuer")
        if self.oidc_issuer is None and self.oidc_client_id is not None:
            raise ValueError("oidc_client_id needs oidc_issuer")
        if self.oidc_client_id is None and self.oidc_client_secret is not None:
            raise ValueError("oidc_client_secret needs oidc_client_id")
        if "openid" not in self.oidc_scopes:
            raise ValueError("oidc_scopes needs openid: else there is no proof of who signed in")
        return self

    @property
    def jwt_rules(self) -> JwtRules | None:
        """None where no issuer is trusted."""
        if self.oidc_issuer is None:
            return None
        return JwtRules(
            self.oidc_issuer,
            tuple(self.oidc_audiences),
            tuple(self.oidc_algorithms),
            self.oidc_leeway_seconds,
            ClaimNames(
                tuple(self.claim_account),
                tuple(self.claim_user),
                tuple(self.claim_project),
                tuple(self.claim_api_key),
                tuple(self.claim_scopes),
            ),
        )
