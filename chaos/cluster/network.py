"""The network between nodes: each node in a network namespace of its own, joined by our own switch.

Owns namespaces, devices, addresses and the switch's process; nemeses change `rules`. Needs root,
`ip` (Debian: iproute2), `nsenter` and /dev/net/tun; `Loopback` is what there is without: the same
face, no namespaces, and nothing that can be cut.
"""

import contextlib
import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from chaos.cluster.ports import free_ports
from chaos.cluster.switch import Rule
from chaos.janitor import Janitor

TUN: Final = Path("/dev/net/tun")
_TUNSETIFF: Final = 0x400454CA
_TAP_WITHOUT_HEADER: Final = 0x0002 | 0x1000
FRAME_BYTES: Final = 9000  # fewer frames: each costs the switch ten microseconds
QUEUED_FRAMES: Final = 4000
NATS, HTTP, PEERS = 4222, 9090, 7422
OURS: Final = 250  # the last byte of our own address


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node listens, and how a command is run there."""

    prefix: tuple[str, ...]
    host: str
    nats: int
    http: int
    peers: int


class Network(Protocol):
    """What nodes are joined by."""

    cuttable: bool

    def places(self) -> list[Place]:
        """A place per node."""

    def rule(self, rules: Mapping[tuple[str, str], Rule]) -> None:
        """How frames from one node to another fare, by names; others fare well."""

    def close(self) -> None:
        """Take it down."""


class Loopback:
    """Nodes side by side on 127.0.0.1."""

    cuttable = False

    def __init__(self, count: int) -> None:
        ports = free_ports(3 * count)
        self._places = [
            Place((), "127.0.0.1", *ports[3 * one : 3 * one + 3]) for one in range(count)
        ]

    def places(self) -> list[Place]:
        """A place per node."""
        return self._places

    def rule(self, rules: Mapping[tuple[str, str], Rule]) -> None:
        """Nothing can be done to the loopback device that would not hit everybody."""
        assert not rules, "no nemesis of the network can be played on loopback"

    def close(self) -> None:
        """Nothing to take down."""


class Namespaces:
    """A namespace per node, and a device of our own for clients."""

    cuttable = True

    def __init__(self, names: list[str], janitor: Janitor, seed: str) -> None:
        self._names = names
        self._run = f"{os.getpid() % 100_000:05d}{random.SystemRandom().randrange(100):02d}"
        self._net = _free_subnet()
        self._janitor = janitor
        self._undo: list[int] = []
        devices: list[int] = []
        try:
            devices += map(self._make_node, range(len(names)))
            devices.append(self._make_ours())
            self._switch = self._start_switch(devices, seed)
        finally:
            for device in devices:
                os.close(device)
        self._janitor.kill(self._switch.pid)

    @staticmethod
    def why_not() -> str:
        """What this machine lacks; "" if nothing."""
        if os.geteuid() != 0:
            return "not root"
        for tool in ("ip", "nsenter"):
            if shutil.which(tool) is None:
                return f"no `{tool}` (Debian: iproute2, util-linux)"
        if not TUN.exists():
            return f"no {TUN}"
        name = f"mq9try{os.getpid() % 100_000}"
        if not _tried("ip", "netns", "add", name):
            return "network namespaces are not allowed here"
        allowed = _tried("nsenter", f"--net=/run/netns/{name}", "true")
        _tried("ip", "netns", "del", name)
        return "" if allowed else "network namespaces cannot be entered here"

    def _space(self, number: int) -> str:
        return f"mq9c{self._run}{self._names[number]}"

    def places(self) -> list[Place]:
        """A place per node."""
        return [
            Place(
                ("nsenter", f"--net=/run/netns/{self._space(number)}", "--"),
                f"{self._net}.{number + 1}",
                NATS,
                HTTP,
                PEERS,
            )
            for number in range(len(self._names))
        ]

    def _make_node(self, number: int) -> int:
        space = self._space(number)
        device, name = _tap(f"c{self._run}{number}")
        _run("ip", "netns", "add", space)
        self._undo.append(self._janitor.undo_with("ip", "netns", "del", space))
        _run("ip", "link", "set", name, "netns", space)
        inside = ("nsenter", f"--net=/run/netns/{space}", "--")
        self._set_up(inside, name, number + 1, number + 1)
        _run(*inside, "ip", "link", "set", "lo", "up")
        return device

    def _make_ours(self) -> int:
        device, name = _tap(f"c{self._run}x")
        self._set_up((), name, len(self._names) + 1, OURS)
        return device

    def _set_up(self, inside: Iterable[str], name: str, station: int, last: int) -> None:
        """The last byte of the hardware address is the station: the switch needs no table."""
        _tried(*inside, "ip", "link", "set", name, "addrgenmode", "none")  # no IPv6 chatter
        _run(*inside, "ip", "link", "set", name, "address", f"02:00:00:00:00:{station:02x}")
        size, queue = str(FRAME_BYTES), str(QUEUED_FRAMES)
        _run(*inside, "ip", "link", "set", name, "mtu", size, "txqueuelen", queue, "up")
        _run(*inside, "ip", "address", "add", f"{self._net}.{last}/24", "dev", name)

    def _start_switch(self, devices: list[int], seed: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "chaos.cluster.switch", "--seed", seed, *map(str, devices)],
            stdin=subprocess.PIPE,
            pass_fds=devices,
            start_new_session=True,
            cwd=Path(__file__).parents[2],
        )

    def rule(self, rules: Mapping[tuple[str, str], Rule]) -> None:
        """How frames from one node to another fare, by names; others fare well."""
        told = [
            [self._port(source), self._port(to), how._asdict()]
            for (source, to), how in rules.items()
            if not how.plain
        ]
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps({"rules": told}).encode() + b"\n")
        self._switch.stdin.flush()

    def _port(self, name: str) -> int:
        return self._names.index(name) if name in self._names else len(self._names)

    def close(self) -> None:
        """Take it down: the devices go with the switch."""
        assert self._switch.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._switch.stdin.close()
        self._switch.wait()
        for number in range(len(self._names)):
            _tried("ip", "netns", "del", self._space(number))
        for undo in self._undo:
            self._janitor.done(undo)


def _free_subnet() -> str:
    """Three bytes of an address block no route of ours leads to."""
    taken = subprocess.run(["ip", "route"], check=True, capture_output=True).stdout.decode()
    chance = random.SystemRandom()
    while True:
        net = f"10.{chance.randrange(64, 224)}.{chance.randrange(256)}"
        if net + "." not in taken:
            return net


def _tap(name: str) -> tuple[int, str]:
    """A new TAP device: an open file of it, and its name."""
    device = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    return device, name


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _tried(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
