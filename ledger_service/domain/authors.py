"""Who made a change, in its event: the CloudEvents extension for authentication context.

https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/authcontext.md
"""

from collections.abc import Mapping
from typing import Final

import orjson

from contracts.access.principal import ANYBODY, Principal
from contracts.changes import Author

_KIND, _ID, _CLAIMS = "authtype", "authid", "authclaims"
_NAME, _ISSUER = "name", "iss"
SYSTEM: Final = "system"


def author_of_call(principal: Principal) -> Author:
    """Whoever a token speaks for."""
    if principal is ANYBODY:
        return Author(kind="unauthenticated", id=principal.subject)
    if principal.issuer is not None:
        return Author(kind="user", id=principal.subject or principal.key, issuer=principal.issuer)
    return Author(kind="api_key", id=principal.token_id or principal.subject, name=principal.subject)


def attributes(author: Author) -> dict[str, str]:
    """As an event has them."""
    claims = {_NAME: author.name, _ISSUER: author.issuer}
    said = orjson.dumps({name: value for name, value in claims.items() if value is not None}).decode()
    return {_KIND: author.kind, _ID: author.id, **({_CLAIMS: said} if said != "{}" else {})}


def author_in(event: Mapping[str, object]) -> Author | None:
    """None for an event of before they were in there, of which nobody can say it any more."""
    kind, named, claims = event.get(_KIND), event.get(_ID), event.get(_CLAIMS)
    if not isinstance(kind, str) or not isinstance(named, str):
        return None
    said = orjson.loads(claims) if isinstance(claims, str) else {}
    return Author(kind=kind, id=named, name=said.get(_NAME), issuer=said.get(_ISSUER))
