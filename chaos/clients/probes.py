"""One small client per probe mailbox, enough of them that every shard has some: they SEND one thing
after another, and their longest silence is the outage that clients saw.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from chaos.checkers.availability import Acknowledged, longest_silence
from chaos.checkers.verdict import Verdict, too_little
from chaos.clients.connection import Caller, Stage
from chaos.clients.workload import Record
from chaos.history import Told

PROBES: Final = 16  # of 4 shards: one in a hundred runs misses a shard
EVERY_S: Final = 0.05
ANSWER_S: Final = 2.0  # then the probe tries another node
LEAST: Final = {"probes": 200}


class Probes:
    """The workload."""

    name = "probes"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.acknowledged: dict[str, list[Acknowledged]] = {
            f"{stage.name}.probe{number}": [] for number in range(PROBES)
        }

    async def prepare(self) -> None:
        """The mailboxes."""
        caller = Caller(self.stage, "probes open")
        for address in self.acknowledged:
            await caller.ask_until_told("MAILBOX.CREATE", {"name": address})
        caller.leave()

    async def work(self) -> None:
        """All probes, until the stop."""
        await asyncio.gather(*(self._probe(address) for address in self.acknowledged))

    async def _probe(self, address: str) -> None:
        caller = Caller(self.stage, address.rpartition(".")[2])
        number = 0
        while await self.stage.pause(EVERY_S):
            number += 1
            headers = [("mq9-key", "probe"), ("Nats-Msg-Id", f"{number}")]
            while not self.stage.stop.is_set():
                began = self.stage.now()
                answer = await caller.ask(
                    f"MSG.SEND.{address}", b"probe", headers, within_s=ANSWER_S
                )
                if answer.told is Told.DONE:
                    self.acknowledged[address].append(Acknowledged(began, self.stage.now()))
                    break
                await self.stage.pause(EVERY_S)
        caller.leave()

    async def finish(self) -> None:
        """Nothing is left open."""

    def node_lost(self, node: str, at: float) -> None:
        """Nothing is held."""

    def outage_s(self, since: float, until: float) -> float:
        """The longest silence of any probe in that span."""
        return max(longest_silence(times, since, until) for times in self.acknowledged.values())

    def whole_again(self, since: float) -> float:
        """When every probe had something acknowledged that it asked after `since`; inf if never."""
        return max(
            next((one.ended for one in times if one.began >= since), float("inf"))
            for times in self.acknowledged.values()
        )

    def judge(self) -> list[Verdict]:
        """Whether they asked enough to know."""
        return [too_little({"probes": sum(map(len, self.acknowledged.values()))}, LEAST)]

    def records(self) -> Iterable[Record]:
        """When each was answered."""
        for address, times in self.acknowledged.items():
            yield {"kind": "probe", "mailbox": address, "acknowledged": times}
