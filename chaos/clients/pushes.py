"""Push subscriptions: readers that are given what comes, plain ones and members of a queue group,
each at one node at a time; whose connection ends subscribes anew elsewhere. Judged by
`checkers.pushes`.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import Final

from chaos.checkers import pushes
from chaos.checkers.pushes import Given
from chaos.checkers.verdict import Verdict, too_little
from chaos.clients.connection import Caller, Connection, Pushed, Stage
from chaos.clients.workload import Record
from chaos.history import Told
from mq9cluster.protocol import nats_headers

MAILBOXES: Final = 4
SENDERS: Final = 2
PLAIN: Final = 3
MEMBERS: Final = 4
EVERY_S: Final = 0.1
STAY_S: Final = 6.0  # about so long a subscription lives, if nothing ends it before
FINISHED_S_MAX: Final = 60.0
LEAST: Final = {"sent": 50, "given": 100}
GROUP: Final = "members"


class Pushes:
    """The workload."""

    name = "pushes"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.sent: dict[str, dict[str, Told]] = {
            f"{stage.name}.push{number}": {} for number in range(MAILBOXES)
        }
        self.given: dict[str, list[Given]] = {address: [] for address in self.sent}
        self.last: dict[str, Given] = {}
        self.odd: list[str] = []

    async def prepare(self) -> None:
        """The mailboxes."""
        caller = Caller(self.stage, "pushes open")
        for address in self.sent:
            await caller.ask_until_told("MAILBOX.CREATE", {"name": address})
        caller.leave()

    async def work(self) -> None:
        """Senders, subscribers and members, until the stop."""
        await asyncio.gather(
            *(self._send(number) for number in range(SENDERS)),
            *(self._read(f"plain {number}", group=False) for number in range(PLAIN)),
            *(self._read(f"member {number}", group=True) for number in range(MEMBERS)),
        )

    async def _send(self, number: int) -> None:
        rng = self.stage.rng(f"pushes {number}")
        caller = Caller(self.stage, f"p{number}")
        while await self.stage.pause(rng.uniform(0, EVERY_S)):
            address, payload = rng.choice(sorted(self.sent)), f"p{self.stage.number()}"
            self.sent[address][payload] = Told.UNKNOWN
            headers = [("Nats-Msg-Id", payload)]
            answer = await caller.ask_until_told(f"MSG.SEND.{address}", payload.encode(), headers)
            if answer.told is Told.DONE:
                self.sent[address][payload] = Told.DONE
            elif answer.told is Told.REFUSED and not answer.again and answer.code != "nowhere":
                self.odd.append(f"SEND to {address}: {answer.reply}")
        caller.leave()

    async def _read(self, name: str, *, group: bool) -> None:
        rng = self.stage.rng(f"pushes {name}")
        caller = Caller(self.stage, name)
        while not self.stage.stop.is_set():
            connection = await caller.connection()
            if connection is None:
                break
            for address in rng.sample(sorted(self.sent), k=2):
                self._subscribe(connection, address, group=group)
            await self._until_ended(connection, rng.uniform(0, 2 * STAY_S))
            caller.leave()
        caller.leave()

    def _subscribe(self, connection: Connection, address: str, *, group: bool) -> Given:
        given = Given(connection.node, self.stage.now(), group)
        self.given[address].append(given)
        subject = f"$mq9.AI.MAILBOX.MSG.{address}.*"
        connection.subscribe(subject, GROUP if group else "", partial(_take, given))
        return given

    async def _until_ended(self, connection: Connection, seconds: float) -> None:
        """Until the connection does, or the stage, or the time is over."""
        ended = asyncio.Event()
        connection.on_end.append(ended.set)
        waits = [asyncio.ensure_future(one.wait()) for one in (ended, self.stage.stop)]
        if connection.ended is None:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()

    async def finish(self) -> None:
        """One more of each kind for each mailbox, until they have what there is."""
        caller = Caller(self.stage, "pushes close", patient=True)
        until = self.stage.now() + FINISHED_S_MAX
        for address in self.sent:
            while self.stage.now() < until:
                connection = await caller.connection()
                if connection is None:
                    break
                self.last[address] = self._subscribe(connection, address, group=False)
                self._subscribe(connection, address, group=True)
                await self._until_all(connection, address, until)
                if connection.ended is None:
                    break
        caller.leave()

    async def _until_all(self, connection: Connection, address: str, until: float) -> None:
        while connection.ended is None and self.stage.now() < until:
            if not pushes.judge(
                address, self.sent[address], self.given[address], self.last[address]
            ):
                return
            await asyncio.sleep(0.1)

    def node_lost(self, node: str, at: float) -> None:
        """What members were handed there may be given to others, also to themselves again."""
        for given in self.given.values():
            for one in given:
                if one.node == node:
                    one.lost = True

    def judge(self) -> list[Verdict]:
        """Everything given, nothing twice; and whether enough was."""
        wrong = [
            text
            for address, sent in self.sent.items()
            for text in pushes.judge(address, sent, self.given[address], self.last.get(address))
        ]
        done = {
            "sent": sum(told is Told.DONE for sent in self.sent.values() for told in sent.values()),
            "given": sum(len(one.messages) for given in self.given.values() for one in given),
        }
        return [
            Verdict("pushes", sum(done.values()), wrong),
            Verdict("refusals of pushes", done["sent"], self.odd),
            too_little(done, LEAST),
        ]

    def records(self) -> Iterable[Record]:
        """Every message and every subscription."""
        for address, sent in self.sent.items():
            for payload, told in sent.items():
                yield {"kind": "sent", "mailbox": address, "payload": payload, "told": told.value}
            for one in self.given[address]:
                yield {
                    "kind": "subscription",
                    "mailbox": address,
                    "node": one.node,
                    "began": one.began,
                    "group": one.group,
                    "lost": one.lost,
                    "messages": one.messages,
                }


def _take(given: Given, message: Pushed) -> None:
    headers = dict(nats_headers.parse(message.header or b""))
    given.messages.append((int(headers["mq9-msg-id"]), message.payload.decode()))
