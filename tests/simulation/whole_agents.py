"""Agents of a simulated cluster: what clients do with the registry, and whether what they were told
can be.

Owned by `whole.World`. *Lasting* agents never expire: each is a register, and everything that was
told of it must fit one order in time (`chaos.checkers.linear`, whose model learns here that a
command by mailbox means whoever has that mailbox just then). *Mortal* ones have a short ttl: found
as long as they must be alive, and no longer. Every hit is an object that somebody registered under
that name, whole; only an answer that was allowed to be stale may be an old one.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from chaos.checkers import linear
from chaos.checkers.linear import Operation, State
from chaos.history import NEVER
from mq9cluster.domain.address import agent_ref, slot_of
from mq9cluster.domain.limits import SLOTS
from tests.simulation.search import DIMENSIONS
from tests.simulation.whole_counts import Count, Counts
from tests.simulation.whole_history import OFF_S

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_clients import Client, Reply

LASTING = 4
MORTAL = 2
OPERATIONS_MAX = 120  # of one agent; then another: the search is over sets of them
FOUND_MAX = 1_000
MAILBOXES = ("plain", "other", "mq9://broker/other", "")
QUESTIONS = (
    "translate a contract into french",
    "summarise the news of the day",
    "review python code",
)
SKILLS = ("translation", "summaries", "code review")

Work = Callable[[Any], None]


def agent(state: State, operation: Operation) -> tuple[bool, State]:
    """What is registered under a name: None, or (payload, mailbox)."""
    there = state is not None
    met = there and isinstance(state, tuple) and state[1] == operation.value
    told, unknown = operation.told, operation.unknown
    if operation.does == "write":
        return True, operation.value
    if operation.does == "read":
        return told == state, state
    if operation.does == "touch":
        return told == there, state
    if operation.does == "delete":
        return unknown or told == there, None
    if operation.does == "sweep":  # UNREGISTER by mailbox; whether it met anybody anywhere
        return unknown or told or not met, None if met else state
    return told or not met, state  # REPORT by mailbox


@dataclass(eq=False, slots=True)
class Touch:
    """A REGISTER or REPORT of a mortal agent that is not yet answered."""

    invoked_s: float
    registers: bool


class Mortal:
    """An agent with a ttl. After anything unknown nothing is claimed of it any more."""

    def __init__(self) -> None:
        self.ttl_s = 0  # until somebody registers it
        self.alive_until_s = 0.0  # for sure
        self.told_s = 0.0  # when this was so
        self.gone_s = 0.0  # from then on, if nothing is under way; 0: it was never there
        self.unknown = False
        self._under_way: list[Touch] = []

    def begin(self, invoked_s: float, *, registers: bool) -> Touch:
        """REGISTER or REPORT leaves."""
        touch = Touch(invoked_s, registers)
        self._under_way.append(touch)
        return touch

    def end(self, touch: Touch) -> None:
        """It was answered, or never will be."""
        self._under_way.remove(touch)

    def touched(self, invoked_s: float, now_s: float) -> None:
        """REGISTER or REPORT was acknowledged."""
        self.alive_until_s = max(self.alive_until_s, invoked_s + self.ttl_s - OFF_S)
        self.told_s = now_s
        self.gone_s = max(self.gone_s, now_s + self.ttl_s + OFF_S)

    def must_live(self, invoked_s: float, now_s: float) -> bool:
        """Whether what was asked then and is answered now must show it."""
        return not self.unknown and self.told_s < invoked_s and now_s < self.alive_until_s

    def must_be_gone(self, invoked_s: float) -> bool:
        """Whether it must not."""
        return not self.unknown and 0 < self.gone_s < invoked_s and not self._may_have_come_back()

    def may_be_there(self, invoked_s: float) -> bool:
        """Whether what was asked then may have met it."""
        if self.unknown or self._may_have_come_back():
            return True
        return self.gone_s >= invoked_s

    def _may_have_come_back(self) -> bool:
        """By a REGISTER that is applied and not yet answered (seed 707), or kept by a REPORT."""
        return any(touch.registers or touch.invoked_s < self.gone_s for touch in self._under_way)


class AgentsHistory:
    """All agents of a run."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.operations: dict[str, list[Operation]] = defaultdict(list)
        self.mortals: dict[str, Mortal] = {}
        self.cards: dict[tuple[str, str], Reply] = {}  # by name and payload
        self.reports: dict[str, set[int]] = defaultdict(set)
        self._counts = Counts()
        self._generations: dict[str, int] = defaultdict(int)
        self._writes = 0

    def broken(self, why: str) -> None:
        """Say what cannot be."""
        self.world.broken(f"registry: {why}")

    def pick(self, client: "Client", *, mortal: bool) -> str:
        """The name of an agent to do something with."""
        base = f"mortal-{client.random.randrange(MORTAL)}"
        if not mortal:
            base = f"lasting-{client.random.randrange(LASTING)}"
        name = f"{base}-{self._generations[base]}"
        over = len(self.operations[name]) >= OPERATIONS_MAX
        if over or (name in self.mortals and self.mortals[name].unknown):
            self._generations[base] += 1
            name = f"{base}-{self._generations[base]}"
        self.operations[name]  # known from now on: a command by mailbox may meet it
        if mortal:  # before it is registered, too: a REPORT may come to it behind a REGISTER
            self.mortals.setdefault(name, Mortal())
        return name

    def new_card(self, client: "Client", name: str) -> "Reply":
        """A card nobody registered before."""
        self._writes += 1
        draw, payload = client.random, f"value {self._writes}"
        card: Reply = {
            "name": name,
            "payload": payload,
            "ttl": 0,
            "description": f"a simulated agent that can {draw.choice(QUESTIONS)}",
            "skills": [{"id": draw.choice(SKILLS), "name": draw.choice(SKILLS)}],
            "version": "1.0",
        }
        if mailbox := draw.choice(MAILBOXES):
            card["mailbox"] = mailbox
        if name.startswith("mortal"):
            mortal, ttl_s = self.mortals[name], draw.choice([2, 3])
            card["ttl"] = mortal.ttl_s = mortal.ttl_s or ttl_s
            card.pop("mailbox", None)
        if "embedder" in self.world.options.features and draw.random() < 0.1:
            card["vector"] = [draw.uniform(-1, 1) for _ in range(DIMENSIONS)]
            card["embedder"] = self.world.embedder_id
        self.cards[name, payload] = card
        return card

    def note(self, name: str, operation: Operation) -> None:
        """What was told of a lasting agent."""
        self.operations[name].append(operation)

    def lasting(self) -> list[str]:
        """Those that were used."""
        return [name for name in self.operations if name.startswith("lasting")]

    # --- what is found ---------------------------------------------------------------------------

    def found(
        self, reply: "Reply", invoked_s: float, *, everybody: bool, stale: bool = False
    ) -> None:
        """DISCOVER was answered; `everybody` there is must have been in it."""
        now_s, missing = self.world.now_s, set(reply.get("partial", ()))
        told: dict[str, tuple[str, str]] = {}
        for hit in reply["agents"]:
            name = hit["name"]
            if name in told:
                self.broken(f"{name} was found twice")
            about = hit.pop("_mq9")
            if hit != self.cards.get((name, hit.get("payload"))):
                self.broken(f"nobody registered {hit}")
            info = about["report_info"]
            if info is not None and info not in self.reports[name] | self.reports[""]:
                self.broken(f"{name} never reported {info}")
            told[name] = (hit["payload"], hit.get("mailbox", ""))
        if stale:
            return
        if everybody and not missing:
            self._count(reply["total"], invoked_s, told.keys())
        for name in self.lasting():
            if name in told or (everybody and self._shard(name) not in missing):
                seen = told.get(name)
                value = None if seen is None else (seen[0], address(seen[1]))
                self.note(name, Operation(invoked_s, now_s, "read", told=value))
        for name, mortal in self.mortals.items():
            if name in told and mortal.must_be_gone(invoked_s):
                self.broken(f"{name} is gone since {mortal.gone_s:.3f}, and was found")
            whole = everybody and self._shard(name) not in missing
            if whole and name not in told and mortal.must_live(invoked_s, now_s):
                self.broken(f"{name} lives until {mortal.alive_until_s:.3f}, and was not found")

    def _count(self, total: int, invoked_s: float, told: Set[str]) -> None:
        """So many there are, and these were shown."""
        if total < len(told):
            self.broken(f"{len(told)} of {total} agents were found")
        mortal = sum(
            one.may_be_there(invoked_s) for name, one in self.mortals.items() if name not in told
        )
        self._counts.note(Count(invoked_s, self.world.now_s, told, total - len(told), mortal))

    def _shard(self, name: str) -> int:
        return slot_of(agent_ref("$G", name)) * self.world.options.shards // SLOTS

    def judge(self) -> None:
        """Whether all that was told of each agent fits one order in time."""
        for name in self.lasting():
            for wrong in linear.judge(name, self.operations[name], agent, None):
                self.broken(wrong)
        for wrong in self._counts.wrong({name: self.operations[name] for name in self.lasting()}):
            self.broken(wrong)


