"""What a checker says: a name, how much it looked at, and what it found wrong."""

from dataclasses import dataclass, field

NAMED_MAX = 10  # of a thousand violations the first few tell enough
TRAFFIC = "traffic"  # the checker that refuses a run in which too little happened


@dataclass(frozen=True, slots=True)
class Verdict:
    """`looked` is how many things were judged; none at all proves nothing."""

    checker: str
    looked: int
    violations: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations


def too_little(done: dict[str, int], least: dict[str, int]) -> Verdict:
    """A run in which too little happened shows nothing, and fails."""
    missing = [
        f"{what}: {done.get(what, 0)}, at least {count} are needed"
        for what, count in least.items()
        if done.get(what, 0) < count
    ]
    return Verdict(TRAFFIC, sum(done.values()), missing)
