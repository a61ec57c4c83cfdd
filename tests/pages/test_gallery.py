"""The gallery of the image service: operations tried on a picture, with their hold, their events and their cost."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from contracts.web.own_api import Answer, OwnApi
from contracts.web.pages import Action, SentFile
from contracts.web.rendering import CONTENT_SECURITY_POLICY
from image_service.operations import OPERATIONS
from image_service.pages import PAGES
from image_service.pages.fields import fields_of, typed
from image_service.pages.gallery import FORMS_AT_ONCE
from tests.browser import NARROW, visiting
from tests.builders import limit
from tests.forms import form_client
from tests.integration.image_harness import eventually, image_service, make_settings, picture
from tests.pages.test_pages import made
from tests.servers import Ledger
from tests.tokens import TOKEN

WHO = {"account_id": "acme", "user_id": "ann"}
GENERATE = {**WHO, "operation": "generate", "prompt": "a lighthouse", "width": "48", "height": "32", "seed": "7"}
PNG = ("picture.png", picture(), "image/png")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gallery(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody signed in at an image service that asks a real ledger, one for all tests of this file."""
    await ledger.set_up(limit("upscales", maximum=1, selector={"operation": ["upscale"]}))
    settings = make_settings(tmp_path_factory.mktemp("images"), ledger.url, http_delivery_after_seconds=0.2)
    async with image_service(settings) as api, signed_in(api) as person:
        yield person


