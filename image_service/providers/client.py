"""What the clients of providers behind HTTP share; each adds what is its provider's own: models, what is sent, and what
answers mean."""

import asyncio
from collections.abc import Callable, Container, Mapping
from typing import ClassVar, Final, TypeVar

from pydantic import SecretStr

from image_service.providers.attempt import Attempt
from image_service.providers.base import Model, OutcomeUnknownError, ProviderError, ProviderResult, StillRunning
from image_service.providers.http import Answer, AnswerLostError, Channel, Order, Pace
from image_service.providers.jobs import Finisher
from image_service.providers.refusals import Refusals

T = TypeVar("T")

#: Statuses of an answer that is the result, and of one that says that a job was started.
DONE: Final = frozenset({200})
STARTED: Final = range(200, 300)


class RemoteProvider:
    """A client without ``quote`` and capabilities, and without ``recover`` of what can be asked for again."""

    name: ClassVar[str]
    models: ClassVar[tuple[Model, ...]]
    pace: ClassVar[Pace]
    refusals: ClassVar[Refusals]

    def __init__(self, url: str, key: SecretStr, finisher: Finisher) -> None:
        headers = self.authorization(key.get_secret_value())
        refuses = self.refusals
        self._channel = Channel(
            self.name, url, headers, pace=self.pace, is_final=lambda answer: refuses(answer) is not None
        )
        self._finisher = finisher

    @staticmethod
    def authorization(key: str) -> Mapping[str, str]:
        """The headers that carry it."""
        return {"Authorization": f"Bearer {key}"}

    @property
    def available(self) -> bool:
        return self._channel.available

    async def recover(self, model: str, job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
        del model, job_id, attempt
        raise OutcomeUnknownError(f"{self.name} keeps no results that could be asked for")

    async def close(self) -> None:
        await self._channel.close()
        await self._finisher.close()

    async def _ordered(
        self, order: Order, attempt: Attempt, read: Callable[[Answer], T], successes: Container[int] = DONE
    ) -> T:
        """Sends what may be billed, once, and reads the answer.

        ``read`` may raise ValueError, in words of its own: the answer is none that the provider documents. Raises
        ProviderError where nothing was started, OutcomeUnknownError where something may have been, and what ``read``
        does.
        """
        try:
            answer = await self._channel.order(order, attempt)
        except AnswerLostError as error:
            raise self._lost(error) from error
        refused = self._refused(answer, attempt)
        if refused is not None:
            if refused.cost_nanos == 0:
                attempt.not_sent()
            raise refused
        if answer.status not in successes:
            raise OutcomeUnknownError(f"{self.name} answered with status {answer.status}; it may have been done")
        try:
            # In a thread: with images in it, an answer is long.
            return await asyncio.to_thread(read, answer)
        except ValueError as error:
            raise OutcomeUnknownError(f"{self.name} took a request, but its answer cannot be read: {error}") from error

    def _refused(self, answer: Answer, attempt: Attempt) -> ProviderError | None:
        del attempt
        return self.refusals(answer)

    def _lost(self, error: AnswerLostError) -> ProviderError | OutcomeUnknownError:
        """What it means that a success was cut off."""
        del error
        return OutcomeUnknownError(f"{self.name} took a request, but its answer was cut off")
