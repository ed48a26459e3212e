"""How many agents DISCOVER says there are, beside those it shows: a part of `whole_agents`.

Cards are read a moment after the search, and an agent that is gone by then is counted and not
shown. So each that is only counted must be one that may have been there while the question was
under way; a directory that keeps what was unregistered shows in nothing else but pages that are not
full. Which agents may have been is known at the end, when all that was under way is answered.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from chaos.checkers.linear import Operation


@dataclass(frozen=True, slots=True)
class Count:
    """An answer that counted more than it showed."""

    began_s: float
    ended_s: float
    shown: Set[str]
    unseen: int  # counted, and not shown
    mortal: int  # of agents with a ttl, not shown, that may have been there

    def is_possible(self, lasting: Mapping[str, Sequence[Operation]]) -> bool:
        """Whether so many may have been there; `lasting` is what was told of the others."""
        left = self.unseen - self.mortal
        for name, told in lasting.items():
            if left > 0 and name not in self.shown:
                left -= may_have_been(told, self.began_s, self.ended_s)
        return left <= 0


class Counts:
    """All such answers of a run."""

    def __init__(self) -> None:
        self._noted: list[Count] = []

    def note(self, count: Count) -> None:
        """To be judged at the end."""
        if count.unseen > count.mortal:
            self._noted.append(count)

    def wrong(self, lasting: Mapping[str, Sequence[Operation]]) -> Iterator[str]:
        """What cannot be."""
        for count in self._noted:
            if not count.is_possible(lasting):
                at = f"from {count.began_s:.3f} to {count.ended_s:.3f} s"
                yield f"DISCOVER {at} counted {count.unseen} that it did not show, and were gone"


def may_have_been(told: Sequence[Operation], began_s: float, ended_s: float) -> bool:
    """Whether an agent may have been there at some time between these: a REGISTER of it had begun,
    and nothing between that and the question says that it was gone.
    """
    gone = [one.began for one in told if one.ended < began_s and _was_absent(one)]
    last_s = max(gone, default=-1.0)
    return any(one.does == "write" and one.began <= ended_s and one.ended >= last_s for one in told)


def _was_absent(one: Operation) -> bool:
    """Whether this says, of some moment while it was under way, that the agent was not there."""
    if one.does == "read":
        return one.told is None
    return one.does == "delete" or (one.does == "touch" and not one.told)
