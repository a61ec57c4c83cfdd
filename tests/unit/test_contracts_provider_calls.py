"""The calls of an operation in its events' metadata: written where they say more, read back, never in the way."""

import orjson
import pytest

from contracts.events import METADATA_BYTES_MAX
from contracts.provider_calls import CALLS_MAX, KEY, ProviderCall, read_calls, with_calls
from image_service.providers.jobs import Job, invoiced_ids

CALL = ProviderCall.model_validate(
    {"provider": "wavespeed", "model": "flux/dev", "job_ids": ("j1", "j2"), "cost": "0.03"}
)


def test_calls_are_written_beside_what_else_is_there_and_read_back() -> None:
    written = with_calls({"campaign": "spring"}, [CALL])
    assert written == {
        "campaign": "spring",
        KEY: [{"provider": "wavespeed", "model": "flux/dev", "job_ids": ["j1", "j2"], "cost": "0.030000000"}],
    }
    assert read_calls(orjson.dumps(written[KEY])) == (CALL,)


def test_one_call_without_a_job_says_nothing_new() -> None:
    alone = CALL.model_copy(update={"job_ids": ()})
    assert with_calls(None, [alone]) is None
    assert with_calls({"a": 1}, []) == {"a": 1}
    assert with_calls(None, [alone, alone]) is not None


def test_what_has_no_room_is_left_out_jobs_first() -> None:
    """A provider with endless ids, or a caller with much metadata, must not keep an outcome from being recorded."""
    endless = CALL.model_copy(update={"job_ids": ("x" * 400,) * 20})
    written = with_calls(None, [endless])
    assert written is not None
    assert len(orjson.dumps(written)) <= METADATA_BYTES_MAX
    assert [call.job_ids for call in read_calls(orjson.dumps(written[KEY]))] == [()]
    full: dict[str, object] = {"mine": "x" * (METADATA_BYTES_MAX - 20)}
    assert with_calls(full, [CALL]) == full  # type: ignore[arg-type]  # JSON all the same
    assert with_calls(None, [CALL] * (CALLS_MAX + 1)) is None


@pytest.mark.parametrize(
    "text", [None, "null", "{}", "[1]", '[{"provider": "x"}]', '[{"provider":"x","model":"m","cost":"-1"}]', "no"]
)
def test_what_is_something_else_is_no_call(text: str | None) -> None:
    assert read_calls(text) == ()


def test_ids_are_those_of_the_invoice() -> None:
    assert invoiced_ids(Job(ids=("a", "b")).text()) == ("a", "b")
    assert invoiced_ids(Job(ids=("/fal-ai/flux/requests/0195-7a",)).text()) == ("0195-7a",)
    assert invoiced_ids("plain-id") == ("plain-id",)
    assert invoiced_ids(None) == ()
