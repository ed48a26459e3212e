"""The Python SDK: what docs/protocol.md asks of a client, done once.

    async with await Mq9Client.connect("nats://127.0.0.1:4222") as mq9:
        await mq9.send("agent.inbox", b"hello")

Commands that a node could not carry out are asked again, also at other nodes, and never do
anything twice. It speaks through nats-py (`pip install mq9cluster[client]`) and imports of the
broker only `protocol` and `domain`. Of all packages this alone hands on its names: they are for
others to import.

`client` (the commands) calls `connecting` once and `asking` for each command, until its outcome is
known; `consumer` and `presence` live on top of it; `messages` is what is sent and received.
"""

from mq9cluster.client.client import Mq9Client
from mq9cluster.client.consumer import Consumer
from mq9cluster.client.messages import Discovered, Message
from mq9cluster.client.presence import Presence
from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.message import Priority

__all__ = ["Consumer", "Discovered", "Message", "Mq9Client", "Mq9Error", "Presence", "Priority"]
