"""What tests of entries look at: how much an entry wrote, and how many entries work took."""

from mq9cluster.domain import command as c
from mq9cluster.domain.address import mailbox_ref
from tests.property.machine_shard import MachineShard

BOX = mailbox_ref("$G", "box")


def written(machine: MachineShard) -> int:
    """How many rows and ranges the last entry changed."""
    return sum(map(len, machine.writes.rows.values())) + len(machine.writes.ranges)


def drain(machine: MachineShard, now_ms: int, written_max: int) -> int:
    """Let the machine do what is due, entry by entry, each of them small; how many it took."""
    for count in range(1, 1_000):
        machine.entry(now_ms, [c.Expire()])
        assert written(machine) <= written_max
        if machine.machine.next_due_ms > now_ms:
            return count
    raise AssertionError("it never ends")
