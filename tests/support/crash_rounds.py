"""One round of the crash test: load, a crash at a random moment, a restart, and what is found.

Owns the order of things; the workload asks, the checker judges. Called by
tests/cluster/test_crash.py.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from chaos.checkers.mailboxes import Violation, check
from chaos.clients.operations import stored
from chaos.cluster.process import NodeDidNotStart, ServedNode
from chaos.history import HandOut, History, Stored, Told
from tests.support.crash_workload import (
    GROUPS,
    Workload,
    ack,
    ask_ack,
    fetch,
    repeat_send,
)
from tests.support.raw_nats import RawNats

OPERATIONS_MIN = (
    2_000  # acknowledged before the crash; a round with too little traffic shows nothing
)
LOAD_S_MAX = 60.0
AFTER_ENOUGH_S_MAX = 0.25  # the crash comes at a random moment of this span
SETTLE_S_MAX = 10.0  # how long after the restart delays and ack_wait may take to end
RECOVERIES_KILLED_ONE_IN = 4
RECOVERY_S = 0.6  # about what a restart takes: Python's imports, then the store
READ_AT_ONCE = 1000
REPEATED_MAX = 20  # acknowledged SENDs repeated after the restart, per mailbox

Crash = Callable[[ServedNode], Awaitable[None]]


@dataclass(slots=True)
class Round:
    """What a round came to."""

    seed: int
    histories: list[History]
    violations: list[Violation] = field(default_factory=list)
    acknowledged: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    loaded_s: float = 0.0
    restarted_s: float = 0.0
    checked_s: float = 0.0


async def play(node: ServedNode, name: str, seed: int, crash: Crash) -> Round:
    """Load `node`, let `crash` end it at a moment the seed picks, start it again, look, judge."""
    rng = random.Random(seed)
    workload = Workload(name, seed, OPERATIONS_MIN)
    started = time.monotonic()
    working = asyncio.create_task(workload.run(node.host, node.port))
    await _first_of(workload.enough.wait(), working, LOAD_S_MAX)
    await asyncio.sleep(rng.uniform(0, AFTER_ENOUGH_S_MAX))
    await crash(node)
    await working
    loaded = time.monotonic()
    histories = list(workload.histories.values())
    for history in histories:
        history.release_all(workload.clock.tick())
    spans = [span for history in histories for span in _spans(history)]
    result = Round(seed, histories, loaded_s=loaded - started)
    result.acknowledged = workload.acknowledged
    result.kinds = _kinds_acknowledged(histories)
    result.unknown = sum(span.told is Told.UNKNOWN for span in spans)
    if rng.randrange(RECOVERIES_KILLED_ONE_IN) == 0:
        await _kill_while_recovering(node, rng.uniform(0.1, RECOVERY_S))
    await node.start()
    result.restarted_s = time.monotonic() - loaded
    await look(node, workload)
    result.violations = [violation for history in histories for violation in check(history)]
    result.checked_s = time.monotonic() - loaded - result.restarted_s
    return result


async def _kill_while_recovering(node: ServedNode, after_s: float) -> None:
    """A crash of the restart itself: what it had begun to repair must not harm the next one."""
    starting = asyncio.create_task(node.start())
    await asyncio.sleep(after_s)
    await node.kill()
    with contextlib.suppress(NodeDidNotStart):
        await starting
    await node.kill()


async def _first_of(
    waiting: Awaitable[Any], working: "asyncio.Task[None]", seconds_max: float
) -> None:
    """Wait for `waiting`, but not on when the workers fail."""
    first = asyncio.ensure_future(waiting)
    await asyncio.wait({first, working}, timeout=seconds_max, return_when="FIRST_COMPLETED")
    if working.done():
        working.result()  # raises what went wrong
    if not first.done():
        first.cancel()
        raise TimeoutError("too little traffic: the node is too slow for a round to show anything")


def _kinds_acknowledged(histories: list[History]) -> dict[str, int]:
    """How many operations of each kind were acknowledged by now."""
    done = Told.DONE
    counts: dict[str, int] = dict.fromkeys(("sends", "delayed", "fetches", "acks", "deletes"), 0)
    for history in histories:
        sends = [send for send in history.sends if send.told is done]
        counts["sends"] += len(sends)
        counts["delayed"] += sum(send.delay_s > 0 for send in sends)
        counts["fetches"] += sum(bool(hand_out.msg_ids) for hand_out in history.hand_outs)
        counts["acks"] += sum(ack.told is done for ack in history.confirmations)
        counts["deletes"] += sum(delete.told is done for delete in history.deletes)
    return counts


def _spans(history: History) -> list[Any]:
    return [
        history.create,
        *history.sends,
        *history.repeats,
        *history.deletes,
        *history.hand_outs,
        *history.confirmations,
    ]


# -------------------------------------------------------------------- after the restart


async def look(node: ServedNode, workload: Workload) -> None:
    """Ask again what was left open, then read everything."""
    connection = await RawNats.connect(node.host, node.port)
    histories = list(workload.histories.values())
    await asyncio.gather(*(_ask_again(workload, connection, history) for history in histories))
    await asyncio.sleep(max(0.0, workload.delayed_until - time.monotonic()))
    await asyncio.gather(*(_read_all(workload, connection, history) for history in histories))
    await connection.close()


async def _ask_again(workload: Workload, connection: RawNats, history: History) -> None:
    """What a careful client does: repeat what it was told nothing about."""
    seen = await connection.request(f"$mq9.AI.MSG.QUERY.{history.mailbox}", b'{"limit":1}')
    history.exists = b'"mailbox_not_found"' not in seen.payload
    if not history.exists:
        return
    named = [send for send in history.sends if send.dedupe_id]
    for send in [send for send in named if send.told is Told.DONE][-REPEATED_MAX:]:
        await repeat_send(workload, connection, history, send)
    for send in [send for send in named if send.told is Told.UNKNOWN]:
        repeat = await repeat_send(workload, connection, history, send)
        if repeat.told is Told.DONE:
            # from now on it is acknowledged: once, by whichever attempt
            send.msg_id = repeat.msg_id
            send.end(workload.clock.tick(), Told.DONE)
            if send.delay_s:
                workload.delayed_until = time.monotonic() + send.delay_s
    for confirmation in history.confirmations:
        if confirmation.told is Told.UNKNOWN and not confirmation.timed:
            confirmation.repeats = True
            await ask_ack(workload, connection, history, confirmation, confirmation.handout)


async def _read_all(workload: Workload, connection: RawNats, history: History) -> None:
    if not history.exists:
        return
    history.found = await _found(workload, connection, history, "audit")
    groups = {hand_out.group for hand_out in history.hand_outs}
    for group in sorted(groups):
        await _drain(workload, connection, history, group)
    history.drained = frozenset(groups)


def _id_of(one: Stored) -> int:
    return one.msg_id


async def _found(
    workload: Workload, connection: RawNats, history: History, auditor: str
) -> list[Stored]:
    """Everything in the mailbox as a new group is given it, delayed messages included."""
    delayed = {send.payload for send in history.sends if send.delay_s and send.told is Told.DONE}
    deadline = time.monotonic() + SETTLE_S_MAX
    for number in range(100):
        group = f"{auditor} {number}"
        found: list[Stored] = []
        while messages := await _read_on(workload, connection, history, group):
            found += stored(messages)
        if delayed <= {one.payload for one in found} or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)
    return found


async def _drain(workload: Workload, connection: RawNats, history: History, group: str) -> None:
    """Read and acknowledge until the group has nothing left, holds by time and delays ended."""
    deadline = time.monotonic() + SETTLE_S_MAX
    there = {one.msg_id for one in history.found}
    while True:
        while await _read_on(workload, connection, history, group):
            pass
        confirmed = {
            msg_id
            for confirmation in history.confirmations
            if confirmation.group == group and confirmation.told is Told.DONE
            for msg_id in confirmation.msg_ids
        }
        maybe = any(
            confirmation.told is Told.UNKNOWN
            for confirmation in history.confirmations
            if confirmation.group == group
        )
        if there <= confirmed or time.monotonic() > deadline:
            return
        if maybe and time.monotonic() > deadline - SETTLE_S_MAX + 2:
            return  # what is missing may have been acknowledged in the moment of the crash
        await asyncio.sleep(0.1)


async def _read_on(
    workload: Workload, connection: RawNats, history: History, group: str
) -> list[dict[str, Any]]:
    """FETCH a batch for `group` and acknowledge it."""
    hand_out = HandOut(workload.clock.tick(), group=group, consumer="the reader")
    history.hand_outs.append(hand_out)
    messages = await fetch(workload, connection, history, hand_out, num_msgs=READ_AT_ONCE)
    if messages:
        hand_out.released = workload.clock.tick()
        await ack(workload, connection, history, hand_out, hand_out.msg_ids)
    return messages


async def look_again(node: ServedNode, rounds: list[Round]) -> list[Violation]:
    """What an earlier round left behind must be as it was, after any number of crashes since."""
    connection = await RawNats.connect(node.host, node.port)
    violations: list[Violation] = []
    for history in [history for one in rounds for history in one.histories if history.exists]:
        again = Workload("again", 0, 0)
        now = await _found(again, connection, history, f"audit after {len(rounds)}")
        # By id: a delayed message that became visible while it was read came out of its place.
        if sorted(now, key=_id_of) != sorted(history.found, key=_id_of):
            changed = sorted({*now} ^ {*history.found}, key=_id_of)
            violations.append(Violation("changed since", history.mailbox, str(changed[:5])))
        for group in GROUPS:
            hand_out = HandOut(again.clock.tick(), group=group, consumer="the reader")
            if group in history.drained:
                await fetch(again, connection, history, hand_out, num_msgs=READ_AT_ONCE)
                if hand_out.msg_ids:
                    detail = f"{hand_out.msg_ids[:5]} to {group}"
                    violations.append(Violation("came back", history.mailbox, detail))
    await connection.close()
    return violations
