"""The port of distributed tracing: spans of commands whose client asked for them.

Filled by `admin.traces` where --traces is given. A trace travels as the text of W3C Trace Context's
`traceparent`. Times are seconds of the node's clock (`Clock.seconds`).
"""

from typing import Protocol

TRACEPARENT = "traceparent"  # the header's name, in any case


class Span(Protocol):
    """One command under way, as this node sees it."""

    @property
    def traceparent(self) -> str:
        """What the spans below it are children of."""

    def end(self, code: str) -> None:
        """It was answered; `code` is that of the error, or ""."""


class Tracer(Protocol):
    """Begins and records spans."""

    def begin(self, name: str, parent: str) -> Span | None:
        """A span of a client's request; None where its trace is not sampled."""

    def record(self, name: str, parent: str, began_s: float, ended_s: float, shard: int) -> None:
        """A span that is over already."""
