"""The provider emulators as a process of the stack, and what the image service is told of them."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deploy.emulators.registry import PROVIDERS
from deploy.emulators.server import CONTROL
from deploy.local.ports import HOST
from deploy.local.services import ServiceProcess

COMMAND: Final[Sequence[str]] = (sys.executable, "-m", "deploy.emulators")


def emulator_process(port: int, cdn_port: int, log_path: Path, ready_timeout_seconds: float) -> ServiceProcess:
    """All emulators: the providers on one port, the files that they make on the other."""
    argv = (*COMMAND, "--port", str(port), "--cdn-port", str(cdn_port))
    return ServiceProcess("emulators", argv, {}, log_path, port=port, ready_timeout_seconds=ready_timeout_seconds)


def emulator_urls(port: int, cdn_port: int) -> dict[str, str]:
    """By provider; ``control`` is the emulators' own, ``cdn`` where results are fetched."""
    base = f"http://{HOST}:{port}"
    providers = {provider.name: f"{base}/{provider.name}" for provider in PROVIDERS}
    return {**providers, "control": f"{base}/{CONTROL}", "cdn": f"http://{HOST}:{cdn_port}"}


def for_image_service(port: int, cdn_port: int) -> Mapping[str, str]:
    """Address and key of every provider, and the one host from which results may be fetched without TLS."""
    urls = emulator_urls(port, cdn_port)
    environment = {}
    for provider in PROVIDERS:
        prefix = f"IMAGE_{provider.name.upper()}"
        environment[f"{prefix}_URL"] = urls[provider.name]
        environment[f"{prefix}_KEY"] = provider.default_key
    hosts = json.dumps([f"{HOST}:{cdn_port}"])
    return {**environment, "IMAGE_RESULT_HOSTS": hosts, "IMAGE_RESULT_INSECURE_HOSTS": hosts}
