"""A group of one commits what is on disk, and nothing else."""

import pytest

from mq9cluster.cluster.engine import HardState, LogEntry, Ready
from mq9cluster.storage.database import Database
from mq9cluster.storage.log import GroupLog
from tests.support.solo_engine import SoloEngine


@pytest.fixture
def log(tmp_path):
    database = Database.open(tmp_path / "db", create=True)
    yield GroupLog(database, 0)
    database.close()


def started(log, applied: int = 0) -> SoloEngine:
    """An engine whose opening entry is synced and handed on."""
    engine = SoloEngine("a", log, HardState(0, ""), applied)
    engine.synced(engine.ready())
    engine.take_committed()
    return engine


def test_a_start_opens_a_new_term_with_an_empty_entry(log):
    engine = SoloEngine("a", log, HardState(0, ""), 0)
    assert (engine.is_leader, engine.leader, engine.term, engine.commit_index) == (True, "a", 1, 0)
    assert engine.ready() == Ready(HardState(1, "a"), None, [LogEntry(1, 1, b"")], (), ())
    assert engine.ready() is None


def test_an_entry_is_committed_only_once_it_is_synced(log):
    engine = started(log)
    assert engine.propose(b"x") == (2, 1)
    ready = engine.ready()
    assert ready == Ready(None, None, [LogEntry(2, 1, b"x")], (), ())
    assert engine.take_committed() == []
    assert engine.commit_index == 1
    engine.synced(ready)
    assert engine.commit_index == 2
    assert engine.take_committed() == [LogEntry(2, 1, b"x")]
    assert engine.take_committed() == []


def test_what_is_proposed_during_a_sync_goes_with_the_next(log):
    engine = started(log)
    engine.propose(b"x")
    first = engine.ready()
    assert engine.propose(b"y") == (3, 1)
    assert engine.ready() is None
    engine.synced(first)
    assert engine.take_committed() == [LogEntry(2, 1, b"x")]
    assert engine.ready() == Ready(None, None, [LogEntry(3, 1, b"y")], (), ())
    assert engine.take_committed() == []


def test_a_restart_hands_on_what_the_state_has_not_seen_before_anything_new(tmp_path):
    database = Database.open(tmp_path / "db", create=True)
    log = GroupLog(database, 0)
    batch = database.batch()
    old = [LogEntry(n, 1, b"%d" % n) for n in range(1, 6)]
    log.append(batch, old)
    database.write(batch)
    engine = SoloEngine("a", log, HardState(3, "a"), applied=2)
    assert (engine.term, engine.commit_index) == (4, 5)
    ready = engine.ready()
    assert ready.entries == [LogEntry(6, 4, b"")]
    engine.synced(ready)
    assert engine.take_committed() == old[2:]
    assert engine.take_committed() == [LogEntry(6, 4, b"")]
    database.close()


def test_a_read_waits_for_what_is_committed_now(log):
    engine = started(log)
    engine.propose(b"x")
    heard = []
    engine.read_barrier(heard.append)
    assert heard == [1]


def test_there_is_nobody_to_hand_over_to(log):
    engine = started(log)
    engine.transfer("b")
    engine.receive("b", b"rubbish")
    engine.tick()
    assert engine.is_leader
    assert engine.ready() is None
