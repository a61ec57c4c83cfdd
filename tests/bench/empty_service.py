"""The limit check's route with nothing behind it: what FastAPI, uvicorn and the models alone can do."""

import os
from datetime import UTC, datetime

import uvicorn
from fastapi import FastAPI

from contracts.limits import Decision, LimitCheck, LimitState, Meter, Reservation, Scope, Window

app = FastAPI()
_LIMITS = [
    LimitState(
        limit_id=name, scope=Scope.ACCOUNT, meter=Meter.CALLS, window=Window.MONTH, period="2026-11", maximum=1,
        settled=0, held=1, available=0,
    )
    for name in ("calls", "spend")
]  # fmt: skip


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    return {"status": "ready"}


@app.post("/v1/limit-checks")
async def check_limits(check: LimitCheck) -> Decision:
    now = datetime.now(UTC)
    return Decision(
        operation_id=check.operation_id, allowed=True, reservation=Reservation(expires_at=now), denial=None,
        limits=_LIMITS, decided_at=now,
    )  # fmt: skip


if __name__ == "__main__":
    uvicorn.run(
        app, port=int(os.environ["EMPTY_PORT"]), loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
