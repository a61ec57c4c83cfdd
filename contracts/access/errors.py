"""What a caller without the right token is told (RFC 6750), with nothing about why, and nothing of the token."""

from collections.abc import Iterable
from typing import Final

from contracts.problems import ACCESS_UNAVAILABLE, FORBIDDEN, UNAUTHENTICATED, ProblemError, ProblemType

REALM: Final = 'Bearer realm="usage-ledger"'
CHALLENGE: Final = "WWW-Authenticate"


class Unauthenticated(ProblemError):  # noqa: N818  as unauthenticated, its problem
    """No token, or none that is valid now. ``reason`` is for our own log: a guesser learns nothing from the answer."""

    def __init__(self, reason: str, *, token_given: bool = True) -> None:
        said = "the bearer token is not valid" if token_given else "send a bearer token in the header Authorization"
        super().__init__(UNAUTHENTICATED, said)
        self.headers = {CHALLENGE: f'{REALM}, error="invalid_token"' if token_given else REALM}
        self.reason, self.token_given = reason, token_given


class Forbidden(ProblemError):  # noqa: N818  as forbidden, its problem
    """A valid token that may not do this. Says the same whether what it is about exists or not."""

    def __init__(self, detail: str, needed: Iterable[str] = ()) -> None:
        super().__init__(FORBIDDEN, detail)
        scope = " ".join(sorted(needed))
        self.headers = {
            CHALLENGE: f'{REALM}, error="insufficient_scope"' + (f', scope="{scope}"' if scope else ""),
        }


class AccessUnavailable(ProblemError):  # noqa: N818  as access_unavailable, its problem
    """Whose token this is cannot be found out now, so nobody gets in with it. ``reason`` is for our own log; ``kind``
    is a service's own word for what is away."""

    def __init__(self, reason: str, kind: ProblemType = ACCESS_UNAVAILABLE) -> None:
        super().__init__(kind, "the token cannot be verified at this moment; try again")
        self.args = (f"{kind.code}: {reason}",)
        self.reason = reason
