"""The switch carries frames, and treats them as it is told."""

import json
import os
import random
import time
from collections.abc import Iterator

import pytest

from chaos.cluster.switch import Switch

Ports = list[tuple[int, int]]  # what the switch holds, and the far end


def frame(to: int, text: bytes = b"hello") -> bytes:
    """To the station of a port; 255 is everybody."""
    address = b"\xff" * 6 if to == 255 else bytes((2, 0, 0, 0, 0, to + 1))
    return address + bytes((2, 0, 0, 0, 0, 9)) + text


@pytest.fixture
def ports() -> Iterator[Ports]:
    """Three packet sockets in place of devices."""
    import socket  # noqa: PLC0415

    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    for pair in pairs:
        for end in pair:
            end.setblocking(False)
    yield [(ours.fileno(), far.fileno()) for ours, far in pairs]
    for pair in pairs:
        for end in pair:
            end.close()


def switch_with(ports: Ports, *rules: list[object]) -> Switch:
    switch = Switch([ours for ours, _ in ports], random.Random(1))
    switch.obey(json.dumps({"rules": rules}).encode())
    return switch


def heard(ports: Ports, number: int) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(os.read(ports[number][1], 9000)[12:])
        except BlockingIOError:
            return found


def test_a_frame_goes_to_its_station_and_a_broadcast_to_all_others(ports: Ports) -> None:
    switch = switch_with(ports)
    os.write(ports[0][1], frame(2))
    os.write(ports[0][1], frame(255, b"all"))
    switch.take(0)
    assert [heard(ports, number) for number in range(3)] == [[], [b"all"], [b"hello", b"all"]]


def test_a_cut_holds_in_one_direction_until_new_rules_come(ports: Ports) -> None:
    switch = switch_with(ports, [0, 1, {"cut": True}])
    for source, to in ((0, 1), (1, 0)):
        os.write(ports[source][1], frame(to))
        switch.take(source)
    assert (heard(ports, 0), heard(ports, 1)) == ([b"hello"], [])
    switch.obey(b'{"rules": []}')
    os.write(ports[0][1], frame(1))
    switch.take(0)
    assert heard(ports, 1) == [b"hello"]


def test_frames_are_lost_doubled_and_delayed(ports: Ports) -> None:
    rules = ([0, 1, {"loss": 1.0}], [0, 2, {"double": 1.0, "delay_ms": 5}])
    switch = switch_with(ports, *rules)
    for to in (1, 2):
        os.write(ports[0][1], frame(to))
    switch.take(0)
    assert (heard(ports, 1), heard(ports, 2)) == ([], [])
    wait = switch.give_due()
    assert wait is not None
    while (wait := switch.give_due()) is not None:
        time.sleep(wait)
    assert heard(ports, 2) == [b"hello", b"hello"]
