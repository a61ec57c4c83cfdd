"""The gallery: choose an operation, give it a picture, and see what comes of it."""

import asyncio
from collections.abc import Mapping
from typing import Final

import orjson

from contracts.access.principal import Scope
from contracts.problems import LIMIT_EXCEEDED
from contracts.web.own_api import JSON, ApiProblem, Document, multipart, query_of
from contracts.web.pages import Action, Page, Redirect, Shown, View, Visit
from image_service.pages.fields import fields_of, typed

OPERATORS: Final = frozenset({Scope.LIMITS_CHECK, Scope.ACT_AS})
#: Of a form, its pictures included: it is in memory, twice.
FORM_BYTES_MAX: Final = 30 * 1024 * 1024
FILES_MAX: Final = 12
#: Forms with pictures that are in memory at once; more wait on disk.
FORMS_AT_ONCE: Final = 4
_LATEST: Final = 12
#: Who pays and who acts, where the token may say so of others.
_WHO: Final = {"account_id": "X-Account-Id", "user_id": "X-User-Id"}


async def _show(visit: Visit) -> Shown:
    return await _form(visit, dict(visit.query.items()), {})


async def _form(visit: Visit, given: Mapping[str, str], told: Mapping[str, object], status: int = 200) -> Shown:
    """The page, with what was typed before in its fields."""
    operations = (await visit.api.get("/v1/images")).json["operations"]
    chosen = _chosen(operations, given.get("operation", ""))
    who = who_of(visit, given)
    around = {
        "operations": operations,
        "chosen": chosen,
        "fields": fields_of(chosen["parameters"]),
        "given": given,
        "who": who,
        "names_who": names_who(visit),
        "latest": await latest_of(visit, who),
        "problem": None,
        "decision": None,
    }
    return View("gallery.html", {**around, **told}, status)


def _chosen(operations: list[Document], name: str) -> Document:
    return next((one for one in operations if one["name"] == name), operations[0])


def names_who(visit: Visit) -> bool:
    """Whether this visitor's token may act for others, and so has to say for whom."""
    return Scope.ACT_AS in visit.principal.scopes


def who_of(visit: Visit, given: Mapping[str, str]) -> dict[str, str]:
    """Account and user as the visitor named them, or as the token has them."""
    return {
        "account_id": given.get("account_id") or visit.principal.account_id or "",
        "user_id": given.get("user_id") or visit.principal.user_id or "",
    }


def headers_of(visit: Visit, who: Mapping[str, str]) -> dict[str, str]:
    """The same for the API, where the token leaves it open."""
    return {_WHO[name]: value for name, value in who.items() if value} if names_who(visit) else {}


async def latest_of(visit: Visit, who: Mapping[str, str]) -> list[Document]:
    """The account's latest operations; none before it is known whose."""
    if not who["account_id"]:
        return []
    try:
        asked: dict[str, str | int] = {"account_id": who["account_id"], "limit": _LATEST}
        latest: list[Document] = (await visit.api.get("/v1/operations", asked)).json["operations"]
    except ApiProblem as error:
        if error.problem.status in (401, 503):
            raise
        return []  # an account that is no name: the form's own answer says so
    return latest


async def _try(visit: Visit) -> Shown:
    given = {name: values[-1].strip() for name, values in visit.form.items()}
    operations = (await visit.api.get("/v1/images")).json["operations"]
    chosen = _chosen(operations, given.get("operation", ""))
    who = who_of(visit, given)
    headers = {**headers_of(visit, who), "Prefer": "respond-async, return=minimal"}
    try:
        content_type, body = _body(visit, chosen, given)
        answer = await visit.api.call("POST", chosen["path"], body=body, content_type=content_type, headers=headers)
    except ApiProblem as error:
        told = {"problem": error.problem, "decision": None}
        if error.problem.code == LIMIT_EXCEEDED.code:
            told["decision"] = (error.problem.model_extra or {}).get("decision")
        return await _form(visit, given, told, error.problem.status)
    asked = query_of({"account_id": who["account_id"], "user_id": who["user_id"]} if names_who(visit) else {})
    return Redirect(f"/tries/{answer.json['operation_id']}{'?' if asked else ''}{asked}")


def _body(visit: Visit, chosen: Document, given: Mapping[str, str]) -> tuple[str, bytes]:
    """As the operation wants it: JSON, or a form where it takes pictures. Empty fields are left out."""
    names = chosen["parameters"]["properties"].keys()
    parameters = {name: value for name, value in given.items() if name in names and value}
    if "provider" not in parameters and "/" in given.get("by", ""):
        parameters["provider"], _, parameters["model"] = given["by"].partition("/")
    if not chosen["uploads"]:
        return JSON, orjson.dumps(typed(chosen["parameters"], parameters))
    files = [
        (field["name"], sent.name or "picture", sent.media_type or "application/octet-stream", sent.content)
        for field in chosen["uploads"]
        for sent in visit.files.get(field["name"], ())
    ]
    return multipart(parameters, files)


PAGES: Final = (
    Page("/", "Gallery", _show, menu="Try an operation", scopes=OPERATORS, asks=None),
    Action(
        "/",
        "Gallery",
        _try,
        scopes=OPERATORS,
        bytes_max=FORM_BYTES_MAX,
        files_max=FILES_MAX,
        places=asyncio.Semaphore(FORMS_AT_ONCE),
    ),
)
