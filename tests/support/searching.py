"""Search without threads, and whole nodes' worth of it without sockets: real state machines,
directories, `finding` and its messages; for tests that want everything but time.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from mq9cluster.cluster.directory import Directory
from mq9cluster.cluster.finding import Finder
from mq9cluster.cluster.finding_here import Here
from mq9cluster.cluster.finding_service import FindingService
from mq9cluster.cluster.peers import Answered, NotSent, PeerReply
from mq9cluster.cluster.search_thread import Searchable
from mq9cluster.domain import command as c
from mq9cluster.domain.address import agent_ref, slot_of
from mq9cluster.domain.limits import SLOTS
from mq9cluster.search.text import Analyzer
from tests.property.machine_shard import MachineShard

ANALYZER = Analyzer()


class AtOnce:
    """`Searching`: whatever is posted is done there and then."""

    async def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def post(self, work: Callable[[], object]) -> None:
        work()

    def post_soon(self, work: Callable[[], object], changes: int) -> None:
        self.post(work)

    def build(self, work: Callable[[], object], then: Callable[[], object]) -> None:
        work()
        then()


class SearchedReplica:
    """A shard's state machine and its directory, as `Here` sees a replica that leads."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self.shard = MachineShard()
        self.now_ms = now_ms
        self.leads = True
        self.term = 1
        self.directory = Directory(
            Searchable(AtOnce(), lambda: ANALYZER),
            self.shard.all_agents,
        )
        self.directory.rebuild()

    @property
    def machine(self) -> Any:
        return self.shard.machine

    def entry(self, now_ms: int, commands: Sequence[c.Command]) -> None:
        self.shard.entry(now_ms, commands)
        if self.shard.changes:
            self.directory.follow(self.shard.changes)

    def confirm(self, done: Callable[[int | None], None]) -> None:
        done(self.machine.applied_index if self.leads else None)

    def confirmed_by(self, peer: str, term: int) -> int | None:
        return self.machine.applied_index if self.leads and term == self.term else None

    def when_applied(self, index: int, then: Callable[[], None]) -> None:
        assert index <= self.machine.applied_index
        then()


class SearchedNodes:
    """Shards dealt out to nodes, one replica each; a `Finder` at every node."""

    def __init__(self, placement: Sequence[str]) -> None:
        self.now_ms = 0
        self.placement = placement
        self.replicas = [SearchedReplica(lambda: self.now_ms) for _ in placement]
        self.down: set[str] = set()
        self.services: dict[str, FindingService] = {}
        self.finders: dict[str, Finder] = {}
        for node in dict.fromkeys(placement):
            held: Mapping[int, Any] = {
                shard: self.replicas[shard]
                for shard, place in enumerate(placement)
                if place == node
            }
            directories = {shard: replica.directory for shard, replica in held.items()}
            here = Here(held, directories, AtOnce())
            links: Any = SimpleNamespace(
                likely_leader=self._leader, some_node_of=self._leader, not_there=lambda *_: None
            )
            self.services[node] = FindingService(here)
            peers: Any = SimpleNamespace(request=self._request)
            self.finders[node] = Finder(node, len(placement), here, links, peers, AtOnce())

    def _leader(self, shard: int) -> str:
        node = self.placement[shard]
        return "" if node in self.down else node

    def _request(
        self, node: str, kind: int, data: bytes, done: Callable[[PeerReply], None]
    ) -> SimpleNamespace:
        if node in self.down:
            asyncio.get_running_loop().call_soon(done, NotSent())
            return SimpleNamespace(cancel=lambda: None)
        cancel = self.services[node].on_request(kind, data, lambda answer: done(Answered(answer)))
        return SimpleNamespace(cancel=cancel or (lambda: None))

    def shard_of(self, account: str, name: str) -> int:
        return slot_of(agent_ref(account, name)) * len(self.placement) // SLOTS

    def apply(self, now_ms: int, commands: Sequence[c.Command]) -> None:
        """One entry in each shard that has a command among these."""
        by_shard: dict[int, list[c.Command]] = {}
        for command in commands:
            account, _, name = command.agent.decode().partition("\0")
            by_shard.setdefault(self.shard_of(account, name), []).append(command)
        for shard, some in by_shard.items():
            self.replicas[shard].entry(now_ms, some)

    async def rebuild(self) -> None:
        """All directories anew from their states."""
        for replica in self.replicas:
            replica.directory.rebuild()
            await replica.directory.ready.wait()
