"""A StateView in memory, one sorted list of keys per family: the store of the machine's tests."""

from bisect import bisect_left, insort
from collections.abc import Iterator

from mq9cluster.domain.ports import Family, Writes

Rows = dict[Family, dict[bytes, bytes]]


class MemoryView:
    """One shard's rows; `write` performs what an entry changes."""

    def __init__(self, rows: Rows | None = None) -> None:
        given: Rows = rows or {}
        self.rows: Rows = {family: dict(given.get(family, {})) for family in Family}
        self._keys = {family: sorted(self.rows[family]) for family in Family}
        self.rows_read = 0

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value under `key`, or None."""
        self.rows_read += 1
        return self.rows[family].get(key)

    def scan(
        self, family: Family, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop; nothing is written while a scan is open."""
        keys = self._between(family, start, stop)
        rows = self.rows[family]
        for key in reversed(keys) if reverse else keys:
            self.rows_read += 1
            yield key, rows[key]

    def _between(self, family: Family, start: bytes, stop: bytes) -> list[bytes]:
        keys = self._keys[family]
        return keys[bisect_left(keys, start) : bisect_left(keys, stop)]

    def write(self, writes: Writes) -> None:
        """Perform `writes`: ranges first, as the port says."""
        for family, start, stop in writes.ranges:
            for key in self._between(family, start, stop):
                self._delete(family, key)
        for family, rows in writes.rows.items():
            for key, value in rows.items():
                if value is None:
                    self._delete(family, key)
                    continue
                if key not in self.rows[family]:
                    insort(self._keys[family], key)
                self.rows[family][key] = value

    def _delete(self, family: Family, key: bytes) -> None:
        if self.rows[family].pop(key, None) is not None:
            keys = self._keys[family]
            del keys[bisect_left(keys, key)]

    def copy(self) -> "MemoryView":
        """An independent store with the same rows."""
        return MemoryView(self.rows)
