"""A network switch in user space: carries Ethernet frames between the TAP devices of nodes, and
treats them as it is told: drops, delays, doubles.

Owns the frames. A process of its own, so that nothing else delays them; `network` starts it, hands
it the devices as open files and tells it rules on stdin, one JSON object a line:

    {"rules": [[from, to, {"cut": true}], [from, to, {"loss": 0.1, "delay_ms": 50, …}]]}

Ports are numbered as the devices are. No rule: at once and unchanged. This is what a kernel's netem
does where there is one; many machines' kernels have none, and a switch needs nothing but TAP.
"""

import argparse
import contextlib
import heapq
import json
import os
import random
import selectors
import sys
import time
from typing import NamedTuple

FRAME_BYTES_MAX = 65_536
FRAMES_AT_ONCE = 64  # of one device before the others get their turn
WAITING_MAX = 20_000  # frames under way; more are dropped, as a full queue does
DESTINATION = slice(0, 6)
EVERYBODY = 1  # the bit of the first byte that makes an address mean many


class Rule(NamedTuple):
    """How frames of one direction fare. `loss` and `double` are probabilities."""

    cut: bool = False
    loss: float = 0.0
    double: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it changes nothing."""
        return self == Rule()


class Switch:
    """Devices by port; the last byte of a station's address is its port and one more."""

    def __init__(self, devices: list[int], rng: random.Random) -> None:
        self._devices = devices
        self._rng = rng
        self._rules: dict[tuple[int, int], Rule] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def obey(self, line: bytes) -> None:
        """New rules in place of the old ones."""
        told = json.loads(line)["rules"]
        self._rules = {(source, to): Rule(**how) for source, to, how in told}

    def take(self, source: int) -> None:
        """Carry what a device has to say."""
        device = self._devices[source]
        for _ in range(FRAMES_AT_ONCE):
            try:
                frame = os.read(device, FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            if frame[0] & EVERYBODY:
                for to in range(len(self._devices)):
                    if to != source:
                        self._carry(source, to, frame)
            elif 0 < frame[5] <= len(self._devices):
                self._carry(source, frame[5] - 1, frame)

    def _carry(self, source: int, to: int, frame: bytes) -> None:
        rule = self._rules.get((source, to))
        if rule is None:
            self._give(to, frame)
            return
        chance = self._rng.random
        if rule.cut or (rule.loss and chance() < rule.loss):
            return
        for _ in range(2 if rule.double and chance() < rule.double else 1):
            wait_ms = rule.delay_ms + rule.jitter_ms * chance()
            if wait_ms and len(self._waiting) < WAITING_MAX:
                self._count += 1
                due = time.monotonic() + wait_ms / 1000
                heapq.heappush(self._waiting, (due, self._count, to, frame))
            elif not wait_ms:
                self._give(to, frame)

    def _give(self, to: int, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # a device that is down, or full: as a cable does
            os.write(self._devices[to], frame)

    def give_due(self) -> float | None:
        """Give what has waited long enough; the seconds until the next is due."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, to, frame = heapq.heappop(self._waiting)
            self._give(to, frame)
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None


def main() -> None:
    """Carry frames until stdin ends."""
    reader = argparse.ArgumentParser()
    reader.add_argument("--seed", default="0")
    reader.add_argument("devices", nargs="+", type=int)
    asked = reader.parse_args()
    switch = Switch(asked.devices, random.Random(asked.seed))
    selector = selectors.DefaultSelector()
    for port, device in enumerate(asked.devices):
        os.set_blocking(device, False)
        selector.register(device, selectors.EVENT_READ, port)
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ, -1)
    told = b""
    while True:
        for key, _ in selector.select(switch.give_due()):
            if key.data >= 0:
                switch.take(key.data)
                continue
            piece = os.read(sys.stdin.fileno(), FRAME_BYTES_MAX)
            if not piece:
                return
            *lines, told = (told + piece).split(b"\n")
            for line in lines:
                switch.obey(line)


if __name__ == "__main__":
    main()
