"""Keeps commands for the same thing in the order they came, where one of them takes a while before
it is proposed: a REGISTER that is being embedded.

Owned by `agents`; keys are whatever tells things apart. What waits is bounded by the commands that
connections may have under way.
"""

from collections import deque
from collections.abc import Callable


class InOrder:
    """What is under way by key, and what waits behind it."""

    __slots__ = ("_under_way", "_waiting")

    def __init__(self) -> None:
        self._under_way: dict[bytes, int] = {}
        self._waiting: dict[bytes, deque[Callable[[], None]]] = {}

    def begin(self, key: bytes) -> None:
        """Something takes a while; each `begin` has one `end`."""
        self._under_way[key] = self._under_way.get(key, 0) + 1

    def end(self, key: bytes) -> None:
        """It is done: what waited goes on, up to the next that takes a while."""
        self._under_way[key] -= 1
        if self._under_way[key]:
            return
        del self._under_way[key]
        waiting = self._waiting.get(key)
        while waiting and key not in self._under_way:
            waiting.popleft()()
        if not waiting:
            self._waiting.pop(key, None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way or waits for any key."""
        return not self._under_way and not self._waiting

    def is_free(self, key: bytes) -> bool:
        """Whether nothing is under way or waits."""
        return key not in self._under_way and key not in self._waiting

    def wait(self, key: bytes, work: Callable[[], None]) -> None:
        """Call `work`, which raises nothing, when what was before it is done."""
        self._waiting.setdefault(key, deque()).append(work)
