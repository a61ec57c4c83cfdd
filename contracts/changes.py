"""Administrative changes, as the log tells them: what was changed, to what, and by whom."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class Author(BaseModel):
    """Who made a change. ``kind``: api_key (a service token), user (a JWT's subject), system (a command on the
    database) or unauthenticated (access was not controlled).

    ``id``: the service token's id, the subject, the command's role in the database. ``name``: the token's. ``issuer``:
    who vouched for the JWT.
    """

    kind: str
    id: str
    name: str | None = None
    issuer: str | None = None


class Change(BaseModel):
    """One change. ``data`` is what was stored by it. ``author`` null: it was made before the log said by whom."""

    event_id: UUID
    type: str
    account_id: str | None
    occurred_at: datetime
    recorded_at: datetime
    author: Author | None
    data: dict[str, Any]  # of the kind that type says


class Changes(BaseModel):
    """Newest first; ``next_cursor`` goes on where the page ended."""

    items: list[Change]
    next_cursor: str | None
