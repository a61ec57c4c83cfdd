"""Results that are kept, and those that are not: looked at, swept and read in awkward moments, on real sockets."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts.client.journal import Journal, JournalUnavailableError
from contracts.identifiers import uuid7
from contracts.problems import NOT_FOUND, problem
from image_service.outcomes import Failed, OutcomeStore
from tests.integration.image_harness import GENERATE, ScriptedLedger, eventually, image_service, make_settings
from tests.integration.test_image_results import ASYNC, over


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    return scripted_ledger


class TestSweep:
    def test_what_vanishes_meanwhile_or_is_no_file_ends_no_pass(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = OutcomeStore(tmp_path)
        for _ in range(6):
            store.save(Failed(uuid7(), "acme", "generate", problem(NOT_FOUND, "x")))
        (tmp_path / "lost+found").mkdir()
        for path in tmp_path.iterdir():
            os.utime(path, (0, 0))
        real = os.scandir

        class Vanishing:
            """Each second file is gone once its name was read."""

            def __enter__(self) -> Iterator["os.DirEntry[str]"]:
                entries = list(real(tmp_path))
                for entry in [one for one in entries if one.is_file()][::2]:
                    Path(entry.path).unlink()
                return iter(entries)

            def __exit__(self, *_: object) -> None:
                return None

        monkeypatch.setattr(os, "scandir", lambda _: Vanishing())
        assert store.sweep(60.0) == 3
        monkeypatch.undo()
        assert [path.name for path in tmp_path.iterdir()] == ["lost+found"]

    async def test_a_journal_that_cannot_be_swept_keeps_no_results(self, ledger, tmp_path, monkeypatch) -> None:
        """It may be because the disk is full, which the results of yesterday would mend."""

        async def full(*_: Any) -> None:
            raise JournalUnavailableError("database or disk is full")

        monkeypatch.setattr(Journal, "sweep", full)
        settings = make_settings(tmp_path, ledger.url, outcome_retention_seconds=0.5)
        async with image_service(settings) as client:
            accepted = await client.post("/v1/images/generate", json=GENERATE, headers=ASYNC)
            await over(client, accepted.headers["Location"])
            await eventually(lambda: not list((settings.data_dir / "outcomes").iterdir()))
