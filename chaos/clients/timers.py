"""Delays and ttls: messages that must appear and vanish at their time, whatever the clocks do.
Judged by `checkers.timing`.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Final

from chaos.checkers import timing
from chaos.checkers.timing import Seen, Timed
from chaos.checkers.verdict import Verdict, too_little
from chaos.clients.connection import Caller, Stage, payload_of
from chaos.clients.workload import Record
from chaos.history import NEVER, Told

MAILBOXES: Final = 4
SENDERS: Final = 2
LOOKERS: Final = 3
EVERY_S: Final = 0.15
TIMES_S: Final = (0, 1, 2, 4)
LIMIT: Final = 1000
LEAST: Final = {"timed": 30, "looks": 60}


class Timers:
    """The workload."""

    name = "timers"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.sent: dict[str, list[Timed]] = {
            f"{stage.name}.timer{number}": [] for number in range(MAILBOXES)
        }
        self.seen: dict[str, list[Seen]] = {address: [] for address in self.sent}
        self.odd: list[str] = []

    async def prepare(self) -> None:
        """The mailboxes."""
        caller = Caller(self.stage, "timers open")
        for address in self.sent:
            await caller.ask_until_told("MAILBOX.CREATE", {"name": address})
        caller.leave()

    async def work(self) -> None:
        """Senders and lookers, until the stop."""
        await asyncio.gather(
            *(self._send(number) for number in range(SENDERS)),
            *(self._look(number) for number in range(LOOKERS)),
        )

    async def _send(self, number: int) -> None:
        rng = self.stage.rng(f"timers {number}")
        caller = Caller(self.stage, f"t{number}")
        while await self.stage.pause(rng.uniform(0, EVERY_S)):
            address = rng.choice(sorted(self.sent))
            delay_s, ttl_s = rng.choice(TIMES_S), rng.choice(TIMES_S)
            if ttl_s and ttl_s <= delay_s:
                ttl_s += delay_s
            if not (delay_s or ttl_s):
                continue
            one = Timed(f"t{self.stage.number()}", self.stage.now())
            one.delay_s, one.ttl_s = delay_s, ttl_s
            self.sent[address].append(one)
            headers = [
                (name, str(value))
                for name, value in (("mq9-delay", delay_s), ("mq9-ttl", ttl_s))
                if value
            ]
            answer = await caller.ask(f"MSG.SEND.{address}", one.payload.encode(), headers)
            if answer.told is Told.DONE:
                one.ended = self.stage.now()
            elif answer.told is Told.REFUSED:
                one.refused = True
                if not answer.again and answer.code != "nowhere":
                    self.odd.append(f"SEND to {address}: {answer.reply}")
        caller.leave()

    async def _look(self, number: int) -> None:
        rng = self.stage.rng(f"timers look {number}")
        caller = Caller(self.stage, f"l{number}")
        while await self.stage.pause(rng.uniform(0, EVERY_S)):
            await self._look_at(caller, rng.choice(sorted(self.sent)))
            if rng.randrange(40) == 0:
                caller.leave()
        caller.leave()

    async def _look_at(self, caller: Caller, address: str) -> None:
        began = self.stage.now()
        answer = await caller.ask(f"MSG.QUERY.{address}", {"limit": LIMIT})
        if answer.told is Told.DONE:
            payloads = frozenset(payload_of(message) for message in answer.reply["messages"])
            if len(payloads) < LIMIT:  # else the oldest may be left out
                self.seen[address].append(Seen(began, self.stage.now(), payloads))
        elif answer.told is Told.REFUSED and not answer.again and answer.code != "nowhere":
            self.odd.append(f"QUERY of {address}: {answer.reply}")

    async def finish(self) -> None:
        """Look until everything that has an end must have ended."""
        await asyncio.sleep(max(TIMES_S) * 2 + timing.TOLERANCE_S)
        caller = Caller(self.stage, "timers close", patient=True)
        for address in self.sent:
            await self._look_at(caller, address)
        caller.leave()

    def node_lost(self, node: str, at: float) -> None:
        """Nothing is held."""

    def judge(self) -> list[Verdict]:
        """Nothing early, nothing late; and whether enough was looked at."""
        wrong = [
            text
            for address, sent in self.sent.items()
            for text in timing.judge(address, sent, self.seen[address])
        ]
        done = {
            "timed": sum(one.ended < NEVER for sent in self.sent.values() for one in sent),
            "looks": sum(map(len, self.seen.values())),
        }
        return [
            Verdict("timing", sum(done.values()), wrong),
            Verdict("refusals of timers", done["looks"], self.odd),
            too_little(done, LEAST),
        ]

    def records(self) -> Iterable[Record]:
        """Every message and every look."""
        for address, sent in self.sent.items():
            for one in sent:
                plain = {name: value for name, value in asdict(one).items() if value != NEVER}
                yield {"kind": "timed", "mailbox": address, **plain}
            for look in self.seen[address]:
                yield {
                    "kind": "look",
                    "mailbox": address,
                    "began": look.began,
                    "ended": look.ended,
                    "payloads": sorted(look.payloads),
                }
