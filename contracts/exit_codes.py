"""What `ledger` and `usage-stack` end with, the same for all commands. Help, documentation and tests read it here."""

from enum import IntEnum
from typing import Final, Self


class ExitCode(IntEnum):
    """``meaning``: in a few words, for whoever wrote the script that got the code."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        made = int.__new__(cls, code)
        made._value_ = code
        made.meaning = meaning
        return made

    DONE = 0, "done; of what compares or examines: nothing is wrong"
    FAILED = 1, "something failed, was refused, or is not as it should be: standard error says what, and what to do"
    WRONG_OPTIONS = 2, "wrong options; of `usage-stack up`: a folder, port or program that it cannot use"
    WARNINGS = 3, "of `doctor`: nothing fails, but there are warnings, or something that could not be looked at"
    INTERRUPTED = 130, "Ctrl-C; what was done by then stays done"


#: For the end of a program's help: blank lines between them, as typer joins lines that have none.
EXIT_CODES: Final = "\n\n".join(["Exit codes:", *(f"{code.value:>5}  {code.meaning}" for code in ExitCode)])
