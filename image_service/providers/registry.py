"""Which providers there are, and which of them serve a request. A new provider adds one line to REMOTES."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from contracts.problems import (
    INVALID_REQUEST,
    PROVIDER_NOT_CONFIGURED,
    PROVIDER_UNAVAILABLE,
    FieldError,
    ProblemError,
)
from image_service.config import Settings
from image_service.operations import OPERATIONS
from image_service.operations.base import AnyOperation, C, Operation
from image_service.providers import gemini, huggingface, openai, stability, wavespeed
from image_service.providers.base import Model, Provider, ProviderRequest, Quote, RefusedRequestError
from image_service.providers.local import LocalProvider
from image_service.providers.remote import Remote
from image_service.routing import Route, Routes, Target

REMOTES: Final[tuple[Remote, ...]] = (
    wavespeed.REMOTE,
    stability.REMOTE,
    openai.REMOTE,
    gemini.REMOTE,
    huggingface.REMOTE,
)  # fmt: skip


def build(settings: Settings) -> "Providers":
    """The local provider, and all that have a key. Raises ValueError where a route leads nowhere."""
    remote = {one.name: one.made(settings) for one in REMOTES}
    missing = {one.name: one.variable for one in REMOTES if remote[one.name] is None}
    configured = [provider for provider in remote.values() if provider is not None]
    here: list[Provider] = [LocalProvider(threads=settings.local_threads)]
    return Providers((*here, *configured), settings.all_routes(), missing)


@dataclass(frozen=True)
class Candidate:
    """A provider and model that would do a request, and what it would be held as."""

    provider: str
    model: Model
    quote: Quote


@dataclass(frozen=True)
class Selection:
    """Who will do an operation: the first candidate, and should it be down, those after it."""

    candidates: tuple[Candidate, ...]

    @property
    def first(self) -> Candidate:
        return self.candidates[0]

    @property
    def provider(self) -> str:
        return self.first.provider

    @property
    def model(self) -> str:
        return self.first.model.name

    @property
    def quantity(self) -> int:
        return self.first.quote.quantity

    @property
    def is_long(self) -> bool:
        return self.first.model.long


class Providers:
    """The registry. Selecting is free for all; the provider itself is handed out by metering alone.

    ``missing``: providers that have no key, with the variable that it belongs into.
    """

    def __init__(
        self, providers: Iterable[Provider], routes: Routes = (), missing: Mapping[str, str] | None = None
    ) -> None:
        self._by_name = {provider.name: provider for provider in providers}
        self._routes = routes
        self._capable: dict[tuple[str, str], Any] = {}  # Any: each operation has a capability of its own
        self._missing = missing or {}
        for index, route in enumerate(routes):
            self._check_route(index, route)

    async def close(self) -> None:
        """Ends what the providers keep running."""
        for provider in self._by_name.values():
            await provider.close()

    def all(self) -> tuple[Provider, ...]:
        return tuple(self._by_name.values())

    def find(self, name: str) -> Provider | None:
        return self._by_name.get(name)

    def capable(self, operation: Operation[Any, Any, C], name: str) -> C | None:  # Any: no matter of its capability
        """The provider of that name as one that does the operation; None where it does not, or is not there."""
        # Runtime protocols are slow to look at, and what a provider can do does not change.
        key = (operation.name, name)
        if key not in self._capable:
            provider = self._by_name.get(name)
            self._capable[key] = None if provider is None else operation.capability(provider)
        found: C | None = self._capable[key]
        return found

    def select(
        self, operation: AnyOperation, provider: str | None, model: str | None, request: ProviderRequest
    ) -> Selection:
        """The provider and model asked for, else those of the first route that fits, else the operation's default.

        Raises ProblemError: invalid_request, naming ``provider``, ``model`` or what a model cannot do, where they do
        not exist or do not serve the request; provider_not_configured; provider_unavailable where all of them are down.
        """
        targets = self._targets(operation, provider, model, request.kind)
        candidates: list[Candidate] = []
        refusal: ProblemError | None = None
        for target in targets:
            try:
                candidates.append(self._candidate(operation, target, request))
            except ProblemError as error:
                refusal = refusal or error
        if refusal is not None and not candidates:
            raise refusal
        up = tuple(candidate for candidate in candidates if self._by_name[candidate.provider].available)
        if not up:
            down = ", ".join(dict.fromkeys(candidate.provider for candidate in candidates))
            raise ProblemError(PROVIDER_UNAVAILABLE, f"{down} cannot be reached at the moment; nothing was started")
        return Selection(up)

    def _targets(
        self, operation: AnyOperation, provider: str | None, model: str | None, kind: str | None
    ) -> tuple[Target, ...]:
        if provider is None:
            for route in self._routes:
                if route.fits(operation.name, kind, model):
                    return route.to
        return (Target(provider=provider or operation.default_provider, model=model),)

    def _candidate(self, operation: AnyOperation, target: Target, request: ProviderRequest) -> Candidate:
        provider = self._by_name.get(target.provider)
        if provider is None and target.provider in self._missing:
            message = f"{target.provider} has no key here; {self._missing[target.provider]} is to be set"
            broken = FieldError(field="provider", rule=PROVIDER_NOT_CONFIGURED.code, message=message)
            raise ProblemError(PROVIDER_NOT_CONFIGURED, message, [broken])
        if provider is None:
            raise _wrong("provider", "unknown_provider", f"no such provider; known are {', '.join(self._by_name)}")
        entry = self._model(operation, provider, target.model, request.kind)
        try:
            quote = provider.quote(entry, request)
        except RefusedRequestError as error:
            raise _wrong(error.field, "not_with_model", f"{error.message} ({provider.name}, {entry.name})") from error
        return Candidate(provider.name, entry, quote)

    def _model(self, operation: AnyOperation, provider: Provider, name: str | None, kind: str | None) -> Model:
        """The model of that name, else the provider's first that does the kind."""
        serving = [model for model in provider.models if model.operation == operation.name]
        if not serving or self.capable(operation, provider.name) is None:
            raise _wrong("provider", "wrong_provider", f"{provider.name} does not do {operation.name}")
        named = [model for model in serving if name in (None, model.name)]
        if not named:
            known = ", ".join(model.name for model in serving)
            raise _wrong("model", "unknown_model", f"no such model for this operation and provider; known are {known}")
        for model in named:
            if kind is None or kind in model.kinds:
                return model
        kinds = ", ".join(known for known in operation.kinds if any(known in model.kinds for model in named))
        who = provider.name if name is None else f"{name} of {provider.name}"
        raise _wrong("kind", "not_with_model", f"{who} does not do the kind {kind}, but {kinds}")

    def _check_route(self, index: int, route: Route) -> None:
        """Raises ValueError, naming the rule and what in it does not exist."""
        place = f"routes[{index}]"
        operation = OPERATIONS.get(route.operation)
        if operation is None:
            raise ValueError(f"{place}.operation: {route.operation} is no operation; known are {', '.join(OPERATIONS)}")
        if route.kind is not None and route.kind not in operation.kinds:
            known = ", ".join(operation.kinds) or "none"
            raise ValueError(f"{place}.kind: {route.kind} is no kind of {operation.name}; known are {known}")
        for number, target in enumerate(route.to):
            provider = self._by_name.get(target.provider)
            if provider is None:
                known = ", ".join(self._by_name)
                why = f"there is no {target.provider}; known are {known}"
                if target.provider in self._missing:
                    why = f"{target.provider} has no key; {self._missing[target.provider]} is to be set"
                raise ValueError(f"{place}.to[{number}].provider: {why}")
            try:
                self._model(operation, provider, target.model, route.kind)
            except ProblemError as error:
                raise ValueError(f"{place}.to[{number}].{error.problem.detail}") from error


def _wrong(field: str, rule: str, message: str) -> ProblemError:
    return ProblemError(INVALID_REQUEST, f"{field}: {message}", [FieldError(field=field, rule=rule, message=message)])
