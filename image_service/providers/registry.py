"""Which providers there are, and which of them serves a request. A new provider adds one line to `build`."""

from dataclasses import dataclass

from contracts.problems import INVALID_REQUEST, FieldError, ProblemError
from image_service.config import Settings
from image_service.operations.base import AnyOperation
from image_service.providers.base import Model, Provider
from image_service.providers.local import LocalProvider


def build(settings: Settings) -> "Providers":
    """All providers, by name."""
    return Providers(
        (
            LocalProvider(threads=settings.local_threads),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """Which provider and model an operation will use, and what it should cost, in nano-dollars."""

    provider: str
    model: str
    quantity: int
    estimated_cost_nanos: int


class Providers:
    """The registry. Selecting is free for all; the provider itself is handed out by metering alone."""

    def __init__(self, providers: tuple[Provider, ...]) -> None:
        self._by_name = {provider.name: provider for provider in providers}

    def close(self) -> None:
        """Ends what the providers keep running; does not wait for it."""
        for provider in self._by_name.values():
            provider.close()

    def find(self, name: str) -> Provider | None:
        return self._by_name.get(name)

    def select(self, operation: AnyOperation, provider: str | None, model: str | None, quantity: int) -> Selection:
        """The provider and model asked for, else the operation's defaults.

        Raises ProblemError (invalid_request), naming ``provider`` or ``model``, where they do not exist or do not
        serve the operation.
        """
        chosen = self._by_name.get(provider or operation.default_provider)
        if chosen is None:
            raise _wrong("provider", "unknown_provider", f"no such provider; known are {', '.join(self._by_name)}")
        serving = [known for known in chosen.models if known.operation == operation.name]
        if not serving or operation.capability(chosen) is None:
            raise _wrong("provider", "wrong_provider", f"{chosen.name} does not do {operation.name}")
        entry = _model(serving, model or _default_model(operation, chosen, serving))
        return Selection(chosen.name, entry.name, quantity, chosen.price(entry, quantity))


def _default_model(operation: AnyOperation, provider: Provider, serving: list[Model]) -> str:
    return operation.default_model if provider.name == operation.default_provider else serving[0].name


def _model(serving: list[Model], name: str) -> Model:
    for model in serving:
        if model.name == name:
            return model
    known = ", ".join(model.name for model in serving)
    raise _wrong("model", "unknown_model", f"no such model for this operation and provider; known are {known}")


def _wrong(field: str, rule: str, message: str) -> ProblemError:
    return ProblemError(INVALID_REQUEST, f"{field}: {message}", [FieldError(field=field, rule=rule, message=message)])
