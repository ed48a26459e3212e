"""Random conversations, played to our server and to nats-server: both must have said the same.

Deliveries to overlapping subscriptions come in no particular order, so that what a connection heard
is compared as a multiset. A failing seed is in the test's name.
"""

import asyncio
import random
from collections import Counter

import pytest

from mq9cluster.protocol.nats_client import ERR, MSG
from tests.conformance.core.script import Heard, play

SEEDS = 24
CONVERSATIONS_PER_SEED = 12

TOKENS = ["a", "b", "c", "*", ">", "*x", "", "ü"]
TOKEN_WEIGHTS = [8, 8, 5, 4, 2, 1, 1, 1]
RUBBISH_SHARE, UPPER_SHARE, QUEUE_SHARE, REPLY_SHARE = 0.04, 0.8, 0.2, 0.3
SIZES = [0, 1, 5, 300]
SIDS = ["1", "2", "3", "x"]
CONNECTS = [
    b"",
    b"CONNECT {}\r\n",
    b'CONNECT {"verbose":false}\r\n',
    b'CONNECT {"verbose":false,"pedantic":false}\r\n',
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n',
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n',
    b'CONNECT {"pedantic":false,"echo":false,"headers":true,"no_responders":true,"protocol":1}\r\n',
]
RUBBISH = [
    b"PUB\r\n",
    b"PUB a\r\n",
    b"SUB\r\n",
    b"SUB a b c d\r\n",
    b"UNSUB 1 2 3\r\n",
    b"HPUB a 9 5\r\nabcde\r\n",
    b"PUB a 2\r\nabc\r\n",
    b"PUB a 2000000\r\n",
    b"CONNECT {\r\n",
    b"nonsense\r\n",
    b"\r\n",
]


# Where a pedantic PUB is split over two of its reads, nats-server complains twice.
INVALID = repr((ERR, b"Invalid Publish Subject"))


class Author:
    """Writes one conversation of up to three connections."""

    def __init__(self, seed: str) -> None:
        self._dice = random.Random(seed)
        self._groups = 0

    def conversation(self) -> list[tuple[str, bytes]]:
        names = "abc"[: self._dice.randint(1, 3)]
        steps = [(name, self._dice.choice(CONNECTS)) for name in names]
        for _ in range(self._dice.randint(1, 10)):
            operations = [self._operation() for _ in range(self._dice.randint(1, 6))]
            if self._dice.random() < RUBBISH_SHARE:
                operations.append(self._dice.choice(RUBBISH))
            steps.append((self._dice.choice(names), b"".join(operations)))
        return steps

    def _subject(self) -> str:
        count = self._dice.randint(1, 3)
        return ".".join(self._dice.choices(TOKENS, TOKEN_WEIGHTS, k=count)) or "a"

    def _operation(self) -> bytes:
        kind = self._dice.choices(["SUB", "UNSUB", "PUB", "HPUB", "CONNECT"], [6, 2, 10, 2, 0.3])[0]
        blank = self._dice.choice([" ", " ", " ", "\t", "  "])
        end = self._dice.choice(["\r\n", "\r\n", "\n", " \r\n"])
        word = kind if self._dice.random() < UPPER_SHARE else kind.lower()
        if kind == "CONNECT":
            return self._dice.choice(CONNECTS)
        arguments, body = self._arguments(kind)
        return (word + blank + blank.join(arguments) + end).encode() + body

    def _arguments(self, kind: str) -> tuple[list[str], bytes]:
        dice = self._dice
        if kind == "SUB":
            queue = []
            if dice.random() < QUEUE_SHARE:  # a group of one: chance decides nothing
                self._groups += 1
                queue = [f"q{self._groups}"]
            return [self._subject(), *queue, dice.choice(SIDS)], b""
        if kind == "UNSUB":
            return [dice.choice(SIDS), *([str(dice.randint(0, 4))] * dice.randint(0, 1))], b""
        reply = [self._subject()] if dice.random() < REPLY_SHARE else []
        header = b"NATS/1.0\r\nA: b\r\n\r\n" if kind == "HPUB" else b""
        payload = dice.randbytes(dice.choice(SIZES))
        sizes = [str(len(header) + len(payload))]
        if header:
            sizes.insert(0, str(len(header)))
        return [self._subject(), *reply, *sizes], header + payload + b"\r\n"


def said(heard: Heard) -> Counter[str]:
    """What a connection heard, without order; a 503 may come to any subscription that matches."""
    events = []
    for event in heard.events():
        if event[0] == MSG and event[4] and event[4].startswith(b"NATS/1.0 503"):
            event = (*event[:2], b"any", *event[3:])  # noqa: PLW2901
        events.append(repr(event))
    counted = Counter(events)
    if INVALID in counted:
        counted[INVALID] = 1
    return counted


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_random_conversation_ends_the_same(both, seed):
    ours_port, theirs_port = both()
    for number in range(CONVERSATIONS_PER_SEED):
        steps = Author(f"{seed}/{number}").conversation()
        ours, theirs = await asyncio.gather(play(ours_port, steps), play(theirs_port, steps))
        for name, heard in theirs.items():
            ours_said, theirs_said = said(ours[name]), said(heard)
            if heard.closed:  # by a reset, which may swallow what was said last
                assert theirs_said <= ours_said, (number, steps)
            else:
                assert ours_said == theirs_said, (number, steps)
            assert ours[name].closed == heard.closed, (number, steps)
