"""The image service with real provider clients, and the emulators behind it."""

from pathlib import Path
from typing import Any

from image_service.config import Settings
from image_service.providers.registry import REMOTES
from tests.emulators import Emulators
from tests.integration.image_harness import make_settings
from tests.provider_orders import emulator_of
from tests.servers import Ledger


def keys_and_urls(emulators: Emulators) -> dict[str, str]:
    """Of every provider of the registry."""
    told = emulators.http.get(f"{emulators.server.control_url}/").json()["providers"]
    names = {remote.key: emulator_of(remote) for remote in REMOTES}
    keys = {key: told[name]["keys"][0] for key, name in names.items()}
    return keys | {f"{name}_url": told[name]["url"] for name in names.values()}


def settings_for(folder: Path, ledger: Ledger, emulators: Emulators, nats_url: str, **other: Any) -> Settings:
    return make_settings(
        folder,
        ledger.url,
        **{
            "nats_url": nats_url,
            **keys_and_urls(emulators),
            "result_insecure_hosts": f"127.0.0.1:{emulators.server.cdn_port}",
            "ledger_timeout_seconds": 10.0,
            **other,
        },
    )
