"""What is metered: who calls, and the one operation that is to be done for them."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.identifiers import Name
from image_service.operations.base import AnyOperation
from image_service.providers.base import ProviderRequest
from image_service.providers.registry import Selection


class Caller(BaseModel):
    """Who acts; the aliases are the headers in which a token with the scope act-as names them."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    account_id: Annotated[Name, Field(alias="X-Account-Id")]
    user_id: Annotated[Name, Field(alias="X-User-Id")]
    project_id: Annotated[Name | None, Field(alias="X-Project-Id")] = None
    api_key_id: Annotated[Name | None, Field(alias="X-Api-Key-Id")] = None


#: Visible ASCII, so that it can be logged and compared as it is.
IdempotencyKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$")]


@dataclass(frozen=True)
class Call:
    """One operation, ready to be metered. ``keep``: its outcome is kept, for repeats of a key or behind a URL."""

    operation_id: UUID
    caller: Caller
    operation: AnyOperation
    request: ProviderRequest
    selection: Selection
    request_bytes: int
    has_key: bool
    keep: bool
