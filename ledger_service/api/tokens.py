"""Service tokens: made, listed, revoked, and, for other services, looked up."""

from typing import Annotated, Final
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from contracts.access.bearer import TOKEN_BYTES_MAX
from contracts.access.service_tokens import (
    Introspection,
    TokenMade,
    TokenRequest,
    Tokens,
    TokenStored,
    is_service_token,
)
from contracts.problems import broken_rule
from ledger_service.api.access import LedgerRoute
from ledger_service.api.bodies import json_body, read_body, read_model
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["tokens"])

Wired = Annotated[Services, Depends(services)]
REQUEST_BYTES_MAX: Final = 16 * 1024
_JSON: Final = "application/json"
#: An answer with a token in it is kept by nobody on its way.
_NOT_KEPT: Final = {"Cache-Control": "no-store"}
_FORM: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {"type": "object", "properties": {"token": {"type": "string"}}, "required": ["token"]}
            }
        },
    }
}


@router.post("/tokens", response_model=TokenMade, openapi_extra=json_body(TokenRequest))
async def create_token(request: Request, wired: Wired) -> Response:
    """Makes a service token. This answer is the only one that has it: what is kept cannot be turned back into it."""
    made = await wired.tokens.make(await read_model(request, TokenRequest, REQUEST_BYTES_MAX))
    return Response(made.model_dump_json(), headers=_NOT_KEPT, media_type=_JSON)


@router.get("/tokens")
async def read_tokens(
    wired: Wired, ended: Annotated[bool, Query(description="also those that are revoked or expired")] = False
) -> Tokens:
    """All tokens, the oldest first, without themselves."""
    return Tokens(tokens=await wired.tokens.list(also_ended=ended))


@router.delete("/tokens/{token_id}")
async def revoke_token(token_id: UUID, wired: Wired) -> TokenStored:
    """Revokes a token: at once in this process, in others once they ask again (LEDGER_TOKEN_SECONDS). Idempotent."""
    revoked = await wired.tokens.revoke(token_id)
    wired.access.forget()
    return revoked


@router.post("/tokens:introspect", response_model=Introspection, openapi_extra=_FORM)
async def introspect_token(request: Request, wired: Wired) -> Response:
    """Whose service token it is (RFC 7662), for services that were sent one. JWTs are not looked up here."""
    fields = parse_qs((await read_body(request, 4 * TOKEN_BYTES_MAX)).decode("latin-1"))
    tokens = fields.get("token", [])
    if len(tokens) != 1:
        raise broken_rule("token", "missing", "one token is needed, as application/x-www-form-urlencoded")
    [token] = tokens
    # Not from memory: whoever asks has one, too, and would not hear of a revocation for as long as both last.
    principal = await wired.tokens.find(token) if is_service_token(token.encode()) else None
    answer = Introspection(active=False) if principal is None else Introspection.of(principal)
    return Response(answer.model_dump_json(exclude_none=True), headers=_NOT_KEPT, media_type=_JSON)
