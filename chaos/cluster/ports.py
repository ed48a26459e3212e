"""Ports for servers that come and go: nobody else's, and free again when their server comes back.

Owns which ports this process may hand out. They lie below the range that the system gives to
outgoing connections, and in a share of it that no other process which asks here has: a port that
was only looked at, or whose server is down for a while, is taken by nobody. The share is held by a
UDP socket on its first port, which ends with the process however that ends.
"""

import atexit
import random
import socket
from contextlib import ExitStack
from functools import cache

PORTS = range(15_000, 32_000)
SHARE = 500  # of one process; some 50 clusters until a port is told again

_HOST = "127.0.0.1"


class NoFreePorts(Exception):
    """Other processes have all shares, or other programs the ports of ours."""


def free_ports(count: int) -> list[int]:
    """This many ports in a row on which nobody listens. Raises NoFreePorts."""
    return _ours().take(count)


class Ports:
    """A share of PORTS, from now to `close`. Raises NoFreePorts."""

    def __init__(self) -> None:
        shares = [PORTS[at : at + SHARE] for at in range(0, len(PORTS), SHARE)]
        random.SystemRandom().shuffle(shares)
        for share in shares:
            claim = socket.socket(type=socket.SOCK_DGRAM)
            try:
                claim.bind((_HOST, share.start))
            except OSError:
                claim.close()
                continue
            self.share, self._claim, self._next = share, claim, 0
            return
        raise NoFreePorts(f"{len(shares)} processes have a share of ports each")

    def take(self, count: int) -> list[int]:
        """As `free_ports`."""
        for _ in self.share:
            if self._next + count > len(self.share):
                self._next = 0
            row = list(self.share[self._next : self._next + count])
            if len(row) == count and _nobody_listens(row):
                self._next += count
                return row
            self._next += 1
        raise NoFreePorts(f"no {count} in a row from {self.share.start} to {self.share.stop - 1}")

    def close(self) -> None:
        """Others may have the share."""
        self._claim.close()


def _nobody_listens(ports: list[int]) -> bool:
    with ExitStack() as closing:
        try:
            for port in ports:
                probe = closing.enter_context(socket.socket())
                # As servers do: a connection that ended a moment ago takes no port from them.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((_HOST, port))
        except OSError:
            return False
    return True


@cache
def _ours() -> Ports:
    ours = Ports()
    atexit.register(ours.close)
    return ours
