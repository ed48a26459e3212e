"""A virtual network between named nodes: delay, loss, duplication, reordering, partitions, pauses.

Owned by a simulated cluster; delivers through the `Scheduler`. Links are one-way: a cut from a to b
says nothing about b to a. Messages carry whatever object the caller sends.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.simulation.clock import Scheduler

Handler = Callable[[str, Any], None]


@dataclass
class Weather:
    """How the links behave just now. Probabilities, and delays in microseconds."""

    delay_us_min: int = 100
    delay_us_max: int = 2_000
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0  # a message takes `straggle_us_max` more, and is overtaken
    straggle_us_max: int = 300_000


class Network:
    """Delivers messages to handlers, or does not."""

    def __init__(
        self,
        scheduler: Scheduler,
        seeded: random.Random,
        weather: Weather,
        *,
        ordered: bool = False,
    ) -> None:
        """`ordered`: no message overtakes another on its link, as on a stream."""
        self.on_drop: dict[str, Callable[[str], None]] = {}  # by sender; called with the target
        self._ordered = ordered
        self._newest_us: dict[tuple[str, str], int] = {}
        self.weather = weather
        self._scheduler = scheduler
        self._random = seeded
        self._handlers: dict[str, Handler] = {}
        self._cut: set[tuple[str, str]] = set()
        self._paused: set[str] = set()
        self._held: defaultdict[str, list[tuple[str, Any]]] = defaultdict(list)

    def join(self, node: str, handler: Handler) -> None:
        """Messages for `node` go to `handler` from now on; a restarted node joins again."""
        self._handlers[node] = handler

    def leave(self, node: str) -> None:
        """Messages for `node` are lost."""
        self._handlers.pop(node, None)
        self._held.pop(node, None)

    def send(self, source: str, target: str, message: Any) -> None:
        """Send, with the luck of the moment."""
        weather, draw = self.weather, self._random.random
        if (source, target) in self._cut or draw() < weather.loss:
            self._drop(source, target)
            return
        copies = 2 if draw() < weather.duplication else 1
        for _ in range(copies):
            delay = self._random.randint(weather.delay_us_min, weather.delay_us_max)
            if draw() < weather.straggling:
                delay += self._random.randint(0, weather.straggle_us_max)
            if self._ordered:
                newest_us = self._newest_us.get((source, target), 0)
                due_us = max(self._scheduler.now_us + delay, newest_us)
                self._newest_us[source, target] = due_us
                delay = due_us - self._scheduler.now_us
            self._scheduler.after(delay, lambda: self._deliver(source, target, message))

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Nothing gets from `sources` to `targets` any more, what is under way neither."""
        targets = tuple(targets)
        self._cut |= {(source, target) for source in sources for target in targets}

    def split(self, some: Iterable[str], others: Iterable[str]) -> None:
        """Cut both ways."""
        some, others = tuple(some), tuple(others)
        self.cut(some, others)
        self.cut(others, some)

    def heal(self) -> None:
        """All links work."""
        self._cut.clear()

    def pause(self, node: str) -> None:
        """`node` reads nothing until it goes on; its messages wait, as in a kernel's buffers."""
        self._paused.add(node)

    def resume(self, node: str) -> None:
        """`node` goes on, with all that waited at once."""
        self._paused.discard(node)
        for source, message in self._held.pop(node, []):
            self._deliver(source, node, message)

    def _deliver(self, source: str, target: str, message: Any) -> None:
        if (source, target) in self._cut:
            self._drop(source, target)
            return
        if target in self._paused:
            self._held[target].append((source, message))
            return
        handler = self._handlers.get(target)
        if handler is None:
            self._drop(source, target)
        else:
            handler(source, message)

    def _drop(self, source: str, target: str) -> None:
        told = self.on_drop.get(source)
        if told is not None:
            told(target)
