"""What a client of the ledger is told when something does not go through.

Those that are a ProblemError are what the service may answer its own caller as they are.
"""

from contracts.events import OperationCompleted, OperationFailed
from contracts.limits import Decision
from contracts.problems import LEDGER_UNAVAILABLE, LIMIT_EXCEEDED, RECORDING_UNAVAILABLE, Problem, ProblemError


class OperationDenied(ProblemError):  # noqa: N818  a denial is an answer, not an error
    """The ledger does not allow the operation; ``decision`` says which limit has no room. Nothing is held."""

    def __init__(self, decision: Decision) -> None:
        reason = decision.denial.message if decision.denial else "a limit has no room"
        super().__init__(
            LIMIT_EXCEEDED,
            reason,
            operation_id=str(decision.operation_id),
            decision=decision.model_dump(mode="json"),
        )
        self.decision = decision


class LedgerUnavailable(ProblemError):  # noqa: N818  as ledger_unavailable, its problem
    """No answer in time. ``outcome_unknown``: what was asked for may have happened all the same.

    ``reason`` is for the service's own log; the problem, for its callers, does not have it.
    """

    def __init__(self, reason: str, *, outcome_unknown: bool) -> None:
        super().__init__(LEDGER_UNAVAILABLE, "the ledger did not answer; try again")
        self.args = (f"{LEDGER_UNAVAILABLE.code}: {reason}",)
        self.reason = reason
        self.outcome_unknown = outcome_unknown


class TokenRefused(LedgerUnavailable):
    """The ledger was reached and does not let this service in: its token is not valid, or not for this. Nothing was
    done, and no lease takes the ledger's place. To the service's own callers it looks like an outage."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"the ledger refuses our token: {problem.code}: {problem.detail}", outcome_unknown=False)


class LedgerRefused(Exception):  # noqa: N818  as the ledger's own word for it
    """The ledger understood, and says with its ``problem`` that the request is wrong; asking again would not help."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"the ledger refused: {problem.status} {problem.code}: {problem.detail}")
        self.problem = problem


class RecordingUnavailable(ProblemError):  # noqa: N818  as recording_unavailable, its problem
    """The operation could not be recorded, so it was not started."""

    def __init__(self, reason: str) -> None:
        super().__init__(RECORDING_UNAVAILABLE, "the operation could not be recorded, so it was not started")
        self.args = (f"{RECORDING_UNAVAILABLE.code}: {reason}",)
        self.reason = reason


class OutcomeNotRecorded(Exception):  # noqa: N818  says what is so, whoever is at fault
    """The operation is over and the ledger could not be told (a client without a journal).

    Keep ``event``, and hand it to ``LedgerClient.record_events`` until that returns: its hold ends by itself, and the
    usage would be lost.
    """

    def __init__(self, event: OperationCompleted | OperationFailed, reason: str) -> None:
        super().__init__(f"the outcome of operation {event.data.operation_id} is not recorded: {reason}")
        self.event = event
        self.reason = reason
