"""Guarded routes: what takes the request alone is called without a look for more, and guarded all the same."""

from types import SimpleNamespace

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response

from contracts.access.caller import CALLER
from contracts.access.errors import Unauthenticated
from contracts.access.guard import guarded, principal_of_request
from contracts.access.principal import Principal, Scope
from contracts.access.rules import About, needs
from contracts.http_problems import install_problems
from contracts.web.problem_pages import shown_by
from ledger_service.pages import SITE

TAKES_EVENTS = needs(About.BODY, Scope.EVENTS_WRITE)
PATHS = ("/plain", "/asking", "/depending", "/model")


class Known:
    is_controlled = True
    login = None

    async def authenticate(self, token: bytes, address: str = "") -> Principal:
        del address
        if token != b"right":
            raise Unauthenticated("who is it?")
        return Principal("it", frozenset({Scope.EVENTS_WRITE}), "acme")


@pytest.fixture
def client() -> httpx.AsyncClient:
    router = APIRouter(route_class=guarded({("POST", path): TAKES_EVENTS for path in PATHS}))

    @router.post("/plain")
    async def plain(request: Request) -> Response:
        assert CALLER.get() is principal_of_request(request)
        return Response(await request.body() + b" of " + principal_of_request(request).subject.encode())

    @router.post("/asking")
    async def asking(request: Request, much: int) -> Response:
        return Response(f"{await request.body()!r} {much}")

    @router.post("/depending", dependencies=[Depends(lambda: None)])
    async def depending(request: Request) -> Response:
        return Response(await request.body())

    @router.post("/model")
    async def model(request: Request) -> dict[str, str]:
        return {"body": (await request.body()).decode()}

    app = FastAPI()
    app.state.access = Known()
    app.include_router(router)
    install_problems(app, {}, shown_by(SITE))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://ledger")


async def post(client: httpx.AsyncClient, path: str, token: str = "right") -> tuple[int, str]:
    answer = await client.post(path, content="body", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code, answer.text


async def test_each_gets_what_it_takes(client: httpx.AsyncClient) -> None:
    assert (await post(client, "/plain")) == (200, "body of it")
    assert (await post(client, "/asking?much=3")) == (200, "b'body' 3")
    assert (await post(client, "/asking?much=more"))[0] == 422
    assert (await post(client, "/depending")) == (200, "body")
    assert (await post(client, "/model")) == (200, '{"body":"body"}')


async def test_what_takes_the_request_alone_has_nothing_to_solve(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.routing.solve_dependencies", SimpleNamespace())
    assert (await post(client, "/plain")) == (200, "body of it")
    for path in PATHS[1:]:
        with pytest.raises(TypeError):
            await post(client, path)


@pytest.mark.parametrize("path", PATHS)
async def test_all_are_guarded(client: httpx.AsyncClient, path: str) -> None:
    assert (await post(client, path, "wrong"))[0] == 401
