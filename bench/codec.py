"""How many operations a second the server-side parser takes: `python -m bench.codec`."""

import time

from mq9cluster.protocol.nats import ServerParser

HEADER = b"NATS/1.0\r\nmq9-priority: urgent\r\n\r\n"
SEND = b"$mq9.AI.MSG.SEND.mbx.abcdefgh _INBOX.123.4.5678"
OPERATIONS = {
    "PUB of 200 bytes": b"PUB %b 200\r\n%b\r\n" % (SEND, b"x" * 200),
    "HPUB of 200 bytes": b"HPUB %b %d %d\r\n%b%b\r\n"
    % (SEND, len(HEADER), len(HEADER) + 200, HEADER, b"x" * 200),
    "PUB of 16 bytes": b"PUB a.b.c 16\r\n0123456789abcdef\r\n",
    "SUB": b"SUB a.b.c 123\r\n",
    "PING": b"PING\r\n",
    "PUB of 8 MiB": b"PUB a 8388608\r\n%b\r\n" % (b"x" * 8_388_608),
}
BYTES = 32_000_000
PACKET = 65_536


def rate(operation: bytes) -> float:
    count = max(BYTES // len(operation), 1)
    data = operation * count
    packets = [data[start : start + PACKET] for start in range(0, len(data), PACKET)]
    parser = ServerParser(8_388_608)
    events = 0
    begun = time.perf_counter()
    for packet in packets:
        events += len(parser.feed(packet))
        while parser.has_more:
            events += len(parser.feed(b""))
    if events != count:
        raise SystemExit(f"{events} events of {count} operations")
    return count / (time.perf_counter() - begun)


if __name__ == "__main__":
    for name, operation in OPERATIONS.items():
        print(f"{name:20} {max(rate(operation) for _ in range(3)):>12,.0f}/s")
