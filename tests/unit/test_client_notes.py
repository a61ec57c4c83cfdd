"""What an operation's note may be."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from contracts.client.background import Background
from contracts.client.journal import Journal
from contracts.client.operation import Operation
from contracts.client.recording import JournalRecorder
from contracts.problems import ProblemError
from tests.unit.test_client_parts import requested_of

if TYPE_CHECKING:
    from contracts.client.checks import Checks
    from contracts.limits import Decision


async def test_note_with_half_a_surrogate_pair_is_a_problem(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", 1_000_000)
    try:
        recorder = JournalRecorder(journal, Background(), None)
        decision, checks = cast("Decision", None), cast("Checks", None)  # a note asks neither
        operation = Operation(decision, requested_of(), checks, recorder, 0.0, 300)
        with pytest.raises(ProblemError, match="note"):
            await operation.note("job-\ud83d")
        assert operation.noted is None
    finally:
        journal.close()
