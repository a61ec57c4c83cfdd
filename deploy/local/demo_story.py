"""What the demo does, in order: plan and account, a photograph, a failure, a hundred calls at once, the books."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from PIL import Image

from contracts.limits import Account, Limit, Meter, Plan, Selector, Window
from contracts.operations import OPERATION_TYPES
from deploy.local.demo_client import Answer, DemoClient, DemoError, Done, Usage, find_limit
from deploy.local.demo_screen import Screen
from deploy.local.demo_verdict import Evidence, Failure, SavedPicture, Size

PHOTO: Final = Path(__file__).parent / "photo" / "pagoda.jpg"
PLAN_ID: Final = "demo"
LIMIT_ID: Final = "images"
IMAGES_A_MONTH: Final = 25
CALLS_AT_ONCE: Final = 100
EDGE_PIXELS: Final = 512
UPSCALE_FACTOR: Final = 2
ACCOUNTS_MAX: Final = 1000
RECORDED_TIMEOUT_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.05
#: All operations make an image, so all of them use the images up; the other limit is there to show money.
PLAN: Final = Plan(
    name="Demo",
    limits=[
        Limit(
            limit_id=LIMIT_ID,
            meter=Meter.CALLS,
            selector=Selector(operation=list(OPERATION_TYPES)),
            window=Window.MONTH,
            maximum=IMAGES_A_MONTH,
        ),
        Limit(limit_id="spend", meter=Meter.COST, window=Window.MONTH, maximum="1.00"),
    ],
)


@dataclass(frozen=True)
class Story:
    """Where it happens, and who acts."""

    client: DemoClient
    screen: Screen
    results: Path
    account_id: str

    @property
    def caller(self) -> dict[str, str]:
        return {"X-Account-Id": self.account_id, "X-User-Id": "ada"}

    async def tell(self, service_log: Callable[[], str]) -> Evidence:
        """Do all of it, and show each part once it is done. ``service_log``: what the image service has logged."""
        screen = self.screen
        screen.step("Editing and upscaling a photograph")
        edits, pictures = await self._edit_photo()
        screen.step("Making an operation fail")
        failure = await self._fail(settled=len(edits))
        screen.failure(failure)
        before = (await self.client.usage(self.account_id)).limit(LIMIT_ID)
        screen.step(f"Sending {CALLS_AT_ONCE} calls at once")
        burst, seconds = await self._burst()
        screen.burst(burst, before, seconds)
        pictures += await asyncio.to_thread(self._save_generated, burst)
        screen.step("Waiting until the ledger has recorded everything")
        finished = len(edits) + 1 + sum(answer.done is not None for answer in burst)
        usage = await self._usage_when(lambda seen: _is_recorded(seen, finished))
        log = await self.client.usage_log(self.account_id)
        screen.usage(self.account_id, usage)
        screen.usage_log(log)
        denied = next((answer.problem for answer in burst if answer.denial and answer.problem), None)
        explained = await self.client.explain(denied.operation_id) if denied and denied.operation_id else None
        calls = await asyncio.to_thread(lambda: _provider_calls(service_log(), self.account_id))
        return Evidence(LIMIT_ID, edits, failure, before, burst, pictures, explained, calls, usage, log)

    async def _edit_photo(self) -> tuple[list[Answer], list[SavedPicture]]:
        size = await asyncio.to_thread(_size_of, PHOTO)
        edited = await self.client.upload("edit", self.caller, PHOTO, {"effect": "enhance", "strength": "0.8"})
        first = await asyncio.to_thread(self._save, _done(edited, "edit"), "1-edited.jpg", size)
        factor = str(UPSCALE_FACTOR)
        upscaled = await self.client.upload("upscale", self.caller, first.path, {"factor": factor})
        larger = (size[0] * UPSCALE_FACTOR, size[1] * UPSCALE_FACTOR)
        second = await asyncio.to_thread(self._save, _done(upscaled, "upscale"), "2-upscaled.jpg", larger)
        self.screen.photo(PHOTO, size, [("edit", edited, first), ("upscale", upscaled, second)])
        return [edited, upscaled], [first, second]

    async def _fail(self, settled: int) -> Failure:
        """An operation whose provider says no. Its hold is seen in the decision: as it stood when it was placed."""
        before = await self._usage_when(lambda seen: _is_recorded(seen, settled))
        body: dict[str, str | int] = {"prompt": "a storm", "width": EDGE_PIXELS, "height": EDGE_PIXELS}
        answer = await self.client.generate(self.caller, {**body, "model": "local-unreliable-1"})
        if answer.problem is None or answer.problem.operation_id is None or answer.denial:
            raise DemoError(f"The operation that was to fail was answered {answer.status}.")
        after = await self._usage_when(lambda seen: _is_recorded(seen, settled + 1))
        decision = await self.client.explain(answer.problem.operation_id)
        admitted = find_limit(decision.limits, LIMIT_ID)
        return Failure(answer, decision, before.limit(LIMIT_ID), admitted, after.limit(LIMIT_ID))

    async def _burst(self) -> tuple[list[Answer], float]:
        """The answers in the order of asking, and how long all of them took."""
        loop = asyncio.get_running_loop()
        started = loop.time()

        async def call(number: int) -> Answer:
            prompt = f"a lighthouse at dusk, view {number} of {CALLS_AT_ONCE}"
            body: dict[str, str | int] = {"prompt": prompt, "width": EDGE_PIXELS, "height": EDGE_PIXELS}
            answer = await self.client.generate(self.caller, {**body, "seed": number})
            self.screen.answered()
            return answer

        answers = await asyncio.gather(*(call(number) for number in range(1, CALLS_AT_ONCE + 1)))
        return answers, loop.time() - started

    async def _usage_when(self, holds: Callable[[Usage], bool]) -> Usage:
        """The usage once it is so, or as it is when the time is over: then the verdict says what is missing."""
        deadline = asyncio.get_running_loop().time() + RECORDED_TIMEOUT_SECONDS
        while True:
            usage = await self.client.usage(self.account_id)
            if holds(usage) or asyncio.get_running_loop().time() > deadline:
                return usage
            await asyncio.sleep(POLL_SECONDS)

    def _save_generated(self, burst: list[Answer]) -> list[SavedPicture]:
        asked = (EDGE_PIXELS, EDGE_PIXELS)
        done = [answer.done for answer in burst if answer.done]
        return [self._save(each, f"generated-{number:02}.png", asked) for number, each in enumerate(done, 1)]

    def _save(self, done: Done, name: str, asked: Size) -> SavedPicture:
        """Write the first image; its size is read from the file, not from what the answer says of it."""
        path = self.results / name
        path.write_bytes(done.images[0].data)
        return SavedPicture(path, asked, _size_of(path), path.stat().st_size)


async def new_account(client: DemoClient) -> str:
    """A plan, and an account on it that has used nothing; on kept data the earlier demos' accounts stay."""
    await client.put_plan(PLAN_ID, PLAN)
    for number in range(1, ACCOUNTS_MAX + 1):
        account_id = "demo" if number == 1 else f"demo-{number}"
        if not await client.is_account(account_id):
            await client.put_account(account_id, Account(plan_id=PLAN_ID))
            return account_id
    raise DemoError(f"{ACCOUNTS_MAX} demos ran on this data folder. Choose another one with --data.")


def _is_recorded(usage: Usage, finished: int) -> bool:
    """Whether so many operations are in the summary, and nothing is held any more."""
    return usage.totals.calls + usage.totals.failures >= finished and usage.limit(LIMIT_ID).held == 0


def _done(answer: Answer, operation: str) -> Done:
    if answer.done is None or not answer.done.images:
        reason = f"{answer.problem.code}: {answer.problem.detail}" if answer.problem else "no image came back"
        raise DemoError(f"{operation} was answered {answer.status}, {reason}")
    return answer.done


def _size_of(path: Path) -> Size:
    with Image.open(path) as image:
        image.load()  # a file that only begins like a picture does not count
        return image.size


def _provider_calls(service_log: str, account_id: str) -> list[UUID]:
    """The operations that reached a provider, by the image service's own log: one line for each, denied ones too."""
    found = []
    for line in service_log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or entry.get("event") != "operation" or entry.get("account_id") != account_id:
            continue
        if entry["outcome"] in ("completed", "failed"):
            found.append(UUID(entry["operation_id"]))
    return found
