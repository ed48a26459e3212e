"""One command under way: how it is answered, once, and what is counted when it is."""

from collections.abc import Callable
from typing import NamedTuple

from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.measures import Histogram
from mq9cluster.protocol import replies


class Counted(NamedTuple):
    """What the calls of one command share."""

    latency: Histogram
    refused: dict[str, int]  # how often, by error code
    seconds: Callable[[], float]


class Call:
    """A command that waits for its answer; nobody may be listening for it."""

    __slots__ = ("_counted", "_respond", "_started_s")

    def __init__(self, respond: Callable[[bytes], None] | None, counted: Counted) -> None:
        self._respond = respond
        self._counted = counted
        self._started_s = counted.seconds()

    def reply(self, answer: bytes) -> None:
        """Answer."""
        counted = self._counted
        counted.latency.observe(counted.seconds() - self._started_s)
        if self._respond:
            self._respond(answer)

    def refuse(self, error: Mq9Error) -> None:
        """Answer with an error."""
        refused = self._counted.refused
        refused[error.code] = refused.get(error.code, 0) + 1
        self.reply(replies.refused(error))
