"""Whose input is worked on in which round of the loop, with a clock that the work moves."""

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from mq9cluster.gateway.shares import (
    COMMANDS_ALONE_MAX,
    COMMANDS_IN_COMPANY_MAX,
    COMPANY_S,
    EVENTS_ALONE,
    EVENTS_IN_COMPANY,
    ROUNDS_BETWEEN,
    SLICE_S,
    Shares,
)
from tests.support.wire import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

TURN_S = SLICE_S * 0.4  # three of them use a slice up


class Loop:
    """A loop whose rounds the test takes, and its clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.soon: list[Callable[[], None]] = []
        self.done: list[str] = []
        self.shares = Shares(self.soon.append, lambda: self.now_s)

    def round(self) -> list[str]:
        """One round of the loop; what was done in it."""
        self.done.clear()
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()
        return list(self.done)

    def flood(self, connection: int, turns: int = 100, charge_s: float = 0.0) -> None:
        """A client with so many turns of input."""

        def turn() -> None:
            nonlocal turns
            if self.shares.last != connection:
                self.shares.work(connection)
            self.done.append(f"{connection}")
            self.now_s += TURN_S
            self.shares.charge(charge_s)
            turns -= 1
            if turns:
                self.shares.wait(turn)

        self.shares.wait(turn)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def company(loop: Loop) -> None:
    loop.shares.work(8)
    loop.shares.work(9)


def test_one_client_alone_has_large_shares_and_every_round(loop: Loop) -> None:
    loop.shares.work(1)
    loop.flood(1)
    assert [loop.round() for _ in range(3)] == [["1"]] * 3
    assert (loop.shares.events, loop.shares.in_company) == (EVENTS_ALONE, False)


def test_in_company_shares_are_small_and_a_slice_comes_every_few_rounds(loop: Loop) -> None:
    company(loop)
    assert (loop.shares.events, loop.shares.in_company) == (EVENTS_IN_COMPANY, True)
    loop.flood(1)
    rounds = [loop.round() for _ in range(2 * (ROUNDS_BETWEEN + 1))]
    assert rounds == 2 * [*([] for _ in range(ROUNDS_BETWEEN)), ["1", "1", "1"]]


def test_floods_share_a_slice_client_by_client(loop: Loop) -> None:
    company(loop)
    loop.flood(1)
    loop.flood(2, turns=2)
    done = [name for _ in range(2 * (ROUNDS_BETWEEN + 1)) for name in loop.round()]
    assert done == ["1", "2", "1", "2", "1", "1"]


def test_what_costs_outside_of_the_slice_counts(loop: Loop) -> None:
    company(loop)
    loop.flood(1, charge_s=SLICE_S)
    done = [name for _ in range(ROUNDS_BETWEEN + 1) for name in loop.round()]
    assert done == ["1"]


def test_company_ends_when_nobody_else_was_heard_for_a_while(loop: Loop) -> None:
    company(loop)
    loop.now_s += COMPANY_S
    loop.flood(9, turns=4)
    for _ in range(ROUNDS_BETWEEN + 1):
        loop.round()
    assert (loop.shares.events, loop.shares.in_company) == (EVENTS_ALONE, False)
    assert [loop.round() for _ in range(4)] == [["9"], ["9"], ["9"], []]
    assert loop.soon == []


FLOOD = b"PUB $mq9.AI.MSG.SEND.a 0\r\n\r\n" * 2000


async def test_in_company_only_so_many_commands_of_a_client_are_under_way(start_gateway):
    gateway = await start_gateway()
    gateway.handler.hold = True
    calm, flooder = await gateway.open(), await gateway.open()
    await calm.answers()
    flooder.send(FLOOD)
    await eventually(lambda: len(gateway.handler.held) >= COMMANDS_IN_COMPANY_MAX)
    for _ in range(5):
        await calm.answers()
    assert len(gateway.handler.held) == COMMANDS_IN_COMPANY_MAX
    held = gateway.handler.held
    for respond in held[: COMMANDS_IN_COMPANY_MAX // 2]:
        respond(b"")
    await calm.answers()
    assert len(held) == COMMANDS_IN_COMPANY_MAX  # more go on their way when half is done
    gateway.handler.hold = False
    for respond in held[COMMANDS_IN_COMPANY_MAX // 2 :]:
        respond(b"")
    await eventually(lambda: len(gateway.handler.commands) == 2000)


async def test_alone_more_commands_of_a_client_are_under_way(start_gateway):
    gateway = await start_gateway()
    gateway.handler.hold = True
    flooder = await gateway.open()
    flooder.send(FLOOD)
    await eventually(lambda: len(gateway.handler.held) >= COMMANDS_ALONE_MAX)
    await asyncio.sleep(0.05)
    assert len(gateway.handler.held) == COMMANDS_ALONE_MAX
    gateway.handler.hold = False
    for respond in list(gateway.handler.held):
        respond(b"")
    await eventually(lambda: len(gateway.handler.commands) == 2000)


async def test_fetches_that_wait_keep_no_other_command_from_its_way(start_gateway):
    gateway = await start_gateway()
    gateway.handler.hold = True
    calm, client = await gateway.open(), await gateway.open()
    await calm.answers()
    fetch = b"PUB $mq9.AI.MSG.FETCH.a i 0\r\n\r\n"
    client.send(fetch * 900 + b"PUB $mq9.AI.MSG.SEND.a i 0\r\n\r\n")
    while len(gateway.handler.held) < 901:
        await calm.answers()


async def test_a_long_message_is_read_in_pieces_between_others(start_gateway):
    gateway = await start_gateway(seconds=lambda: 0.0, payload_bytes_max=8 << 20)  # company lasts
    calm, sender = await gateway.open(), await gateway.open()
    sender.send(b"PUB big %d\r\n%b\r\n" % (8 << 20, bytes(8 << 20)))
    session = gateway.listener.sessions[2]
    seen = [0]
    while not session.in_messages:
        await calm.answers()
        seen.append(session.in_bytes)
    pieces = [after - before for before, after in pairwise(seen)]
    assert max(pieces) <= 2 << 20


def test_a_turn_that_fails_keeps_nobody_elses_from_coming(loop: Loop) -> None:
    def fails() -> None:
        raise ZeroDivisionError

    loop.shares.wait(fails)
    loop.flood(1, turns=2)
    with pytest.raises(ZeroDivisionError):
        loop.round()
    assert [loop.round(), loop.round()] == [["1"], ["1"]]
