"""Answers of the ledger, read so that an older client understands a newer ledger: members it does not know are let be.

Our own models forbid unknown members, which is right for what we are sent to act on; here that would make every
addition to an answer a break.
"""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from contracts.client.asking import Reply
from contracts.problems import FORBIDDEN, UNAUTHENTICATED, Problem, ProblemType, problem

Model = TypeVar("Model", bound=BaseModel)

_QUOTED_MAX = 500


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
