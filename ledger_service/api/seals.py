"""Seals: signed checkpoints over the log, and proofs that lead to them."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query

from contracts.events import INT8_MAX
from contracts.identifiers import Name
from contracts.problems import NOT_FOUND, ProblemError
from contracts.seals import ConsistencyProof, InclusionProof, Seal, SealKeys, SealPage
from ledger_service.api.access import LedgerRoute
from ledger_service.proofs import find_seal, list_seals, prove_consistency, prove_row
from ledger_service.sealing import SealChain
from ledger_service.services import Services, services

router = APIRouter(route_class=LedgerRoute, prefix="/v1", tags=["seals"])

Wired = Annotated[Services, Depends(services)]
Size = Annotated[int, Query(ge=1, le=INT8_MAX, description="of a checkpoint: how many rows it is over")]


async def _chain(wired: Wired) -> SealChain:
    if wired.seals is None:
        raise ProblemError(NOT_FOUND, "this ledger seals nothing: LEDGER_SEALS_KEY_FILE is not set")
    return wired.seals


Chain = Annotated[SealChain, Depends(_chain)]


@router.get("/seals")
async def list_checkpoints(
    wired: Wired,
    chain: Chain,
    before: Annotated[int | None, Query(ge=1, le=INT8_MAX, description="next_before of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
) -> SealPage:
    """Checkpoints, newest first."""
    async with wired.reads.acquire() as connection:
        return await list_seals(connection, chain, before, limit)


@router.get("/seals/key")
async def read_key(chain: Chain) -> SealKeys:
    """The public keys that verify checkpoints. Keep a copy elsewhere: this answer is the ledger's own."""
    return SealKeys(key=str(chain.key.verifier), trusted=[str(key) for key in chain.trusted])


@router.get("/seals/{size}")
async def read_checkpoint(wired: Wired, chain: Chain, size: Annotated[int, Path(ge=1, le=INT8_MAX)]) -> Seal:
    """The checkpoint over the log's first ``size`` rows."""
    async with wired.reads.acquire() as connection:
        return await find_seal(connection, chain, size)


@router.get("/seals:consistency")
async def prove_checkpoints(
    wired: Wired, chain: Chain, first: Annotated[Size, Query(alias="from")], second: Annotated[Size, Query(alias="to")]
) -> ConsistencyProof:
    """Proves that the checkpoint of ``to`` rows only adds to that of ``from`` rows."""
    async with wired.reads.acquire() as connection:
        return await prove_consistency(connection, chain, first, second)


@router.get("/usage-log/{operation_id}/proof")
async def prove_operation(
    operation_id: UUID,
    wired: Wired,
    chain: Chain,
    account_id: Annotated[
        Name | None,
        Query(description="needed unless limit checks of one account had the operation_id"),
    ] = None,
    size: Annotated[int | None, Query(ge=1, le=INT8_MAX, description="of a checkpoint; default: the newest")] = None,
) -> InclusionProof:
    """The log's row of a finished operation, and the proof that a signed checkpoint is over it, for
    deploy/verify_proof.py to check. Not sealed yet: 409 ``not_sealed_yet`` with Retry-After."""
    async with wired.reads.acquire() as connection:
        return await prove_row(connection, chain, operation_id, account_id, size)
