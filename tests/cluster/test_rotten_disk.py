"""A disk that rots under a running node, where nobody but a client's request finds it."""

import random
from contextlib import suppress

from tests.conftest import ServeNode
from tests.support.mq9 import Mq9
from tests.support.raw_nats import ConnectionEnded, RawNats

MAILBOXES = 64
DESC_BYTES = 1_000  # of noise, so that the mailboxes fill many blocks, and most are in no cache
FLIP_EVERY_BYTES = 2_048


async def test_a_node_ends_and_says_why_when_a_request_meets_a_damaged_block(
    serve_node: ServeNode,
) -> None:
    node = await serve_node(shards=1)
    client = await RawNats.connect(node.host, node.port)
    noise = random.Random(1)
    addresses = [
        await Mq9(client).box(desc=noise.randbytes(DESC_BYTES // 2).hex()) for _ in range(MAILBOXES)
    ]
    await client.close()
    await node.terminate()  # which writes everything to files
    await node.start()  # which reads all of it once, past the cache
    client = await RawNats.connect(node.host, node.port)
    for path in (node.data_dir / "db").glob("*.sst"):
        with path.open("r+b") as file:
            content = bytearray(file.read())
            for place in range(FLIP_EVERY_BYTES, len(content), FLIP_EVERY_BYTES):
                content[place] ^= 1
            file.seek(0)
            file.write(content)
    # A FETCH with a group looks at once, in the request; others in turns of the durability loop,
    # which hears of what fails there anyway.
    with suppress(ConnectionEnded):
        for address in addresses:
            await Mq9(client).fetch(address, "group")
    assert await node.wait() == 1
    await client.close()
    (line,) = [line["event"] for line in node.log if line.get("level") == "critical"]
    assert line.startswith("storage: Corruption: block checksum mismatch")
    assert "Traceback" not in node.log_text()
