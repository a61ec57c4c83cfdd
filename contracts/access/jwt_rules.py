"""What a JSON Web Token must be like, without the libraries that verify one: commands read settings, not tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contracts.access.principal import ClaimNames

#: All that may be chosen from. None of them has a secret that both sides know.
ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
ALGORITHMS_DEFAULT: Final = ("RS256", "PS256", "ES256", "EdDSA")

_NAMES: Final = ClaimNames()


@dataclass(frozen=True)
class JwtRules:
    """What a token must be like. ``leeway_seconds``: how far clocks may differ."""

    issuer: str
    audiences: Sequence[str]
    algorithms: Sequence[str] = ALGORITHMS_DEFAULT
    leeway_seconds: float = 30.0
    names: ClaimNames = _NAMES

    def __post_init__(self) -> None:
        if not self.algorithms or not set(self.algorithms) <= set(ALGORITHMS):
            raise ValueError(f"algorithms are some of {', '.join(ALGORITHMS)}")
