"""Finding an account by how its name begins, on every page that is about one."""

from contracts.web.own_api import Document
from contracts.web.pages import Visit

_SHOWN = 50


async def find_accounts(visit: Visit, prefix: str | None = None) -> dict[str, Document]:
    """What `accounts_found` of limit_parts.html shows: the accounts of the prefix that was asked for."""
    wanted = visit.asked("prefix") if prefix is None else prefix
    cursor = visit.asked("cursor")
    page = (await visit.api.get("/v1/accounts", {"prefix": wanted, "cursor": cursor, "limit": _SHOWN})).json
    return {"prefix": wanted, "accounts": page["items"], "next_cursor": page["next_cursor"]}
