"""What this service's journal still owes an outcome, for people: `GET /v1/in-doubt`."""

from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from fastapi import FastAPI
from pydantic import BaseModel, Field

from contracts.client import JournalUnavailableError, LedgerClient
from contracts.client.journal import Journal
from contracts.problems import RECORDING_UNAVAILABLE, ProblemError
from image_service.recoveries import read_note

OPERATIONS_MAX: Final = 1_000

#: ``running``: this process waits for its provider, or for the provider to say what became of it. ``outcome_waits``:
#: the outcome is known, and the journal cannot take it yet (a full disk). ``left_by_a_crash``: an earlier process began
#: it, and nobody knows its outcome yet.
State = Literal["running", "outcome_waits", "left_by_a_crash"]


class OperationInDoubt(BaseModel):
    operation_id: UUID
    account_id: str
    provider: str | None
    model: str | None
    provider_job_id: str | None = Field(description="What the provider calls it, where it was told.")
    state: State
    begun_at: datetime


class InDoubtReply(BaseModel):
    """All that the journal has and the ledger has not confirmed, in numbers; and the operations without an outcome."""

    source: str = Field(description="This journal's name in events and in the ledger's report of holes.")
    last_sequence: int = Field(description="The last number that it gave an event.")
    unconfirmed_events: int = Field(description="Events that it keeps until the ledger has committed them.")
    operations: list[OperationInDoubt] = Field(description=f"Oldest first; at most {OPERATIONS_MAX}.")
    more: int = Field(description="Operations without an outcome that are not listed.")


def add_in_doubt_route(app: FastAPI, journal: Journal, ledger: LedgerClient) -> None:
    @app.get("/v1/in-doubt", tags=["operations"], summary="Operations without an outcome")
    async def in_doubt() -> InDoubtReply:
        """Every operation that may have reached its provider and whose outcome is not in this service's journal yet.

        Once it is, the ledger has it; those that nobody could say anything about are failed there, with the error code
        `outcome_unknown` and the estimated cost.
        """
        try:
            begun, total = await journal.begun(OPERATIONS_MAX)
            last = await journal.last_sequence()
            unconfirmed = await journal.outbox_size()
        except JournalUnavailableError as error:
            raise ProblemError(RECORDING_UNAVAILABLE, "the journal cannot be read") from error
        waiting = ledger.outcomes_waiting
        operations = []
        for one in begun:
            state: State = "running"
            if one.operation_id in waiting:
                state = "outcome_waits"
            elif one.is_left_over:
                state = "left_by_a_crash"
            call = read_note(one.provider_job_id)  # of the provider that was called last
            operations.append(
                OperationInDoubt(
                    operation_id=one.operation_id,
                    account_id=one.account_id,
                    provider=call.provider if call else one.provider,
                    model=call.model if call else one.model,
                    provider_job_id=call.job_id if call else None,
                    state=state,
                    begun_at=one.begun_at,
                )
            )
        return InDoubtReply(
            source=journal.source,
            last_sequence=last,
            unconfirmed_events=unconfirmed,
            operations=operations,
            more=total - len(begun),
        )
