"""Which agents have which exact tag, skill, provider and version; names in order.

Owned by `index.ShardIndex`; turns a filter into a mask over the shard's slots. One thread at a
time.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mq9cluster.domain.agent import AgentCard
from mq9cluster.search.filter import Filter

Mask = npt.NDArray[np.bool_]
_LAST = "\U0010ffff"  # sorts behind every character a name may continue with


def facets_of(card: AgentCard) -> dict[str, Iterable[str]]:
    """The values of a card by condition, each once; names are kept in order instead."""
    skills = [skill.id for skill in card.skills] + [skill.name for skill in card.skills]
    return {
        "tags": card.all_tags(),
        "skills": set(skills),
        "provider": (card.provider,),
        "version": (card.version,),
    }


class Facets:
    """Posting lists of exact values, and the names of one shard."""

    __slots__ = ("_names", "_postings")

    def __init__(self) -> None:
        self._postings: dict[str, dict[str, array[int]]] = {}  # by condition and value
        self._names: list[str] = []

    def kept(self) -> dict[str, Any]:
        """All of it but names, to be saved: what `restored` takes."""
        values = self._postings.items()
        facets = [(key, value) for key, postings in values for value in postings]
        parts = [posting for _, postings in values for posting in postings.values()]
        lengths = np.fromiter(map(len, parts), np.uint32, len(parts))
        return {
            "facets": facets,
            "facet_lengths": lengths.tobytes(),
            "facet_slots": b"".join(parts),
        }

    @classmethod
    def restored(cls, kept: Mapping[str, Any], names: Iterable[str]) -> Self:
        """The facets that `kept` was told of, of the agents of these names."""
        self = cls()
        self._names = sorted(names)
        slots = np.frombuffer(kept["facet_slots"], np.uint32)
        ends = np.cumsum(np.frombuffer(kept["facet_lengths"], np.uint32)).tolist()
        start = 0
        for (key, value), end in zip(kept["facets"], ends, strict=True):
            postings = self._postings.setdefault(key, {})
            postings[value] = array("I", slots[start:end].tobytes())
            start = end
        return self

    def put(self, slot: int, card: AgentCard) -> None:
        """Remember the values of the card at `slot`, the next one."""
        for key, values in facets_of(card).items():
            postings = self._postings.setdefault(key, {})
            for value in values:
                if value:
                    posting = postings.get(value)
                    if posting is None:
                        posting = postings[value] = array("I")
                    posting.append(slot)

    def add_name(self, name: str) -> None:
        """A name the shard did not have."""
        insort(self._names, name)

    def drop_name(self, name: str) -> None:
        """A name the shard has no more."""
        del self._names[bisect_left(self._names, name)]

    def names(self, prefix: str = "") -> list[str]:
        """Names in order that begin with `prefix`."""
        start = bisect_left(self._names, prefix)
        return self._names[start : bisect_left(self._names, prefix + _LAST, start)]

    def all_names(self) -> list[str]:
        """Every name, in order; not to be changed."""
        return self._names

    def mask(self, condition: Filter, slots: dict[str, int], size: int) -> Mask:
        """The slots of which `condition` holds; removed ones may be among them."""
        result = np.ones(size, np.bool_)
        for key, values in condition.conditions:
            result &= self._any_of(key, values, slots, size)
        if condition.unless is not None:
            result &= ~self.mask(condition.unless, slots, size)
        return result

    def _any_of(self, key: str, values: tuple[str, ...], slots: dict[str, int], size: int) -> Mask:
        result = np.zeros(size, np.bool_)
        for value in values:
            if key == "name":
                result[[slots[name] for name in self.names(value)]] = True
            else:
                posting = self._postings.get(key, {}).get(value)
                if posting:
                    result[np.frombuffer(posting, np.uint32)] = True
        return result

    def compact(self, numbers: npt.NDArray[np.int64]) -> None:
        """Number slots anew, as `LexicalIndex.compact` does."""
        for postings in self._postings.values():
            for value, posting in list(postings.items()):
                slots = numbers[np.frombuffer(posting, np.uint32)]
                kept = slots[slots >= 0].astype(np.uint32)
                fresh: array[int] = array("I")
                fresh.frombytes(kept.tobytes())
                if fresh:
                    postings[value] = fresh
                else:
                    del postings[value]
