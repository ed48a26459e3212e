"""Several clients that use mailboxes at random, from a seed, until the node dies under them.

Owns the connections and writes the histories. Called by crash_rounds; calls raw_nats. Which
operations come in which order is the seed's; how they interleave is the machine's.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable

from chaos.clients.connection import Reply
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
from chaos.history import (
    Confirmation,
    Delete,
    HandOut,
    History,
    LogicalClock,
    Repeat,
    Send,
    Span,
    Told,
)
from tests.support.raw_nats import ConnectionEnded, Delivered, RawNats

CLIENTS = 10
MAILBOXES = 6
GROUPS = ("one", "two")
KEYS = 12
BURST_MAX = 30  # pipelined SENDs: several share an entry of the log
ACK_WAIT_MS = 1500
UNCERTAIN = frozenset({"timeout"})  # the codes that leave the outcome open


class UnexpectedRefusal(Exception):
    """The node refused what it had to do; carries the operation and the reply."""


class Workload:
    """One round's clients and what they were told. `enough` is set after `operations` successes."""

    def __init__(self, name: str, seed: int, operations: int) -> None:
        self.clock = LogicalClock()
        self.histories: dict[str, History] = {}
        self.enough = asyncio.Event()
        self.delayed_until = 0.0  # monotonic: when the last delayed message is due
        self._name = name
        self._seed = seed
        self._operations = operations
        self.acknowledged = 0

    async def run(self, host: str, port: int) -> None:
        """Work until the node's end; raises UnexpectedRefusal."""
        opening = await RawNats.connect(host, port)
        names = [f"{self._name}.box{number}" for number in range(MAILBOXES)]
        await asyncio.gather(*(self.create(opening, name) for name in names))
        clients = [
            Client(number, random.Random(f"{self._seed}/{number}"), self, names)
            for number in range(CLIENTS)
        ]
        await asyncio.gather(*(client.run(host, port) for client in clients))
        await opening.close()

    async def create(self, connection: RawNats, mailbox: str) -> None:
        """CREATE, entered as a history of its own."""
        history = History(mailbox, Span(self.clock.tick()))
        self.histories[mailbox] = history
        body = json.dumps({"name": mailbox}).encode()
        await self.learn(history.create, connection.ask("$mq9.AI.MAILBOX.CREATE", body))

    async def learn(self, span: Span, answer: Awaitable[Delivered]) -> Reply:
        """Await the answer and enter it; raises ConnectionEnded, then nothing is known."""
        reply: Reply = json.loads((await answer).payload)
        if reply["error"] == "":
            span.end(self.clock.tick(), Told.DONE)
            self.acknowledged += 1
            if self.acknowledged >= self._operations:
                self.enough.set()
        elif reply["code"] not in UNCERTAIN:
            span.end(self.clock.tick(), Told.REFUSED)
        return reply


