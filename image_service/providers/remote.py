"""How a provider behind HTTP is made from the settings. Every such provider's module ends with its REMOTE."""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import SecretStr

from image_service.config import Settings
from image_service.images import Bounds
from image_service.providers.base import Provider
from image_service.providers.downloads import Downloads
from image_service.providers.jobs import POLL_SECONDS_FIRST, POLL_SECONDS_MAX, Finisher


@dataclass(frozen=True)
class Remote:
    """``key``: the setting that has its key; without, the provider is known, but not configured."""

    name: str
    key: str
    make: Callable[[Settings, SecretStr], Provider]

    def made(self, settings: Settings) -> Provider | None:
        found: SecretStr | None = getattr(settings, self.key)
        return None if found is None else self.make(settings, found)

    @property
    def variable(self) -> str:
        """The environment variable that the key belongs into."""
        return f"IMAGE_{self.key.upper()}"


def bounds_of(settings: Settings) -> Bounds:
    return Bounds(settings.pixels_max, settings.edge_pixels_max)


def finisher_for(
    settings: Settings,
    result_hosts: tuple[str, ...],
    poll_seconds: tuple[float, float] = (POLL_SECONDS_FIRST, POLL_SECONDS_MAX),
) -> Finisher:
    """What follows the jobs of one provider, and fetches and checks their results."""
    downloads = Downloads(
        (*result_hosts, *settings.result_hosts), settings.result_insecure_hosts, bytes_max=settings.result_bytes_max
    )
    return Finisher(downloads, bounds_of(settings), poll_seconds=poll_seconds)
