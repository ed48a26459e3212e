"""A node's peers as a process of its own, for tests that stop it: NAME NODE=HOST:PORT,… as
arguments. Answers requests with what they hold; ends with its stdin.
"""

import asyncio
import sys

import uvloop

from tests.unit.peers.conftest import Clock, Ears, Node


async def main(name: str, addresses: str) -> None:
    known = dict(item.split("=") for item in addresses.split(","))
    port = int(known[name].rpartition(":")[2])
    node = await Node(name, known, port, Ears(answer=lambda data: data), Clock()).start()
    await asyncio.to_thread(sys.stdin.read)
    await node.peers.stop()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
