"""`python -m tests.simulation.hunt [SEEDS]`: the seeds each mutant takes, as in RESULTS.md."""

import gc
import sys
import time
from collections.abc import Callable
from functools import partial

from tests.simulation.checker import Violation
from tests.simulation.mutants import MUTANTS
from tests.simulation.raft_cluster import simulate
from tests.simulation.whole_mutants import ALL


def hunt(run: Callable[[int], object], seeds_max: int) -> str:
    """Run seeds until one breaks a property; a line of the table."""
    began_s = time.process_time()
    for seed in range(seeds_max):
        try:
            run(seed)
        except Violation as broken:
            why = str(broken).partition("\n")[0].partition(": ")[2]
            return f"{seed + 1} | {time.process_time() - began_s:.1f} | {why[:110]} |"
        gc.collect()
    return f"not within {seeds_max} | {time.process_time() - began_s:.1f} | |"


def main() -> None:
    """All of them."""
    seeds_max = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    hunted = {f"whole: {name}": run for name, run in ALL.items()}
    hunted |= {f"raft: {name}": partial(simulate, engine_type=e) for name, e in MUTANTS.items()}
    print("| mutant | seeds | CPU s | what was seen |\n|---|---|---|---|")
    for name, run in hunted.items():
        print(f"| {name} | {hunt(run, seeds_max)}", flush=True)


if __name__ == "__main__":
    main()
