"""What a route needs of a token, and where the account is that it is about."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from contracts.access.errors import Forbidden
from contracts.access.principal import Principal, Scope


class About(Enum):
    """Whose matters a route deals with."""

    #: Nobody's: whoever has the scope, and whoever is asked for nothing.
    NOBODY = "nobody"
    #: All accounts': a token that is bound to one is refused.
    EVERYBODY = "everybody"
    #: The account in the path, as ``{account_id}``.
    PATH = "path"
    #: The account in the query, as ``account_id``; a bound token that names none gets its own put in there.
    QUERY = "query"
    #: The account in the body: the handler takes `bound_account` along, and refuses or narrows.
    BODY = "body"
    #: The token's own, or, with act-as, the one in the headers: the handler finds out.
    TOKEN = "token"  # noqa: S105  no password


@dataclass(frozen=True)
class Rule:
    """``scopes``: any of them will do; None = no token is asked for."""

    scopes: frozenset[Scope] | None
    about: About

    def admit(self, principal: Principal) -> None:
        """Raises Forbidden unless the token may do this at all, for some account."""
        assert self.scopes is not None, "who asks for no token asks no principal"
        held = self.scopes & principal.scopes
        if not held:
            raise Forbidden(f"the token needs the scope {' or '.join(sorted(self.scopes))}", self.scopes)
        if self.about in (About.NOBODY, About.TOKEN) or principal.account_id is not None:
            if self.about is About.EVERYBODY:
                raise Forbidden("the token is bound to an account, and this is about all of them")
            return
        if not held & _OF_ANY_ACCOUNT and not (principal.any_account and held & _OF_ANY_IF_SO_SAID):
            raise Forbidden("the token names no account, and its scopes are for one account only")


#: Scopes that reach every account where the token is bound to none; usage:read is not among them.
_OF_ANY_ACCOUNT: Final = frozenset({Scope.ADMIN, Scope.USAGE_READ_ALL})
_OF_ANY_IF_SO_SAID: Final = frozenset({Scope.LIMITS_CHECK, Scope.EVENTS_WRITE})

OPEN: Final = Rule(None, About.NOBODY)

#: Method and path, as the route has it, and what it needs.
Rules: TypeAlias = Mapping[tuple[str, str], Rule]


def needs(about: About, *scopes: Scope) -> Rule:
    """``needs(About.PATH, Scope.ADMIN)``"""
    return Rule(frozenset(scopes), about)


def not_your_account() -> Forbidden:
    """The same for accounts that exist and those that do not."""
    return Forbidden("the token is for another account")
