"""What a state looks like on its way: nothing damaged, cut short or foreign is taken for whole."""

from dataclasses import replace

import pytest

from mq9cluster.cluster.engine import Members
from mq9cluster.cluster.snapshot_stream import (
    Header,
    Kind,
    MalformedSnapshot,
    RowsRead,
    RowsWritten,
    frame,
)
from mq9cluster.domain.ports import Family

HEADER = Header("c1", 3, 17, 2, Members(("a", "b", "c"), ("d",)), 1)
ROWS = [
    (int(Family.SHARDS), b"shard", b"17"),
    (int(Family.MESSAGES), b"k" * 40, b"v" * 300),
    (int(Family.MESSAGES), b"l" * 40, b""),
    (int(Family.GROUPS), b"g", b"\0" * 9),
]


def frames(bytes_max: int) -> list[bytes]:
    written, rows = RowsWritten(), iter(ROWS)
    found = []
    while body := written.take(rows, bytes_max):
        found.append(frame(Kind.ROWS, body))
    return [*found, written.trailer()]


def read(stream: list[bytes]) -> tuple[list, bool]:
    reader = RowsRead()
    rows = [row for piece in stream for row in reader.feed(piece)]
    return rows, reader.complete


@pytest.mark.parametrize("bytes_max", [1, 100, 10_000])
def test_rows_come_out_as_they_went_in_however_they_are_cut(bytes_max) -> None:
    assert read(frames(bytes_max)) == (ROWS, True)


def test_the_digest_is_the_states_own_and_not_the_frames() -> None:
    assert frames(1)[-1] == frames(10_000)[-1]


def test_a_header_comes_out_as_it_went_in() -> None:
    assert Header.unpack(HEADER.pack()) == HEADER


def test_every_flipped_bit_is_noticed() -> None:
    stream = frames(10_000)
    for place in range(0, len(stream[0]), 7):
        damaged = bytearray(stream[0])
        damaged[place] ^= 4
        with pytest.raises(MalformedSnapshot):
            read([bytes(damaged), stream[1]])


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_frame_is_noticed(lost) -> None:
    stream = frames(1)
    del stream[lost]
    with pytest.raises(MalformedSnapshot, match="were sent"):
        read(stream)


def test_swapped_frames_are_noticed() -> None:
    first, second, *rest = frames(1)
    with pytest.raises(MalformedSnapshot, match="were sent"):
        read([second, first, *rest])


def test_a_stream_without_its_end_is_not_complete() -> None:
    assert read(frames(100)[:-1])[1] is False


def test_nothing_follows_the_end() -> None:
    stream = frames(10_000)
    with pytest.raises(MalformedSnapshot, match="behind its end"):
        read([*stream, stream[0]])


@pytest.mark.parametrize(
    "body", [b"\x02\0", b"\x02\0\x01\0\0\0\x09k", b"\xc8\0\x01\0\0\0\x01kv"], ids=str
)
def test_rows_that_are_none_are_refused(body) -> None:
    with pytest.raises(MalformedSnapshot, match="a row is cut off"):
        read([frame(Kind.ROWS, body)])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        frame(Kind.ROWS, b""),
        frame(Kind.HEADER, b"no json"),
        frame(Kind.HEADER, b"[]"),
        frame(Kind.HEADER, b'{"format": 2}'),
        frame(Kind.HEADER, b'{"format": 1}'),
        frame(Kind.HEADER, b'{"format": 1, "members": [["a"], []], "extra": 1}'),
        replace(HEADER, index=-1).pack(),
        replace(HEADER, members=Members((1,), ())).pack(),
        replace(HEADER, cluster_id=7).pack(),
    ],
)
def test_a_header_that_is_none_is_refused(data) -> None:
    with pytest.raises(MalformedSnapshot):
        Header.unpack(data)
