"""Providers that fail, hang and come back; routes and fallbacks; what is settled: on real sockets."""

import asyncio
import json
import sqlite3
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse

from contracts.client.journal import Journal, JournalUnavailableError
from contracts.events import OperationCompleted, OperationFailed, parse_event
from contracts.provider_calls import KEY, read_calls
from image_service.config import Settings
from image_service.main import create_app
from image_service.providers.attempt import Attempt
from image_service.providers.base import Model, OutcomeUnknownError, ProviderError, ProviderResult, StillRunning
from image_service.providers.registry import Providers
from image_service.routing import Route, Target
from tests.integration.image_harness import (
    GENERATE,
    ScriptedLedger,
    allowed,
    allowed_at,
    denied,
    eventually,
    garbage,
    image_service,
    make_settings,
    unavailable,
)
from tests.integration.scripted_provider import ScriptedProvider, deliver, delivered, hanging, raising

PAID = {**GENERATE, "provider": "paid"}
ROUTED = {**GENERATE, "model": "best"}
DOWN = ProviderError("unavailable", "down", elsewhere=True, status_code=503)


@pytest.fixture
def ledger(scripted_ledger: ScriptedLedger) -> ScriptedLedger:
    scripted_ledger.otherwise = allowed_at(40_000_000)
    return scripted_ledger


def outcome(settings: Settings) -> OperationCompleted | OperationFailed:
    """The last event of the journal."""
    with sqlite3.connect(settings.data_dir / "journal.db") as journal:
        rows = journal.execute("select body from outbox order by sequence desc limit 1").fetchall()
    event = parse_event(rows[0][0])
    assert isinstance(event, OperationCompleted | OperationFailed)
    return event


def count(settings: Settings) -> int:
    with sqlite3.connect(settings.data_dir / "journal.db") as journal:
        return int(journal.execute("select count(*) from outbox").fetchone()[0])


def error_code(settings: Settings) -> str:
    event = outcome(settings)
    assert isinstance(event, OperationFailed)
    return event.data.error.code


async def ask(settings: Settings, *providers: ScriptedProvider, routes: Any = (), **body: Any) -> httpx.Response:
    async with image_service(settings, Providers(providers, routes)) as client:
        return await client.post("/v1/images/generate", json=body)


class TestCost:
    async def test_without_a_price_of_its_own_the_catalogue_holds_and_settles(self, ledger, settings) -> None:
        answer = await ask(settings, ScriptedProvider(), **PAID)
        assert (answer.status_code, answer.json()["cost"]) == (200, "0.040000000")
        [check] = ledger.checks
        assert "estimated_cost" not in check
        assert check["attributes"] == {"size": "48x32", "megapixels": 1}
        assert outcome(settings).data.cost == 40_000_000
        assert ledger.rated == []

    async def test_what_the_provider_reports_is_settled(self, ledger, settings) -> None:
        async def cheaper(attempt: Attempt) -> ProviderResult:
            attempt.sending()
            return delivered(cost_nanos=31_000_000)

        await ask(settings, ScriptedProvider(otherwise=cheaper), **PAID)
        assert outcome(settings).data.cost == 31_000_000

    async def test_what_was_really_made_is_rated_anew(self, ledger, settings) -> None:
        ledger.prices = {"1024x1024": 70_000_000}

        async def larger(attempt: Attempt) -> ProviderResult:
            attempt.sending()
            attempt.used({"size": "1024x1024"}, quantity=2)
            return delivered()

        await ask(settings, ScriptedProvider(otherwise=larger), **PAID)
        event = outcome(settings)
        assert (event.data.cost, event.data.quantity) == (140_000_000, 2)
        assert ledger.rated[0]["attributes"] == {"size": "1024x1024"}

    async def test_without_any_price_it_is_what_was_held(self, ledger, settings) -> None:
        async def unheard_of(attempt: Attempt) -> ProviderResult:
            attempt.sending()
            attempt.used({"size": "3x3"})
            return delivered()

        await ask(settings, ScriptedProvider(otherwise=unheard_of), **PAID)
        assert outcome(settings).data.cost == 40_000_000

    async def test_what_has_no_price_is_not_called(self, ledger, settings) -> None:
        ledger.otherwise = allowed
        provider = ScriptedProvider()
        answer = await ask(settings, provider, **PAID)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "unpriced_model")
        assert (provider.calls, outcome(settings).data.cost) == (0, 0)

    @pytest.mark.parametrize(("cost_nanos", "settled"), [(0, 0), (5_000_000, 5_000_000), (None, 40_000_000)])
    async def test_a_refusal_costs_what_the_provider_bills_for_it(self, settings, cost_nanos, settled) -> None:
        refusal = ProviderError("content_filter", "refused", cost_nanos=cost_nanos, status_code=403)
        answer = await ask(settings, ScriptedProvider(otherwise=raising(refusal)), **PAID)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "content_filter")
        event = outcome(settings)
        assert (event.data.cost, event.data.status_code) == (settled, 403)


