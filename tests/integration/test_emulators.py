"""The emulators beneath the providers: faults on real connections, the book, the files, what they make."""

import base64
import io
import json
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from PIL import Image

from deploy.emulators import glb, mp4
from deploy.emulators.faults import Chaos, Fault, FaultPlan
from deploy.emulators.media import Form, NotAnImageError, Result, make, read_upload
from deploy.emulators.server import EmulatorServer
from tests.emulators import Emulators, opened, picture

KEY = {"Authorization": "Bearer ws-emulator-key"}
MODEL = "bytedance/seedream-v4"
PRICE = "0.027000000"


def submit(emulators: Emulators, **more: object) -> httpx.Response:
    body = {"prompt": "a harbour", "size": "256*256", **more}
    return emulators.http.post(f"{emulators.url('wavespeed')}/api/v3/{MODEL}", headers=KEY, json=body)


def completed(emulators: Emulators, **more: object) -> dict[str, Any]:
    url = submit(emulators, **more).json()["data"]["urls"]["get"]
    answer: dict[str, Any] = emulators.http.get(url, headers=KEY).json()["data"]
    assert answer["status"] == "completed"
    return answer


# --- faults in place of the answer: nothing is billed before, all of it after


def ends_without_an_answer(call: Callable[[], httpx.Response]) -> str:
    with pytest.raises(httpx.TransportError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("kind", ["reset", "close", "hang"])
def test_a_connection_ends_without_an_answer(emulators: Emulators, kind: str, at: str) -> None:
    emulators.fault(kind, at=at, seconds=0.05)
    said = ends_without_an_answer(lambda: submit(emulators))
    assert ("reset" in said.lower()) == (kind == "reset")
    assert emulators.amounts() == ([] if at == "before" else [PRICE])
    assert submit(emulators).status_code == 200  # one fault, one request


def test_what_hangs_outlasts_the_client(emulators: Emulators) -> None:
    emulators.fault("hang", at="after", seconds=30)
    body = {"prompt": "a harbour"}
    with pytest.raises(httpx.ReadTimeout):
        emulators.http.post(f"{emulators.url('wavespeed')}/api/v3/{MODEL}", headers=KEY, json=body, timeout=0.1)
    deadline = time.monotonic() + 10
    while not emulators.amounts() and time.monotonic() < deadline:
        time.sleep(0.01)  # what the client sent before it gave up may still lie in the server's socket
    assert emulators.amounts() == [PRICE]


@pytest.mark.parametrize("at", ["before", "after"])
@pytest.mark.parametrize("status", [400, 404, 500, 503, 504])
def test_an_error_is_worded_as_the_provider_words_it(emulators: Emulators, status: int, at: str) -> None:
    emulators.fault("status", status=status, at=at)
    answer = submit(emulators)
    assert (answer.status_code, answer.json()["code"]) == (status, status)
    assert emulators.amounts() == ([] if at == "before" else [PRICE])


@pytest.mark.parametrize("retry_after", [None, "7"])
def test_too_many_requests_with_and_without_a_time(emulators: Emulators, retry_after: str | None) -> None:
    emulators.fault("status", status=429, retry_after=retry_after)
    answer = submit(emulators)
    assert (answer.status_code, answer.headers.get("retry-after")) == (429, retry_after)


def test_answers_that_are_none(emulators: Emulators) -> None:
    for kind in ("malformed_json", "empty", "wrong_content_type"):
        emulators.fault(kind, at="after")
    with pytest.raises(json.JSONDecodeError):
        submit(emulators).json()
    assert submit(emulators).content == b""
    assert submit(emulators).headers["content-type"].startswith("text/html")
    assert len(emulators.amounts()) == 3


def test_a_redirect_leads_where_the_fault_says(emulators: Emulators) -> None:
    emulators.fault("redirect", url="http://169.254.169.254/latest/meta-data/")
    answer = submit(emulators)
    assert (answer.status_code, answer.headers["location"]) == (307, "http://169.254.169.254/latest/meta-data/")


# --- faults to the answer


def test_half_of_an_answer(emulators: Emulators) -> None:
    emulators.fault("truncate")
    assert "complete message body" in ends_without_an_answer(lambda: submit(emulators))
    assert emulators.amounts() == [PRICE]


def test_a_slow_drip_is_whole_in_the_end(emulators: Emulators) -> None:
    emulators.fault("drip", seconds=0.2)
    began = time.monotonic()
    with emulators.http.stream(
        "POST", f"{emulators.url('wavespeed')}/api/v3/{MODEL}", headers=KEY, json={"prompt": "x"}
    ) as answer:
        pieces = list(answer.iter_raw())
    assert time.monotonic() - began >= 0.15  # timers count whole milliseconds
    assert len(pieces) > 1  # how many arrive together is up to the machine
    assert json.loads(b"".join(pieces))["data"]["status"] == "created"


def test_a_late_answer(emulators: Emulators) -> None:
    emulators.fault("delay", seconds=0.1)
    began = time.monotonic()
    assert submit(emulators).status_code == 200
    assert time.monotonic() - began >= 0.09  # timers count whole milliseconds


# --- faults to the job, and to what it makes


@pytest.mark.parametrize(("billed", "amount"), [(None, "0.000000000"), (True, PRICE)])
def test_a_job_fails_after_it_was_accepted(emulators: Emulators, billed: bool | None, amount: str) -> None:
    emulators.fault("job_fails", billed=billed)
    answer = emulators.http.get(submit(emulators).json()["data"]["urls"]["get"], headers=KEY).json()["data"]
    assert (answer["status"], answer["outputs"]) == ("failed", [])
    assert answer["error"]
    assert emulators.amounts() == [amount]


def test_a_job_that_is_processing_for_ever(emulators: Emulators) -> None:
    emulators.fault("job_stuck")
    url = submit(emulators).json()["data"]["urls"]["get"]
    states = {emulators.http.get(url, headers=KEY).json()["data"]["status"] for _ in range(3)}
    assert states == {"processing"}
    assert emulators.billed()["jobs"][0]["state"] == "processing"


def test_a_job_that_is_not_known_any_more(emulators: Emulators) -> None:
    emulators.fault("job_forgotten")
    assert emulators.http.get(submit(emulators).json()["data"]["urls"]["get"], headers=KEY).status_code == 404
    assert emulators.amounts() == [PRICE]


@pytest.mark.parametrize("status", [404, 500])
def test_a_poll_fails_and_the_next_one_does_not(emulators: Emulators, status: int) -> None:
    url = submit(emulators).json()["data"]["urls"]["get"]
    emulators.fault("status", route="GET */result", status=status)
    assert [emulators.http.get(url, headers=KEY).status_code for _ in range(2)] == [status, 200]


def test_an_id_is_given_twice(emulators: Emulators) -> None:
    first = submit(emulators).json()["data"]["id"]
    emulators.fault("duplicate_id")
    assert submit(emulators).json()["data"]["id"] == first
    assert emulators.amounts() == [PRICE, PRICE]
    assert submit(emulators).json()["data"]["id"] != first


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/", "http://localhost:1/a.png", "https://example.org/a.png"]
)
def test_a_file_is_said_to_be_elsewhere(emulators: Emulators, url: str) -> None:
    emulators.fault("output_url", url=url)
    assert completed(emulators)["outputs"] == [url]


