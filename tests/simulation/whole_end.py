"""The end of a run of whole nodes: everything is healed, nobody asks for anything any more. What
was promised is there, at every node alike, and everything works.

Called by `whole.World`, once.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.simulation import whole_agents
from tests.simulation.checker import Violation
from tests.simulation.whole_clients import GROUP, Client
from tests.simulation.whole_core import FINAL, SERVICE, CoreSession
from tests.simulation.whole_history import BoxHistory, decoded
from tests.simulation.whole_options import HOUR_MS, PUSHES
from tests.simulation.whole_pushes import GROUP as PUSHED_TO
from tests.simulation.whole_pushes import Reader

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_node import WholeNode

END_S_MAX = 25.0
LOOK_S = 0.2
OFF_MS = 300  # what a comparison of clocks over a slow network may be off

Asking = Callable[[Client, Callable[[], None]], None]  # by whom, and what to call at the end


class End:
    """What is looked at."""

    def __init__(self, world: "World") -> None:
        self.world = world

    async def check(self) -> None:
        """Everything. Raises Violation."""
        world = self.world
        for client in world.clients:
            client.disconnect()
        await world.until(self._all_due, END_S_MAX, "never due")
        for node in world.here:
            await self._read_everything(node)
        await self._drain()
        if PUSHES in world.options.features:
            await self._pushes()
        if "core" in world.options.features:
            await self._core()
        if "registry" in world.options.features:
            await self._agents()
            if "embedder" in world.options.features:
                await world.until(self._embedders, END_S_MAX, "embedders do not settle")
        await world.until(self._alike, END_S_MAX, "replicas do not meet")
        await world.until(self._ready, END_S_MAX, "not ready")
        self._check_hashes()
        if "registry" in world.options.features:
            await self._directories()
        self._check_clocks()

    def _all_due(self) -> str:
        since_s = self.world.now_s - 4.0
        recent = any(sent.invoked_s > since_s and sent.delay_s for sent in self._all_sent())
        return "a delay is not over" if recent else ""

    def _all_sent(self) -> Iterator[Any]:
        return (sent for box in self.world.boxes.values() for sent in box.sent.values())

    async def _at(self, node: "WholeNode", work: Asking) -> None:
        """Have a fresh client at `node` do something, and wait until it has."""
        done, until_s = False, self.world.now_s + END_S_MAX
        while not done:
            if self.world.now_s > until_s:
                raise Violation(f"no answer at {node.name}")
            await self.world.until(lambda: "" if node.serving else node.name, END_S_MAX, "is down")
            done = await self._try_at(node, work)

    async def _try_at(self, node: "WholeNode", work: Asking) -> bool:
        """Whether it came to an end before the connection did: the node may be about to leave."""
        client = Client(self.world, 1_000 + self.world.seen["readers"])
        self.world.seen["readers"] += 1
        client.resting = True
        client.node, done, closed = node, asyncio.Event(), asyncio.Event()

        def end() -> None:
            client._closed()
            closed.set()

        client.connection = node.connect(end)
        work(client, done.set)

        def missing() -> str:
            return "" if done.is_set() or closed.is_set() else node.name

        await self.world.until(missing, END_S_MAX, "no answer at")
        self.world.must_hold()
        client.disconnect()
        return done.is_set()

    async def _read_everything(self, node: "WholeNode") -> None:
        for box in self.world.boxes.values():
            if box.created_s is not None and not box.kind.ttl_s:
                await self._at(node, partial(self._query, box))

    def _query(self, box: BoxHistory, client: Client, done: Callable[[], None]) -> None:
        invoked_s = self.world.now_s
        newest = dict(box.newest_of_key)

        def answered(reply: dict[str, Any] | None) -> None:
            if reply is None:
                return
            if reply["error"]:
                raise Violation(f"QUERY of {box.name} after healing: {reply}")
            box.queried(_texts(reply), newest, invoked_s, self.world.now_s)
            done()

        client.ask(f"MSG.QUERY.{box.name}", {"limit": 1_000}, answered)

    async def _drain(self) -> None:
        """A group that reads everything gets everything; nothing is held by anybody any more."""
        if "groups" not in self.world.options.features:
            return
        for box in self.world.boxes.values():
            if box.created_s is None or box.kind.ttl_s:
                continue
            dead = await self._dead_letters(box) if box.kind.max_deliver else set[str]()
            until_s = self.world.now_s + END_S_MAX
            while left := [
                one for one in box.not_drained(GROUP, self.world.now_s) if one not in dead
            ]:
                if self.world.now_s > until_s:
                    raise Violation(f"{box.name}: no consumer gets {left[:5]} of {len(left)}")
                await self._at(
                    self.world.random.choice(self.world.here), partial(self._take_all, box)
                )
                await self.world.spend(LOOK_S)
                if box.kind.max_deliver:
                    dead = await self._dead_letters(box)

    def _take_all(self, box: BoxHistory, client: Client, done: Callable[[], None]) -> None:
        client.fetch(box, done=lambda _: client.ack(box, done))

    async def _dead_letters(self, box: BoxHistory) -> set[str]:
        found: set[str] = set()

        def ask(client: Client, done: Callable[[], None]) -> None:
            def answered(reply: dict[str, Any] | None) -> None:
                for message in _texts(reply or {}):
                    sent = box.sent[message["payload"]]
                    found.add(f"{sent.payload} (id {sent.msg_id})")
                done()

            client.ask(f"MSG.QUERY.{box.name}.dlq", {"limit": 1_000}, answered)

        await self._at(self.world.random.choice(self.world.here), ask)
        return found

    # --- pushes ----------------------------------------------------------------------------------

    async def _pushes(self) -> None:
        """A reader at any node is given all there is; the members of the group were."""
        draw, here = self.world.random, self.world.here
        for box in self.world.boxes.values():
            if box.created_s is None or box.kind.ttl_s or box.kind.retain_acked:
                continue
            wanted = await self._ids_of(box)
            await self._at(draw.choice(here), partial(self._read_on, box, "", wanted))
            if box.name in self.world.pushed:
                await self._at(draw.choice(here), partial(self._read_on, box, PUSHED_TO, wanted))

    async def _ids_of(self, box: BoxHistory) -> set[int]:
        """Of what does not expire."""
        found: set[int] = set()

        def ask(client: Client, done: Callable[[], None]) -> None:
            def answered(reply: dict[str, Any] | None) -> None:
                if reply is not None:
                    told = [box.sent[message["payload"]] for message in _texts(reply)]
                    found.update(sent.msg_id for sent in told if not sent.ttl_s)
                    done()

            client.ask(f"MSG.QUERY.{box.name}", {"limit": 1_000}, answered)

        await self._at(self.world.random.choice(self.world.here), ask)
        return found

    def _read_on(
        self,
        box: BoxHistory,
        group: str,
        wanted: set[int],
        client: Client,
        done: Callable[[], None],
    ) -> None:
        """Subscribe, and wait until everything was given."""
        node, pushed = client.node, self.world.pushed
        assert node is not None

        def look(reader: Reader) -> None:
            if wanted <= (pushed[box.name] if group else reader.ids):
                done()
            elif client.node is node:
                self.world.later(LOOK_S, partial(look, reader))

        def begin(reader: Reader) -> None:
            reader.begin(for_good=True)
            self.world.in_turn(look, reader)

        node.open_reader(client.connection, box, group, begin)

    # --- agents ----------------------------------------------------------------------------------

    async def _agents(self) -> None:
        """Every node finds the same, and it fits all that was told before."""
        found = [await self._found(node, stale=False) for node in self.world.here]
        if any(one != found[0] for one in found):
            raise Violation(f"nodes find different agents: {found}")
        self.world.agents.judge()
        self.world.must_hold()

    async def _directories(self) -> None:
        """What nodes find by themselves is what they find together: directories follow the rows."""
        agents = await self._found(self.world.here[0], stale=False)
        for node in self.world.here:
            alone = await self._found(node, stale=True)
            if alone != agents:
                raise Violation(f"{node.name} by itself finds {alone} instead of {agents}")

    def _embedders(self) -> str:
        """All embed with what is set, every agent has the codes that are wanted, and no others."""
        for node in self.world.here:
            assert node.cluster is not None
            embedders = node.cluster.meta.meta.embedders
            current = embedders.model.current
            if current != self.world.embedder_id or embedders.model.following is not None:
                return f"{node.name} has {embedders.model}, {self.world.embedder_id} is set"
            for replica in node.cluster.shards.replicas:
                for agent in replica.all_agents():
                    if set(agent.codes) != set(embedders.wanted()):
                        where = f"{node.name}, shard {replica.shard}"
                        return f"{where}: {agent.name} has codes of {sorted(agent.codes)}"
        return ""

    async def _found(self, node: "WholeNode", *, stale: bool) -> list[str]:
        """The agents that do not expire, as a node finds them."""
        found: list[dict[str, Any]] = []

        def ask(client: Client, done: Callable[[], None]) -> None:
            def heard(reply: dict[str, Any]) -> None:
                found.extend(reply["agents"])
                done()

            whole_agents.ask_everybody(self.world.agents, client, heard, stale=stale)

        await self._at(node, ask)
        return [str(hit) for hit in found if not hit["ttl"]]

    # --- core NATS -------------------------------------------------------------------------------

    async def _core(self) -> None:
        """A word from each node reaches whoever listens, once, and one of a group; requests are
        answered.
        """
        world = self.world
        sessions: list[CoreSession] = []

        def listen(session: CoreSession) -> None:
            sessions.append(session)
            session.subscribe(session.inbox)
            session.subscribe(FINAL)
            session.subscribe(b"final.*", b"group")
            session.subscribe(SERVICE, b"group")

        numbers = {node.name: node.connect(lambda: None) for node in world.here}
        for node in world.here:
            node.open_session(numbers[node.name], "$G", listen)
        await world.spend(2.0)  # all know of all, even who missed something before
        before = next(world.core.numbers)
        for node in world.here:
            node.in_session(numbers[node.name], lambda session: session.publish(FINAL))
            node.in_session(
                numbers[node.name], lambda session: session.publish(SERVICE, session.inbox)
            )
        said = [
            payload
            for payload, sent in world.core.published.items()
            if sent.number > before and sent.subject == FINAL
        ]

        def missing() -> str:
            for payload in said:
                count = world.core.delivered.get(payload, 0)
                if count != len(world.here):
                    return f"{payload.decode()} reached {count} of {len(world.here)}"
                if not world.core.in_group(payload, b"group"):
                    return f"{payload.decode()} reached nobody of a group"
            if len(sessions) < len(world.here) or not all(one.answers for one in sessions):
                return "a request was not answered"
            return ""

        await world.until(missing, 5.0, "core NATS")
        for node in world.here:
            node.hang_up(numbers[node.name])

    def _alike(self) -> str:
        """Every replica here stands at the same entry, with the same state."""
        for number, group in self.world.watch.groups.items():
            states = set()
            for node in self.world.here:
                assert node.cluster is not None
                if number in node.cluster._groups:
                    index = node.cluster._groups[number][0].applied
                    states.add((index, group.states.get(index)))
            if len(states) > 1:
                return f"group {number} stands at {sorted(index for index, _ in states)}"
        return ""

    def _ready(self) -> str:
        """What a node says of itself and of the others, to probes and to people."""
        for node in self.world.here:
            cluster = node.cluster
            assert cluster is not None
            if why := cluster.why_not_ready():
                return f"{node.name}: {why}"
            if cluster.is_draining(node.name):
                return f"{node.name} is about to leave"
            urls = cluster.connect_urls()
            missing = [other.name for other in self.world.here if f"{other.name}:4222" not in urls]
            if missing:
                return f"{node.name} knows of no way to {missing}"
            for other in self.world.here:
                if not cluster.is_alive(other.name) or cluster.is_draining(other.name):
                    return f"{node.name} takes {other.name} for gone"
                ahead_ms = cluster.clock_offset_ms(other.name) - cluster.clock_offset_ms(node.name)
                truly_ms = other.clock.offset_ms - node.clock.offset_ms
                if abs(ahead_ms - truly_ms) > OFF_MS:
                    return f"{node.name} takes the clock of {other.name} for {ahead_ms} ms ahead"
            for number in range(self.world.options.shards):
                shown = cluster.overview.of_shard(number, cluster.shards.replicas)
                if not shown or shown[0].state != "leader":
                    return f"{node.name} shows no leader of shard {number}"
        if not any(won for node in self.world.here for _, won in node.cluster.elections_won()):  # type: ignore[union-attr]
            return "nobody was ever elected"
        return ""

    def _check_hashes(self) -> None:
        """All rows of replicas that stand at the same entry, read anew."""
        found: dict[tuple[int, int], tuple[str, str]] = {}
        for node in self.world.here:
            assert node.cluster is not None
            for number in node.cluster._groups:
                index, digest = node.cluster.snapshots.state_hash(number)
                name, known = found.setdefault((number, index), (node.name, digest))
                if known != digest:
                    raise Violation(f"{name} and {node.name} differ in group {number} at {index}")

    def _check_clocks(self) -> None:
        """Who is an hour off the others leads nothing."""
        for node in self.world.here:
            others = sorted(other.clock.offset_ms for other in self.world.here)
            off_ms = abs(node.clock.offset_ms - others[len(others) // 2])
            if len(others) > 2 and off_ms > HOUR_MS // 2 and self.world.leads(node):
                raise Violation(f"{node.name} leads, an hour off")


def _texts(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return decoded(reply) if reply.get("messages") else []
