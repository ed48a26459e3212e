"""`python -m tests.simulation.hunt [SEEDS] [--only PART]`: the seeds each mutant takes, as in
RESULTS.md.

`--only` hunts those whose name has PART in it (`raft: J`, `lease`); `--first` begins at another
seed; `--catches` goes on until so many seeds have shown it, for a mean. A line is printed as soon
as it is known.
"""

import argparse
import gc
import time
from collections.abc import Callable
from functools import partial

from tests.simulation.checker import Violation
from tests.simulation.mutants import MUTANTS
from tests.simulation.raft_cluster import simulate
from tests.simulation.whole_mutants import ALL

Run = Callable[[int], object]


def mutants() -> dict[str, Run]:
    """All of them, the cheap ones first."""
    found: dict[str, Run] = {
        f"raft: {name}": partial(simulate, engine_type=kind) for name, kind in MUTANTS.items()
    }
    return found | {f"whole: {name}": run for name, run in ALL.items()}


def hunt(run: Run, first: int, seeds_max: int, catches: int) -> str:
    """Run seeds until so many break a property; a line of the table, but for its name."""
    began_s = time.process_time()
    caught: list[int] = []
    why = ""
    seed = first
    while seed < first + seeds_max and len(caught) < catches:
        try:
            run(seed)
        except Violation as broken:
            caught.append(seed)
            why = why or str(broken).partition("\n")[0].partition(": ")[2]
        gc.collect()
        seed += 1
    tried, cpu_s = seed - first, time.process_time() - began_s
    if not caught:
        return f"not within {tried} | {cpu_s:.1f} | |"
    mean = f" (mean {tried / len(caught):.0f} of {tried})" if catches > 1 else ""
    return f"{caught[0] - first + 1}{mean} | {cpu_s:.1f} | {why[:110]} |"


def main() -> None:
    """The command line."""
    words = argparse.ArgumentParser(prog="python -m tests.simulation.hunt", description=__doc__)
    words.add_argument("seeds", type=int, nargs="?", default=1_000)
    words.add_argument("--only", action="append", default=[])
    words.add_argument("--first", type=int, default=0)
    words.add_argument("--catches", type=int, default=1)
    given = words.parse_args()
    print("| mutant | seeds | CPU s | what was seen |\n|---|---|---|---|", flush=True)
    for name, run in mutants().items():
        if not given.only or any(part in name for part in given.only):
            line = hunt(run, given.first, given.seeds, given.catches)
            print(f"| {name} | {line}", flush=True)


if __name__ == "__main__":
    main()
