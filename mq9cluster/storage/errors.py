"""What storage raises. Never told to clients: the node says the line and exits (the supervisor
restarts it).
"""


class StorageFailed(Exception):
    """The disk or RocksDB failed; this process can no longer trust its state. One line."""

    def __init__(self, why: str) -> None:
        super().__init__(" ".join(why.split()))


class StorageCorrupt(StorageFailed):
    """Data are there, but not what was written: a checksum, a gap, a missing or foreign file."""


class StorageRefused(StorageFailed):
    """The data directory cannot be used as asked: in use, not ours, or of another format."""
