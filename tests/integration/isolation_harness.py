"""Requests of somebody who holds a token of one account and knows every id of another: made of the app's own routes and
their documents, so that a new route, parameter or field is tried by itself."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from contracts.access.guard import OPEN_PATHS
from contracts.web.pages import PageRoute
from ledger_service.pages import PAGES
from tests.builders import Body
from tests.integration.test_access_routes import LEDGER, Account

#: Of a parameter that is no name of anything, something that it takes.
USUAL: Final[Mapping[str, str]] = {
    "format": "csv", "from": "2026-01-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "period": "2026-01",
    "operation": "generate", "doubt": "open", "size": "1", "seconds": "0.01", "filter": "account:{account_id}",
    "group_by": "account,user,model", "min_position": "1", "limit": "50", "what": "completed", "version": "1.2",
    "dead_letter_id": "1", "prefix": "{account_id}", "about": "{account_id}", "until": "2026-12-31", "author": "tests",
    "reason": "no reason", "do": "save", "act": "record", "kind": "void", "corrects_id": "{adjustment_id}",
}  # fmt: skip
#: Fields that a body may have besides, and which make it do more.
_MORE: Final[Mapping[tuple[str, str], Mapping[str, str | bool | int]]] = {
    ("POST", "/v1/repricings"): {"dry_run": False},
    ("POST", "/v1/events"): {"sourcesequence": 2},
}
#: Parameters that name nothing of anybody's.
_PLAIN: Final = {
    "as_of", "min_position", "wait_seconds", "from", "to", "limit", "recorded_from", "recorded_to", "counted_from",
    "counted_to", "interval", "time_zone", "format", "version", "seconds", "rows_max", "older_than_seconds", "measures",
    "order_by", "top", "compare", "groups", "dry_run", "if_version", "late_after", "at", "changes", "outcome", "what",
    "operation", "kind", "doubt", "period", "until", "range", "minutes", "holes", "valid_from",
}  # fmt: skip
#: Names of a form's fields; each action takes those that it knows.
FORM_FIELDS: Final = (
    "account_id", "operation_id", "corrects_id", "adjustment_id", "kind", "reason", "act", "do", "webhook_id",
    "plan_id", "limit_id", "grant_id", "source", "prefix",
)  # fmt: skip
FROM_OURSELVES: Final = {"Sec-Fetch-Site": "same-origin"}
_READS: Final = {"GET"}
#: What differs between two answers that say the same.
_VARYING: Final = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|"
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d[\d:.]*(?:Z|[+-]\d\d:?\d\d)?|[\w+/-]{42,}=?|\d+",
    re.ASCII,
)


@dataclass(frozen=True)
class Known:
    """The ids of an account that its neighbour knows, by the names that parameters and fields have for them."""

    ids: Mapping[str, str]
    #: Where pages of its lists end, by the path of the list.
    cursors: Mapping[str, str] = field(default_factory=dict)

    def hidden_in(self, text: str) -> str:
        """A text without them, and without what differs from call to call."""
        for one in sorted(self.ids.values(), key=len, reverse=True):
            text = text.replace(one, "ID")
        return _VARYING.sub("#", text)


@dataclass(frozen=True)
class Attack:
    """A request; its ``name`` says what it tries."""

    name: str
    method: str
    path: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    form: Mapping[str, str] | None = None
    headers: Mapping[str, bytes] = field(default_factory=dict)

    async def send(self, http: httpx.AsyncClient) -> httpx.Response:
        given: dict[str, Any] = {"params": dict(self.parameters), "headers": dict(self.headers)}
        if self.form is not None:
            given |= {"data": dict(self.form), "headers": FROM_OURSELVES}
        elif self.body is not None:
            given["json"] = self.body
        return await http.request(self.method, self.path, **given)


def attacks(app: FastAPI, mine: Known, theirs: Known, *, reads: bool) -> Iterator[Attack]:
    """All that is tried on every route that only reads, or on all others. ``theirs`` may be of nobody, to compare."""
    document = app.openapi()
    for context in iter_route_contexts(app.routes):
        if context.path in OPEN_PATHS:
            continue
        for method in sorted(context.methods or ()):
            if method == "HEAD" or (method in _READS) is not reads:
                continue
            if isinstance(context.original_route, PageRoute):
                yield from _on_page(method, str(context.path), mine, theirs)
            elif getattr(context.original_route, "RULES", None) is not None:
                path = str(context.path_format)
                yield from _on_route(method, path, document["paths"][path][method.lower()], mine, theirs)


def forgeries(app: FastAPI, mine: Known, cursors: Sequence[str], rows: Sequence[str]) -> Iterator[Attack]:
    """Every list that takes a place to go on from, with each of these texts as that."""
    document = app.openapi()
    for (method, path), operation in (
        ((method.upper(), path), operation)
        for path, of in document["paths"].items()
        for method, operation in of.items()
    ):
        named = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] != "path"}
        needed = {
            name: _usual(name, mine)
            for name, one in named.items()
            if one.get("required") or name in ("seconds", "format")
        }
        [(_, address), *_] = [*_addresses(path, mine, mine)]
        for name in ("cursor", "before", "after", "last-event-id"):
            for cursor in cursors if name in named else ():
                told = f"{method} {path}: {name} {cursor[:60]!r}"
                if name != "last-event-id":
                    yield Attack(told, method, address, {**needed, name: cursor})
                elif cursor.isprintable():
                    yield Attack(told, method, address, needed, headers={name: cursor.encode()})
        if {"cursor", "after"} <= named.keys():
            for row in rows:
                told = f"{method} {path}: after {row!r}"
                yield Attack(told, method, address, {**needed, "cursor": mine.cursors.get(path, ""), "after": row})


def _on_route(method: str, path: str, operation: Body, mine: Known, theirs: Known) -> Iterator[Attack]:
    named = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    needed = {
        one["name"]: _usual(one["name"], mine)
        for one in operation.get("parameters", ())
        if one["in"] == "query" and (one.get("required") or one["name"] in ("seconds", "format"))
    }
    bodies = [*_bodies(method, path, mine, theirs)]
    for whose, address in _addresses(path, mine, theirs):
        for what, body in bodies:
            yield Attack(f"{method} {path}: {whose}, {what}", method, address, needed, body)
        for name in sorted({*named} - _PLAIN):
            for number, value in enumerate(_values(name, path, theirs)):
                told = f"{method} {path}: {whose}, {name}[{number}] of theirs"
                yield Attack(told, method, address, {**needed, name: value}, bodies[0][1])


def _on_page(method: str, path: str, mine: Known, theirs: Known) -> Iterator[Attack]:
    for whose, address in _addresses(path, mine, theirs):
        if method == "POST":
            form = {name: _usual(name, theirs) for name in FORM_FIELDS}
            yield Attack(f"POST {path}: {whose}, their names", method, address, form=form)
            yield Attack(f"POST {path}: {whose}, our account", method, address, form={**form, **_whose(mine)})
            continue
        yield Attack(f"GET {path}: {whose}", method, address)
        [page] = [one for one in PAGES if (one.method, one.path) == (method, path)]
        for name in sorted({"account_id", *(page.asks or ())} - _PLAIN):
            for number, value in enumerate(_values(name, path, theirs)):
                yield Attack(f"GET {path}: {whose}, {name}[{number}] of theirs", method, address, {name: value})


def _whose(known: Known) -> dict[str, str]:
    return {"account_id": known.ids["account_id"]}


def _addresses(path: str, mine: Known, theirs: Known) -> Iterator[tuple[str, str]]:
    """The path with names of theirs; where it names an account, once with their account, and once with ours."""
    names = re.findall(r"{(\w+)(?::path)?}", path)
    plain = re.sub(r"{(\w+):path}", r"{\1}", path)
    filled = {name: _usual(name, theirs) for name in names}
    yield "their ids", plain.format(**filled)
    if "account_id" in names:
        yield "their ids in our account", plain.format(**{**filled, **_whose(mine)})


def _usual(name: str, known: Known) -> str:
    return known.ids.get(name) or USUAL.get(name, "1").format(**known.ids)


def _values(name: str, path: str, theirs: Known) -> Iterator[str]:
    if name in ("cursor", "after", "before"):
        yield from theirs.cursors.values()
    yield _usual(name, theirs)
    if name == "filter":
        for dimension in ("user", "project", "api_key", "model", "provider"):
            yield f"{dimension}:{_usual('model' if dimension == 'model' else f'{dimension}_id', theirs)}"


def _bodies(method: str, path: str, mine: Known, theirs: Known) -> Iterator[tuple[str, Body | None]]:
    """What the route takes about our account, with ids of theirs in each place by itself; and about theirs."""
    own, foreign = (_example(method, path, known) for known in (mine, theirs))
    yield "as it is", own
    if own is None:
        return
    yield "about them", foreign
    own = {**own, **_MORE.get((method, path), {})}
    yield "for real", own
    places = [place for place in _places(own) if place[-1] in theirs.ids]
    for place in places:
        yield f"their {'.'.join(map(str, place))}", _with(own, place, theirs.ids[str(place[-1])])
    for name in ("account_id", "operation_id", "user_id", "plan_id", "lease_id"):
        if name not in own:
            yield f"their {name} besides", {**own, name: theirs.ids[name]}


def _example(method: str, path: str, known: Known) -> Body | None:
    ids = known.ids
    about = Account(ids["account_id"], ids["operation_id"], ids["lease_id"], ids["token"])
    route = LEDGER.get((method, path))
    assert route is not None, f"{method} {path} has no example in test_access_routes.LEDGER"
    body = route.to(about)[1]
    return body.get("json", body.get("data"))


def _places(body: object, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    inner: Sequence[tuple[str | int, object]] = ()
    if isinstance(body, dict):
        inner = [*body.items()]
    elif isinstance(body, list):
        inner = [*enumerate(body)]
    for name, value in inner:
        yield (*before, name)
        yield from _places(value, (*before, name))


def _with(body: Body, place: Sequence[str | int], value: str) -> Body:
    changed: Any = dict(body)
    inner = changed
    for name in place[:-1]:
        inner[name] = inner[name].copy()
        inner = inner[name]
    inner[place[-1]] = value
    return dict(changed)