@asynccontextmanager
async def signed_in(api: httpx.AsyncClient, token: str = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    async with form_client(api.base_url, token, timeout=20) as person:
        yield person


async def over(person: httpx.AsyncClient, path: str) -> str:
    """The page of an operation, once that is over."""

    async def is_over() -> bool:
        return 'id="try-state">running' not in (await person.get(path)).text

    await eventually(is_over)
    return (await person.get(path)).text


# --- forms ---


async def test_every_operation_has_its_form(gallery: httpx.AsyncClient) -> None:
    for name, operation in OPERATIONS.items():
        page = await gallery.get("/", params={"operation": name})
        assert page.status_code == 200
        assert page.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        wanted = {"operation", "by", "account_id", "user_id", *(file.name for file in operation.uploads)}
        wanted |= operation.parameters.model_fields.keys() - {"provider", "model"}
        assert set(re.findall(r'name="(\w+)"', page.text.split('enctype="multipart/form-data"')[1])) == wanted
        assert "local: " in page.text


def test_fields_of_a_form_go_back_to_what_the_api_takes() -> None:
    schema = OPERATIONS["generate"].parameters.model_json_schema()
    fields = {field.name: field for field in fields_of(schema)}
    assert [field.name for field in fields_of(schema) if field.required] == ["prompt", "width", "height"]
    assert (fields["prompt"].kind, fields["width"].kind, fields["seed"].maximum) == ("lines", "number", "4294967295")
    assert typed(schema, {"width": "64", "prompt": "12", "seed": "x"}) == {"width": 64, "prompt": "12", "seed": "x"}
    # What JSON has no place for is the API's to refuse, too: one would fail, the other be left out without a word.
    assert typed(schema, {"seed": "9" * 30}) == {"seed": "9" * 30}
    of_edit = OPERATIONS["edit"].parameters.model_json_schema()
    for none in ("nan", "inf", "-inf", "1e400"):
        assert typed(of_edit, {"strength": none}) == {"strength": none}
    edit = {field.name: field for field in fields_of(OPERATIONS["edit"].parameters.model_json_schema())}
    assert (edit["effect"].kind, edit["effect"].initial, edit["strength"].step) == ("choice", "", "any")


# --- trying ---


async def test_an_operation_is_tried_held_followed_and_shown_with_its_cost(
    gallery: httpx.AsyncClient, ledger: Ledger
) -> None:
    sent = await gallery.post("/", data={**GENERATE, "by": "local/local-render-1"})
    assert sent.status_code == 303, sent.text
    path = sent.headers["location"]
    page = await over(gallery, path)
    assert ("$0.01" in page, "local · local-render-1" in page, "<dd>7</dd>" in page) == (True, True, True)
    assert "Held as cost" in page
    assert "running</li>" in page
    [url] = re.findall(r'<img src="(/v1/results[^"]+)"', page)
    image = await gallery.get(url.replace("&amp;", "&"))
    assert (image.status_code, image.headers["content-type"], image.content[:4]) == (200, "image/png", b"\x89PNG")
    operation_id = path.split("/")[2].split("?")[0]
    # Another account does not find it.
    assert (await gallery.get(f"/tries/{operation_id}?account_id=globex")).status_code == 404
    assert operation_id in (await gallery.get("/", params=WHO)).text

    async def recorded() -> bool:
        return operation_id in (await ledger.http.get("/v1/operations:recent")).text

    await eventually(recorded)


async def test_a_picture_goes_along_and_a_denial_shows_its_decision(gallery: httpx.AsyncClient) -> None:
    first = await gallery.post("/", data=UPSCALE, files={"image": PNG})
    assert "80 \N{MULTIPLICATION SIGN} 60" in await over(gallery, first.headers["location"])
    denied = await gallery.post("/", data=UPSCALE, files={"image": PNG})
    assert denied.status_code == 429
    assert "nothing was started" in denied.text
    assert re.search(r"upscales <span class=\"tag bad\">full", denied.text)
    assert 'value="ann"' in denied.text


async def test_a_3d_model_is_there_to_be_downloaded(gallery: httpx.AsyncClient) -> None:
    sent = await gallery.post(
        "/", data={**WHO, "operation": "image_to_3d", "texture_resolution": "512"}, files={"image": PNG}
    )
    page = await over(gallery, sent.headers["location"])
    [url] = re.findall(r'href="([^"]+)" download="image_to_3d-1.glb"', page)
    assert (await gallery.get(url.replace("&amp;", "&"))).content[:4] == b"glTF"


UPSCALE = {**WHO, "operation": "upscale", "kind": "fast", "factor": "2"}
#: Of an account that has no operation.
GENERATE_ELSEWHERE = {**GENERATE, "account_id": "hooli"}
UPSCALE_ELSEWHERE = {**UPSCALE, "account_id": "hooli"}
#: What was typed, the files, and the field that is wrong.
WRONG: tuple[tuple[dict[str, str], dict[str, Any], str], ...] = (
    ({**GENERATE_ELSEWHERE, "width": "many"}, {}, "width"),
    ({**GENERATE_ELSEWHERE, "prompt": ""}, {}, "prompt"),
    ({**GENERATE_ELSEWHERE, "account_id": ""}, {}, "account_id"),
    ({**GENERATE_ELSEWHERE, "user_id": "a b"}, {}, "user_id"),
    ({**GENERATE_ELSEWHERE, "by": "nobody/x"}, {}, "by"),
    (UPSCALE_ELSEWHERE, {}, "image"),
    (UPSCALE_ELSEWHERE, {"image": ("a.png", b"no picture", "image/png")}, "image"),
    ({**UPSCALE_ELSEWHERE, "factor": "9"}, {"image": ('"\r\nX: y', picture(), 'text/"x')}, "factor"),
)


async def test_what_is_wrong_stands_at_its_field_and_nothing_is_started(gallery: httpx.AsyncClient) -> None:
    for typed_in, files, field in WRONG:
        sent = await gallery.post("/", data=typed_in, files=files or {"none": ("", b"", "")})
        assert sent.status_code == 422, (field, sent.text)
        assert re.search(rf'id="{field}"[^>]*aria-invalid="true"', sent.text), (field, sent.text)
        assert "Latest operations" not in sent.text


async def _portions(body: bytes) -> AsyncIterator[bytes]:
    """Sent without saying how much it is."""
    for start in range(0, len(body), 1_000_000):
        yield body[start : start + 1_000_000]


async def test_forms_are_bounded_and_of_this_site(gallery: httpx.AsyncClient) -> None:
    [form] = [page for page in PAGES if isinstance(page, Action) and page.path == "/"]
    large = {"image": ("a.png", b"x" * (form.bytes_max + 1), "image/png")}
    sent = gallery.build_request("POST", "/", data={**WHO, "operation": "upscale"}, files=large)
    said = {"Content-Type": sent.headers["Content-Type"]}
    for refused in (await gallery.send(sent), await gallery.post("/", content=_portions(sent.read()), headers=said)):
        assert (refused.status_code, "this form has at most" in refused.text) == (413, True)
    many = [("image", PNG)] * (form.files_max + 1)
    assert (await gallery.post("/", data={**WHO, "operation": "upscale"}, files=many)).status_code == 422
    other = {"Sec-Fetch-Site": "cross-site"}
    assert (await gallery.post("/", data=GENERATE, headers=other)).status_code == 403
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await gallery.post("/", content=b"--y\r\nno", headers=broken)).status_code in (422, 400)