def test_files_that_are_not_what_they_should_be(emulators: Emulators) -> None:
    whole = emulators.http.get(completed(emulators)["outputs"][0]).content

    def damaged(kind: str, **more: object) -> bytes:
        emulators.fault(kind, **more)
        return emulators.http.get(completed(emulators)["outputs"][0]).content

    assert damaged("output_empty") == b""
    assert damaged("output_truncated") == whole[: len(whole) // 2]
    assert damaged("output_oversized", size=3_000_000) == whole + bytes(3_000_000)
    assert damaged("output_garbage").startswith(b"<html>")
    bomb = damaged("output_bomb")
    assert struct.unpack(">II", bomb[16:24]) == (30_000, 30_000)
    assert len(bomb) < 200_000
    emulators.fault("no_output")
    assert completed(emulators)["outputs"] == []


def test_base64_that_is_none(emulators: Emulators) -> None:
    emulators.fault("base64_garbage")
    with pytest.raises(ValueError, match="base64"):
        base64.b64decode(completed(emulators, enable_base64_output=True)["outputs"][0], validate=True)


def test_a_files_download_has_faults_too(emulators: Emulators) -> None:
    url = completed(emulators)["outputs"][0]
    emulators.fault("status", provider="cdn", status=404)
    emulators.fault("truncate", provider="cdn")
    assert emulators.http.get(url).status_code == 404
    ends_without_an_answer(lambda: emulators.http.get(url))
    assert emulators.http.get(url).status_code == 200


# --- who is hit


def test_a_fault_waits_for_its_route_and_lets_through_what_it_is_told_to(emulators: Emulators) -> None:
    emulators.fault("status", route="POST /api/v3/*", skip=1, times=2)
    url = submit(emulators).json()["data"]["urls"]["get"]
    assert emulators.http.get(url, headers=KEY).status_code == 200
    assert [submit(emulators).status_code for _ in range(3)] == [500, 500, 200]
    assert [hit["request"] for hit in emulators.hits()] == [f"POST /api/v3/{MODEL}"] * 2


def test_a_hit_says_which_job_it_concerns(emulators: Emulators) -> None:
    emulators.fault("reset", at="after")
    ends_without_an_answer(lambda: submit(emulators))
    assert emulators.hits()[0]["job_id"] == emulators.billed()["jobs"][0]["job_id"]


def test_faults_that_make_no_sense_are_refused(emulators: Emulators) -> None:
    control = emulators.server.control_url
    for body in ({"kind": "nonsense"}, {"kind": "redirect"}, {"kind": "reset", "times": 0}, {"kind": "reset", "x": 1}):
        answer = emulators.http.post(f"{control}/faults", json=body)
        assert (answer.status_code, answer.json()["error"]) == (422, "the body does not fit")
    assert emulators.http.post(f"{control}/faults", content=b"{").status_code == 400
    assert emulators.http.post(f"{control}/chaos", json={"rate": 2}).status_code == 422


def drawn(seed: int) -> list[str | None]:
    plan = FaultPlan()
    plan.randomly(Chaos(seed=seed, rate=0.5))
    return [taken[0].kind if (taken := plan.take("stability", "POST /v2beta")) else None for _ in range(200)]


def test_chance_is_the_same_for_the_same_seed() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert 60 < sum(kind is not None for kind in drawn(1)) < 140
    assert len(set(drawn(1))) > 15


def test_one_request_more_or_less_does_not_change_what_hits_the_others() -> None:
    scripted = FaultPlan()
    scripted.randomly(Chaos(seed=1, rate=0.5))
    scripted.add([Fault(kind="reset", skip=3)])  # type: ignore[arg-type]  # pydantic takes the name of a kind
    kinds = [taken[0].kind if (taken := scripted.take("stability", "POST /v2beta")) else None for _ in range(50)]
    assert kinds[:3] == drawn(1)[:3]
    assert kinds[4:] == drawn(1)[3:49]


def test_what_chance_did_to_a_client_that_sends_once_is_in_the_book(emulators: Emulators) -> None:
    """Whatever the client saw, the book has a job for each request that went through, and for no other."""
    control = emulators.server.control_url
    emulators.http.post(f"{control}/chaos", json={"seed": 7, "rate": 0.6, "seconds": 0.02})
    for _ in range(80):
        with suppress(httpx.TransportError):
            submit(emulators)
    emulators.http.post(f"{control}/chaos", json={"rate": 0})
    refused = sum(hit["at"] == "before" for hit in emulators.hits())
    jobs = emulators.billed()["jobs"]
    assert refused > 10
    assert len(jobs) == 80 - refused
    failed = sum(job["state"] == "failed" for job in jobs)
    assert emulators.billed()["total"] == f"{27_000_000 * (len(jobs) - failed) / 1e9:.9f}"


# --- the book and the files


def test_the_book_says_who_asked_for_what(emulators: Emulators) -> None:
    url = f"{emulators.url('wavespeed')}/api/v3/{MODEL}"
    job_id = emulators.http.post(url, headers={**KEY, "X-Client-Request-Id": "op-1"}, json={"prompt": "x"}).json()
    billed = emulators.billed()
    (job,) = billed["jobs"]
    assert job.pop("request_id")
    assert abs(datetime.fromisoformat(job.pop("accepted_at")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert job == {
        "job_id": job_id["data"]["id"],
        "client_request_id": "op-1",
        "provider": "wavespeed",
        "model": MODEL,
        "parameters": {"size": "1024*1024", "images": 1},
        "amount": PRICE,
        "state": "completed",
    }
    assert (billed["total"], billed["by_provider"]) == (PRICE, {"wavespeed": PRICE})
    assert emulators.billed("stability")["jobs"] == []


def test_ids_go_on_after_a_reset(emulators: Emulators) -> None:
    before = {submit(emulators).json()["data"]["id"] for _ in range(3)}
    emulators.forget()
    assert emulators.amounts() == []
    assert before.isdisjoint({submit(emulators).json()["data"]["id"] for _ in range(3)})


def test_a_credential_that_reaches_the_files_is_refused_and_noted(emulators: Emulators) -> None:
    url = completed(emulators)["outputs"][0]
    assert emulators.http.get(url, headers=KEY).status_code == 400
    assert emulators.http.get(f"{emulators.server.control_url}/").json()["leaks"] == [
        f"{httpx.URL(url).path}: authorization"
    ]
    assert emulators.http.get(url.replace("/0.", "/1.")).status_code == 404


def test_files_have_a_host_of_their_own(emulators: Emulators) -> None:
    outputs = completed(emulators)["outputs"]
    assert httpx.URL(outputs[0]).port == emulators.server.cdn_port != emulators.server.port


# --- what is made


def test_the_same_request_makes_the_same_file() -> None:
    result = Result(48, 32, "a seed")
    assert make(result) == make(Result(48, 32, "a seed"))
    assert make(result) != make(Result(48, 32, "another seed"))


@pytest.mark.parametrize(("media_type", "form"), [("image/png", "PNG"), ("image/jpeg", "JPEG"), ("image/webp", "WEBP")])
def test_pictures_are_whole(media_type: str, form: str) -> None:
    image = opened(make(Result(48, 32, "x", media_type, picture(100, 50))))
    assert (image.format, image.size) == (form, (48, 32))
    levels = opened(make(Result(48, 32, "x", cut_out=True))).getchannel("A").histogram()
    assert sum(levels[:16]) > 0 < sum(levels[240:])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_kind_are_taken(mode: str) -> None:
    form = "JPEG" if mode == "CMYK" else "PNG"
    out = io.BytesIO()
    Image.new(mode, (2000, 30)).save(out, form)
    upload = read_upload(out.getvalue())
    assert (upload.width, upload.height, opened(upload.preview).size) == (2000, 30, (512, 8))
    assert upload.has_alpha == (mode in ("LA", "RGBA"))


def test_what_is_no_whole_picture_is_refused() -> None:
    gif = picture(form="GIF")
    for content in (b"", b"none", picture()[:60], gif, picture(form="JPEG")[:-400]):
        with pytest.raises(NotAnImageError):
            read_upload(content)


def test_the_book_keeps_no_uploads() -> None:
    """A thousand jobs with large uploads must fit: what is kept of each is a preview."""
    upload = read_upload(picture(1500, 1000))
    assert len(upload.preview) < 20_000


def test_a_glb_holds_what_it_says() -> None:
    content = make(Result(48, 32, "x", form=Form.MODEL))
    magic, version, length, text_length = struct.unpack("<4sIII", content[:16])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    document = json.loads(content[20 : 20 + text_length])
    binary = content[20 + text_length + 8 :]
    assert document["buffers"][0]["byteLength"] == len(binary)
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    assert opened(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]).size == (48, 32)
    assert glb.MEDIA_TYPE == "model/gltf-binary"


def boxes(content: bytes) -> dict[bytes, bytes]:
    found = {}
    while content:
        size, kind = struct.unpack(">I4s", content[:8])
        found[kind], content = content[8:size], content[size:]
    return found


def test_a_clip_has_its_seconds_and_a_picture_for_each_frame() -> None:
    content = make(Result(48, 32, "x", form=Form.CLIP, seconds=5))
    top = boxes(content)
    assert list(top) == [b"ftyp", b"mdat", b"moov"]
    movie = boxes(top[b"moov"])
    ticks, duration = struct.unpack(">II", movie[b"mvhd"][12:20])
    assert duration / ticks == 5
    table = boxes(boxes(boxes(boxes(movie[b"trak"])[b"mdia"])[b"minf"])[b"stbl"])
    sizes = struct.unpack(">13I", table[b"stsz"])[3:]
    (at,) = struct.unpack(">I", table[b"stco"][8:12])
    for size in sizes:
        assert opened(content[at : at + size]).size == (48, 32)
        at += size
    assert content[at - 2 : at] == b"\xff\xd9"
    assert mp4.MEDIA_TYPE == "video/mp4"


def test_a_server_that_was_stopped_listens_no_more() -> None:
    with EmulatorServer() as server:
        assert httpx.get(f"{server.url}/readyz", trust_env=False).text == "ready\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.url}/readyz", trust_env=False)
