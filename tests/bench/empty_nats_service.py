"""The limit check's NATS endpoint with nothing behind it: what nats-py's service framework alone can do."""

import asyncio
import os
import signal

import nats
import uvloop
from nats.micro import add_service
from nats.micro.request import Request
from nats.micro.service import EndpointConfig

SUBJECT = "bench.v1.empty"
#: As large as the decision on a check that met four limits.
ANSWER = b'{"operation_id":"' + b"0" * 1200 + b'"}'


async def serve() -> None:
    connection = await nats.connect(os.environ["LEDGER_NATS_URL"])
    service = await add_service(connection, name="empty", version="1.0.0")

    async def answer(request: Request) -> None:
        await request.respond(ANSWER)

    await service.add_endpoint(EndpointConfig(name="empty", subject=SUBJECT, handler=answer))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await connection.close()


if __name__ == "__main__":
    uvloop.run(serve())
