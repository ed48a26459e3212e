"""What hostile clients do, and the calm one beside them whom it must not harm.

Nothing here measures speed: the machine is shared. A calm client works on while others misbehave,
and every one of its requests must succeed within a generous deadline; memory and the node's log are
looked at afterwards.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import nats

from chaos.cluster.process import ServedNode
from tests.support.mq9 import Mq9, encoded, ids, payloads
from tests.support.raw_nats import header_block, publication

MIB = 1 << 20
CALM_S_MAX = 60.0  # for one round of the calm client, on a busy machine
ENDED_S_MAX = 30.0


def memory_bytes(node: ServedNode) -> int:
    """The node's resident memory."""
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@contextlib.asynccontextmanager
async def calm_client(node: ServedNode) -> AsyncIterator[None]:
    """A client that sends, fetches, acknowledges and talks to itself while the block runs.

    It must get through at least once after the block has done its worst.
    """
    connection = await nats.connect(node.url, allow_reconnect=False)
    mq9 = Mq9(connection)
    address = await mq9.box("calm")
    echo = await connection.subscribe("calm.echo")
    over = asyncio.Event()

    async def one_round(number: int) -> None:
        msg_id = await mq9.send(address, b"%d" % number)
        reply = await mq9.fetch(address, "calm")
        assert (ids(reply), payloads(reply)) == ([msg_id], [b"%d" % number])
        assert await mq9.ack(address, "calm", msg_id) == {"error": ""}
        await connection.publish("calm.echo", b"%d" % number)
        assert (await echo.next_msg(CALM_S_MAX)).data == b"%d" % number

    async def work() -> None:
        number = 0
        last_round = False
        while not last_round:
            last_round = over.is_set()
            number += 1
            await asyncio.wait_for(one_round(number), CALM_S_MAX)
            await asyncio.sleep(0.01)

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        over.set()
        await working
        await connection.close()


def mute_socket(node: ServedNode) -> socket.socket:
    """A connected socket with a small receive buffer, of which nobody reads."""
    mute = socket.socket()
    mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    mute.connect((node.host, node.port))
    return mute


async def send_all(mute: socket.socket, data: bytes) -> bool:
    """Send in a thread; False when the node closed the connection meanwhile."""
    mute.settimeout(ENDED_S_MAX)
    try:
        await asyncio.to_thread(mute.sendall, data)
    except OSError:
        return False
    return True


def calm_log(node: ServedNode) -> list[object]:
    """Lines a hostile client must never cause: errors and tracebacks."""
    return [
        line
        for line in node.log
        if str(line.get("level", "")).lower() in {"error", "critical"}
        or "Traceback" in str(line)
        or "raw" in line
    ]


def rubbish(seed: int) -> bytes:
    """Bytes of many kinds: noise, almost-NATS, other protocols."""
    rng = random.Random(seed)
    words = (b"PUB", b"SUB", b"HPUB", b"MSG", b"CONNECT", b"INFO {}", b"$mq9.AI.MSG.SEND.x", b" ")
    words += (
        b"\r\n",
        b"\n",
        b"-1",
        b"0",
        b"99999999999999999999",
        b"{",
        b"}",
        b"\x00",
        b"\xff",
        b">",
    )
    return rng.choice(
        (
            rng.randbytes(rng.randrange(1, 20_000)),
            b"".join(rng.choices(words, k=rng.randrange(1, 400))),
            b" ".join(rng.choices(words, k=rng.randrange(1, 400))),
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(512),
            b"*1\r\n$4\r\nPING\r\n",
            b"\r\n" * rng.randrange(1, 1000),
        )
    )


def giant_headers() -> list[bytes]:
    """HPUB header blocks that are valid and much too large to store, and malformed ones."""
    return [
        header_block([("X-Giant", "v" * 900_000)]),
        header_block([(f"X-{number}", "v") for number in range(60_000)]),
        header_block([("x" * 500_000, "v")]),
        header_block([("mq9-tags", "," * 500_000)]),
        header_block([("mq9-key", "k" * 500_000)]),
        header_block([("Nats-Msg-Id", "m" * 500_000)]),
    ]


SEARCHES = 3_000  # far more than a node does while others are looked at


def searches(address: str, kind: str) -> list[bytes]:
    """Requests that take the node tens of milliseconds each."""
    nowait = {"max_wait_ms": 0}
    if kind == "queries":
        subject, bodies = "QUERY", [{"tags": ["none"]}] * SEARCHES
    elif kind == "reads":
        subject, bodies = "FETCH", [{"deliver": "earliest", "config": {"num_msgs": 1000}}] * 500
    elif kind == "searches":
        one = {"deliver": "earliest", "tags": ["none"], "config": nowait}
        subject, bodies = "FETCH", [one] * SEARCHES
    else:
        subject = "FETCH"
        bodies = [
            {
                "group_name": f"g{number % 900}",
                "deliver": "earliest",
                "force_deliver": True,
                "config": {**nowait, "num_msgs": 1000},
            }
            for number in range(SEARCHES)
        ]
    return [publication(f"$mq9.AI.MSG.{subject}.{address}", encoded(body)) for body in bodies]
