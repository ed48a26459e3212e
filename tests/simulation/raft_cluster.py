"""A group of replicas under faults: one seed decides the cluster, the weather, the load, the
faults.

First a phase with faults, in which nothing may go wrong; then everything is healed, and within a
deadline the group must have a leader, commit, and bring every replica up to date.
"""

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from mq9cluster.cluster.engine import Members, MembersRefused, NotLeader
from mq9cluster.cluster.raft_engine import RaftEngine
from tests.simulation.checker import Checker, Violation
from tests.simulation.clock import Scheduler
from tests.simulation.late_answers import answer_late
from tests.simulation.network import Network, Weather
from tests.simulation.raft_node import SimNode

FAULTS_US = 6_000_000
EVENTS_MAX = 100_000  # several times what the busiest healthy run needs
WORD_US_MAX = 400_000  # between a word and the read by it: an election fits in
HEALED_SOON = 0.3  # of faults: the network heals a little later
LEADERS_SHARE = 0.5  # of faults: they meet a leader
HEAL_US = 4_000_000  # several election timeouts, a snapshot that has to be asked for twice


@dataclass
class Options:
    """What a seed expands to."""

    seed: int
    nodes: int
    spare: int  # nodes outside the group at first
    pipeline: int
    sync_us: int
    propose_us: int
    read_us: int
    fault_us: int
    compact_us: int
    compact_keep: int
    clock_rates: list[float]
    weather: Weather
    faults: list[str] = field(default_factory=list)

    @classmethod
    def draw(cls, seed: int) -> "Options":
        """The options of `seed`."""
        draw = random.Random(f"options/{seed}")
        rough = draw.random()
        weather = Weather(
            delay_us_min=100,
            delay_us_max=draw.choice([1_000, 5_000, 40_000]),
            loss=draw.choice([0.0, 0.02, 0.2]) * rough,
            duplication=draw.choice([0.0, 0.1, 0.5]),
            straggling=draw.choice([0.0, 0.02, 0.1]),
            straggle_us_max=draw.choice([20_000, 300_000, 1_500_000]),
        )
        return cls(
            seed=seed,
            nodes=draw.choice([1, 2, 3, 3, 3, 5, 5, 5]),
            spare=draw.choice([0, 0, 1]),
            pipeline=draw.choice([1, 1, 3]),
            sync_us=draw.choice([200, 5_000, 30_000]),
            propose_us=draw.choice([20_000, 60_000, 150_000]),
            read_us=draw.choice([50_000, 200_000]),
            fault_us=draw.choice([100_000, 300_000, 900_000]),
            compact_us=draw.choice([50_000, 300_000, FAULTS_US]),
            compact_keep=draw.choice([0, 3, 20]),
            clock_rates=[draw.choice([1.0, draw.uniform(0.8, 1.25)]) for _ in range(6)],
            weather=weather,
            faults=draw.sample(sorted(FAULTS), k=draw.randint(2, len(FAULTS))),
        )


