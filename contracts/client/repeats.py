"""Operation ids that the caller chose, so that one operation is never run twice at once, or again, in this process."""

from collections import OrderedDict
from typing import Final
from uuid import UUID

from contracts.problems import OPERATION_FINISHED, OPERATION_IN_PROGRESS, ProblemError

#: Beyond that the oldest are forgotten. By then the ledger has their outcomes, and takes no second one.
FINISHED_MAX: Final = 10_000


class Repeats:
    def __init__(self) -> None:
        self._running: set[UUID] = set()
        self._finished: OrderedDict[UUID, None] = OrderedDict()

    def start(self, operation_id: UUID) -> None:
        """Raises ProblemError: operation_in_progress, operation_finished."""
        if operation_id in self._running:
            raise ProblemError(OPERATION_IN_PROGRESS, f"operation {operation_id} is running here")
        if operation_id in self._finished:
            raise ProblemError(OPERATION_FINISHED, f"operation {operation_id} has an outcome; use a new id")
        self._running.add(operation_id)

    def forget(self, operation_id: UUID) -> None:
        """It was not started after all: it may be tried again."""
        self._running.discard(operation_id)

    def finish(self, operation_id: UUID) -> None:
        self._running.discard(operation_id)
        self._finished[operation_id] = None
        if len(self._finished) > FINISHED_MAX:
            self._finished.popitem(last=False)
