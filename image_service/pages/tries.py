"""One operation that was tried: what is held for it, how far it is, what came of it and what it cost."""

from typing import Final

from contracts.web.own_api import Document, path_of, query_of
from contracts.web.pages import Page, Shown, View, Visit
from image_service.pages.gallery import OPERATORS, latest_of, names_who, who_of

_TAGS: Final = {"completed": "good", "failed": "bad", "running": "warn"}
_ENDINGS: Final = {"image": "image", "video": "video"}


async def _show(visit: Visit) -> Shown:
    operation_id = str(visit.request.path_params["operation_id"])
    who = who_of(visit, visit.query)
    named = {"account_id": who["account_id"]} if names_who(visit) else {}
    status = (await visit.api.get(path_of("/v1/operations/{id}", id=operation_id), named)).json
    asked = query_of(named)
    result = status.get("result")
    told = {
        "title": f"{status['operation'].replace('_', ' ').capitalize()}: {status['status']}",
        "status": status,
        "tag": _TAGS[status["status"]],
        "decision": status.get("decision"),
        "result": result,
        "problem": status.get("problem"),
        "steps": status.get("steps") or [],
        "results": [_shown(one, asked) for one in result["images"]] if result else [],
        "events": f"/v1/operations/{status['operation_id']}/events{'?' if asked else ''}{asked}",
        "again": query_of({"operation": status["operation"], **(who if names_who(visit) else {})}),
        "who": who,
        "names_who": names_who(visit),
        "latest": await latest_of(visit, who),
    }
    return View("try.html", told)


def _shown(one: Document, asked: str) -> Document:
    kind = one["media_type"].partition("/")[0]
    return {
        "width": None,
        "height": None,
        **one,
        "url": one["url"] + (f"?{asked}" if asked else ""),
        "kind": _ENDINGS.get(kind, "file"),
    }


PAGES: Final = (Page("/tries/{operation_id}", "Operation", _show, scopes=OPERATORS, asks=None),)
