"""JSON Web Tokens of an OIDC issuer: signature and claims (RFC 7519, RFC 8725). The keys come from outside.

What the token says of its own verification is not believed: the algorithm must be one of ours and fit the key, the key
must be one that the issuer publishes. Headers that bring or name keys (``jwk``, ``jku``, ``x5c``, ``x5u``) are not
looked at; one that says ``crit`` is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import jwt

from contracts.access.errors import Unauthenticated
from contracts.access.jwt_rules import JwtRules
from contracts.access.principal import Principal, principal_of

KEYS_MAX: Final = 100
_REQUIRED: Final = ("exp", "iss", "aud")
_UNREADABLE: Final = (jwt.PyJWTError, ValueError, TypeError, RecursionError)
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "k"})

Jwk = Mapping[str, Any]  # Any: a JSON object of the issuer's


class KeySet:
    """The keys of an issuer, by their ids."""

    def __init__(self, keys: Sequence[Jwk] = ()) -> None:
        self._keys = [key for key in keys[:KEYS_MAX] if _is_for_verifying(key)]
        self._made: dict[tuple[int, str], jwt.PyJWK] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self._keys == other._keys

    __hash__ = None  # type: ignore[assignment]  # compared by what it holds

    def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key with this id; without one, the only key there is. None also where it is not for the algorithm."""
        for index, key in enumerate(self._keys):
            if key.get("kid") == key_id if key_id is not None else len(self._keys) == 1:
                made = self._make(index, algorithm)
                if made is not None:  # else another one, of another kind, may have the same id
                    return made
        return None

    def _make(self, index: int, algorithm: str) -> jwt.PyJWK | None:
        if (index, algorithm) not in self._made:
            key = self._keys[index]
            # Without one of its own, the key is for any algorithm of its kind: making it says whether this is one.
            if key.get("alg", algorithm) != algorithm:
                return None
            try:
                self._made[index, algorithm] = jwt.PyJWK(dict(key), algorithm)
            except _UNREADABLE:
                return None
        return self._made[index, algorithm]


def _is_for_verifying(key: object) -> bool:
    """Public, asymmetric, and not for encryption."""
    if not isinstance(key, dict):
        return False
    allowed = key.get("key_ops", ["verify"])
    return (
        key.get("kty") in ("RSA", "EC", "OKP")
        and _PRIVATE.isdisjoint(key)
        and key.get("use", "sig") == "sig"
        and isinstance(allowed, list)
        and "verify" in allowed
    )


def key_wanted(token: str, rules: JwtRules) -> tuple[str | None, str]:
    """Which key a token wants: id and algorithm. Nothing is verified yet. Raises Unauthenticated."""
    try:
        header = jwt.get_unverified_header(token)
    except _UNREADABLE as error:
        raise Unauthenticated(type(error).__name__) from None
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in rules.algorithms:
        raise Unauthenticated("the algorithm is not one of those allowed")
    if "crit" in header:
        raise Unauthenticated("crit: an extension that we do not know")
    if key_id is not None and not isinstance(key_id, str):
        raise Unauthenticated("kid is no text")
    return key_id, algorithm


def verify(token: str, key: jwt.PyJWK, rules: JwtRules) -> Principal:
    """Raises Unauthenticated."""
    return principal_of(verified_claims(token, key, rules), rules.names)


def verified_claims(token: str, key: jwt.PyJWK, rules: JwtRules) -> dict[str, object]:
    """What a token in time says that the issuer signed for one of the audiences. Raises Unauthenticated."""
    try:
        claims: dict[str, object] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=list(rules.audiences),
            issuer=rules.issuer,
            leeway=rules.leeway_seconds,
            options={"require": list(_REQUIRED), "enforce_minimum_key_length": True},
        )
    except _UNREADABLE as error:
        # Its message may quote the token.
        raise Unauthenticated(type(error).__name__) from None
    return claims
