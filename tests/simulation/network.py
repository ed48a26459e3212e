"""A virtual network between named nodes: delay, loss, duplication, reordering, partitions, pauses.

Owned by a simulated cluster; delivers through the `Scheduler`. Links are one-way: a cut from a to b
says nothing about b to a. Messages carry whatever object the caller sends.
"""

import random
from collections import Counter, defaultdict
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
        self._cut: Counter[tuple[str, str]] = Counter()
        self._healed = 0
        self._late: dict[tuple[str, str], list[Any]] = {}  # links that hold back, and what
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

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> Callable[[], None]:
        """Nothing gets from `sources` to `targets` any more, what is under way neither; what is
        returned mends that cut, and no other.
        """
        targets = tuple(targets)
        links = {(source, target) for source in sources for target in targets}
        self._cut.update(links)
        healed = self._healed

        def mend() -> None:
            if healed == self._healed:
                self._cut = +(self._cut - Counter(links))

        return mend

    def split(self, some: Iterable[str], others: Iterable[str]) -> Callable[[], None]:
        """Cut both ways."""
        some, others = tuple(some), tuple(others)
        there, back = self.cut(some, others), self.cut(others, some)

        def mend() -> None:
            there()
            back()

        return mend

    def hold_back(self, source: str, target: str) -> None:
        """What gets from `source` to `target` stays under way until `let_through`."""
        self._late.setdefault((source, target), [])

    @property
    def holds_back(self) -> bool:
        """Whether any link does."""
        return bool(self._late)

    def let_through(self, source: str, target: str) -> None:
        """What was held back arrives now, cut or not: it was beyond the cut before."""
        for message in self._late.pop((source, target), []):
            self._arrive(source, target, message)

    def heal(self) -> None:
        """All links work; what is held back stays so."""
        self._cut.clear()
        self._healed += 1

    def let_all_through(self) -> None:
        """Nothing is held back any more."""
        for source, target in list(self._late):
            self.let_through(source, target)

    @property
    def is_cut(self) -> bool:
        """Whether any link is."""
        return bool(self._cut)

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
        if (source, target) in self._late:
            self._late[source, target].append(message)
            return
        self._arrive(source, target, message)

    def _arrive(self, source: str, target: str, message: Any) -> None:
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
