"""The last span of an operation's trace: its event was committed."""

from collections.abc import Sequence

from contracts import spans
from contracts.problems import Problem
from contracts.tracing import trace_of
from ledger_service.domain.batches import Receipt, Submission


def tell_commits(submissions: Sequence[Submission], receipts: Sequence[Receipt | Problem], began_at_ns: int) -> None:
    """Each event of a batch that was committed now, from when the batch was taken; for nothing where no spans are
    exported. Events share a transaction, so their spans overlap: each is as long as the batch took."""
    if not spans.enabled():
        return
    for submission, receipt in zip(submissions, receipts, strict=True):
        event = submission.event
        trace = trace_of(event)
        if trace is not None:
            about: dict[str, str | int] = {
                "ledger.operation_id": str(event.data.operation_id),
                "ledger.event_type": event.type,
                "ledger.outcome": receipt.code if isinstance(receipt, Problem) else receipt.value,
                "ledger.batch_events": len(submissions),
            }
            spans.record("commit", spans.CONSUMER, trace, began_at_ns, about, failed=isinstance(receipt, Problem))
