"""Nothing that older nodes could not read is proposed, whichever way it takes to the log."""

import pytest

from mq9cluster.broker.agents import Agents, no_codes
from mq9cluster.broker.call import Call, Counted
from mq9cluster.cluster.beat import ReportBeat
from mq9cluster.cluster.features import AGENTS
from mq9cluster.cluster.shard import Shard
from mq9cluster.domain.measures import Histogram
from mq9cluster.node import SystemClock


class OneShard:
    """`Shards` with one, in a cluster of some level."""

    def __init__(self, level: int) -> None:
        beat = ReportBeat()
        self.shard = Shard(0, 1, 1, None, beat, SystemClock(), lambda _: None, lambda: level)
        self.all = [self.shard]

    def of(self, _: bytes) -> Shard:
        return self.shard


@pytest.mark.parametrize("whom", [b'{"name":"a"}', b'{"mailbox":"a"}'])
@pytest.mark.parametrize("command", ["register", "unregister", "report"])
@pytest.mark.parametrize("level", [AGENTS - 1, AGENTS])
async def test_commands_of_agents_need_their_level(command: str, whom: bytes, level: int) -> None:
    if command == "register":
        whom = b'{"name":"a","mailbox":"a"}'
    shards = OneShard(level)
    agents = Agents(shards, no_codes, 60)  # type: ignore[arg-type]
    answers: list[bytes] = []
    call = Call(answers.append, Counted(Histogram(), {}, lambda: 0.0))
    getattr(agents, command)("$G", 1, None, whom, call)
    proposed = shards.shard.pending_commands
    shards.shard.stop()
    assert proposed == (level == AGENTS)
    assert [b'"unavailable"' in answer for answer in answers] == [True] * (level < AGENTS)
