"""What an operation's note may be."""

from pathlib import Path

import pytest

from contracts.client.background import Background
from contracts.client.journal import Journal
from contracts.client.operation import Operation
from contracts.client.recording import JournalRecorder
from contracts.problems import ProblemError
from tests.unit.test_client_parts import requested_of


async def test_note_with_half_a_surrogate_pair_is_a_problem(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", 1_000_000)
    try:
        recorder = JournalRecorder(journal, Background(), None)
        operation = Operation.__new__(Operation)
        operation.requested, operation._recorder, operation.noted = requested_of(), recorder, None
        with pytest.raises(ProblemError, match="note"):
            await operation.note("job-\ud83d")
        assert operation.noted is None
    finally:
        journal.close()
