"""What is done after the faults: ask again what was left open, read everything, drain every group.

Called by the mailbox workload's `finish`; fills in `History.found`, `exists` and `drained`.
"""

import asyncio
from typing import Final

from chaos.clients.connection import Answer, Caller, Reply, Stage
from chaos.clients.operations import (
    ack_body,
    confirmation_of,
    enter_messages,
    enter_repeat,
    fetch_body,
    headers_of,
    stored,
)
from chaos.history import HandOut, History, Repeat, Send, Stored, Told

READ_AT_ONCE: Final = 1000
SETTLE_S_MAX: Final = 20.0  # how long delays, ack_wait and runs of dead nodes may take to end
REPEATED_MAX: Final = 20  # acknowledged SENDs repeated, per mailbox


async def read_everything(stage: Stage, histories: list[History], delayed_until: float) -> None:
    """Everything of every mailbox."""
    await asyncio.gather(*(_Reader(stage, one).ask_again() for one in histories))
    await asyncio.sleep(max(0.0, delayed_until - stage.now()))
    await asyncio.gather(*(_Reader(stage, one).read() for one in histories))


class _Reader:
    """Reads one mailbox."""

    def __init__(self, stage: Stage, history: History) -> None:
        self._stage = stage
        self._history = history
        self._caller = Caller(stage, f"reader {history.mailbox}", patient=True)

    async def ask_again(self) -> None:
        """What a careful client does: repeat what it was told nothing about."""
        history = self._history
        answer = await self._caller.ask_until_told(f"MSG.QUERY.{history.mailbox}", {"limit": 1})
        history.exists = answer.code != "mailbox_not_found"
        if not history.exists:
            return
        named = [send for send in history.sends if send.dedupe_id]
        for send in [send for send in named if send.told is Told.DONE][-REPEATED_MAX:]:
            await self._repeat(send)
        for send in [send for send in named if send.told is Told.UNKNOWN]:
            repeat = await self._repeat(send)
            if repeat.told is Told.DONE:
                # from now on it is acknowledged: once, by whichever attempt
                send.msg_id = repeat.msg_id
                send.end(self._stage.now(), Told.DONE)
        self._caller.leave()

    async def _repeat(self, send: Send) -> Repeat:
        repeat = Repeat(self._stage.now(), of=send)
        self._history.repeats.append(repeat)
        headers = headers_of(send)
        answer = await self._caller.ask_until_told(
            f"MSG.SEND.{self._history.mailbox}", send.payload.encode(), headers
        )
        if answer.told is not Told.UNKNOWN:
            repeat.end(self._stage.now(), answer.told)
        enter_repeat(repeat, answer.reply)
        return repeat

    async def read(self) -> None:
        """Everything, as a new group is given it; then every group to its end."""
        history = self._history
        if not history.exists:
            return
        history.found = await self._found()
        groups = {hand_out.group for hand_out in history.hand_outs}
        for group in sorted(groups):
            await self._drain(group)
        history.drained = frozenset(groups)
        self._caller.leave()

    async def _found(self) -> list[Stored]:
        """In one go of a new group; again, with another, while delayed messages are missing."""
        delayed = {
            send.payload for send in self._history.sends if send.delay_s and send.told is Told.DONE
        }
        until = self._stage.now() + SETTLE_S_MAX
        number = 0
        while True:
            number += 1
            found: list[Stored] = []
            while messages := await self._read_on(f"audit {number}"):
                found += stored(messages)
            there = {one.payload for one in found}
            if delayed <= there or self._stage.now() > until:
                return found
            await asyncio.sleep(0.5)

    async def _drain(self, group: str) -> None:
        """Read and acknowledge until the group has nothing left, holds and delays ended."""
        history = self._history
        until = self._stage.now() + SETTLE_S_MAX
        there = {one.msg_id for one in history.found}
        while True:
            while await self._read_on(group):
                pass
            possibly = {
                msg_id
                for one in history.confirmations
                if one.group == group and one.told is not Told.REFUSED
                for msg_id in one.msg_ids
            }
            if there <= possibly or self._stage.now() > until:
                return
            await asyncio.sleep(0.2)

    async def _read_on(self, group: str) -> list[Reply]:
        """FETCH a batch for `group` and acknowledge it. Whatever a lost answer gave comes again."""
        while True:
            connection = await self._caller.connection()
            assert connection is not None
            hand_out = HandOut(
                self._stage.now(),
                group=group,
                consumer=f"connection {connection.number}",
                node=connection.node,
            )
            self._history.hand_outs.append(hand_out)
            command = f"MSG.FETCH.{self._history.mailbox}"
            body = fetch_body(hand_out, READ_AT_ONCE)
            answer = await self._caller.ask(command, body, over=connection)
            if not answer.again:
                break
            await asyncio.sleep(0.1)
        hand_out.end(self._stage.now(), answer.told)
        messages = enter_messages(hand_out, answer.reply)
        if messages:
            hand_out.released = self._stage.now()
            await self._ack(hand_out)
        return messages

    async def _ack(self, hand_out: HandOut) -> Answer:
        confirmation = confirmation_of(hand_out, self._stage.now(), hand_out.msg_ids)
        self._history.confirmations.append(confirmation)
        body = ack_body(confirmation, hand_out.handout)
        answer = await self._caller.ask(f"MSG.ACK.{self._history.mailbox}", body)
        if answer.told is not Told.UNKNOWN:
            confirmation.end(self._stage.now(), answer.told)
        return answer
