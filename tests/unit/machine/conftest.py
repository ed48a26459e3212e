"""The shard of each test: the machine, one that starts anew before every command, and the model
that judges both elsewhere.
"""

import pytest

from mq9cluster.domain.command import Command
from mq9cluster.domain.outcome import Outcome
from tests.property.machine_shard import MachineShard
from tests.property.model import Model
from tests.unit.machine.harness import Shard


class ForgetfulMachine(MachineShard):
    """Knows only what its rows say."""

    def apply(self, now_ms: int, command: Command) -> Outcome:
        self.restart()
        return super().apply(now_ms, command)


BACKENDS = {"machine": MachineShard, "started anew": ForgetfulMachine, "model": Model}


@pytest.fixture(params=BACKENDS)
def bare(request: pytest.FixtureRequest) -> Shard:
    """A shard with nothing in it."""
    return Shard(BACKENDS[request.param]())


@pytest.fixture
def shard(bare: Shard) -> Shard:
    """A shard with one mailbox, `box`."""
    bare.create()
    return bare


@pytest.fixture
def machine() -> MachineShard:
    """A machine with nothing in it."""
    return MachineShard()
