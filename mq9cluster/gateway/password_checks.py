"""Hashed passwords, checked beside the event loop: a flood of logins costs those who flood.

Called by `auth`, on the event loop. A check takes tens to hundreds of milliseconds of a core: it
runs on a few threads that give way to everything else, and who waits for one waits by address: each
address has its turn, so that one that tries passwords by the thousand delays itself. What was right
once is remembered (under a key of this process, not as it is), so that a fleet that comes back at
once is let in without its passwords being hashed anew.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import Final

from mq9cluster.domain.passwords import matches
from mq9cluster.domain.ports import Random

THREADS: Final = 2  # more would only take the core that the loop needs
NICENESS: Final = 10  # of these threads: the loop's thread comes first
WAITING_MAX: Final = 1_024  # a minute or more of checks; who comes then is told to come again
WAITING_PER_ADDRESS_MAX: Final = 256  # a host of agents that starts is some hundred logins
REMEMBERED_MAX: Final = 65_536  # passwords known to be right: 8 MB
KEY_BYTES: Final = 32

Decided = Callable[[bool | None], None]  # None: too many wait, nobody knows


class PasswordChecks:
    """Checks hashes; `checked` and `refused` count what was hashed and what found no room."""

    def __init__(self, random: Random) -> None:
        self._key = random.token(KEY_BYTES)
        self._pool = ThreadPoolExecutor(THREADS, "password", initializer=_give_way)
        self._right: dict[bytes, None] = {}
        self._asking: dict[bytes, list[Decided]] = {}  # who waits for the same check
        self._waiting: dict[str, deque[tuple[bytes, str, str]]] = {}  # by address, next one first
        self._waiting_count = 0
        self._running = 0
        self.checked = self.refused = 0

    def check(self, kept: str, given: str, address: str, decided: Decided) -> None:
        """Whether `given` is the password behind the hash `kept`, told now or later."""
        name = blake2b(given.encode("utf-8", "replace"), key=self._key)
        name.update(b"\0" + kept.encode())
        digest = name.digest()
        if digest in self._right:
            self._right[digest] = self._right.pop(digest)  # the youngest again
            decided(True)
            return
        if digest in self._asking:
            self._asking[digest].append(decided)
            return
        line = self._waiting.get(address, ())
        if self._waiting_count >= WAITING_MAX or len(line) >= WAITING_PER_ADDRESS_MAX:
            self.refused += 1
            decided(None)
            return
        self._asking[digest] = [decided]
        self._waiting.setdefault(address, deque()).append((digest, kept, given))
        self._waiting_count += 1
        self._go_on()

    def close(self) -> None:
        """No more checks; those that wait are not answered."""
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._running < THREADS:
            address = next(iter(self._waiting))
            line = self._waiting.pop(address)
            digest, kept, given = line.popleft()
            if line:
                self._waiting[address] = line  # behind all others
            self._waiting_count -= 1
            self._running += 1
            check = loop.run_in_executor(self._pool, matches, kept, given)
            check.add_done_callback(partial(self._done, digest))

    def _done(self, digest: bytes, check: "asyncio.Future[bool]") -> None:
        self._running -= 1
        self.checked += 1
        right = not check.cancelled() and check.exception() is None and check.result()
        if right:
            if len(self._right) >= REMEMBERED_MAX:
                del self._right[next(iter(self._right))]
            self._right[digest] = None
        for decided in self._asking.pop(digest):
            decided(right)
        self._go_on()


def _give_way() -> None:
    """Linux schedules threads one by one: this one comes after the others of the process."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
