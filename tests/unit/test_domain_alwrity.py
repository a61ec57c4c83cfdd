"""What single values, endpoints and log rows of ALwrity come to."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_service.domain.alwrity.operations import operation_of
from ledger_service.domain.alwrity.usage import read_usage
from ledger_service.domain.alwrity.values import Money, enum_value, model_of, moment, money
from tests.alwrity import call

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "nanos", "is_rounded"),
    [
        (0.1 + 0.2, 300_000_000, True),
        (3.619999999999999, 3_620_000_000, True),
        (0.04, 40_000_000, False),
        (5e-10, 0, True),
        (1.5e-09, 2, True),
        (1e-9, 1, False),
        (3, 3_000_000_000, False),
        ("0.025", 25_000_000, False),
        (None, 0, False),
    ],
)
def test_a_float_is_the_decimal_of_its_text(value: object, nanos: int, is_rounded: bool) -> None:
    assert money({"cost": value}, "cost") == Money(nanos, is_rounded)


@given(st.floats(0, 1_000_000, allow_nan=False))
def test_any_float_is_rounded_half_to_even_once(value: float) -> None:
    exact = Decimal(repr(value)) * 10**9
    assert money({"cost": value}, "cost").nanos == int(exact.to_integral_value(ROUND_HALF_EVEN))


@pytest.mark.parametrize(
    "written", ["2026-10-03 09:30:00.5", "2026-10-03T09:30:00.500000Z", "2026-10-03T11:30:00.5+02:00"]
)
def test_a_time_without_a_zone_is_utc(written: str) -> None:
    assert moment({"at": written}, "at", NOW) == datetime(2026, 10, 3, 9, 30, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("endpoint", "provider", "model", "operation"),
    [
        ("/image-generation", "stability", "sd", "generate"),
        ("/image-generation/edit", "wavespeed", "qwen-edit", "edit"),
        ("/image-editing", "image_edit", None, "edit"),
        ("/image-generation/character", "wavespeed", "x", "character"),
        ("/image-studio/face-swap/process", "wavespeed", "x", "face_swap"),
        ("/image-studio/upscale", "stability", "fast", "upscale"),
        ("/image-studio/control/process", "stability", "x", "control"),
        ("/v2beta/stable-image/edit/outpaint", "stability", None, "edit"),
        ("/v2beta/3d/stable-fast-3d", "stability", None, "image_to_3d"),
        ("/video-generation/wavespeed", "video", "alibaba/wan-2.5/text-to-video", "text_to_video"),
        ("/video-generation/wavespeed", "video", "wan-2.5", "image_to_video"),
        ("/audio-generation/wavespeed/voice-clone", "audio", None, "audio"),
        ("agent_action", "gemini", "gemini-2.5-flash", "text"),
        ("/api/blog/12", "mistral", None, "text"),
        ("/api/podcast/research/exa", "exa", None, "search"),
        ("/x", "firecrawl", None, "scrape"),
        ("/something/new", "wavespeed", None, "other"),
        ("[AGGREGATED]", "stability", "[3 calls aggregated]", "aggregated"),
    ],
)
def test_operations_follow_from_endpoints(endpoint: str, provider: str, model: str | None, operation: str) -> None:
    assert operation_of(endpoint, provider, model) == operation


def test_names_are_made_fit() -> None:
    assert model_of("black-forest-labs/FLUX.1-Krea-dev") == "black-forest-labs/FLUX.1-Krea-dev"
    assert model_of("  Qwen Edit (plus) ") == "Qwen-Edit-plus-"
    assert model_of("[…]") == "unknown"
    assert {enum_value({"p": one}, "p") for one in ("stability", "STABILITY", "APIProvider.STABILITY")} == {"stability"}


def test_ids_have_the_rows_time_and_follow_from_what_it_says() -> None:
    row = call(7, timestamp="2026-10-03 09:30:00.123999")
    first, again, other = (read_usage(one, "", NOW) for one in (row, dict(row), {**row, "cost_total": 0.05}))
    assert first == again
    assert first.event_id != other.event_id
    assert first.operation_id == other.operation_id
    for id_ in (first.event_id, first.operation_id):
        assert id_.version == 7
        assert datetime.fromtimestamp((id_.int >> 80) / 1000, UTC) == datetime(
            2026, 10, 3, 9, 30, 0, 123_000, tzinfo=UTC
        )
    assert read_usage(row, "other-", NOW).event_id == first.event_id
    assert UUID(orjson.loads(first.body)["id"]) == first.event_id


def test_a_failed_call_is_a_failure_with_its_cost() -> None:
    usage = read_usage(call(1, status_code=429, error_message="slow down\x00"), "", NOW)
    data = orjson.loads(usage.body)["data"]
    assert (usage.calls, usage.failures, data["cost"]) == (0, 1, "0.040000000")
    assert data["error"] == {"code": "http_429", "message": "slow down"}
