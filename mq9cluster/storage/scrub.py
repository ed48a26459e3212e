"""Reads everything now and then, so that damage in a block nobody asks for is found while replicas
are whole.

`store` scrubs a small database fully before it opens; the node scrubs a large one in slices while
it runs.
"""

from typing import Final

from mq9cluster.storage.database import FAMILIES, LOG_FAMILY, META_FAMILY, RAFT_FAMILY, Database

ORDER: Final = (
    META_FAMILY,
    RAFT_FAMILY,
    *(name for name in FAMILIES if name not in {META_FAMILY, RAFT_FAMILY, LOG_FAMILY}),
    LOG_FAMILY,
)
ALL_BUT_LOG: Final = ORDER[:-1]  # for the start: each GroupLog reads its own rows anyway


class Scrub:
    """A walk over all families, resumed where the last slice ended."""

    __slots__ = ("_database", "_families", "_family", "_position", "rounds")

    def __init__(self, database: Database, families: tuple[str, ...] = ORDER) -> None:
        self._database = database
        self._families = families
        self._family = 0
        self._position = b""
        self.rounds = 0  # how often everything was read

    def step(self, rows_max: int) -> bool:
        """Read up to `rows_max` rows; whether that ended a round. About 0.2 µs a row.

        Raises StorageCorrupt where a block is damaged: the node says so and exits.
        """
        table = self._database.table(self._families[self._family])
        position = table.check(self._position, rows_max)
        self._position = b"" if position is None else position
        if position is None:
            self._family = (self._family + 1) % len(self._families)
            if self._family == 0:
                self.rounds += 1
                return True
        return False
