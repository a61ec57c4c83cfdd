"""``/_emulator/…``: what was billed, what is to go wrong, how long things take. No provider has this."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from contracts.money import format_nanos
from deploy.emulators.emulation import Emulation, Provider
from deploy.emulators.faults import QUEUED_MAX, Chaos, Fault
from deploy.emulators.jobs import Pace

_Faults = TypeAdapter(list[Fault])


class PaceChange(BaseModel):
    """Seconds; what is left out stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: float | None = Field(default=None, ge=0, le=3600)
    queue: float | None = Field(default=None, ge=0, le=3600)
    run: float | None = Field(default=None, ge=0, le=3600)
    wait: float | None = Field(default=None, ge=0, le=3600)


def control_app(emulation: Emulation, providers: Mapping[str, Provider]) -> Starlette:
    """The control endpoints of all emulators."""

    async def about(_: Request) -> Response:
        return JSONResponse(
            {
                "providers": {name: {"url": one.url, "keys": list(one.keys)} for name, one in providers.items()},
                "cdn_url": emulation.cdn_origin,
                "pace": asdict(emulation.pace),
                "seed": emulation.seed,
                "leaks": list(emulation.leaks),
            }
        )

    async def prices(_: Request) -> Response:
        return JSONResponse({name: dict(one.prices) for name, one in providers.items()})

    async def billed(request: Request) -> Response:
        provider = request.query_params.get("provider")
        jobs = [job for job in emulation.book.jobs if provider in (None, job.provider)]
        totals: Counter[str] = Counter()
        for job in jobs:
            totals[job.provider] += job.amount_nanos
        now, today = emulation.clock(), datetime.now(UTC)
        return JSONResponse(
            {
                "total": format_nanos(sum(job.amount_nanos for job in jobs)),
                "by_provider": {name: format_nanos(nanos) for name, nanos in sorted(totals.items())},
                "jobs": [job.billed(now, today) for job in jobs],
            }
        )

    async def reset(request: Request) -> Response:
        """Forget jobs, faults and leaks; ids go on, so that no id is given twice."""
        emulation.book.clear(request.query_params.get("provider"))
        emulation.plan.clear()
        emulation.leaks.clear()
        return Response(status_code=204)

    async def faults(request: Request) -> Response:
        plan = emulation.plan
        if request.method == "DELETE":
            plan.clear()
            return Response(status_code=204)
        if request.method == "POST":
            body = await request.json()
            added = _Faults.validate_python(body if isinstance(body, list) else [body])
            if len(plan.waiting) + len(added) > QUEUED_MAX:
                return JSONResponse({"error": f"no more than {QUEUED_MAX} faults can wait"}, 409)
            plan.add(added)
        waiting = [{**one.fault.model_dump(mode="json"), "left": one.fault.times - one.hits} for one in plan.waiting]
        return JSONResponse({"waiting": waiting, "hits": [asdict(hit) for hit in plan.hits]})

    async def chaos(request: Request) -> Response:
        emulation.plan.randomly(Chaos.model_validate(await request.json()))
        return Response(status_code=204)

    async def pace(request: Request) -> Response:
        change = PaceChange.model_validate(await request.json())
        emulation.pace = Pace(**{**asdict(emulation.pace), **change.model_dump(exclude_none=True)})
        return JSONResponse(asdict(emulation.pace))

    return Starlette(
        routes=[
            Route("/", about),
            Route("/prices", prices),
            Route("/billed", billed),
            Route("/reset", _checked(reset), methods=["POST"]),
            Route("/faults", _checked(faults), methods=["GET", "POST", "DELETE"]),
            Route("/chaos", _checked(chaos), methods=["POST"]),
            Route("/pace", _checked(pace), methods=["POST"]),
        ]
    )


def _checked(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """A bad body is answered with what is wrong in it."""

    async def checked(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ValidationError as error:
            wrong = [{"at": list(one["loc"]), "message": one["msg"]} for one in error.errors()]
            return JSONResponse({"error": "the body does not fit", "wrong": wrong}, 422)
        except ValueError as error:
            return JSONResponse({"error": f"the body is no JSON: {error}"}, 400)

    return checked
