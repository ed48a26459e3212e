"""Ports for servers: two processes are never told the same, and one not soon the same again."""

import json
import socket
import subprocess
import sys

import pytest

from chaos.cluster import ports
from chaos.cluster.ports import SHARE, NoFreePorts, Ports, free_ports


@pytest.fixture
def share():
    found = Ports()
    yield found
    found.close()


def test_processes_are_told_different_ports_also_of_servers_that_are_down():
    told = "from chaos.cluster.ports import free_ports; print(free_ports(40)); input()"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", told], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        theirs = [int(port) for other in others for port in json.loads(other.stdout.readline())]
    finally:
        for other in others:
            other.communicate("\n")
    everybodys = free_ports(40) + theirs
    assert len(set(everybodys)) == len(everybodys) == 160


def test_no_port_is_told_twice_before_all_were(share):
    seen = [port for _ in range(SHARE // 9) for port in share.take(9)]
    assert len(set(seen)) == len(seen)
    assert set(share.take(9)) <= set(seen)


def test_they_are_a_row_that_passes_over_what_is_taken(share):
    first, *_ = share.take(3)
    with socket.create_server(("127.0.0.1", first + 5)):
        assert share.take(3) == [first + 6, first + 7, first + 8]


def test_more_than_a_share_has_is_refused(share):
    assert len(share.take(SHARE)) == SHARE
    with pytest.raises(NoFreePorts):
        share.take(SHARE + 1)


def test_a_share_is_somebody_elses_when_it_was_given_back(monkeypatch):
    monkeypatch.setattr(ports, "PORTS", range(14_000, 14_000 + 2 * SHARE))
    one, two = Ports(), Ports()
    assert one.share != two.share
    with pytest.raises(NoFreePorts):
        Ports()
    two.close()
    three = Ports()
    assert three.share == two.share
    one.close()
    three.close()