class TestDoubt:
    @pytest.mark.parametrize("step", [raising(ConnectionError("x"), sent=False), hanging(sent=False)])
    async def test_before_it_was_sent_nothing_is_owed(self, ledger, tmp_path, step) -> None:
        settings = make_settings(tmp_path, ledger.url, provider_timeout_seconds=0.2)
        answer = await ask(settings, ScriptedProvider(otherwise=step), **PAID)
        assert answer.status_code == 502
        assert outcome(settings).data.cost == 0
        assert error_code(settings) in ("provider_error", "provider_timeout")

    async def test_a_lost_answer_is_asked_for_and_delivered(self, ledger, settings) -> None:
        async def look(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            attempt.progress(0.5, "processing")
            return delivered(cost_nanos=33_000_000) if len(provider.looks) > 2 else StillRunning(0.01)

        provider = ScriptedProvider(otherwise=raising(TimeoutError(), job="job-7"), look=look)
        answer = await ask(settings, provider, **PAID)
        assert (answer.status_code, answer.json()["cost"]) == (200, "0.033000000")
        assert provider.looks == ["job-7"] * 3
        assert (provider.calls, outcome(settings).data.cost) == (1, 33_000_000)

    async def test_words_of_the_provider_that_are_no_unicode_are_in_nobodys_way(self, ledger, settings) -> None:
        async def go_on(attempt: Attempt) -> ProviderResult:
            attempt.sending()
            await attempt.accepted("job-\ud83d")
            attempt.progress(0.5, "half \ud83d")
            told.set()
            await going.wait()
            return delivered(cost_nanos=33_000_000)

        told, going, provider = asyncio.Event(), asyncio.Event(), ScriptedProvider(otherwise=go_on)
        async with image_service(settings, Providers((provider,))) as client:
            taken = await client.post("/v1/images/generate", json=PAID, headers={"Prefer": "respond-async"})
            await asyncio.wait_for(told.wait(), 10)
            status = await client.get(taken.headers["Location"])
            going.set()
            assert status.json()["progress"]["state"] == "half \\ud83d"
            await eventually(lambda: count(settings) == 2)
        [call] = read_calls(json.dumps((outcome(settings).data.metadata or {})[KEY]))
        assert (call.job_ids, call.cost, outcome(settings).data.cost) == (("job-\\ud83d",), 33_000_000, 33_000_000)

    async def test_what_nobody_can_say_is_costed_at_the_hold(self, ledger, settings) -> None:
        async def look(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            raise OutcomeUnknownError("the answer was lost, and there is no job to look at")

        provider = ScriptedProvider(otherwise=raising(ConnectionResetError("cut")), look=look)
        answer = await ask(settings, provider, **PAID)
        assert answer.json()["error"]["code"] == error_code(settings) == "outcome_unknown"
        assert outcome(settings).data.cost == 40_000_000
        assert provider.looks == [None]

    async def test_a_job_that_never_ends_is_in_doubt_after_its_deadline(self, ledger, tmp_path) -> None:
        async def look(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            if len(provider.looks) == 1:
                raise ConnectionError("trouble of the moment")
            return StillRunning(0.05)

        settings = make_settings(tmp_path, ledger.url, provider_timeout_seconds=0.1, doubt_seconds=0.6)
        provider = ScriptedProvider(otherwise=hanging("job-1"), look=look)
        await ask(settings, provider, **PAID)
        assert (error_code(settings), outcome(settings).data.cost) == ("outcome_unknown", 40_000_000)

    async def test_a_look_that_never_ends_is_given_up(self, ledger, tmp_path) -> None:
        async def drips(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            await asyncio.sleep(3600)
            raise AssertionError("nobody waits so long")

        settings = make_settings(tmp_path, ledger.url, provider_timeout_seconds=0.1, doubt_seconds=0.3)
        await ask(settings, ScriptedProvider(otherwise=hanging("job-1"), look=drips), **PAID)
        assert (error_code(settings), outcome(settings).data.cost) == ("outcome_unknown", 40_000_000)

    async def test_a_restart_finds_the_job_again_and_its_result_is_to_be_had(self, ledger, tmp_path) -> None:
        settings = make_settings(tmp_path, ledger.url, shutdown_seconds=0.2)

        async def still(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            return StillRunning(0.05)

        provider = ScriptedProvider(otherwise=hanging("job-9"), look=still)
        async with image_service(settings, Providers((provider,))) as client:
            answer = await client.post("/v1/images/generate", json=PAID, headers={"Prefer": "respond-async"})
            assert answer.status_code == 202
            await eventually(lambda: provider.calls)
        assert count(settings) == 1

        async def done(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            return delivered() if len(after.looks) > 3 else StillRunning(0.05)

        after = ScriptedProvider(look=done)
        async with image_service(settings, Providers((after,))) as client:
            running = await client.get(answer.headers["Location"])
            assert running.json()["status"] == "running"
            [left] = (await client.get("/v1/in-doubt")).json()["operations"]
            assert (left["state"], left["provider"], left["model"], left["provider_job_id"]) == (
                "left_by_a_crash", "paid", "paint-1", "job-9",
            )  # fmt: skip

            async def is_over() -> bool:
                status = (await client.get(answer.headers["Location"])).json()
                return bool(status["status"] == "completed")

            await eventually(is_over)
            result = (await client.get(answer.headers["Location"])).json()["result"]
            image = await client.get(result["images"][0]["url"])
        assert (after.calls, set(after.looks)) == (0, {"job-9"})
        assert image.headers["Content-Type"] == "image/png"
        assert (outcome(settings).type, outcome(settings).data.cost) == ("usage.operation.completed.v1", 40_000_000)

    async def test_a_long_call_keeps_its_hold(self, ledger, tmp_path) -> None:
        settings = make_settings(tmp_path, ledger.url, hold_seconds=1, provider_timeout_seconds=0.9)

        async def slow(attempt: Attempt) -> ProviderResult:
            await asyncio.sleep(0.7)
            return delivered()

        await ask(settings, ScriptedProvider(otherwise=slow), **PAID)
        assert [name for name in ledger.released if name.endswith(":extend")]


def to(*names: str) -> tuple[Route, ...]:
    targets = tuple(Target(provider=name, model="paint-1") for name in names)
    return (Route(operation="generate", model="best", to=targets),)


class TestRoutes:
    async def test_a_fallback_does_the_work_and_is_counted_with_all_that_was_billed(self, ledger, settings) -> None:
        ledger.script += [allowed_at(40_000_000), allowed_at(50_000_000)]
        half_done = ProviderError("overloaded", "half done", cost_nanos=7_000_000, elsewhere=True)
        first, second = ScriptedProvider("first", otherwise=raising(half_done)), ScriptedProvider("second")
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert (answer.json()["provider"], answer.json()["cost"]) == ("second", "0.057000000")
        event = outcome(settings)
        # What it was held as last, and who did it.
        assert (event.data.provider, event.data.actual_provider, event.data.model) == ("second", "second", "paint-1")
        assert (event.data.cost, event.data.retry_count, count(settings)) == (57_000_000, 1, 2)
        check, move = ledger.checks
        assert (check["provider"], move["provider"], move["model"]) == ("first", "second", "paint-1")
        assert move["operation_id"] == check["operation_id"]
        assert move["billed"] == "0.007000000"

    async def test_when_all_fail_the_last_one_says_so_and_all_is_settled(self, ledger, settings) -> None:
        half_done = ProviderError("overloaded", "half done", cost_nanos=7_000_000, elsewhere=True)
        providers = [ScriptedProvider(name, otherwise=raising(half_done)) for name in ("first", "second")]
        answer = await ask(settings, *providers, routes=to("first", "second"), **ROUTED)
        assert (answer.status_code, answer.json()["provider"]) == (502, "second")
        assert outcome(settings).data.cost == 14_000_000

    async def test_a_stop_while_a_fallback_is_chosen_leaves_no_doubt_of_what_is_known(self, ledger, tmp_path) -> None:
        settings = make_settings(tmp_path, ledger.url, shutdown_seconds=0.1, ledger_timeout_seconds=20.0)
        ledger.script += [allowed_at(40_000_000), lambda check: 10.0]
        half_done = ProviderError("overloaded", "half done", cost_nanos=7_000_000, elsewhere=True)
        first, second = ScriptedProvider("first", otherwise=raising(half_done)), ScriptedProvider("second")
        async with image_service(settings, Providers((first, second), to("first", "second"))) as client:
            await client.post("/v1/images/generate", json=ROUTED, headers={"Prefer": "respond-async"})
            await eventually(lambda: len(ledger.checks) == 2)
        assert (error_code(settings), outcome(settings).data.cost, second.calls) == ("overloaded", 7_000_000, 0)

    async def test_a_fallback_that_no_restart_would_know_of_is_not_called(self, ledger, settings, monkeypatch) -> None:
        async def full(*_: object) -> None:
            raise JournalUnavailableError("database or disk is full")

        monkeypatch.setattr(Journal, "note", full)
        half_done = ProviderError("overloaded", "half done", cost_nanos=7_000_000, elsewhere=True)
        first, second = ScriptedProvider("first", otherwise=raising(half_done)), ScriptedProvider("second")
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert (answer.status_code, answer.json()["provider"], second.calls) == (502, "first", 0)
        assert (error_code(settings), outcome(settings).data.cost) == ("overloaded", 7_000_000)

    @pytest.mark.parametrize(
        "step", [raising(ProviderError("content_filter", "no")), raising(OutcomeUnknownError("who knows"))]
    )
    async def test_refusals_and_doubt_go_nowhere_else(self, ledger, settings, step) -> None:
        async def unknown(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            raise OutcomeUnknownError("lost")

        first, second = ScriptedProvider("first", otherwise=step, look=unknown), ScriptedProvider("second")
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert (answer.status_code, second.calls) == (502, 0)

    async def test_a_fallback_that_the_plan_does_not_allow_is_not_tried(self, ledger, settings) -> None:
        def own_limit(check: dict[str, Any]) -> JSONResponse:
            state = {"limit_id": "no-second", "scope": "account", "meter": "calls", "window": "month", "period": "x"}
            body = {
                **json_of(denied(check)),
                "limits": [{**state, "maximum": 0, "settled": 0, "held": 0, "available": 0}],
            }
            body["denial"]["limit_id"] = "no-second"
            return JSONResponse(body)

        ledger.script.extend([allowed, own_limit])
        first, second = ScriptedProvider("first", otherwise=raising(DOWN)), ScriptedProvider("second")
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert (answer.status_code, second.calls) == (502, 0)

    async def test_each_fallback_is_moved_to_from_what_is_held_by_then(self, ledger, settings) -> None:
        names = ("first", "second", "full", "fourth")
        ledger.script += [allowed_at(1), allowed_at(2), denied, allowed_at(40_000_000)]
        providers = [ScriptedProvider(name, otherwise=raising(DOWN)) for name in names[:3]]
        answer = await ask(settings, *providers, last := ScriptedProvider("fourth"), routes=to(*names), **ROUTED)
        assert (answer.status_code, last.calls, providers[2].calls) == (200, 1, 0)
        _, to_second, to_full, to_fourth = ledger.checks
        assert to_second["placed_at"] < to_full["placed_at"] == to_fourth["placed_at"]

    async def test_a_fallback_that_nobody_has_a_price_for_is_not_called(self, ledger, settings) -> None:
        ledger.script += [allowed_at(1), allowed, allowed_at(40_000_000)]
        names = ("first", "second", "third")
        providers = [ScriptedProvider(name, otherwise=raising(DOWN)) for name in names[:2]]
        answer = await ask(settings, *providers, ScriptedProvider("third"), routes=to(*names), **ROUTED)
        assert (answer.status_code, answer.json()["provider"], providers[1].calls) == (200, "third", 0)

    @pytest.mark.parametrize("answer", [unavailable, garbage, lambda check: JSONResponse({}, 404)])
    async def test_no_other_provider_is_called_where_nobody_knows_what_is_held(self, ledger, settings, answer) -> None:
        ledger.script += [allowed_at(1), *[answer] * 3]
        providers = [ScriptedProvider(name, otherwise=raising(DOWN)) for name in ("first", "second", "third")]
        answered = await ask(settings, *providers, routes=to("first", "second", "third"), **ROUTED)
        assert (answered.status_code, [one.calls for one in providers]) == (502, [1, 0, 0])
        assert {move["provider"] for move in ledger.checks[1:]} == {"second"}

    async def test_a_fallback_in_doubt_costs_what_it_would_be_held_at_and_what_was_billed_before(
        self, ledger, settings
    ) -> None:
        ledger.script += [allowed_at(40_000_000), allowed_at(90_000_000)]
        billed = ProviderError("unavailable", "down", elsewhere=True, cost_nanos=5_000_000)
        first = ScriptedProvider("first", otherwise=raising(billed))

        async def nobody_knows(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            raise OutcomeUnknownError("lost")

        second = ScriptedProvider("second", otherwise=raising(TimeoutError()), look=nobody_knows)
        await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        event = outcome(settings)
        assert error_code(settings) == "outcome_unknown"
        assert (event.data.cost, event.data.actual_provider) == (95_000_000, "second")

    async def test_a_fallback_whose_answer_was_lost_costs_what_was_ordered_of_it(self, ledger, settings) -> None:
        # Two images of the first are one call of the second, which has other prices for other sizes.
        ledger.script += [allowed_at(40_000_000), allowed_at(90_000_000)]
        ledger.prices = {"48x32": 90_000_000, "": 400_000_000}

        async def done(job_id: str | None, attempt: Attempt) -> ProviderResult | StillRunning:
            return delivered()

        first = ScriptedProvider("first", otherwise=raising(DOWN))
        lost = raising(TimeoutError(), job="job-1")
        second = ScriptedProvider(
            "second", otherwise=lost, look=done, models=(Model("paint-1", "generate", unit="call"),)
        )
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED, variations=2)
        data = outcome(settings).data
        assert (answer.status_code, data.cost, data.quantity) == (200, 90_000_000, 1), answer.text

    @pytest.mark.parametrize(
        ("step", "code"),
        [(deliver, None), (raising(ProviderError("content_filtered", "made, and billed", cost_nanos=None)), "failed")],
    )
    async def test_a_fallback_without_a_price_that_can_be_had_costs_what_it_was_held_at(
        self, ledger, settings, step, code
    ) -> None:
        """And not what the first was."""
        ledger.script += [allowed_at(40_000_000), allowed_at(90_000_000)]
        ledger.prices = {}
        first, second = ScriptedProvider("first", otherwise=raising(DOWN)), ScriptedProvider("second", otherwise=step)
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert (answer.status_code, outcome(settings).data.cost) == (200 if code is None else 502, 90_000_000)

    async def test_one_that_is_down_is_skipped_before_the_hold(self, ledger, settings) -> None:
        first, second = ScriptedProvider("first", available=False), ScriptedProvider("second")
        await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert [check["provider"] for check in ledger.checks] == ["second"]
        second.available = False
        answer = await ask(settings, first, second, routes=to("first", "second"), **ROUTED)
        assert (answer.status_code, answer.json()["code"], answer.headers["Retry-After"]) == (
            503, "provider_unavailable", "10",
        )  # fmt: skip
        assert len(ledger.checks) == 1

    async def test_a_named_provider_has_no_fallback(self, ledger, settings) -> None:
        first, second = (
            ScriptedProvider("first", otherwise=raising(DOWN)),
            ScriptedProvider("second", otherwise=deliver),
        )
        body = {**GENERATE, "provider": "first"}
        answer = await ask(settings, first, second, routes=to("first", "second"), **body)
        assert (answer.status_code, second.calls) == (502, 0)

    @pytest.mark.parametrize(
        ("route", "says"),
        [
            ({"operation": "paint", "to": [{"provider": "local"}]}, "routes[0].operation: paint"),
            ({"operation": "edit", "kind": "sketch", "to": [{"provider": "local"}]}, "routes[0].kind: sketch"),
            ({"operation": "edit", "to": [{"provider": "nobody"}]}, "routes[0].to[0].provider: there is no nobody"),
            ({"operation": "edit", "to": [{"provider": "local", "model": "x"}]}, "routes[0].to[0].model"),
            ({"operation": "edit", "to": []}, "to"),
            ({"operation": "edit", "too": []}, "too"),
        ],
    )
    def test_routes_that_lead_nowhere_stop_the_start(self, tmp_path, route, says) -> None:
        with pytest.raises(ValueError, match=says.replace("[", r"\[").replace("]", r"\]")):
            create_app(make_settings(tmp_path, "http://127.0.0.1:1", routes=[route]))

    def test_routes_come_from_a_file_as_well(self, tmp_path) -> None:
        file = tmp_path / "routes.yaml"
        file.write_text("routes:\n  - {operation: generate, model: best, to: [{provider: local}]}\n")
        [route] = make_settings(tmp_path, "http://127.0.0.1:1", routes_file=file).all_routes()
        assert route == Route(operation="generate", model="best", to=(Target(provider="local"),))
        file.write_text("routes: [{operation: generate}]")
        with pytest.raises(ValueError, match=r"routes.yaml"):
            make_settings(tmp_path, "http://127.0.0.1:1", routes_file=file).all_routes()


def json_of(response: Any) -> Any:
    import json

    return json.loads(bytes(response.body))
