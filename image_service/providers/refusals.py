"""Answers that say for certain that nothing was started, and that so nothing is billed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from image_service.providers.base import ProviderError
from image_service.providers.http import Answer

INVALID: Final = "invalid_input"
CREDENTIALS: Final = "provider_credentials"
CREDIT: Final = "provider_credit"
NO_MODEL: Final = "provider_no_model"
FILTERED: Final = "content_filtered"

#: What every provider answers before it begins to work.
_STATUSES: Final = {400: INVALID, 401: CREDENTIALS, 402: CREDIT, 403: CREDENTIALS, 404: NO_MODEL, 413: INVALID}
#: Also what some providers answer where there is no credit left: their word for it says so.
TOO_MANY: Final = 429
#: Another provider may do what this one cannot do for such reasons.
ELSEWHERE: Final = frozenset({CREDENTIALS, CREDIT, NO_MODEL})

_WORD: Final = re.compile(r"[A-Za-z_]{1,60}")


@dataclass(frozen=True)
class Refusals:
    """How a provider refuses.

    ``invalid``: statuses that are about the request, beside those that all have; ``word_at``: where its own word for an
    error stands; ``codes``: what a word means, where its status does not say so.
    """

    provider: str
    invalid: frozenset[int] = frozenset()
    word_at: tuple[str | int, ...] = ()
    codes: Mapping[str | None, str] = field(default_factory=dict)

    def __call__(self, answer: Answer) -> ProviderError | None:
        """What the answer means; None where it is not certain that nothing was started, or where it is a success."""
        code = INVALID if answer.status in self.invalid else _STATUSES.get(answer.status)
        if code is None and answer.status != TOO_MANY:
            return None
        named = word_at(answer, *self.word_at)
        code = self.codes.get(named, code)
        if code is None:  # too many of this moment
            return None
        said = f" (status {answer.status})" if named is None else f": {named} ({answer.status})"
        return ProviderError(
            code,
            f"{self.provider} refused the request{said}",
            status_code=answer.status,
            retry_count=answer.retries,
            elsewhere=code in ELSEWHERE,
        )


def word_at(answer: Answer, *path: str | int) -> str | None:
    """The word at a place in an answer's JSON, of members and indices. Sentences that stand beside it may repeat the
    prompt, so they are not used."""
    try:
        found: Any = answer.json()  # whatever the provider sent
        for step in path:
            found = found[step]
    except (ValueError, TypeError, LookupError):
        return None
    return word(found)


def word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None
