"""A flush of a NATS connection that is a barrier."""

from nats.aio.client import Client


async def flushed(client: Client) -> None:
    """Returns once the server has taken all that ``client`` had sent.

    nats-py writes the PING of its ``flush()`` before what is still waiting to be written, a subscription made a moment
    ago, for instance. That goes out before the PING's answer comes: only a second PING is sent after it.
    """
    await client.flush()
    await client.flush()
