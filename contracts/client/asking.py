"""Questions to the ledger, and what carries them: the same questions and the same answers on both transports."""

from dataclasses import dataclass
from typing import Protocol

from contracts.tracing import TRACEPARENT, TraceContext, current

#: HTTP's number for it, on either transport.
OK = 200


@dataclass(frozen=True)
class Question:
    """One request as each transport sends it. Safe to repeat."""

    path: str
    body: bytes
    subject: str
    message: bytes
    #: What it belongs to, where that is not what runs now.
    trace: TraceContext | None = None

    @property
    def trace_headers(self) -> dict[str, str] | None:
        """On either transport."""
        trace = self.trace or current()
        return None if trace is None else {TRACEPARENT: trace.traceparent}


@dataclass(frozen=True)
class Reply:
    """``status`` as in HTTP; the body of any but 200 is a problem."""

    status: int
    body: bytes


class NotSentError(Exception):
    """The ledger has certainly not seen the question."""


class AnswerLostError(Exception):
    """The ledger may have seen the question, and no answer came."""


class Transport(Protocol):
    async def ask(self, question: Question) -> Reply:
        """One attempt, within the transport's time for one. Raises NotSentError or AnswerLostError."""
        ...

    async def is_ready(self) -> bool:
        """Whether the ledger says, within a second, that it can decide."""
        ...

    async def close(self) -> None: ...
