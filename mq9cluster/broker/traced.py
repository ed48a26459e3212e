"""The router of a node that traces: a span for every command that comes with a sampled trace.

Used by node in place of `Router` where --traces is given; everything else is `Router`'s.
"""

from collections.abc import Callable

import orjson

from mq9cluster.broker.agents import Agents
from mq9cluster.broker.discovery import Discovery
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.broker.pushes import Pushes
from mq9cluster.broker.router import SUBJECT_PREFIX, Router
from mq9cluster.cluster.tracing import ParcelTraces
from mq9cluster.domain.ports import Clock
from mq9cluster.domain.tracing import TRACEPARENT
from mq9cluster.protocol import nats_headers, replies

HEADER_LOOKED_AT_BYTES_MAX = 16_384  # more is refused anyway, or is somebody's joke


class TracedRouter(Router):
    """A `Router` that begins a span where the client asked for one, and ends it with the reply."""

    def __init__(
        self,
        traces: ParcelTraces,
        mailboxes: Mailboxes,
        pushes: Pushes,
        agents: Agents,
        discovery: Discovery,
        clock: Clock,
    ) -> None:
        super().__init__(mailboxes, pushes, agents, discovery, clock)
        self._traces = traces

    def handle(
        self,
        connection: int,
        account: str,
        subject: bytes,
        header: bytes | None,
        payload: bytes,
        respond: Callable[[bytes], None] | None,
    ) -> None:
        """As `Router.handle`."""
        parent = _traceparent(header) if header else ""
        span = self._traces.tracer.begin(self._name(subject), parent) if parent else None
        if span is None:
            super().handle(connection, account, subject, header, payload, respond)
            return

        def answered(reply: bytes) -> None:
            span.end(_code(reply))
            if respond:
                respond(reply)

        self._traces.current = span.traceparent
        try:
            super().handle(connection, account, subject, header, payload, answered)
        finally:
            self._traces.current = ""

    def _name(self, subject: bytes) -> str:
        """`mq9 MSG.SEND`: never the address behind it."""
        words = subject.decode("utf-8", "replace").removeprefix(SUBJECT_PREFIX).split(".", 2)[:2]
        command = ".".join(words)
        return f"mq9 {command if command in self.counted else 'unknown'}"


def _traceparent(header: bytes) -> str:
    if len(header) > HEADER_LOOKED_AT_BYTES_MAX or TRACEPARENT.encode() not in header.lower():
        return ""
    pairs = nats_headers.parse(header)
    return next((value for name, value in pairs if name.lower() == TRACEPARENT), "")


def _code(reply: bytes) -> str:
    """The error code of a reply, or ""."""
    if reply.startswith(replies.DONE[:-1]):
        return ""
    return str(orjson.loads(reply).get("code", ""))
