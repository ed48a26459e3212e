"""Indexes on disk: so that a restart reads what it would otherwise work out again.

A file is a cache and nothing more. It counts only if it is whole (a checksum), was written by the
very code that would index the cards now (`fingerprint`), and, agent by agent, if the card in the
state is the one that was indexed (its digest): `cluster.directory` compares each. Whatever does not
match is indexed anew. Files are replaced atomically, written in pieces that are synced one by one,
so that no sync of the log has to wait for a large file.

Used by `cluster.directory`; what is in a part is `index`'s and `vectors`'.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from struct import Struct
from typing import Any, Final
from zlib import crc32

import orjson

from mq9cluster.domain import agent
from mq9cluster.search import facets, index, lexical, text, vectors

PIECE_BYTES: Final = 4 << 20  # synced one by one: what a sync of the log may have to carry, too
_MAGIC: Final = b"mq9 index file 1\n"
_HEAD: Final = Struct("<II")  # bytes of the JSON that says what follows, and its checksum
_INDEXING: Final = (agent, facets, index, lexical, text, vectors)

Part = Mapping[str, Any]  # named fields: bytes as they are, all else as JSON


class NotSaved(Exception):
    """There is no file that could be used; the text says why."""


@cache
def fingerprint() -> str:
    """Changes with whatever decides what an index of given cards holds, and how it is kept: code,
    stemmer, Unicode's tables.
    """
    digest = blake2b(digest_size=16)
    for module in _INDEXING:
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(unicodedata.unidata_version.encode())
    digest.update(metadata.version("snowballstemmer").encode())
    return digest.hexdigest()


def write_file(path: Path, about: Part, parts: Sequence[Part]) -> None:
    """Put `parts` in place of the file at `path`. Raises OSError."""
    bodies = [_pack(part) for part in parts]
    table = [[len(body), crc32(body)] for body in bodies]
    head = orjson.dumps({"about": about, "parts": table})
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    with fresh.open("wb", buffering=0) as file:
        file.write(_MAGIC + _HEAD.pack(len(head), crc32(head)) + head)
        for body in bodies:
            for piece in _pieces(body):
                file.write(piece)
                os.fdatasync(file.fileno())
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync_directory(path.parent)


def _pieces(data: bytes) -> Iterable[memoryview]:
    view = memoryview(data)
    return (view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES))


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, about: Part) -> list[dict[str, Any]]:
    """The parts of a whole file that says the same about itself. Raises NotSaved."""
    try:
        data = memoryview(path.read_bytes())
    except OSError as error:
        raise NotSaved(str(error)) from error
    at = len(_MAGIC) + _HEAD.size
    if len(data) < at or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise NotSaved("it is no such file")
    size, check = _HEAD.unpack_from(data, len(_MAGIC))
    head = data[at : at + size]
    if len(head) != size or crc32(head) != check:
        raise NotSaved("its head is damaged")
    told = orjson.loads(head)
    if told["about"] != about:
        raise NotSaved("it is of something else")
    at += size
    parts: list[dict[str, Any]] = []
    for length, expected in told["parts"]:
        body = data[at : at + length]
        at += length
        if len(body) != length or crc32(body) != expected:
            raise NotSaved("it is damaged")
        parts.append(_unpack(body))
    if at != len(data):
        raise NotSaved("it has more than it says")
    return parts


def _pack(part: Part) -> bytes:
    fields, bodies = [], []
    for name, value in part.items():
        raw = isinstance(value, bytes | bytearray | memoryview)
        body = value if raw else orjson.dumps(value)
        fields.append([name, raw, len(body)])
        bodies.append(body)
    head = orjson.dumps(fields)
    return b"".join([len(head).to_bytes(4, "little"), head, *bodies])


def _unpack(body: memoryview) -> dict[str, Any]:
    at = 4 + int.from_bytes(body[:4], "little")
    part: dict[str, Any] = {}
    for name, raw, length in orjson.loads(body[4:at]):
        value = body[at : at + length]
        part[name] = value if raw else orjson.loads(value)
        at += length
    return part
