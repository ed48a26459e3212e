"""The registry: agents register, report, unregister and are discovered by many at once. Each agent
is a register; everything that is told must fit one order in time (`checkers.linear`).
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

from chaos.checkers import linear
from chaos.checkers.linear import Operation
from chaos.checkers.verdict import Verdict, too_little
from chaos.clients.connection import Answer, Caller, Stage
from chaos.clients.workload import Record
from chaos.history import NEVER, Told

CLIENTS: Final = 5
AGENTS: Final = 6
OPERATIONS_OF_AN_AGENT: Final = 200  # then another: the search is over sets of them
THINK_S: Final = 0.06
LEAST: Final = {"registered": 30, "discovered": 30}


class Registry:
    """The workload."""

    name = "registry"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.agents: dict[str, list[Operation]] = defaultdict(list)
        self.odd: list[str] = []
        self._begun: Counter[int] = Counter()

    async def prepare(self) -> None:
        """Nothing is needed before the first REGISTER."""

    async def work(self) -> None:
        """All clients, until the stop."""
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        rng = self.stage.rng(f"registry {number}")
        caller = Caller(self.stage, f"a{number}")
        while await self.stage.pause(rng.uniform(0, THINK_S)):
            slot = rng.randrange(AGENTS)
            self._begun[slot] += 1
            agent = f"agent-{slot}-{self._begun[slot] // OPERATIONS_OF_AN_AGENT}-end"
            (how,) = rng.choices(("write", "read", "delete", "touch"), (35, 45, 10, 10))
            if how == "read":
                await self._discover(caller, agent)
            else:
                await self._change(caller, agent, how)
            if rng.randrange(60) == 0:
                caller.leave()
        caller.leave()

    async def _change(self, caller: Caller, agent: str, how: str) -> None:
        began = self.stage.now()
        value = f"v{self.stage.number()}" if how == "write" else None
        body = {"name": agent, "payload": value, "ttl": 0} if value else {"name": agent}
        command = {"write": "REGISTER", "delete": "UNREGISTER", "touch": "REPORT"}[how]
        answer = await caller.ask(f"AGENT.{command}", body)
        missing = answer.code == "agent_not_found"
        if answer.told is Told.DONE or missing:
            ended = self.stage.now()
            told = not missing
            self.agents[agent].append(Operation(began, ended, how, value, told=told))
        elif answer.told is Told.UNKNOWN and how != "touch":
            self.agents[agent].append(Operation(began, NEVER, how, value))
        self._note(answer, f"{command} of {agent}", missing=missing)

    async def _discover(self, caller: Caller, agent: str) -> None:
        began = self.stage.now()
        answer = await caller.ask("AGENT.DISCOVER", {"filter": {"name": agent}})
        if answer.told is Told.DONE and not answer.reply.get("partial"):
            found = [hit.get("payload") for hit in answer.reply["agents"]]
            if len(found) > 1:
                self.odd.append(f"{agent} was found {len(found)} times: {found}")
            told = found[0] if found else None
            self.agents[agent].append(Operation(began, self.stage.now(), "read", told=told))
        self._note(answer, f"DISCOVER of {agent}")

    def _note(self, answer: Answer, what: str, *, missing: bool = False) -> None:
        refused = answer.told is Told.REFUSED and not answer.again
        if refused and answer.code != "nowhere" and not missing:
            self.odd.append(f"{what}: {answer.reply}")

    async def finish(self) -> None:
        """Look for every agent once more."""
        caller = Caller(self.stage, "registry close", patient=True)
        for agent in list(self.agents):
            for _ in range(10):
                before = len(self.agents[agent])
                await self._discover(caller, agent)
                if len(self.agents[agent]) > before:
                    break
                await asyncio.sleep(0.2)
        caller.leave()

    def node_lost(self, node: str, at: float) -> None:
        """Nothing is held."""

    def judge(self) -> list[Verdict]:
        """One order in time for each agent; and whether enough was done."""
        wrong = [
            text
            for agent, history in self.agents.items()
            for text in linear.judge(agent, history, linear.entry, None)
        ]
        everything = [one for history in self.agents.values() for one in history]
        done = {
            "registered": sum(one.does == "write" and not one.unknown for one in everything),
            "discovered": sum(one.does == "read" for one in everything),
        }
        return [
            Verdict("registry", len(everything), wrong),
            Verdict("refusals of the registry", len(everything), self.odd),
            too_little(done, LEAST),
        ]

    def records(self) -> Iterable[Record]:
        """Every operation."""
        for agent, history in self.agents.items():
            for one in history:
                plain = {name: value for name, value in asdict(one).items() if value != NEVER}
                yield {"kind": "agent", "agent": agent, "operation": plain}