class Client:
    """One connection that does one thing after another, SENDs in bursts."""

    def __init__(
        self, number: int, rng: random.Random, workload: Workload, mailboxes: list[str]
    ) -> None:
        self._number = number
        self._rng = rng
        self._workload = workload
        self._mailboxes = mailboxes
        self._counter = 0
        self._holding = Holding()
        self._connection: RawNats

    async def run(self, host: str, port: int) -> None:
        """Work until the connection ends."""
        actions: dict[Callable[[History], Awaitable[None]], int] = {
            self._send_burst: 36,
            self._fetch: 48,
            self._repeat: 6,
            self._delete: 6,
            self._create: 4,
        }
        self._connection = await RawNats.connect(host, port)
        try:
            while True:
                (action,) = self._rng.choices(list(actions), list(actions.values()))
                await action(self._workload.histories[self._rng.choice(self._mailboxes)])
        except ConnectionEnded:
            await self._connection.close()

    # ---------------------------------------------------------------- writing

    async def _send_burst(self, history: History) -> None:
        sends = [self._new_send() for _ in range(self._rng.randint(1, BURST_MAX))]
        answers = [self._post(history, send) for send in sends]
        for send, answer in zip(sends, answers, strict=True):
            reply = await self._workload.learn(send, answer)
            if send.told is Told.REFUSED:
                raise UnexpectedRefusal(send, reply)
            send.msg_id = reply.get("msg_id", 0)

    def _new_send(self) -> Send:
        self._counter += 1
        return new_send(self._rng, f"c{self._number}-{self._counter}", with_id=30, keys=KEYS)

    def _post(self, history: History, send: Send) -> Awaitable[Delivered]:
        send.began = self._workload.clock.tick()
        history.sends.append(send)
        if send.delay_s:
            self._workload.delayed_until = time.monotonic() + send.delay_s
        return self._connection.ask(
            f"$mq9.AI.MSG.SEND.{history.mailbox}",
            send.payload.encode() + padding(self._rng),
            headers_of(send),
        )

    async def _repeat(self, history: History) -> None:
        """SEND again, under its Nats-Msg-Id, what was acknowledged before."""
        known = [send for send in history.sends if send.dedupe_id and send.told is Told.DONE]
        if known:
            await repeat_send(self._workload, self._connection, history, self._rng.choice(known))

    async def _delete(self, history: History) -> None:
        known = [send.msg_id for send in history.sends[-300:] if send.msg_id > 0]
        if not known:
            return
        delete = Delete(self._workload.clock.tick(), msg_id=self._rng.choice(known))
        history.deletes.append(delete)
        subject = f"$mq9.AI.MSG.DELETE.{history.mailbox}.{delete.msg_id}"
        # refused where it was replaced or deleted already: then it is gone all the same
        await self._workload.learn(delete, self._connection.ask(subject))

    async def _create(self, _: History) -> None:
        self._counter += 1
        name = f"{self._mailboxes[0]}.c{self._number}.{self._counter}"
        await self._workload.create(self._connection, name)

    # ---------------------------------------------------------------- reading

    async def _fetch(self, history: History) -> None:
        group = self._rng.choice(GROUPS)
        consumer = self._rng.choice(("", "", f"worker{self._number}"))
        hand_out = HandOut(
            self._workload.clock.tick(),
            group=group,
            consumer=consumer or f"connection {self._number}",
            timed=percent(self._rng, 10),
        )
        self._holding.take(history.mailbox, hand_out)
        history.hand_outs.append(hand_out)
        await fetch(
            self._workload,
            self._connection,
            history,
            hand_out,
            consumer=consumer,
            num_msgs=self._rng.randint(1, 40),
        )
        if hand_out.msg_ids:
            if percent(self._rng, 30):
                await asyncio.sleep(self._rng.uniform(0, 0.03))  # work that takes its time
            await self._settle(history, hand_out)

    async def _settle(self, history: History, hand_out: HandOut) -> None:
        settlement = settle(self._rng, hand_out.msg_ids)
        if settlement is None:
            return
        hand_out.released = self._workload.clock.tick()
        if settlement.confirmed:
            await self._ack(history, hand_out, settlement.confirmed, settlement.scope)
        if settlement.given_back is not None:
            await self._nack(history, hand_out, settlement.given_back)

    async def _ack(
        self, history: History, hand_out: HandOut, msg_ids: tuple[int, ...], scope: str
    ) -> None:
        handout = hand_out.handout if percent(self._rng, 50) else ""
        confirmation = await ack(
            self._workload, self._connection, history, hand_out, msg_ids, handout, scope
        )
        late = time.monotonic() > hand_out.asked_s + ACK_WAIT_MS / 1000
        if hand_out.timed and late and confirmation.told is Told.DONE:
            # it may have come after ack_wait, when part of the batch was another's already
            confirmation.told = Told.UNKNOWN

    async def _nack(self, history: History, hand_out: HandOut, msg_id: int) -> None:
        body = nack_body(self._rng, hand_out, msg_id)
        if delay_s := body.get("delay", 0):
            self._workload.delayed_until = time.monotonic() + delay_s
        span = Span(self._workload.clock.tick())
        subject = f"$mq9.AI.MSG.NACK.{history.mailbox}"
        await self._workload.learn(span, self._connection.ask(subject, json.dumps(body).encode()))


# -------------------------------------------------------------------- also used after the restart


async def repeat_send(
    workload: Workload, connection: RawNats, history: History, send: Send
) -> Repeat:
    """SEND again under the same Nats-Msg-Id."""
    repeat = Repeat(workload.clock.tick(), of=send)
    history.repeats.append(repeat)
    subject = f"$mq9.AI.MSG.SEND.{history.mailbox}"
    answer = connection.ask(subject, send.payload.encode(), headers_of(send))
    reply = await workload.learn(repeat, answer)
    enter_repeat(repeat, reply)
    return repeat


async def fetch(
    workload: Workload,
    connection: RawNats,
    history: History,
    hand_out: HandOut,
    *,
    consumer: str = "",
    num_msgs: int,
) -> list[Reply]:
    """FETCH for the group of `hand_out`, without waiting, and enter what came."""
    hand_out.asked_s = time.monotonic()
    ack_wait_ms = ACK_WAIT_MS if hand_out.timed else 0
    body = fetch_body(hand_out, num_msgs, consumer=consumer, ack_wait_ms=ack_wait_ms)
    answer = connection.ask(f"$mq9.AI.MSG.FETCH.{history.mailbox}", json.dumps(body).encode())
    reply = await workload.learn(hand_out, answer)
    if hand_out.told is Told.REFUSED:
        raise UnexpectedRefusal(hand_out, reply)
    return enter_messages(hand_out, reply)


async def ack(
    workload: Workload,
    connection: RawNats,
    history: History,
    hand_out: HandOut,
    msg_ids: tuple[int, ...],
    handout: str = "",
    scope: str = "batch",
) -> Confirmation:
    """ACK of the last of `msg_ids`, which confirms all of them."""
    confirmation = confirmation_of(hand_out, workload.clock.tick(), msg_ids, scope)
    history.confirmations.append(confirmation)
    await ask_ack(workload, connection, history, confirmation, handout)
    if confirmation.told is Told.REFUSED and not hand_out.timed:
        raise UnexpectedRefusal(confirmation, hand_out)
    return confirmation


async def ask_ack(
    workload: Workload,
    connection: RawNats,
    history: History,
    confirmation: Confirmation,
    handout: str,
) -> None:
    """Ask for a confirmation, for the first time or again."""
    body = ack_body(confirmation, handout)
    subject = f"$mq9.AI.MSG.ACK.{history.mailbox}"
    await workload.learn(confirmation, connection.ask(subject, json.dumps(body).encode()))