async def test_of_many_forms_with_pictures_few_are_in_memory_at_once(
    gallery: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait on disk: each may have 30 MB, and a person as many connections as the service takes."""
    go, call, sent = asyncio.Event(), OwnApi.call, 0

    async def slow(api: OwnApi, method: str, *rest: Any, **named: Any) -> Answer:
        nonlocal sent
        if method == "POST":
            sent += 1
            await go.wait()
        return await call(api, method, *rest, **named)

    def in_memory() -> int:
        gc.collect()  # not those of forms that are over
        return sum(isinstance(one, SentFile) for one in gc.get_objects())

    monkeypatch.setattr(OwnApi, "call", slow)
    large = ("a.png", b"no picture" * 200_000, "image/png")
    posts = [
        asyncio.create_task(gallery.post("/", data=UPSCALE_ELSEWHERE, files={"image": large}))
        for _ in range(4 * FORMS_AT_ONCE)
    ]
    await eventually(lambda: sent >= FORMS_AT_ONCE)
    await asyncio.sleep(1)  # for the others to come as far as they can
    held = in_memory()
    go.set()
    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {422}
    assert held == FORMS_AT_ONCE


async def test_a_token_of_one_account_works_on_that_one(gallery: httpx.AsyncClient, ledger: Ledger) -> None:
    await ledger.put_account("globex")
    token = await made(ledger, scopes=["limits:check", "act-as"], account_id="globex")
    other = await made(ledger, name="other", scopes=["usage:read"], account_id="globex")
    async with signed_in(gallery, token) as person:
        assert 'for="account_id"' not in (await person.get("/")).text
        sent = await person.post("/", data={**GENERATE, "account_id": ""})
        assert sent.status_code == 303, sent.text
        assert sent.headers["location"].endswith("?account_id=globex&user_id=ann")
        assert "completed" in await over(person, sent.headers["location"])
        assert (await person.post("/", data=GENERATE)).status_code == 403
        assert (await person.get("/v1/operations?account_id=acme")).status_code == 403
    async with signed_in(gallery, other) as person:
        refused = await person.get("/")
        assert (refused.status_code, "act-as or limits:check" in refused.text) == (403, True)


async def test_the_ledger_being_away_is_said_as_such(tmp_path: Path) -> None:
    service = image_service(make_settings(tmp_path, "http://127.0.0.1:1", auth="off"))
    async with service as api, signed_in(api) as person:
        answer = await person.post("/", data=GENERATE)
    assert (answer.status_code, "ledger_unavailable" in answer.text) == (503, True)


# --- at a browser ---


async def test_it_is_tried_at_a_browser_and_its_events_appear_by_themselves(
    browser: Browser, gallery: httpx.AsyncClient
) -> None:
    url = str(gallery.base_url)
    async with visiting(browser, url) as person:
        await person.sign_in_at_the_form()
        assert await person.axe() == []
        await person.page.get_by_label("Operation").select_option("image_to_3d")
        await person.page.wait_for_url("**operation=image_to_3d**")
        await person.page.get_by_label("Account, who pays").fill("acme")
        await person.page.get_by_label("User, who acts").fill("ann")
        await person.page.get_by_label("Image", exact=True).set_input_files(
            {"name": "p.png", "mimeType": "image/png", "buffer": picture((200, 150))}
        )
        await person.page.get_by_role("button", name="Try it").click()
        # Without a hand moved: the events come, and at their end the page with the result.
        await person.page.get_by_role("link", name="Download").wait_for()
        assert "completed" in await person.main()
        assert await person.axe() == []
        assert (person.errors, person.elsewhere) == ([], [])
    async with visiting(browser, url, java_script_enabled=False, viewport=NARROW, color_scheme="dark") as person:
        await person.sign_in_at_the_form()
        await person.page.get_by_label("Operation").wait_for()
        assert await person.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        for label, text in (("Account, who pays", "acme"), ("User, who acts", "ann"), ("Prompt", "a tree")):
            await person.page.get_by_label(label, exact=True).fill(text)
        await person.page.get_by_role("button", name="Try it").click()
        await person.page.get_by_role("img", name="Result 1").wait_for()
        assert "$0.01" in await person.main()