class RaftCluster:
    """One run."""

    def __init__(self, options: Options, engine_type: type[RaftEngine] = RaftEngine) -> None:
        self.options = options
        self.random = random.Random(f"run/{options.seed}")
        self.scheduler = Scheduler(EVENTS_MAX)
        self.checker = Checker(options.seed)
        self.network = Network(self.scheduler, self.random, options.weather)
        names = [f"n{number}" for number in range(1, options.nodes + options.spare + 1)]
        voters = tuple(names[: options.nodes])
        self.nodes = self.checker.nodes
        for name in names:
            members = Members(voters if name in voters else ())
            self.nodes[name] = SimNode(
                name,
                members,
                self.scheduler,
                self.network,
                self.checker,
                engine_type,
                options.pipeline,
            )
            self.nodes[name].disk.sync_us = options.sync_us
            self.nodes[name].clock.rate = options.clock_rates[len(self.nodes) - 1]
        self.proposals = 0
        self._words_given = 0
        self.faults_done = 0
        self.healed = False

    def run(self) -> None:
        """Faults, then healing. Raises Violation."""
        for node in self.nodes.values():
            node.start()
        self._every(self.options.propose_us, self._propose)
        self._every(self.options.read_us, self._read)
        self._every(self.options.compact_us, self._compact)
        self._every(self.options.fault_us, self._fault)
        self.scheduler.run(FAULTS_US)
        self._heal()
        self.scheduler.run(FAULTS_US + HEAL_US)
        self._check_recovery()
        self.checker.states_equal()

    def _every(self, period_us: int, call: Callable[[], None]) -> None:
        def again() -> None:
            call()
            self.scheduler.after(self.random.randint(1, 2 * period_us), again)

        self.scheduler.after(self.random.randint(1, 2 * period_us), again)

    def _propose(self) -> None:
        self.proposals += 1
        data = b"entry %d" % self.proposals
        for node in self.nodes.values():  # a deposed leader must not get away with it
            node.propose(data + node.name.encode())

    def _read(self) -> None:
        for node in self.nodes.values():
            node.read()
        self._words_given += 1
        for at, node in enumerate(self.nodes.values()):
            word = node.say_term()
            if word is not None:
                # No draw: seeds go on meaning what they meant before there were words.
                delay_us = 1 + (self._words_given * 7_919 + at * 104_729) % WORD_US_MAX
                self.scheduler.after(delay_us, partial(self._tell, node.name, *word))

    def _tell(self, peer: str, term: int, floor: int) -> None:
        for node in self.nodes.values():
            node.read_by_word(peer, term, floor)

    def _compact(self) -> None:
        self.random.choice(list(self.nodes.values())).compact(self.options.compact_keep)

    def _fault(self) -> None:
        if self.scheduler.now_us < FAULTS_US and not self.network.holds_back:
            self.faults_done += 1
            FAULTS[self.random.choice(self.options.faults)](self)
            if (
                self.random.random() < HEALED_SOON
            ):  # or a cut would be the end of all that can happen
                self.scheduler.after(self.random.randint(0, 1_500_000), self._heal_links)

    def _heal_links(self) -> None:
        if not self.network.holds_back:  # a fault of several acts is left to itself
            self.network.heal()

    def _heal(self) -> None:
        self.healed = True
        self.network.heal()
        self.network.let_all_through()
        self.network.weather = Weather()
        for node in self.nodes.values():
            node.disk.sync_us = 200
            if node.paused:
                node.resume()
            if node.engine is None:
                node.start()
            assert node.engine is not None
            node.engine.may_lead = True

    def _check_recovery(self) -> None:
        leaders = [node for node in self.nodes.values() if node.engine and node.engine.is_leader]
        newest = max(leaders, key=lambda node: node.engine.term if node.engine else 0, default=None)
        if newest is None or newest.engine is None:
            raise Violation("no leader after healing")
        behind = self.checker.committed - 5  # what is being committed just now
        for name in (*newest.engine.members.voters, *newest.engine.members.learners):
            if self.nodes[name].state.applied < behind:
                raise Violation(f"{name} stands at {self.nodes[name].state.applied} after healing")
        if self.checker.committed < 5:
            raise Violation("nothing was committed")

    # ------------------------------------------------------------------ faults

    def some_node(self) -> SimNode:
        """Any node; the leader more often than others."""
        leading = [n for n in self.nodes.values() if n.engine is not None and n.engine.is_leader]
        if leading and self.random.random() < LEADERS_SHARE:
            return self.random.choice(leading)
        return self.random.choice(list(self.nodes.values()))

    def crash(self, node: SimNode) -> None:
        """Crash it, and start it again later."""
        node.crash(keep=self.random.choice([0, self.random.randint(0, node.disk.unsynced)]))
        starts = node.starts

        def restart() -> None:
            if node.starts == starts and node.engine is None:
                node.start()

        self.scheduler.after(self.random.choice([1_000, 200_000, 1_500_000]), restart)


