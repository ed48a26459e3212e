"""Mailboxes to begin a test of groups with."""

from tests.support.mq9 import Mq9


async def boxed(mq9: Mq9, count: int, **fields: object) -> str:
    """A new mailbox with `count` normal messages."""
    address = await mq9.box(**fields)
    await mq9.send_all(address, [b"%d" % n for n in range(1, count + 1)])
    return address


async def prioritised(mq9: Mq9) -> str:
    """A new mailbox whose delivery order is 2, 4, 1, 3."""
    address = await mq9.box()
    for priority in ("normal", "critical", "normal", "critical"):
        await mq9.send(address, priority=priority)
    return address
