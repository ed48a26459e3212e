"""A set of message ids that is small when it is nearly everything: a floor and bit sets above it.

Consumer groups keep two of these per priority: what is done, and what is done or held. Ids below
the floor are in the set; above it, ids live in buckets of 4,096, each a Python integer used as a
bit set, so that finding the next absent id is a few word operations whatever was acknowledged out
of order. Buckets are also the unit in which changes are stored.
"""

from collections.abc import Iterator

BUCKET_BITS = 12
BUCKET_IDS = 1 << BUCKET_BITS
_FULL = (1 << BUCKET_IDS) - 1


def between(bucket: int, first: int, last: int) -> int:
    """The ids first..last that belong to the bucket, as a bit set."""
    base = bucket << BUCKET_BITS
    low, high = max(first - base, 0), min(last - base, BUCKET_IDS - 1)
    return ((1 << (high - low + 1)) - 1) << low if low <= high else 0


def ids_of(bucket: int, bits: int) -> Iterator[int]:
    """The ids in a bit set of the bucket, in order."""
    base = bucket << BUCKET_BITS
    while bits:
        lowest = bits & -bits
        yield base + lowest.bit_length() - 1
        bits ^= lowest


class IdSet:
    """Ids from 0 up. `changed` collects the buckets touched since the owner last cleared it."""

    __slots__ = ("buckets", "changed", "floor")

    def __init__(self, floor: int = 1) -> None:
        self.floor = floor
        self.buckets: dict[int, int] = {}
        self.changed: set[int] = set()

    def __contains__(self, msg_id: int) -> bool:
        if msg_id < self.floor:
            return True
        bits = self.buckets.get(msg_id >> BUCKET_BITS, 0)
        return bool(bits >> (msg_id & (BUCKET_IDS - 1)) & 1)

    def bits_of(self, bucket: int) -> int:
        """The ids of a bucket that are in the set, as a bit set."""
        return self.buckets.get(bucket, 0) | between(bucket, 0, self.floor - 1)

    def add_range(self, first: int, last: int) -> None:
        """Add first..last, both included."""
        if last < self.floor or last < first:
            return
        if first <= self.floor:
            self._raise_floor(last + 1)
            return
        for bucket in range(first >> BUCKET_BITS, (last >> BUCKET_BITS) + 1):
            base = bucket << BUCKET_BITS
            low = max(first - base, 0)
            high = min(last - base, BUCKET_IDS - 1)
            mask = ((1 << (high - low + 1)) - 1) << low
            self.buckets[bucket] = self.buckets.get(bucket, 0) | mask
            self.changed.add(bucket)

    def _raise_floor(self, floor: int) -> None:
        """Move the floor up, past what the buckets above it hold already."""
        # A floor may be raised past far more ids than there are buckets.
        span = range(self.floor >> BUCKET_BITS, floor >> BUCKET_BITS)
        passed = span if len(span) < len(self.buckets) else sorted(self.buckets)
        for bucket in passed:
            if bucket < span.stop and self.buckets.pop(bucket, None) is not None:
                self.changed.add(bucket)
        bucket = floor >> BUCKET_BITS
        bits = self.buckets.get(bucket)
        while bits is not None:
            gap = ~bits & (_FULL << (floor & (BUCKET_IDS - 1))) & _FULL
            if gap:
                floor = (bucket << BUCKET_BITS) + (gap & -gap).bit_length() - 1
                if not bits >> (floor & (BUCKET_IDS - 1)):
                    del self.buckets[bucket]
                    self.changed.add(bucket)
                break
            del self.buckets[bucket]
            self.changed.add(bucket)
            bucket += 1
            floor = bucket << BUCKET_BITS
            bits = self.buckets.get(bucket)
        self.floor = floor

    def discard(self, msg_id: int) -> None:
        """Take one id out; below the floor this lowers it."""
        if msg_id < self.floor:
            floor, self.floor = self.floor, msg_id
            if msg_id + 1 < floor:
                self.add_range(msg_id + 1, floor - 1)
            # Falls through: the bucket in which the floor stood may still hold the id's bit.
        bucket = msg_id >> BUCKET_BITS
        bits = self.buckets.get(bucket)
        if bits is None:
            return
        bits &= ~(1 << (msg_id & (BUCKET_IDS - 1)))
        if bits:
            self.buckets[bucket] = bits
        else:
            del self.buckets[bucket]
        self.changed.add(bucket)

    def next_absent(self, msg_id: int) -> int:
        """The smallest id >= msg_id that is not in the set."""
        msg_id = max(msg_id, self.floor)
        while True:
            bits = self.buckets.get(msg_id >> BUCKET_BITS)
            if bits is None:
                return msg_id
            gap = (~bits & _FULL) >> (msg_id & (BUCKET_IDS - 1))
            if gap:
                return msg_id + (gap & -gap).bit_length() - 1
            msg_id = ((msg_id >> BUCKET_BITS) + 1) << BUCKET_BITS

    def copy(self) -> "IdSet":
        """An independent set with the same ids and nothing marked as changed."""
        other = IdSet(self.floor)
        other.buckets = dict(self.buckets)
        return other
