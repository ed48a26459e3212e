"""`python -m tests.simulation SEED`: one run of whole nodes; `--shrink` makes a failing one small.

`--only 3,7` keeps only those faults of the seed's plan, `--features a,b` only those features, so
that what `--shrink` found can be run again: it prints the command line. `--raft`: a run of one
group instead. `--count N` runs N seeds from SEED on and prints what they did; see also RESULTS.md.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace

from tests.simulation.checker import Violation
from tests.simulation.raft_cluster import simulate
from tests.simulation.shrink import failure, shrink
from tests.simulation.whole import simulate_whole
from tests.simulation.whole_options import WholeOptions


def main() -> int:
    """The command line; 1 where a property did not hold."""
    words = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    words.add_argument("seed", type=int)
    words.add_argument("--shrink", action="store_true")
    words.add_argument("--only", help="numbers of the faults to keep, with commas")
    words.add_argument("--features", help="names of the features to keep, with commas")
    words.add_argument("--raft", action="store_true")
    words.add_argument("--count", type=int, default=1)
    given = words.parse_args()
    if given.count > 1:
        return many(given.seed, given.count, raft=given.raft)
    if given.raft:
        return raft(given.seed)
    options = chosen(WholeOptions.draw(given.seed), given.only, given.features)
    print(options.describe())
    why = failure(options)
    print(why or "every property holds")
    if why and given.shrink:
        options = shrink(options, failure, print)
        print(f"\n{options.describe()}\n{failure(options)}\n\nagain: {command(options)}")
    return bool(why)


def chosen(options: WholeOptions, only: str | None, features: str | None) -> WholeOptions:
    """`options` with what the command line left of them."""
    if only is not None:
        kept = {int(number) for number in only.split(",") if number}
        options = replace(options, plan=tuple(f for f in options.plan if f.number in kept))
    if features is not None:
        options = replace(options, features=tuple(name for name in features.split(",") if name))
    return options


def command(options: WholeOptions) -> str:
    """The command line that runs these again, as far as it can say them."""
    only = ",".join(str(fault.number) for fault in options.plan)
    features = ",".join(options.features)
    return f"python -m tests.simulation {options.seed} --only '{only}' --features '{features}'"


def raft(seed: int) -> int:
    """One run of one group."""
    try:
        simulate(seed)
    except Violation as broken:
        print(broken)
        return 1
    print("every property holds")
    return 0


def many(first: int, count: int, *, raft: bool) -> int:
    """`count` runs, and what they did."""
    seen: Counter[str] = Counter()
    failed: list[str] = []
    wall_s, cpu_s = time.time(), time.process_time()
    for seed in range(first, first + count):
        try:
            seen.update(figures_of_raft(seed) if raft else figures_of_whole(seed))
        except Violation as broken:
            failed.append(str(broken).partition("\n")[0])
            print(failed[-1], flush=True)
        if (seed - first) % 100 == 99:
            print(f"{seed + 1 - first} of {count}", file=sys.stderr, flush=True)
    print(f"seeds {first} to {first + count - 1}: {len(failed)} failed")
    for name, number in sorted(seen.items()):
        print(f"  {name}: {number:,}")
    print(f"  wall {time.time() - wall_s:,.0f} s, CPU {time.process_time() - cpu_s:,.0f} s")
    return bool(failed)


def figures_of_raft(seed: int) -> dict[str, int]:
    """What a run of one group did."""
    cluster = simulate(seed)
    checker = cluster.checker
    return {
        "events": cluster.scheduler.events,
        "faults": cluster.faults_done,
        "elections won": len(checker.leaders),
        "starts": sum(node.starts for node in cluster.nodes.values()),
        "acknowledged": checker.acknowledged,
        "reads": checker.reads_answered,
        "states installed": checker.states_installed,
    }


def figures_of_whole(seed: int) -> dict[str, int]:
    """What a run of whole nodes did."""
    world = simulate_whole(seed)
    return {
        **world.seen,
        "events": world.scheduler.events,
        "virtual ms": world.scheduler.now_us // 1000,
        "elections won": sum(len(group.leaders) for group in world.watch.groups.values()),
        "entries committed": sum(group.committed for group in world.watch.groups.values()),
        "states compared": world.watch.states_compared,
        "starts": sum(node.starts for node in world.nodes),
        "states installed": sum(node.states_taken for node in world.nodes),
        "SENDs acknowledged": world.acknowledged,
    }


if __name__ == "__main__":
    sys.exit(main())
