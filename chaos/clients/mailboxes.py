"""Mailboxes as agents use them: SENDs with and without ids, keys, delays; groups that fetch, ACK,
NACK or just stop; DELETEs. Everything is entered and judged by `checkers.mailboxes`.

The seed decides who does what; how it interleaves is the machine's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from chaos.checkers import mailboxes
from chaos.checkers.verdict import Verdict, too_little
from chaos.clients.connection import Answer, Caller, Connection, Stage
from chaos.clients.operations import (
    Holding,
    ack_body,
    confirmation_of,
    enter_messages,
    enter_repeat,
    fetch_body,
    headers_of,
    nack_body,
    new_send,
    padding,
    percent,
    settle,
)
from chaos.clients.reading import read_everything
from chaos.clients.workload import Record
from chaos.history import Delete, HandOut, History, Repeat, Send, Span, Told
from chaos.keeping import kept

CLIENTS: Final = 8
MAILBOXES: Final = 8
GROUPS: Final = ("one", "two")
KEYS: Final = 8
BURST_MAX: Final = 8  # pipelined SENDs: several share an entry of the log
THINK_S: Final = 0.02
RETRY_S: Final = 20.0  # how long a SEND with an id is repeated
ACK_WAIT_MS: Final = 2000
CLOSE_RACE_S: Final = 0.5  # a socket's end may be noticed that much after others were given things
SKEW_S: Final = 1.0  # of a time bound that the cluster's clock keeps
LEAST: Final = {"sends": 100, "fetches": 30, "acks": 20}


class Mailboxes:
    """The workload."""

    name = "mailboxes"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.histories: dict[str, History] = {}
        self.delayed_until = 0.0
        self.odd: list[str] = []  # refusals that no rule allows

    async def prepare(self) -> None:
        """The mailboxes."""
        caller = Caller(self.stage, "mailboxes opens")
        for number in range(MAILBOXES):
            address = f"{self.stage.name}.box{number}"
            history = History(address, Span(self.stage.now()))
            answer = await caller.ask_until_told("MAILBOX.CREATE", {"name": address})
            history.create.end(self.stage.now(), answer.told)
            self.histories[address] = history
        caller.leave()

    async def work(self) -> None:
        """All clients, until the stop."""
        clients = [_Client(self, number) for number in range(CLIENTS)]
        await asyncio.gather(*(client.run() for client in clients))

    async def finish(self) -> None:
        """Ask again what was left open, read everything, drain every group."""
        await read_everything(self.stage, list(self.histories.values()), self.delayed_until)

    def node_lost(self, node: str, at: float) -> None:
        """Hand-outs over `node` are not sure any more."""
        for history in self.histories.values():
            for hand_out in history.hand_outs:
                if hand_out.node == node:
                    hand_out.sure_until = min(hand_out.sure_until, at)

    def judge(self) -> list[Verdict]:
        """What the checker of mailboxes finds, and whether enough was done."""
        histories = list(self.histories.values())
        found = [violation for one in histories for violation in mailboxes.check(one)]
        texts = [f"{one.kind}: {one.mailbox}: {one.detail}" for one in found]
        done = {
            "sends": sum(s.told is Told.DONE for one in histories for s in one.sends),
            "fetches": sum(bool(h.msg_ids) for one in histories for h in one.hand_outs),
            "acks": sum(c.told is Told.DONE for one in histories for c in one.confirmations),
        }
        looked = sum(done.values())
        return [
            Verdict("mailboxes", looked, texts),
            Verdict("refusals", looked, self.odd),
            too_little(done, LEAST),
        ]

    def records(self) -> Iterable[Record]:
        """Every record of every mailbox."""
        for history in self.histories.values():
            yield from kept(history)


class _Client:
    """Does one thing after another, SENDs in bursts."""

    def __init__(self, workload: Mailboxes, number: int) -> None:
        self._workload = workload
        self._stage = workload.stage
        self._number = number
        self._rng = workload.stage.rng(f"mailboxes {number}")
        self._caller = Caller(workload.stage, f"m{number}")
        self._counter = 0
        self._holding = Holding()
        self._watched: Connection | None = None

    async def run(self) -> None:
        """Work until the stop."""
        actions: dict[Callable[[History, Connection], Awaitable[None]], int] = {
            self._send_burst: 36,
            self._fetch: 48,
            self._repeat: 5,
            self._delete: 5,
            self._leave: 1,
        }
        names = list(self._workload.histories)
        while await self._stage.pause(self._rng.uniform(0, THINK_S)):
            (action,) = self._rng.choices(list(actions), list(actions.values()))
            history = self._workload.histories[self._rng.choice(names)]
            connection = await self._caller.connection()
            if connection is not None:
                self._watch(connection)
                await action(history, connection)
        self._caller.leave()

    def _watch(self, connection: Connection) -> None:
        if connection is not self._watched:
            self._watched = connection
            ended = connection.on_end
            ended.append(lambda: self._holding.let_go((connection.ended or 0.0) - CLOSE_RACE_S))

    async def _leave(self, _: History, __: Connection) -> None:
        """Go to another node: what was held is open again."""
        self._holding.let_go(self._stage.now())
        self._caller.leave()

    # ---------------------------------------------------------------- writing

    async def _send_burst(self, history: History, connection: Connection) -> None:
        sends = [self._new_send() for _ in range(self._rng.randint(1, BURST_MAX))]
        await asyncio.gather(*(self._send(history, send, connection) for send in sends))

    def _new_send(self) -> Send:
        self._counter += 1
        return new_send(self._rng, f"c{self._number}-{self._counter}", with_id=60, keys=KEYS)

    async def _send(self, history: History, send: Send, connection: Connection) -> None:
        send.began = self._stage.now()
        history.sends.append(send)
        more = padding(self._rng)
        await send_until_told(
            self._caller, history.mailbox, send, more, connection, within_s=RETRY_S
        )
        if send.delay_s:
            late = self._stage.now() + send.delay_s
            self._workload.delayed_until = max(self._workload.delayed_until, late)

    async def _repeat(self, history: History, connection: Connection) -> None:
        """SEND again, under its Nats-Msg-Id, what was acknowledged before."""
        known = [s for s in history.sends[-200:] if s.dedupe_id and s.told is Told.DONE]
        if not known:
            return
        send = self._rng.choice(known)
        repeat = Repeat(self._stage.now(), of=send)
        history.repeats.append(repeat)
        answer = await self._caller.ask(
            f"MSG.SEND.{history.mailbox}", send.payload.encode(), headers_of(send), connection
        )
        self._learn(repeat, answer)
        enter_repeat(repeat, answer.reply)

    async def _delete(self, history: History, connection: Connection) -> None:
        known = [send.msg_id for send in history.sends[-200:] if send.msg_id > 0]
        if not known:
            return
        delete = Delete(self._stage.now(), msg_id=self._rng.choice(known))
        history.deletes.append(delete)
        answer = await self._caller.ask(
            f"MSG.DELETE.{history.mailbox}.{delete.msg_id}", over=connection
        )
        # message not found: replaced or deleted before, so it is gone all the same
        self._learn(delete, answer)

    def _learn(self, span: Span, answer: Answer) -> None:
        if answer.told is not Told.UNKNOWN:
            span.end(self._stage.now(), answer.told)

    # ---------------------------------------------------------------- reading

    async def _fetch(self, history: History, connection: Connection) -> None:
        group = self._rng.choice(GROUPS)
        named = self._rng.choice(("", "", f"worker{self._number}"))
        consumer = named or f"connection {connection.number}"
        hand_out = HandOut(
            self._stage.now(),
            group=group,
            consumer=consumer,
            timed=percent(self._rng, 10),
            node=connection.node,
        )
        self._holding.take(history.mailbox, hand_out)
        history.hand_outs.append(hand_out)
        answer = await self._ask_fetch(history, hand_out, named, connection)
        self._learn(hand_out, answer)
        if answer.told is Told.REFUSED and not answer.again:
            self._workload.odd.append(f"FETCH of {history.mailbox} by {group}: {answer.reply}")
        if hand_out.msg_ids:
            if percent(self._rng, 30):
                await asyncio.sleep(self._rng.uniform(0, 0.05))  # work that takes its time
            await self._settle(history, hand_out, connection)

    async def _ask_fetch(
        self, history: History, hand_out: HandOut, named: str, connection: Connection
    ) -> Answer:
        num_msgs = self._rng.randint(1, 40)
        wait_ms = 200 if percent(self._rng, 10) else 0
        ack_wait_ms = ACK_WAIT_MS if hand_out.timed else 0
        if hand_out.timed:
            hand_out.sure_until = hand_out.began + ACK_WAIT_MS / 1000 - SKEW_S
        body = fetch_body(
            hand_out, num_msgs, consumer=named, wait_ms=wait_ms, ack_wait_ms=ack_wait_ms
        )
        command = f"MSG.FETCH.{history.mailbox}"
        answer = await self._caller.ask(command, body, over=connection)
        enter_messages(hand_out, answer.reply)
        return answer

    async def _settle(self, history: History, hand_out: HandOut, connection: Connection) -> None:
        settlement = settle(self._rng, hand_out.msg_ids)
        if settlement is None:
            return
        sure_until = min(hand_out.released, hand_out.sure_until)
        hand_out.released = min(hand_out.released, self._stage.now())
        if settlement.confirmed:
            scope = settlement.scope
            await self._ack(history, hand_out, settlement.confirmed, connection, sure_until, scope)
        if settlement.given_back is not None:
            body = nack_body(self._rng, hand_out, settlement.given_back)
            if delay_s := body.get("delay", 0):
                self._workload.delayed_until = self._stage.now() + delay_s
            await self._caller.ask(f"MSG.NACK.{history.mailbox}", body, over=connection)

    async def _ack(
        self,
        history: History,
        hand_out: HandOut,
        msg_ids: tuple[int, ...],
        connection: Connection,
        sure_until: float,
        scope: str,
    ) -> None:
        confirmation = confirmation_of(hand_out, self._stage.now(), msg_ids, scope)
        history.confirmations.append(confirmation)
        body = ack_body(confirmation, hand_out.handout if percent(self._rng, 50) else "")
        answer = await self._caller.ask(f"MSG.ACK.{history.mailbox}", body, over=connection)
        self._learn(confirmation, answer)
        if self._stage.now() < min(sure_until, hand_out.sure_until):
            if answer.told is Told.REFUSED and not answer.again:
                self._workload.odd.append(f"ACK of {history.mailbox} {body}: {answer.reply}")
        elif confirmation.told is Told.DONE:
            # it may have come when part of the batch was another's already
            confirmation.told = Told.UNKNOWN


async def send_until_told(
    caller: Caller,
    mailbox: str,
    send: Send,
    padding: bytes = b"",
    over: Connection | None = None,
    within_s: float = RETRY_S,
) -> None:
    """SEND, and again with the same Nats-Msg-Id while nobody knows what came of it."""
    stage = caller.stage
    until = stage.now() + within_s
    unknown = False
    while True:
        answer = await caller.ask(
            f"MSG.SEND.{mailbox}", send.payload.encode() + padding, headers_of(send), over
        )
        over = None
        unknown = unknown or answer.told is Told.UNKNOWN
        if not answer.again or not send.dedupe_id or stage.now() > until or stage.stop.is_set():
            break
        await asyncio.sleep(0.05)
    if answer.told is Told.DONE:
        send.msg_id = answer.reply["msg_id"]
        send.end(stage.now(), Told.DONE)
    elif not unknown:
        send.end(stage.now(), Told.REFUSED)
