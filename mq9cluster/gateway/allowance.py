"""How many commands one connection may still send: a bucket that fills by the second.

Made by `session` where `requests_per_s_max` is set, asked for every command. A client over its
rate is told `overloaded`, and nothing is done; it is not made to wait, for then its own replies and
messages would wait with it.
"""

from mq9cluster.domain.errors import Overloaded
from mq9cluster.protocol import replies


class Allowance:
    """`per_s` commands a second; what was not used adds up to one second's worth."""

    __slots__ = ("_at_s", "_left", "_per_s", "refusal")

    def __init__(self, per_s: int, now_s: float) -> None:
        self._per_s = per_s
        self._left = float(per_s)
        self._at_s = now_s
        self.refusal = replies.refused(Overloaded(f"{per_s} requests a second on this connection"))

    def take(self, now_s: float) -> bool:
        """Whether one more is allowed now; it then counts."""
        left = min(self._per_s, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        self._left = left - 1.0 if left >= 1.0 else left
        return left >= 1.0
