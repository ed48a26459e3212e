"""A client as PROTOCOL section 5 wants clients to be: told *try again*, or that an outcome is not
known, it asks again.

For tests that treat clusters badly, or run while the machine does: a node may be without a leader
for seconds then, and says so. What such a test expects to be refused it asks an `Mq9`.
"""

import asyncio
import secrets
import time
from collections.abc import Mapping

from tests.support.mq9 import Body, Mq9, Reply
from tests.support.raw_nats import Headers

ASKED_S_MAX = 60.0  # generous: the machine that runs this may be busy
AGAIN_S = 0.1
NOT_DONE = ("unavailable", "overloaded")
UNKNOWN = "timeout"
UNSURE = (*NOT_DONE, UNKNOWN)
MSG_ID = "Nats-Msg-Id"
SEND = "$mq9.AI.MSG.SEND."
# Where a repeat of what was done after all is told something else.
NOT_TWICE = ("$mq9.AI.MSG.DELETE.", "$mq9.AI.AGENT.UNREGISTER")


class CarefulMq9(Mq9):
    """Every SEND has a Nats-Msg-Id, so that a repeat stores nothing."""

    async def request(
        self, subject: str, body: Body = None, headers: Mapping[str, str] | Headers | None = None
    ) -> Reply:
        named = dict(headers or {})
        ours = subject.startswith(SEND) and MSG_ID not in named
        if ours:
            named[MSG_ID] = f"careful-{secrets.token_hex(8)}"
        until_s = time.monotonic() + ASKED_S_MAX
        reply = await super().request(subject, body, named)
        while _again(subject, reply) and time.monotonic() < until_s:
            await asyncio.sleep(AGAIN_S)
            reply = await super().request(subject, body, named)
        if ours:
            reply.pop("duplicate", None)  # of a message that nobody but this client sent twice
        return reply


def _again(subject: str, reply: Reply) -> bool:
    code = reply.get("code")
    return code in NOT_DONE or (code == UNKNOWN and not subject.startswith(NOT_TWICE))