def _split(cluster: RaftCluster) -> None:
    names = list(cluster.nodes)
    cluster.random.shuffle(names)
    cut = cluster.random.randint(1, len(names))
    cluster.network.split(names[:cut], names[cut:])


def _isolate(cluster: RaftCluster) -> None:
    name = cluster.some_node().name
    cluster.network.split([name], [other for other in cluster.nodes if other != name])


def _deafen(cluster: RaftCluster) -> None:
    name = cluster.some_node().name
    cluster.network.cut([other for other in cluster.nodes if other != name], [name])


def _heal_network(cluster: RaftCluster) -> None:
    cluster.network.heal()


def _crash_one(cluster: RaftCluster) -> None:
    cluster.crash(cluster.some_node())


def _crash_all(cluster: RaftCluster) -> None:
    for node in cluster.nodes.values():
        cluster.crash(node)


def _pause(cluster: RaftCluster) -> None:
    node = cluster.some_node()
    if node.engine is None or node.paused:
        return
    node.pause()
    starts = node.starts

    def resume() -> None:
        if node.paused and node.starts == starts:
            node.resume()

    cluster.scheduler.after(cluster.random.choice([100_000, 1_000_000, 3_000_000]), resume)


def _slow_disk(cluster: RaftCluster) -> None:
    cluster.some_node().disk.sync_us = cluster.random.choice([200, 20_000, 400_000])


def _transfer(cluster: RaftCluster) -> None:
    node = cluster.some_node()
    if node.engine is None or node.paused or not node.engine.is_leader:
        return
    others = [name for name in node.engine.members.voters if name != node.name]
    if others:
        try:
            node.engine.transfer(cluster.random.choice(others))
        except NotLeader:
            return
        node.wake()


def _forbid_to_lead(cluster: RaftCluster) -> None:
    node = cluster.some_node()
    if node.engine is not None:
        node.engine.may_lead = not node.engine.may_lead


def _change_members(cluster: RaftCluster) -> None:
    node = cluster.some_node()
    if node.engine is None or node.paused or not node.engine.is_leader:
        return
    voters, learners = (set(group) for group in node.engine.members)
    name = cluster.random.choice(list(cluster.nodes))
    if name in voters:
        voters.discard(name)
    elif name in learners or cluster.random.choice([True, False]):
        learners.discard(name)
        voters.add(name)
    else:
        learners.add(name)
    try:
        node.engine.propose_members(Members(tuple(sorted(voters)), tuple(sorted(learners))))
    except (NotLeader, MembersRefused):
        return
    node.wake()


def _rumour(cluster: RaftCluster) -> None:
    """Somebody believes to have lost a peer."""
    node = cluster.some_node()
    if node.engine is not None and not node.paused:
        node.engine.peer_lost(cluster.some_node().name)
        node.wake()


FAULTS: dict[str, Callable[[RaftCluster], None]] = {
    "split": _split,
    "isolate": _isolate,
    "deafen": _deafen,
    "heal": _heal_network,
    "crash one": _crash_one,
    "crash all": _crash_all,
    "pause": _pause,
    "slow disk": _slow_disk,
    "transfer": _transfer,
    "forbid to lead": _forbid_to_lead,
    "change members": _change_members,
    "rumour": _rumour,
    "late answers": answer_late,
}


def simulate(seed: int, engine_type: type[RaftEngine] = RaftEngine) -> RaftCluster:
    """Run `seed`. Raises Violation, with the seed and all it expands to."""
    options = Options.draw(seed)
    cluster = RaftCluster(options, engine_type)
    try:
        cluster.run()
    except Exception as error:
        report = (
            f"seed {seed} at {cluster.scheduler.now_us / 1e6:.6f} s: {error}\n{describe(options)}"
        )
        raise Violation(report) from error
    return cluster


def describe(options: Options) -> str:
    """The options, one a line."""
    shown: dict[str, Any] = asdict(options)
    return "\n".join(f"  {name} = {value}" for name, value in shown.items())
