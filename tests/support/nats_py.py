"""What a test of nats-py has to wait for, for one flush() is no barrier.

nats-py writes the PING of a flush() at once, ahead of subscriptions and publications that it has
only queued. Until the PONG is there those were written, but the server need not have read them:
of 600 messages that another client published right after `subscribe` and one `flush`, nats-server
on a busy machine lost 24.
"""

from nats.aio.client import Client


async def settled(client: Client, within_s: int = 60) -> None:
    """Return once the server has read all the client was told to send."""
    await client.flush(within_s)  # writes what is queued, though behind its PING
    await client.flush(within_s)  # this PING is behind it
