"""A virtual disk: rows written in atomic batches, in order, safe only once synced.

Owned by a simulated node, and outlives its crashes. It behaves as RocksDB with its write-ahead log:
what is written can be read at once; a crash keeps everything synced and, of what was not, the first
so many batches (the operating system may have written some of them), never a later without an
earlier one, and never half a batch. It may be full, fail, or stand still for a while.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from tests.simulation.clock import Scheduler

_ABSENT = object()


class Disk:
    """Rows under keys; None deletes. One that is not `honest` only says that it synced."""

    honest = True

    def __init__(self, scheduler: Scheduler) -> None:
        self.rows: dict[Hashable, Any] = {}
        self.sync_us = 200
        self.batches_written = 0
        self.full = False  # no batch can be written
        self.failing = False  # no sync succeeds
        self.stalled = False  # no sync comes back
        self.damaged: set[Hashable] = set()  # keys that cannot be read
        self._stalled: list[Callable[[], None]] = []
        self._scheduler = scheduler
        self._undo: list[dict[Hashable, Any]] = []  # of batches not synced, oldest first
        self._life = 0

    def write(self, batch: Mapping[Hashable, Any]) -> None:
        """Make `batch` visible. It becomes durable with the next sync that starts after this."""
        undo = {}
        for key, value in batch.items():
            undo[key] = self.rows.get(key, _ABSENT)
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        self._undo.append(undo)
        self.batches_written += 1

    def sync(self, done: Callable[[], None]) -> None:
        """Call `done` when all that is written now is durable; never, if a crash comes first."""
        written, life = self.batches_written, self._life

        def finish() -> None:
            if life == self._life and self.stalled:
                self._stalled.append(finish)
            elif life == self._life:
                unsynced = min(self.batches_written - written, len(self._undo))
                if self.honest and not self.failing:
                    del self._undo[: len(self._undo) - unsynced]
                done()

        self._scheduler.after(self.sync_us, finish)

    def stall(self) -> None:
        """Stand still."""
        self.stalled = True

    def go_on(self, call: Callable[[], None] | None = None) -> None:
        """Stand still no more; or call, once that is so."""
        if call is not None and self.stalled:
            self._stalled.append(call)
        elif call is not None:
            call()
        else:
            self.stalled = False
            waiting, self._stalled = self._stalled, []
            for finish in waiting:
                finish()

    def sync_now(self) -> None:
        """A sync the node stands still for."""
        if self.honest:
            self._undo.clear()

    @property
    def unsynced(self) -> int:
        """Batches a crash may take."""
        return len(self._undo)

    def durable(self, key: Hashable) -> Any:
        """What a crash that takes all it can would leave under `key`."""
        for undo in self._undo:
            if key in undo:
                value = undo[key]
                return None if value is _ABSENT else value
        return self.rows.get(key)

    def crash(self, keep: int) -> None:
        """Lose all but the first `keep` of the batches that were not synced."""
        self._life += 1
        self._stalled.clear()
        for undo in reversed(self._undo[keep:]):
            for key, value in undo.items():
                if value is _ABSENT:
                    self.rows.pop(key, None)
                else:
                    self.rows[key] = value
        self._undo.clear()
        self.batches_written = 0
