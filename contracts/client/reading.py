"""Answers of the ledger, read so that an older client understands a newer ledger: members it does not know are let be.

Our own models forbid unknown members, which is right for what we are sent to act on; here that would make every
addition to an answer a break.
"""

from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from contracts.client.asking import OK, Reply
from contracts.client.errors import LedgerRefused, TokenRefused
from contracts.problems import FORBIDDEN, UNAUTHENTICATED, Problem, ProblemType, problem

Model = TypeVar("Model", bound=BaseModel)

_QUOTED_MAX = 500
#: Refusals that pass: request timeout, too many requests.
_PASSING: Final = (408, 429)
_SERVER_ERROR_MIN: Final = 500


class UnusableAnswerError(Exception):
    """An answer came, and it is none to what was asked."""


def read(model: type[Model], body: bytes) -> Model:
    """Raises UnusableAnswerError."""
    try:
        return model.model_validate_json(body, extra="ignore")
    except ValidationError as error:
        raise UnusableAnswerError(f"the answer is no {model.__name__}: {error.error_count()} errors") from error


def read_problem(reply: Reply) -> Problem:
    """The problem that a refusal is; what comes from something between us and the ledger is put in as it is."""
    try:
        return Problem.model_validate_json(reply.body)
    except ValidationError:
        kind = ProblemType("unreadable_refusal", reply.status, "The refusal is no problem document")
        return problem(kind, reply.body[:_QUOTED_MAX].decode(errors="replace"))


def refuses_token(problem: Problem) -> bool:
    """Whether it is about who asks, and not about what is asked."""
    return problem.status == UNAUTHENTICATED.status or problem.code == FORBIDDEN.code


def accepted(reply: Reply) -> Reply:
    """It, where it is what was asked for. Raises UnusableAnswerError where asking again may help, or LedgerRefused."""
    if reply.status == OK:
        return reply
    if _may_pass(reply.status):
        raise UnusableAnswerError(unavailable(reply))
    raise refusal(read_problem(reply))


def refusal(problem: Problem) -> Exception:
    """What the caller is to be told of a problem: UnusableAnswerError, LedgerRefused or TokenRefused."""
    if _may_pass(problem.status):
        return UnusableAnswerError(_answered(problem))
    return TokenRefused(problem) if refuses_token(problem) else LedgerRefused(problem)


def unavailable(reply: Reply) -> str:
    """What to tell of a refusal that may pass, for whoever looks for its cause."""
    return _answered(read_problem(reply))


def _answered(problem: Problem) -> str:
    return f"the ledger answered {problem.status} {problem.code}"


def _may_pass(status: int) -> bool:
    return status in _PASSING or status >= _SERVER_ERROR_MIN
