"""The client of the ledger: for every service that runs paid operations within limits.

    settings = ClientSettings(source="my-service", ledger_url="http://127.0.0.1:8001", journal_path=Path("journal.db"))
    async with LedgerClient.open(settings) as client:
        async with client.operation(
            account_id="acme", user_id="ada", operation="generate", provider="stability", model="core",
            estimated_cost="0.03",
        ) as operation:
            picture = await call_provider()
            operation.completed(cost="0.03", status_code=200, response_bytes=len(picture))

A denied operation raises OperationDenied, and the provider is not called. What happened is in the journal before the
context ends, and goes to the ledger from there. See LedgerClient and Operation for the rest.
"""

from contracts.client.client import LedgerClient
from contracts.client.errors import (
    LedgerRefused,
    LedgerUnavailable,
    OperationDenied,
    OutcomeNotRecorded,
    RecordingUnavailable,
    TokenRefused,
)
from contracts.client.journal import JournalUnavailableError
from contracts.client.operation import Operation
from contracts.client.recovery import InDoubt, Recover, RecoveredCompletion, RecoveredFailure, Recovery
from contracts.client.settings import ClientSettings

__all__ = [
    "ClientSettings",
    "InDoubt",
    "JournalUnavailableError",
    "LedgerClient",
    "LedgerRefused",
    "LedgerUnavailable",
    "Operation",
    "OperationDenied",
    "OutcomeNotRecorded",
    "RecordingUnavailable",
    "Recover",
    "RecoveredCompletion",
    "RecoveredFailure",
    "Recovery",
    "TokenRefused",
]
