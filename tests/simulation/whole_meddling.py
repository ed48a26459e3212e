"""Data directories somebody meddled with: a node must not open with anything missing or foreign.

A fault of `whole_faults`: the node is stopped, one thing is done to its files or rows, and a start
must be refused, in one line. Then all is put back as it was, and it starts again.
"""

import json
import random
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING
from zlib import crc32

from mq9cluster.storage import keyspace
from mq9cluster.storage.database import META_FAMILY
from tests.simulation.database import SEQUENCE
from tests.simulation.files import SimPath

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_node import WholeNode

Luck = random.Random
DATA = "/data"
IDENTITY, MARK, DATABASE = f"{DATA}/node.identity", f"{DATA}/node.mark", f"{DATA}/db"


def meddle(world: "World", luck: Luck) -> None:
    """Stop a node that has data, meddle, and see it refuse to start."""
    node = luck.choice(world.nodes)
    if not node.is_member or node.process is None:
        return
    node.crash(node.disk.unsynced)
    kind = luck.choice(sorted(MEDDLING))
    rows, names = (
        dict(node.disk.rows),
        {name: copy(file) for name, file in node.files.names.items()},
    )
    MEDDLING[kind](node, luck)
    node.start()
    if node.process is not None:
        world.broken(f"{node.name} has started with {kind}")
    world.seen["meddled with"] += 1
    node.disk.rows, node.files.names = rows, names
    world.later(luck.choice([0.1, 1.0, 3.0]), node.start)


def _without(name: str) -> Callable[["WholeNode", Luck], None]:
    def remove(node: "WholeNode", _: Luck) -> None:
        del node.files.names[name]

    return remove


def _identity(**fields: object) -> Callable[["WholeNode", Luck], None]:
    """Another identity, with its checksum."""

    def replace(node: "WholeNode", _: Luck) -> None:
        known = json.loads(node.files.names[IDENTITY].content.split(b"\n")[0])
        line = json.dumps({**known, **fields}, sort_keys=True)
        content = f"{line}\n{crc32(line.encode()):08x}\n".encode()
        node.files.names[IDENTITY].content = content

    return replace


def _flip(name: str, *, everywhere: bool = False) -> Callable[["WholeNode", Luck], None]:
    def flip(node: "WholeNode", luck: Luck) -> None:
        content = bytearray(node.files.names[name].content)
        for at in range(len(content)) if everywhere else [luck.randrange(len(content))]:
            content[at] ^= 1 << luck.randrange(8)
        node.files.names[name].content = bytes(content)

    return flip


def _row(key: bytes, value: bytes) -> Callable[["WholeNode", Luck], None]:
    def put(node: "WholeNode", _: Luck) -> None:
        node.disk.rows[META_FAMILY, key] = value

    return put


def _set_back(node: "WholeNode", luck: Luck) -> None:
    """As if a WAL was removed: fewer writes than were on disk."""
    node.disk.rows[SEQUENCE] = luck.randrange(_noted(node))


def _noted(node: "WholeNode") -> int:
    """How many writes the witness knows of."""
    mark = node.files.names[MARK].content
    return max(int.from_bytes(mark[at + 12 : at + 20], "big") for at in (0, 4096))


def _cut_manifest(node: "WholeNode", _: Luck) -> None:
    current = SimPath(node.files, DATABASE) / "CURRENT"
    name = current.read_text("ascii").strip()
    node.files.names[f"{DATABASE}/{name}"].content = b""


def _in_use(node: "WholeNode", _: Luck) -> None:
    node.files.locked.add(f"{DATA}/node.lock")


MEDDLING: dict[str, Callable[["WholeNode", Luck], None]] = {
    "its database gone": _without(DATABASE),
    "its identity gone": _without(IDENTITY),
    "its mark gone": _without(MARK),
    "CURRENT gone": _without(f"{DATABASE}/CURRENT"),
    "a flipped bit in its identity": _flip(IDENTITY),
    "both marks damaged": _flip(MARK, everywhere=True),
    "another node's name": _identity(name="somebody"),
    "another node's identity": _identity(node_id="00" * 16),
    "an identity of another format": _identity(format=99),
    "an identity of another version": _identity(surname="x"),
    "another cluster's identity": _identity(cluster_id="00" * 16),
    "another node's database": _row(keyspace.META_NODE, b"x"),
    "a database of another format": _row(keyspace.META_FORMAT, b"99"),
    "synced writes missing": _set_back,
    "its MANIFEST cut": _cut_manifest,
    "its directory in use": _in_use,
}
