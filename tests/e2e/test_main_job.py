"""The main job on the whole real stack: what a customer asks for is checked, done, recorded, and can be read back."""

import asyncio
import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import pytest
from PIL import Image

from contracts.subjects import STREAM
from tests.builders import Body, limit, new_id
from tests.e2e.driver import REPOSITORY, AccountClient, StackProcess, customer, eventually, png, stack_in

PROBLEM = "application/problem+json"
#: For ever: a month could end under a test.
IMAGES = limit(window="lifetime", maximum=25)
#: So that a hold that nobody will ever end is gone before a test is.
HOLD_SECONDS = 6


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackProcess]:
    yield from stack_in(
        tmp_path_factory.mktemp("stack"),
        {"IMAGE_HOLD_SECONDS": str(HOLD_SECONDS), "LEDGER_SEALS_INTERVAL_SECONDS": "0.5"},
    )


@asynccontextmanager
async def stopped(stack: StackProcess, name: str) -> AsyncIterator[None]:
    """One of its servers hangs: its connections stay open, and nothing answers."""
    stack.signal(name, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.signal(name, signal.SIGCONT)


def picture_of(answer: httpx.Response) -> Image.Image:
    (image,) = answer.json()["images"]
    return Image.open(io.BytesIO(base64.b64decode(image["data"])))


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


# --- what was done can be read back ---


@pytest.mark.parametrize(
    ("operation", "cost"), [("generate", "0.010000000"), ("edit", "0.020000000"), ("upscale", "0.005000000")]
)
async def test_an_operation_is_in_usage_and_usage_log_and_its_decision_leads_to_it(
    stack: StackProcess, operation: str, cost: str
) -> None:
    async with customer(stack, IMAGES, limit("spend", meter="cost", window="lifetime", maximum="1")) as client:
        answer = await (client.generate() if operation == "generate" else getattr(client, operation)(png()))
        assert (answer.status_code, answer.json()["cost"]) == (200, cost)
        operation_id = answer.json()["operation_id"]

        (row,) = await client.recorded(1)
        told = {name: answer.json()[name] for name in ("operation_id", "provider", "model", "cost")}
        assert told.items() <= row.items()
        wanted = {
            "account_id": client.id,
            "user_id": "ada",
            "operation": operation,
            "outcome": "completed",
            "quantity": 1,
        }
        assert wanted.items() <= row.items()
        assert row["error"] is None

        usage = await client.usage()
        totals = {"calls": 1, "units": 1, "failures": 0, "cost": cost}
        assert usage["totals"] == totals
        assert usage["by_operation"] == {operation: totals}
        assert usage["by_provider"] == {"local": totals}
        assert usage["by_model"] == {row["model"]: totals}
        assert await client.used("images") == (1, 0, 24)
        assert (await client.used("spend"))[:2] == (cost, "0.000000000")

        decision = await client.decision(operation_id)
        assert (decision["allowed"], decision["state"], decision["denial"]) == (True, "settled", None)
        assert decision["outcome"] == {
            "outcome": "completed", "quantity": 1, "cost": cost, "occurred_at": row["occurred_at"],
        }  # fmt: skip
        assert [one["limit_id"] for one in decision["limits"]] == ["images", "spend"]


async def test_events_hold_no_prompt_and_both_are_in_the_log(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        await client.generate(prompt="a secret garden")
        await client.recorded(1)
        await stack.quiet()
        rows = await stack.fetch(
            "select type, body::text from event_log where account_id = $1 order by type", client.id
        )
        kinds = ["ledger.account.changed.v1", "ledger.reservation.placed.v1"]
        assert [row["type"] for row in rows] == [*kinds, "usage.operation.completed.v1", "usage.operation.requested.v1"]
        assert "garden" not in str(rows)


async def test_events_that_are_delivered_again_change_nothing(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        for model in ("local-render-1", "local-unreliable-1"):
            await client.generate(model=model)
        rows = await client.recorded(2)
        await stack.quiet()
        usage = await client.usage()
        query = "select body::text from event_log where account_id = $1 and source <> 'ledger'"
        bodies = [row["body"] for row in await stack.fetch(query, client.id)]
        assert len(bodies) == 4
        async with stack.broker() as broker:
            for body in [*bodies, *bodies]:  # without a message id, so that the broker takes each for a new one
                subject = "usage.v1." + json.loads(body)["type"].removeprefix("usage.").removesuffix(".v1")
                await broker.jetstream().publish(subject, body.encode(), stream=STREAM)
        await stack.quiet()
        assert await client.usage_log() == rows
        assert await client.usage() == usage
        assert not await stack.fetch(
            "select 1 from dead_letters where position($1 in convert_from(body, 'UTF8')) > 0", client.id
        )


# --- no call past a limit ---


async def test_of_a_hundred_at_once_exactly_as_many_as_the_plan_allows_are_done(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        await stack.quiet()
        events_before = stack.journal("select value from meta where name = 'last_sequence'")
        answers = await asyncio.gather(*(client.generate(seed=number) for number in range(100)))

        assert Counter(answer.status_code for answer in answers) == {200: 25, 429: 75}
        for answer in answers:
            if answer.status_code == 429:
                assert_denied_by(answer, "images")
        rows = await client.recorded(25)
        done = {answer.json()["operation_id"] for answer in answers if answer.status_code == 200}
        assert {row["operation_id"] for row in rows} == done
        assert await client.used("images") == (25, 0, 0)

        # Nothing reached a provider beyond these: a call without its intent in the journal cannot be made.
        assert stack.journal("select value from meta where name = 'last_sequence'") == events_before + 2 * 25
        query = "select count(distinct operation_id) from event_log where account_id = $1 and type like 'usage.%'"
        await stack.quiet()
        assert (await stack.fetch(query, client.id))[0][0] == 25
        lines = stack.operation_lines(client.id)
        assert Counter(line["outcome"] for line in lines) == {"completed": 25, "denied": 75}
        denied = {answer.json()["operation_id"] for answer in answers} - done
        assert {line["operation_id"] for line in lines if line["outcome"] == "denied"} == denied


def assert_denied_by(answer: httpx.Response, limit_id: str) -> None:
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (429, PROBLEM)
    assert (problem["code"], problem["status"]) == ("limit_exceeded", 429)
    decision = problem["decision"]
    assert (decision["allowed"], decision["reservation"]) == (False, None)
    assert (decision["denial"]["code"], decision["denial"]["limit_id"]) == ("limit_exceeded", limit_id)
    assert limit_id in problem["detail"]
    assert problem["operation_id"] == decision["operation_id"]
    assert limit_id in [one["limit_id"] for one in decision["limits"]]


async def test_a_denial_can_be_explained_later(stack: StackProcess) -> None:
    async with customer(stack, limit("none", window="lifetime", maximum=0)) as client:
        answer = await client.generate()
        assert_denied_by(answer, "none")
        explained = await client.decision(answer.json()["operation_id"])
        assert (explained["state"], explained["outcome"]) == ("denied", None)
        assert explained["denial"] == answer.json()["decision"]["denial"]


@pytest.mark.parametrize(
    ("limits", "admitted", "full"),
    [
        ([limit("many", window="lifetime", maximum=9), limit("few", window="lifetime", maximum=4)], 4, "few"),
        ([IMAGES, limit("spend", meter="cost", window="lifetime", maximum="0.05")], 5, "spend"),
        ([IMAGES, limit("spend", meter="cost", window="lifetime", maximum="0.049999999")], 4, "spend"),
        ([IMAGES, limit("units", meter="units", window="lifetime", maximum=3)], 3, "units"),
    ],
)
async def test_an_operation_is_done_only_if_every_limit_has_room(
    stack: StackProcess, limits: list[Body], admitted: int, full: str
) -> None:
    async with customer(stack, *limits) as client:
        answers = await asyncio.gather(*(client.generate() for _ in range(12)))
        assert Counter(answer.status_code for answer in answers) == {200: admitted, 429: 12 - admitted}
        for answer in answers:
            if answer.status_code == 429:
                assert_denied_by(answer, full)
        await client.recorded(admitted)
        assert (await client.used(limits[0]["limit_id"]))[:2] == (admitted, 0)


async def test_variations_count_as_units_and_not_as_calls(stack: StackProcess) -> None:
    async with customer(stack, IMAGES, limit("units", meter="units", window="lifetime", maximum=7)) as client:
        statuses = [(await client.generate(variations=count)).status_code for count in (3, 5, 4, 1)]
        assert statuses == [200, 429, 200, 429]
        await client.recorded(2)
        assert await client.used("images") == (2, 0, 23)
        assert await client.used("units") == (7, 0, 0)
        assert (await client.usage())["totals"] == {"calls": 2, "units": 7, "failures": 0, "cost": "0.070000000"}


async def test_a_limit_counts_only_the_operations_that_it_selects(stack: StackProcess) -> None:
    edits = limit("edits", window="lifetime", maximum=1, selector={"operation": ["edit"]})
    async with customer(stack, edits) as client:
        statuses = [(await client.edit(png())).status_code for _ in range(2)]
        statuses += [(await client.upscale(png())).status_code, (await client.generate()).status_code]
        assert statuses == [200, 429, 200, 200]


async def test_an_account_that_nobody_registered_is_denied_by_name(stack: StackProcess) -> None:
    async with httpx.AsyncClient(trust_env=False, headers=stack.headers) as http:
        client = AccountClient(stack, http, f"stranger-{new_id()}")
        answer = await client.generate()
    assert (answer.status_code, answer.headers["content-type"]) == (429, PROBLEM)
    assert answer.json()["decision"]["denial"]["code"] == "unknown_account"
    assert client.id in answer.json()["detail"]


# --- failures ---


async def test_a_failed_operation_gives_its_hold_back_and_counts_as_a_failure(stack: StackProcess) -> None:
    async with customer(stack, limit(window="lifetime", maximum=1)) as client:
        for count in (1, 2):
            answer = await client.generate(model="local-unreliable-1")
            assert (answer.status_code, answer.headers["content-type"]) == (502, PROBLEM)
            assert (answer.json()["code"], answer.json()["error"]["code"]) == ("operation_failed", "unreliable")
            (row, *_) = await client.recorded(count)
            assert (row["operation_id"], row["outcome"]) == (answer.json()["operation_id"], "failed")
            assert (row["error"]["code"], row["cost"]) == ("unreliable", "0.000000000")
            assert (await client.decision(row["operation_id"]))["state"] == "released"
            assert await client.used("images") == (0, 0, 1)
        assert (await client.generate()).status_code == 200
        await client.recorded(3)
        assert (await client.usage())["totals"] == {"calls": 1, "units": 1, "failures": 2, "cost": "0.010000000"}


BAD_IMAGES = {
    "nothing": (b"", 422),
    "text": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422),
    "cut off": (png(64, 64)[:90], 422),
    "damaged": (png(64, 64)[:60] + bytes(60), 422),
    "no image at all": (bytes(1000), 422),
    "larger than allowed": (bytes(26 * 1024 * 1024), 413),
}


@pytest.mark.parametrize("which", BAD_IMAGES)
@pytest.mark.parametrize("operation", ["edit", "upscale"])
async def test_a_bad_image_is_refused_before_any_limit_is_touched(
    stack: StackProcess, operation: str, which: str
) -> None:
    data, status = BAD_IMAGES[which]
    async with customer(stack, IMAGES) as client:
        answer = await getattr(client, operation)(data)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
        assert "image" in answer.text or status == 413
        assert await client.used("images") == (0, 0, 25)
        assert not await stack.fetch("select 1 from decisions where account_id = $1", client.id)


# --- what comes back is what was asked for ---


@pytest.mark.parametrize("size", [(16, 16), (33, 57), (640, 16)])
async def test_generate_gives_exactly_the_size_asked_for(stack: StackProcess, size: tuple[int, int]) -> None:
    async with customer(stack) as client:
        answer = await client.generate(width=size[0], height=size[1])
        assert picture_of(answer).size == size
        assert (answer.json()["images"][0]["width"], answer.json()["images"][0]["height"]) == size


async def test_upscale_and_edit_give_exactly_the_size_asked_for(stack: StackProcess) -> None:
    async with customer(stack) as client:
        assert picture_of(await client.upscale(png(21, 17), factor="3")).size == (63, 51)
        assert picture_of(await client.upscale(png(21, 17), width="50", height="40")).size == (50, 40)
        assert picture_of(await client.edit(png(21, 17), effect="sepia")).size == (21, 17)
        assert picture_of(await client.edit(png(21, 17), effect="crop", width="5", height="7")).size == (5, 7)
        assert picture_of(await client.edit(png(21, 17), effect="rotate", angle="90")).size == (17, 21)


async def test_as_many_images_as_variations_come_and_the_same_seed_gives_the_same(stack: StackProcess) -> None:
    async with customer(stack) as client:
        first, second = [await client.generate(variations=3, seed=7) for _ in range(2)]
        images = [image["data"] for image in first.json()["images"]]
        assert len(set(images)) == 3
        assert [image["data"] for image in second.json()["images"]] == images
        assert first.json()["cost"] == "0.030000000"


async def test_accept_image_gives_the_bytes_alone(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        answer = await client.generate(headers={"Accept": "image/png"}, width=40, height=20)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert Image.open(io.BytesIO(answer.content)).size == (40, 20)
        (row,) = await client.recorded(1)
        assert answer.headers["x-operation-id"] == row["operation_id"]
        denied = AccountClient(stack, client._http, f"stranger-{new_id()}")
        refused = await denied.generate(headers={"Accept": "image/png"})
        assert (refused.status_code, refused.headers["content-type"]) == (429, PROBLEM)


# --- once per key ---


async def test_a_repeat_of_a_key_gets_the_same_outcome_and_is_charged_once(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        first, second = [await client.generate(headers=key("one")) for _ in range(2)]
        assert first.status_code == 200
        assert second.json() == first.json()
        assert "idempotency-replayed" not in first.headers
        assert second.headers["idempotency-replayed"] == "true"
        await stack.quiet()
        await client.recorded(1)
        assert await client.used("images") == (1, 0, 24)


async def test_ten_at_once_with_one_key_are_one_operation(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        answers = await asyncio.gather(*(client.generate(headers=key("ten"), width=200, height=200) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        await stack.quiet()
        await client.recorded(1)
        assert await client.used("images") == (1, 0, 24)


async def test_a_key_holds_through_a_kill_of_the_service(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        done = await client.generate(headers=key("done"))
        failed = await client.generate(headers=key("failed"), model="local-unreliable-1")
        await stack.kill_and_wait("image")
        assert (await client.generate(headers=key("done"))).json() == done.json()
        again = await client.generate(headers=key("failed"), model="local-unreliable-1")
        assert (again.status_code, again.json()) == (502, failed.json())
        await stack.quiet()
        await client.recorded(2)
        assert await client.used("images") == (1, 0, 24)


async def test_a_key_with_another_request_is_refused(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        await client.generate(headers=key("used"))
        for other in (
            await client.generate(headers=key("used"), width=17),
            await client.generate(headers={**key("used"), "X-User-Id": "bob"}),
            await client.upscale(png(), headers=key("used")),
        ):
            assert (other.status_code, other.headers["content-type"]) == (422, PROBLEM)
            assert other.json()["code"] == "idempotency_key_reused"
        await stack.quiet()
        await client.recorded(1)


async def test_a_key_belongs_to_its_account(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as one, customer(stack, IMAGES) as other:
        answers = [await client.generate(headers=key("mine")) for client in (one, other)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert len({answer.json()["operation_id"] for answer in answers}) == 2


async def test_a_key_that_was_denied_may_be_tried_again_when_there_is_room(stack: StackProcess) -> None:
    async with customer(stack, limit(window="lifetime", maximum=0)) as client:
        assert (await client.generate(headers=key("later"))).status_code == 429
        await client.put_on_plan(limit(window="lifetime", maximum=1))
        assert (await client.generate(headers=key("later"))).status_code == 200
        assert (await client.generate(headers=key("later"))).headers["idempotency-replayed"] == "true"
        await client.recorded(1)


# --- when a part is away ---


async def test_while_the_ledger_hangs_nothing_is_started_and_afterwards_all_is_well(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        async with stopped(stack, "ledger"):
            answers = await asyncio.gather(*(client.generate() for _ in range(3)))
            assert await stack.running() == 0
        for answer in answers:
            assert_ledger_unavailable(answer)
        recovered = await eventually(client.generate, lambda answer: answer.status_code == 200)
        (row,) = await client.recorded(1)
        assert row["operation_id"] == recovered.json()["operation_id"]
        # The checks reached the ledger after all, from callers that had gone: what they hold ends by itself.
        await eventually(lambda: client.used("images"), lambda used: used == (1, 0, 24))
        assert {line["outcome"] for line in stack.operation_lines(client.id)} == {"refused", "completed"}


async def test_a_key_that_met_no_ledger_is_done_once_when_it_is_back(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        async with stopped(stack, "ledger"):
            assert_ledger_unavailable(await client.generate(headers=key("patient")))
        await eventually(lambda: client.generate(headers=key("patient")), lambda answer: answer.status_code == 200)
        await stack.quiet()
        await client.recorded(1)
        await eventually(lambda: client.used("images"), lambda used: used == (1, 0, 24))


async def test_a_killed_ledger_is_back_by_itself(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        await stack.kill("ledger")

        async def ask() -> bool:
            answer = await client.generate()
            if answer.status_code != 200:
                assert_ledger_unavailable(answer)
            return answer.status_code == 200

        await eventually(ask, bool)
        await client.recorded(1)
        await eventually(lambda: client.used("images"), lambda used: used == (1, 0, 24))


def assert_ledger_unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (503, PROBLEM)
    assert answer.json()["code"] == "ledger_unavailable"
    assert int(answer.headers["retry-after"]) >= 1


async def test_while_nats_hangs_operations_succeed_and_their_events_arrive_afterwards(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        async with stopped(stack, "nats"):
            answers = [await client.generate() for _ in range(3)]
            answers.append(await client.generate(model="local-unreliable-1"))
            assert [answer.status_code for answer in answers] == [200, 200, 200, 502]
            assert await client.usage_log() == []
            assert await client.used("images") == (0, 4, 21)
            assert stack.journal("select count(*) from outbox") >= 8
        rows = await client.recorded(4)
        assert {row["operation_id"] for row in rows} == {answer.json()["operation_id"] for answer in answers}
        await stack.quiet()
        assert await client.used("images") == (3, 0, 22)


async def test_a_killed_nats_makes_no_operation_fail_and_loses_no_event(stack: StackProcess) -> None:
    async with customer(stack, IMAGES) as client:
        asking = [asyncio.create_task(client.generate(width=300, height=300)) for _ in range(8)]
        await stack.kill("nats")
        answers = [*await asyncio.gather(*asking), await client.generate()]
        assert {answer.status_code for answer in answers} == {200}
        await client.recorded(9)
        await stack.quiet()
        assert await client.used("images") == (9, 0, 16)


async def test_a_caller_that_goes_away_is_charged_for_what_was_done(stack: StackProcess) -> None:
    """Its operation runs to its end: the provider bills it all the same."""
    async with customer(stack, IMAGES) as client:
        asking = asyncio.create_task(client.generate(width=1000, height=1000, variations=2))
        await eventually(stack.running, bool)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        (row,) = await client.recorded(1)
        assert (row["outcome"], row["quantity"], row["cost"]) == ("completed", 2, "0.020000000")
        await stack.quiet()
        assert await client.used("images") == (1, 0, 24)


# --- the log is sealed, by a ledger that could not rewrite it ---


def run(*command: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, **environment}
    )
    return done.returncode, done.stdout + done.stderr


def auditor_url(stack: StackProcess) -> str:
    """Of the identity that may read published checkpoints; its password stands in the server's configuration."""
    configured = re.search(r'user: auditor, password: "([^"]+)"', (stack.data / "nats" / "nats.conf").read_text())
    assert configured is not None
    return f"nats://auditor:{configured[1]}@{stack.state.nats_url.rpartition('@')[2]}"


async def test_what_was_done_is_proven_and_a_change_of_it_is_named(stack: StackProcess, tmp_path: Path) -> None:
    async with customer(stack, IMAGES) as client:
        answer = await client.generate()
        await client.recorded(1)
        operation_id = answer.json()["operation_id"]
        url = f"{stack.state.ledger_url}/v1/usage-log/{operation_id}/proof"
        async with httpx.AsyncClient(headers=stack.headers) as http:
            proof = await eventually(lambda: http.get(url), lambda one: one.status_code == 200)
    seals = {
        "LEDGER_DATABASE_URL": str(stack.state.database_url),
        "LEDGER_NATS_URL": auditor_url(stack),
        "LEDGER_NATS_INBOX_PREFIX": "_INBOX_auditor",
        "LEDGER_SEALS_KEY_FILE": str(stack.data / "seals" / "key.pem"),
        "LEDGER_SEALS_FILE": str(stack.data / "seals" / "checkpoints"),
    }
    code, key = run("-m", "ledger_service.cli", "seals", "key", **seals)
    assert code == 0
    (tmp_path / "proof.json").write_text(proof.text)
    assert run("deploy/verify_proof.py", key.strip(), str(tmp_path / "proof.json"))[0] == 0

    database = await asyncpg.connect(stack.state.database_url)
    try:
        roles = await database.fetch(
            "select distinct usename from pg_stat_activity where application_name like 'ledger-%'"
        )
        assert [row["usename"] for row in roles] == ["ledger_service"]
        code, said = run("-m", "ledger_service.cli", "seals", "verify", **seals)
        assert (code, "What was sealed is there, unchanged." in said) == (0, True), said
        assert "checkpoints in the stream are the database's" in said
        changed = "update event_log set source = $2 where operation_id = $1 and terminal returning event_id"
        event_id = await database.fetchval(changed, operation_id, "forged")
        code, said = run("-m", "ledger_service.cli", "verify", "--seals", "--projection", "accounts", **seals)
        assert (code, "The log is NOT what was sealed." in said) == (1, True), said
        assert f"event {event_id} of account" in said
        await database.execute("update event_log set source = 'image-service' where event_id = $1", event_id)
    finally:
        await database.close()
