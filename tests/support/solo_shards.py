"""Shards on the solo engine: real storage and machine, no elections to wait for."""

from collections.abc import Sequence

from mq9cluster.cluster.beat import Beat, ReportBeat
from mq9cluster.cluster.clocks import AwakeClock
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.engine import Message
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.shard import Leader, Shard
from mq9cluster.cluster.shards import Shards
from mq9cluster.domain.ports import Clock
from mq9cluster.storage.database import Database
from mq9cluster.storage.log import GroupLog
from mq9cluster.storage.state import ShardState
from tests.support.solo_engine import SoloEngine


def open_solo_shards(
    database: Database,
    durability: Durability,
    clock: Clock,
    name: str,
    node: int,
    incarnation: int,
    count: int,
    beat: Beat | None = None,
    hold: Beat | None = None,
) -> Shards:
    """Open every shard of a cluster of one, and let each catch up with its log."""
    shards: list[Shard] = []
    awake = AwakeClock(clock)
    for number in range(count):
        log = GroupLog(database, number)
        replica = Replica(
            number, ShardState(database, number), clock, hold or Beat.of_holds(), _nobody
        )
        applied = replica.machine.applied_index
        engine = SoloEngine(name, log, log.hard_state, applied)
        group = durability.register(number, engine, log, replica, applied)
        replica.start(engine, durability, group)
        leaves = beat or ReportBeat()
        shards.append(Shard(number, node, incarnation, replica, leaves, awake, _nowhere_else))
    return Shards(shards, durability)


def _nobody(_: Sequence[Message]) -> None:
    """A group of one has nobody to send to."""


def _nowhere_else(_: int) -> Leader | None:
    return None
