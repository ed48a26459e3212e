"""A shard's state against a plain dict, through restarts; its log against a plain list."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mq9cluster.domain.log import HardState, LogEntry
from mq9cluster.domain.ports import Family, Writes
from mq9cluster.storage.database import Database
from mq9cluster.storage.log import GroupLog
from mq9cluster.storage.state import ShardState

PLACES = ((0, 0), (0, 1), (1, 0), (255, 0), (256, 0))  # neighbours in key order
KEYS = st.binary(max_size=3) | st.sampled_from([b"\xff", b"\xff\xff", b"\x00"])
FEW = st.sampled_from([Family.MESSAGES, Family.SCHEDULE])


class StateMachine(RuleBasedStateMachine):
    """What was committed is what is read, in every order, whatever neighbours hold."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.database = Database.open(self.folder / "db", create=True)
        self.model = {(place, family): {} for place in PLACES for family in Family}

    def state(self, place) -> ShardState:
        return ShardState(self.database, *place)

    @rule(
        place=st.sampled_from(PLACES),
        rows=st.dictionaries(st.tuples(FEW, KEYS), st.none() | st.binary(max_size=4), max_size=5),
        ranges=st.lists(st.tuples(FEW, KEYS, KEYS), max_size=2),
    )
    def commit(self, place, rows, ranges):
        writes = Writes()
        for (family, key), value in rows.items():
            writes.rows[family][key] = value
        writes.ranges.extend(ranges)
        self.state(place).commit(writes)
        for family, start, stop in ranges:
            model = self.model[place, family]
            for key in [key for key in model if start <= key < stop]:
                del model[key]
        for (family, key), value in rows.items():
            if value is None:
                self.model[place, family].pop(key, None)
            else:
                self.model[place, family][key] = value

    @rule(place=st.sampled_from(PLACES), family=FEW, start=KEYS, stop=KEYS, reverse=st.booleans())
    def scan(self, place, family, start, stop, reverse):
        model = self.model[place, family]
        expected = sorted(
            ((key, value) for key, value in model.items() if start <= key < stop), reverse=reverse
        )
        assert list(self.state(place).scan(family, start, stop, reverse=reverse)) == expected

    @rule(place=st.sampled_from(PLACES), family=FEW, key=KEYS)
    def get(self, place, family, key):
        assert self.state(place).get(family, key) == self.model[place, family].get(key)

    @rule(place=st.sampled_from(PLACES))
    def drop(self, place):
        batch = self.database.batch()
        self.state(place).drop(batch)
        self.database.write(batch)
        for family in Family:
            self.model[place, family].clear()

    @rule(flush=st.booleans())
    def restart(self, flush):
        if flush:
            self.database.flush()
        self.database.close()
        self.database = Database.open(self.folder / "db", create=False)

    @invariant()
    def every_row_is_there(self):
        for (place, family), model in self.model.items():
            assert list(self.state(place).scan_all(family)) == sorted(model.items())

    def teardown(self):
        self.database.close()
        shutil.rmtree(self.folder)


class LogMachine(RuleBasedStateMachine):
    """The log holds what was appended, less what was truncated or compacted, with its terms."""

    @initialize(tail_bytes_max=st.sampled_from([0, 20, 1000]))
    def begin(self, tail_bytes_max):
        self.folder = Path(tempfile.mkdtemp())
        self.tail_bytes_max = tail_bytes_max
        self.database = Database.open(self.folder / "db", create=True)
        self.log = GroupLog(self.database, 1, tail_bytes_max)
        self.first, self.before = 1, 0  # the term before the first
        self.entries: list[LogEntry] = []
        self.hard_state = HardState(0, "")

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    def write(self, change) -> None:
        batch = self.database.batch()
        change(batch)
        self.database.write(batch)

    @rule(
        back=st.integers(0, 5),
        data=st.lists(st.binary(max_size=9), max_size=6),
        term=st.integers(1, 9),
    )
    def append(self, back, data, term):
        start = max(self.first, self.last + 1 - back)
        more = [LogEntry(start + n, term, value) for n, value in enumerate(data)]
        truncate_from = start if start <= self.last else None
        self.write(lambda batch: self.log.append(batch, more, truncate_from))
        del self.entries[start - self.first :]
        self.entries.extend(more)

    @rule(keep=st.integers(0, 5))
    def compact(self, keep):
        upto = self.last - keep
        self.write(lambda batch: self.log.compact(batch, upto))
        if upto >= self.first:
            self.before = self.entries[upto - self.first].term
            del self.entries[: upto - self.first + 1]
            self.first = upto + 1

    @rule(ahead=st.integers(-3, 3), term=st.integers(1, 9))
    def install_a_snapshot(self, ahead, term):
        index = max(self.first, self.last + ahead)
        self.write(lambda batch: self.log.reset(batch, index, term))
        self.first, self.before, self.entries = index + 1, term, []

    @rule(term=st.integers(0, 2**64 - 1), vote=st.text(max_size=5))
    def vote(self, term, vote):
        self.hard_state = HardState(term, vote)
        self.write(lambda batch: self.log.put_hard_state(batch, self.hard_state))

    @rule()
    def restart(self):
        self.database.close()
        self.database = Database.open(self.folder / "db", create=False)
        self.log = GroupLog(self.database, 1, self.tail_bytes_max)

    @rule(start=st.integers(0, 6), count=st.integers(0, 6), bytes_max=st.integers(0, 30))
    def read(self, start, count, bytes_max):
        found = self.log.read(self.first + start, self.first + start + count, bytes_max)
        wanted = self.entries[start : start + count]
        assert found == wanted[: len(found)]
        assert bool(found) == bool(wanted)
        assert len(found) <= 1 or sum(len(entry.data) for entry in found) <= bytes_max

    @invariant()
    def agrees(self):
        log = self.log
        assert (log.first_index(), log.last_index()) == (self.first, self.last)
        assert log.read(self.first, self.last + 1, 1 << 30) == self.entries
        terms = [log.term(n) for n in range(self.first - 1, self.last + 1)]
        assert terms == [self.before, *(entry.term for entry in self.entries)]
        assert log.bytes_kept == sum(len(entry.data) for entry in self.entries)
        assert log.hard_state == self.hard_state

    def teardown(self):
        self.database.close()
        shutil.rmtree(self.folder)


TestState = StateMachine.TestCase
TestState.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLog = LogMachine.TestCase
TestLog.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
