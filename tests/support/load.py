"""Clients that send without pause and repeat what was not answered, as a careful agent would.

Started by the failover tests around the faults they cause; keeps what was acknowledged, and when.
Every message has a Nats-Msg-Id, so a repeat must not store it again. An answer that says *timeout*
is no failure: it means unknown.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence

import nats.errors

from tests.support.careful import UNSURE
from tests.support.mq9 import Mq9
from tests.support.raw_nats import ConnectionEnded

REPEAT_S = 0.05
DEADLINE_S = 60.0  # a request fails for good when it was not answered within so long
ANSWER_S = 15.0  # beyond the broker's own deadline of 5 s
READ_MAX = 1000


class Load:
    """`acked`: msg_id by (address, payload); `failed`: what was not answered in time, for good.

    Use as `async with`: senders stop at the end.
    """

    def __init__(self, clients: Sequence[Mq9], addresses: Sequence[str], name: str) -> None:
        self.acked: dict[tuple[str, bytes], int] = {}
        self._times_s: dict[str, list[tuple[float, float]]] = {one: [] for one in addresses}
        self.failed: list[str] = []
        self.repeated = 0
        self._clients = [Mq9(client.connection) for client in clients]  # it repeats by itself
        self._addresses = addresses
        self._name = name
        self._stop = asyncio.Event()
        self._acked = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [
            asyncio.create_task(self._send_all(client, f"{self._name}{number}"))
            for number, client in enumerate(self._clients)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):  # and not CancelledError
                raise ended

    def stop(self) -> None:
        """Send nothing new."""
        self._stop.set()

    def give_up(self) -> None:
        """Nobody is left to answer: what is under way remains unknown."""
        for task in self._tasks:
            task.cancel()

    async def _send_all(self, client: Mq9, name: str) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            address = self._addresses[number % len(self._addresses)]
            await self._send(client, address, f"{name}-{number}")

    async def _send(self, client: Mq9, address: str, text: str) -> None:
        until_s = time.monotonic() + DEADLINE_S
        said = ""
        while (sent_s := time.monotonic()) < until_s:
            try:
                reply = await asyncio.wait_for(
                    client.try_send(address, text.encode(), msg_id=text), ANSWER_S
                )
            except (nats.errors.Error, ConnectionEnded, TimeoutError) as error:
                reply = {"error": repr(error), "code": "timeout"}
            if reply["error"] == "":
                self.acked[address, text.encode()] = reply["msg_id"]
                self._times_s[address].append((sent_s, time.monotonic()))
                self._acked.set()
                return
            said = json.dumps(reply)
            if reply["code"] not in UNSURE:
                break
            self.repeated += 1
            await asyncio.sleep(REPEAT_S)
        self.failed.append(f"{text}: {said}")

    async def until_acked_again(self, since_s: float, within_s: float) -> float:
        """Wait until every address acknowledged something sent after `since_s`; the seconds from
        then to the last one's first, inf if that is too long.
        """
        try:
            async with asyncio.timeout(within_s):
                while (longest_s := self._longest_s(since_s)) == float("inf"):
                    self._acked.clear()
                    await self._acked.wait()
        except TimeoutError:
            return float("inf")
        return longest_s

    def _longest_s(self, since_s: float) -> float:
        return max(
            next((acked_s - since_s for sent_s, acked_s in times if sent_s > since_s), float("inf"))
            for times in self._times_s.values()
        )

    async def check(self, client: Mq9) -> None:
        """Everything acknowledged is there, under the id that was told, and nothing twice."""
        for address in self._addresses:
            stored = await read_all(client, address)
            expected = {body: number for (at, body), number in self.acked.items() if at == address}
            found = {body: number for number, body in stored if body in expected}
            assert found == expected, f"{address}: {len(found)} of {len(expected)} acknowledged"
            counts = Counter(body for _, body in stored)
            assert [body for body, count in counts.items() if count > 1] == []
        assert self.failed == []


async def read_all(client: Mq9, address: str) -> list[tuple[int, bytes]]:
    """(msg_id, payload) of everything in a mailbox of messages of one priority."""
    stored: list[tuple[int, bytes]] = []
    while True:
        after = stored[-1][0] + 1 if stored else 1
        reply = await client.fetch(
            address, deliver="from_id", from_id=after, num_msgs=READ_MAX, encoding="text"
        )
        assert reply["error"] == "", reply
        if not reply["messages"]:
            return stored
        stored += [(one["msg_id"], one["payload"].encode()) for one in reply["messages"]]
