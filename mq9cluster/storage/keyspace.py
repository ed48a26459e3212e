"""Physical keys, fixed-width and big-endian, so that byte order is the order of meaning.

    state families   shard u16 | epoch u32 | key of the state machine
    log              group u16 | index u64
    raft             group u16 | kind, one byte
    meta             kind, one byte | …

The epoch is this node's own: an installed snapshot fills a new one, and a `meta` row says which one
is current. Changing anything here is a new `FORMAT_VERSION`.
"""

from struct import Struct
from typing import Final

FORMAT_VERSION: Final = 1

_SHARD = Struct(">HI")
_LOG = Struct(">HQ")
_GROUP = Struct(">H")
_EPOCH = Struct(">I")

PREFIX_BYTES: Final = _SHARD.size
INDEX_MAX: Final = 2**64 - 1
EPOCH_MAX: Final = 2**32 - 1

META_FORMAT: Final = b"f"
META_NODE: Final = b"n"
META_CLUSTER: Final = b"c"
_META_EPOCH: Final = b"e"

_HARD_STATE: Final = b"h"
_COMPACTED: Final = b"c"


def shard_prefix(shard: int, epoch: int) -> bytes:
    """What stands before every key of `shard` in `epoch`."""
    return _SHARD.pack(shard, epoch)


def shard_end(shard: int, epoch: int) -> bytes:
    """The first key behind all of `shard` in `epoch`."""
    return after(_SHARD.pack(shard, epoch))


def after(prefix: bytes) -> bytes:
    """The first key behind everything that starts with `prefix`; `prefix` must not be all 0xff."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,))


def log_key(group: int, index: int) -> bytes:
    """The row of entry `index`."""
    return _LOG.pack(group, index)


def log_index(key: bytes) -> int:
    """The index a log row's key names."""
    index: int = _LOG.unpack(key)[1]
    return index


def hard_state_key(group: int) -> bytes:
    """Term and vote of `group`."""
    return _GROUP.pack(group) + _HARD_STATE


def compacted_key(group: int) -> bytes:
    """Index and term of the last entry that compaction or a snapshot removed."""
    return _GROUP.pack(group) + _COMPACTED


def epoch_key(shard: int) -> bytes:
    """The `meta` row with the current epoch of `shard`."""
    return _META_EPOCH + _GROUP.pack(shard)


def pack_epoch(epoch: int) -> bytes:
    """The value of `epoch_key`."""
    return _EPOCH.pack(epoch)


def unpack_epoch(value: bytes | None) -> int:
    """The epoch a `meta` row names; 0 where none was ever written."""
    return 0 if value is None else int(_EPOCH.unpack(value)[0])
