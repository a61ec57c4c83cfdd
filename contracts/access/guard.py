"""Routes that let in only whom their rule allows: before anything of the body is read, and by route, never by address.

A router of a service has `guarded(RULES)` as its route class, and `require_rules` refuses to start an app with a route
that says nothing.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias, get_type_hints
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.datastructures import QueryParams
from starlette.types import Scope as AsgiScope

from contracts.access.bearer import presented_token
from contracts.access.caller import CALLER
from contracts.access.principal import ANYBODY, Principal
from contracts.access.rules import OPEN, About, Rule, Rules, not_your_account
from contracts.problems import (
    ACCESS_UNAVAILABLE,
    FORBIDDEN,
    OVERLOADED,
    RATE_LIMITED,
    UNAUTHENTICATED,
    broken_rule,
)

if TYPE_CHECKING:
    from contracts.access.oidc_login import OidcLogin

#: Open to all in every service, whoever serves them.
OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"})
ACCOUNT: Final = "account_id"
SCHEME: Final = "bearer"
#: Of a parameter that nobody knows, so much is said again.
NAME_SHOWN_MAX: Final = 100
#: What every guarded route may answer, for the documents.
ACCESS_PROBLEMS: Final = (UNAUTHENTICATED, FORBIDDEN, RATE_LIMITED, ACCESS_UNAVAILABLE, OVERLOADED)
_PRINCIPAL: Final = "usage_ledger.principal"


#: Of a route, as it is declared: told of a request to it, and why it is not known who sent it.
OnError: TypeAlias = Callable[[str, Request, Exception], None]


class Access(Protocol):
    """Whoever turns tokens into principals; an app has its own in ``app.state.access``."""

    #: False: nobody is asked for a token.
    is_controlled: bool
    #: How people sign in at an issuer; None: with a token alone.
    login: "OidcLogin | None"

    async def authenticate(self, token: bytes, address: str = "") -> Principal:
        """Raises Unauthenticated, RateLimited, AccessUnavailable, or ProblemError (overloaded)."""
        ...


def guarded(
    rules: Rules,
    *,
    strict_content_type: bool = True,
    strict_query: bool = False,
    on_error: OnError = lambda _, __, ___: None,
) -> type[APIRoute]:
    """The class of routes under these rules. Making one that they do not name raises LookupError.

    Without ``strict_content_type`` a JSON body is one whatever its Content-Type says. With ``strict_query`` reads
    refuse parameters that they do not know: answered as if they were not there, they would look obeyed. ``on_error`` is
    told of requests whose caller could not be found out.
    """

    class GuardedRoute(APIRoute):
        RULES: ClassVar = rules

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # Any: as FastAPI has it
            self.strict_content_type = strict_content_type
            handler = _direct(self) or super().get_route_handler()
            if strict_query and self.methods == {"GET"}:
                handler = _strict(handler, _query_names(self.dependant))
            rule = rule_of(rules, self.path_format, self.methods or ())
            return handler if rule is OPEN else _guard(rule, handler, partial(on_error, self.path_format))

    return GuardedRoute


def _direct(
    route: APIRoute,
) -> Callable[[Request], Coroutine[Any, Any, Response]] | None:  # Any: as FastAPI has it
    """The endpoint itself, where the request is all that it takes, and its response all that it gives: FastAPI would
    find out at each call that there is nothing to solve, which takes it as long as the rest of the routing."""
    hints = get_type_hints(route.endpoint)
    answer = hints.pop("return", None)
    is_plain = list(hints.values()) == [Request] and isinstance(answer, type) and issubclass(answer, Response)
    return route.endpoint if is_plain and not route.dependant.dependencies else None


def _query_names(dependant: Dependant) -> frozenset[str]:
    own = frozenset(field.alias for field in dependant.query_params)
    return own.union(*map(_query_names, dependant.dependencies))


def _strict(
    handler: Callable[[Request], Awaitable[Response]], names: frozenset[str]
) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # Any: as FastAPI has it
    async def strict(request: Request) -> Response:
        for name in request.query_params:
            if name not in names:
                message = f"no parameter of this read; it takes: {', '.join(sorted(names)) or 'none'}"
                raise broken_rule(f"query.{name[:NAME_SHOWN_MAX]}", "unknown", message)
        return await handler(request)

    return strict


def rule_of(rules: Rules, path: str, methods: Iterable[str]) -> Rule:
    """The rule of a route. Raises LookupError where there is none, or more than one."""
    if path in OPEN_PATHS:
        return OPEN
    found = {rules.get((method, path)) for method in methods}
    if len(found) != 1 or None in found:
        raise LookupError(f"no rule says who may use {' '.join(sorted(methods))} {path}")
    [rule] = found
    assert rule is not None
    return rule


def principal_of_request(request: Request) -> Principal:
    """Who calls a guarded route."""
    found: Principal = request.scope[_PRINCIPAL]
    return found


def bound_account(request: Request) -> str | None:
    """The only account whose matters this call may touch; None: it may touch all."""
    return principal_of_request(request).account_id


def _guard(
    rule: Rule,
    handler: Callable[[Request], Awaitable[Response]],
    on_error: Callable[[Request, Exception], None],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # Any: as FastAPI has it
    async def guard(request: Request) -> Response:
        scope = request.scope
        access: Access = scope["app"].state.access
        if access.is_controlled:
            client = scope["client"]  # none on a Unix socket
            token = presented_token(scope["method"], scope["headers"])
            try:
                principal = await access.authenticate(token, client[0] if client else "")
            except Exception as error:
                on_error(request, error)
                raise
            rule.admit(principal)
            if principal.account_id is not None:
                _confine(rule, principal.account_id, scope)
        else:
            principal = ANYBODY
        scope[_PRINCIPAL] = principal
        CALLER.set(principal)
        return await handler(request)

    return guard


def _confine(rule: Rule, account_id: str, scope: AsgiScope) -> None:
    """Refuses an address that names another account; one that may name some, and names none, is about this one."""
    if rule.about is About.PATH and scope["path_params"][ACCOUNT] != account_id:
        raise not_your_account()
    if rule.about is About.QUERY:
        named = QueryParams(scope["query_string"]).getlist(ACCOUNT)
        if any(name != account_id for name in named):
            raise not_your_account()
        if not named:
            own = f"{ACCOUNT}={quote(account_id, safe='')}".encode()
            scope["query_string"] = b"&".join(filter(None, (scope["query_string"], own)))


def require_rules(app: FastAPI) -> None:
    """Raises LookupError where a route of the app lets in whoever comes, and is not one of OPEN_PATHS."""
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        guards = hasattr(route, "RULES") if isinstance(route, APIRoute) else getattr(route, "IS_GUARDED", False)
        if not guards and context.path not in OPEN_PATHS:
            raise LookupError(f"the route {context.path} is not guarded: give its router route_class=guarded(…)")


def document_access(app: FastAPI, rules: Rules) -> None:
    """Says in the app's OpenAPI document which routes need a token, so that /docs can send one."""
    original = app.openapi

    def openapi() -> dict[str, Any]:  # Any: the OpenAPI document, as FastAPI has it
        document = original()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[SCHEME] = {"type": "http", "scheme": "bearer", "description": "A service token, or a JWT of the issuer"}
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                rule = rule_of(rules, path, [method.upper()])
                if rule.scopes is not None:
                    needed = " or ".join(f"`{scope}`" for scope in sorted(rule.scopes))
                    operation["security"] = [{SCHEME: []}]
                    operation["responses"].setdefault("403", {})["description"] = f"forbidden: the token needs {needed}"
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it
