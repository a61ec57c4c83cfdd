"""The emulators as part of the one-machine stack. The services are stand-ins: this is about who is told what."""

import asyncio
import json
import os
import signal
from pathlib import Path

import httpx

from deploy.emulators.registry import PROVIDERS
from deploy.local.folder import read_state
from deploy.local.stack import ExternalServers, Stack, StackOptions, running_stack
from tests.integration.test_local_stack import WAIT_SECONDS, options

#: Nobody connects to them: the services are stand-ins.
ELSEWHERE = ExternalServers("postgresql://nowhere/x", "nats://nowhere", "nats://nowhere")


def emulating(data: Path) -> StackOptions:
    return StackOptions(**{**vars(options(data, external=ELSEWHERE)), "emulate_providers": True})


def environment_of(pid: int | None) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


async def test_the_image_service_is_told_of_every_provider_and_they_are_kept_up(tmp_path: Path) -> None:
    async with running_stack(emulating(tmp_path)) as stack:
        urls = stack.state.emulator_urls
        assert urls is not None
        environment = environment_of(stack.state.pids.image)
        told = httpx.get(f"{urls['control']}/", trust_env=False).json()
        for provider in PROVIDERS:
            name = provider.name
            assert environment[f"IMAGE_{name.upper()}_URL"] == urls[name] == told["providers"][name]["url"]
            assert [environment[f"IMAGE_{name.upper()}_KEY"]] == told["providers"][name]["keys"]
        hosts = [httpx.URL(told["cdn_url"]).netloc.decode()]
        assert json.loads(environment["IMAGE_RESULT_HOSTS"]) == hosts
        assert json.loads(environment["IMAGE_RESULT_INSECURE_HOSTS"]) == hosts
        state = read_state(tmp_path)
        assert state is not None
        assert state.emulator_urls == urls
        await killed_and_back(stack, urls["control"])


async def killed_and_back(stack: Stack, control: str) -> None:
    """Started again by the supervisor, where they were."""
    first = stack.state.emulator_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(WAIT_SECONDS), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                if (await http.get(f"{control}/billed")).is_success and stack.state.emulator_pid != first:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)


async def test_without_the_flag_nothing_is_emulated(tmp_path: Path) -> None:
    async with running_stack(options(tmp_path, external=ELSEWHERE)) as stack:
        assert (stack.state.emulator_urls, stack.state.emulator_pid) == (None, None)
        assert "IMAGE_WAVESPEED_URL" not in environment_of(stack.state.pids.image)