def address(mailbox: str) -> str:
    """A mailbox as commands compare it."""
    return mailbox.rpartition("/")[2]


# --- what clients do -----------------------------------------------------------------------------


def works(client: "Client") -> list[Work]:
    """What a client may do next with the registry."""
    do = AgentClient(client)
    return [do.register] * 3 + [do.discover] * 3 + [do.report] * 2 + [do.unregister, do.by_mailbox]


class AgentClient:
    """One client, as one that keeps agents."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._agents = client.world.agents

    def _ask(
        self, command: str, body: "Reply", heard: Callable[["Reply | None", str, float], None]
    ) -> None:
        client, invoked_s = self._client, self._client.now_s

        def answered(reply: "Reply | None") -> None:
            code = client.code(self._agents.broken, reply)
            if not code:
                client.world.seen[command] += 1
            heard(reply, code, invoked_s)
            client.next_soon()

        client.ask(f"AGENT.{command}", body, answered)

    def register(self, _: object) -> None:
        """REGISTER something new, or the same again."""
        agents, client = self._agents, self._client
        name = agents.pick(client, mortal=client.random.random() < 0.3)
        card = agents.new_card(client, name)
        mortal = agents.mortals.get(name)
        touch = mortal.begin(client.now_s, registers=True) if mortal else None
        value = (card["payload"], address(card.get("mailbox", "")))

        def heard(reply: "Reply | None", code: str, invoked_s: float) -> None:
            if mortal is not None and touch is not None:
                mortal.end(touch)
                self._touched(mortal, code, invoked_s)
            elif not code:
                agents.note(name, Operation(invoked_s, client.now_s, "write", value, told=True))
                if reply and reply.get("expires_at", "missing"):
                    agents.broken(f"{name} does not expire, and REGISTER was answered {reply}")
            elif code == "timeout":
                agents.note(name, Operation(invoked_s, NEVER, "write", value))

        self._ask("REGISTER", card, heard)

    def _touched(self, mortal: Mortal, code: str, invoked_s: float) -> None:
        if not code:
            mortal.touched(invoked_s, self._client.now_s)
        elif code == "timeout":
            mortal.unknown = True

    def report(self, _: object) -> None:
        """REPORT of one agent."""
        agents, client = self._agents, self._client
        name = agents.pick(client, mortal=client.random.random() < 0.4)
        mortal = agents.mortals.get(name)
        touch = mortal.begin(client.now_s, registers=False) if mortal else None
        info = client.random.randrange(1_000_000)
        agents.reports[name].add(info)

        def heard(_: "Reply | None", code: str, invoked_s: float) -> None:
            missing = code == "agent_not_found"
            if mortal is not None and touch is not None:
                mortal.end(touch)
                if missing and mortal.must_live(invoked_s, client.now_s):
                    agents.broken(f"{name} lives, and could not report")
                if not code and mortal.must_be_gone(invoked_s):
                    agents.broken(f"{name} is gone since {mortal.gone_s:.3f}, and reported")
                self._touched(mortal, code, invoked_s)
            elif missing or not code:
                agents.note(name, Operation(invoked_s, client.now_s, "touch", told=not missing))

        self._ask("REPORT", {"name": name, "report_info": info}, heard)

    def unregister(self, _: object) -> None:
        """UNREGISTER of a lasting agent."""
        agents, client = self._agents, self._client
        name = agents.pick(client, mortal=False)

        def heard(_: "Reply | None", code: str, invoked_s: float) -> None:
            if code in ("", "agent_not_found"):
                agents.note(name, Operation(invoked_s, client.now_s, "delete", told=not code))
            elif code == "timeout":
                agents.note(name, Operation(invoked_s, NEVER, "delete"))

        self._ask("UNREGISTER", {"name": name}, heard)

    def by_mailbox(self, _: object) -> None:
        """UNREGISTER, or more often REPORT, of all agents of a mailbox."""
        agents, client = self._agents, self._client
        mailbox = client.random.choice(("plain", "other"))
        sweep = client.random.random() < 0.3
        does = "sweep" if sweep else "seek"
        info = client.random.randrange(1_000_000)
        agents.reports[""].add(info)

        def heard(_: "Reply | None", code: str, invoked_s: float) -> None:
            known = code in ("", "agent_not_found")
            for name in agents.lasting():
                if known:
                    one = Operation(invoked_s, client.now_s, does, mailbox, told=not code)
                    agents.note(name, one)
                elif sweep and code == "timeout":
                    agents.note(name, Operation(invoked_s, NEVER, does, mailbox))

        body: Reply = {"mailbox": mailbox} if sweep else {"mailbox": mailbox, "report_info": info}
        self._ask("UNREGISTER" if sweep else "REPORT", body, heard)

    def discover(self, _: object) -> None:
        """DISCOVER, one way or another."""
        draw = self._client.random
        body, everybody = draw.choice(self._questions())
        stale = draw.random() < 0.2
        if stale:
            body["consistency"] = "stale"

        def heard(reply: "Reply | None", code: str, invoked_s: float) -> None:
            if not code and reply is not None:
                self._client.world.seen["found"] += len(reply["agents"])
                self._agents.found(reply, invoked_s, everybody=everybody, stale=stale)

        self._ask("DISCOVER", body, heard)

    def _questions(self) -> "Sequence[tuple[Reply, bool]]":
        """Bodies, and whether all agents there are must be in the answer."""
        draw = self._client.random
        text, question = {"text": "simulated"}, {"semantic": draw.choice(QUESTIONS)}
        limit = {"limit": FOUND_MAX}
        vector = {"vector": [draw.uniform(-1, 1) for _ in range(DIMENSIONS)]}
        return (
            (limit, True),
            (dict(limit), True),
            (limit | {"filter": {"version": "1.0"}}, True),
            (limit | text, True),
            (limit | text | {"filter": {"skills": draw.choice(SKILLS)}}, False),
            (limit | question, False),
            (limit | text | question | {"mode": "hybrid", "exact": True}, False),
            ({"limit": 2, "page": draw.choice([1, 2, 3])}, False),
            (limit | vector if "embedder" in self._client.world.options.features else limit, False),
        )


def ask_everybody(
    agents: AgentsHistory, client: "Client", done: Callable[["Reply"], None], *, stale: bool
) -> None:
    """DISCOVER all, with nothing wrong any more; `done` hears the whole answer."""
    if client.node is None:
        return
    invoked_s = client.now_s
    body: Reply = {"limit": FOUND_MAX}
    if stale:
        body["consistency"] = "stale"

    def answered(reply: "Reply | None") -> None:
        if reply is None:
            return  # the connection is gone; whoever wants to know asks again
        if reply["error"] or reply.get("partial"):
            client.world.later(0.2, partial(ask_everybody, agents, client, done, stale=stale))
            return
        agents.found(reply, invoked_s, everybody=True, stale=stale)
        done(reply)

    client.ask("AGENT.DISCOVER", body, answered)
