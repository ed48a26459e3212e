"""The machine against the model: interleaved clients, jumping clocks, restarts, batched entries.

Every outcome is compared, and after every entry all that can be seen: each mailbox's messages and
what each group would be handed next. A second replica starts anew from its rows before every entry;
it must answer the same and end with the same rows.
"""

import json
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from mq9cluster.domain import command as c
from mq9cluster.domain import limits
from mq9cluster.domain.address import agent_ref, mailbox_ref
from mq9cluster.domain.agent import card_digest
from mq9cluster.machine import consumer_group, hand_outs, registry, rows, unwritten
from tests.property.machine_comparison import (
    ACCOUNTS,
    AGENT_NAMES,
    MAILBOXES,
    SOURCES,
    Comparison,
    plain,
)

DAY_MS = 86_400_000

GROUPS = ["g", "h", "g2"]
BODIES = [b"{}", b'{"name":"x"}']

OWNERS = [
    c.Owner(1, 2, 1),
    c.Owner(1, 2, 2),
    c.Owner(2, 2, 1),
    c.Owner(2, 3, 1),
    c.Owner(1, 3, 1),
]

# Few of everything, the first most often: clients should meet.
owners = st.sampled_from([*OWNERS, *OWNERS[:3], *OWNERS[:2]])
mailboxes = st.sampled_from([SOURCES[0]] * 8 + MAILBOXES)
groups = st.sampled_from([*GROUPS, *["g"] * 4])
tag_sets = st.lists(st.sampled_from(["x", "y"]), max_size=2, unique=True).map(tuple)
seconds = st.sampled_from([0, 0, 0, 0, 1, 2, 5, 60, 8 * 86_400])
agents = st.builds(agent_ref, st.sampled_from(["$G", "$G", "other"]), st.sampled_from(AGENT_NAMES))
addresses = st.sampled_from(["", "m", "m", "n"])
embedders = st.sampled_from(["e", "f"])
infos = st.sampled_from([b"", b"", b"1", b'"two"'])
short_waits_ms = st.sampled_from([1, 500, 999, 1_000, 1_001, 2_000, 5_000])
long_waits_ms = st.sampled_from(
    [59_000, 60_000, 119_999, 120_000, DAY_MS, 7 * DAY_MS - 1, 7 * DAY_MS, 9 * DAY_MS]
)


class MachineAgainstModel(Comparison):
    """One run of the comparison."""

    # --- the clock, entries and restarts ---------------------------------------------------------

    @initialize(
        retain=st.booleans(),
        max_deliver=st.integers(0, 3),
        priorities=st.lists(st.integers(0, 3), max_size=8),
    )
    def begin_with_a_mailbox(self, retain: bool, max_deliver: int, priorities: list[int]) -> None:
        self.submit(
            c.CreateMailbox(SOURCES[0], max_deliver=max_deliver, retain_acked=retain), hold=False
        )
        for priority in priorities:
            self.submit(c.SendMessage(SOURCES[0], b"p", priority), hold=True)

    @rule(ms=short_waits_ms)
    def wait(self, ms: int) -> None:
        self.flush()
        self.now_ms += ms

    @rule(ms=st.one_of(st.just(0), st.just(0), long_waits_ms))
    def wait_long(self, ms: int) -> None:
        self.wait(ms)

    @rule()
    def restart(self) -> None:
        self.flush()
        self.replica.restart()

    @rule()
    def replay(self) -> None:
        """An entry that is in the state already changes nothing."""
        self.flush()
        before = self.replica.store.copy()
        command = c.SendMessage(SOURCES[0], b"again")
        applied = self.replica.machine.apply(self.replica.index, self.now_ms + 1, [command])
        self.replica.store.write(applied.writes)
        assert applied.outcomes == []
        assert self.replica.store.rows == before.rows

    # --- commands --------------------------------------------------------------------------------

    @rule(
        box=mailboxes,
        ttl_s=seconds,
        max_deliver=st.integers(0, 3),
        max_msgs=st.sampled_from([0, 0, 3, 5]),
        max_bytes=st.sampled_from([0, 0, 8]),
        retain=st.booleans(),
        kind=st.sampled_from(["", "", "public", "latest"]),
        hold=st.booleans(),
    )
    def create(
        self,
        box: bytes,
        ttl_s: int,
        max_deliver: int,
        max_msgs: int,
        max_bytes: int,
        retain: bool,
        kind: str,
        hold: bool,
    ) -> None:
        settings = c.CreateMailbox(box, ttl_s, "", max_deliver, max_msgs, max_bytes, retain)
        settings = settings._replace(public=kind == "public", latest=kind == "latest")
        self.submit(settings, hold)

    @rule(
        box=mailboxes,
        size=st.integers(0, 4),
        priority=st.integers(0, 3),
        key=st.sampled_from([b"", b"", b"k", b"l"]),
        tags=tag_sets,
        ttl_s=seconds,
        delay_s=seconds,
        dedupe_id=st.sampled_from([b"", b"", b"d", b"e"]),
        hold=st.booleans(),
    )
    def send(
        self,
        box: bytes,
        size: int,
        priority: int,
        key: bytes,
        tags: tuple[str, ...],
        ttl_s: int,
        delay_s: int,
        dedupe_id: bytes,
        hold: bool,
    ) -> None:
        meta = json.dumps({"tags": tags}).encode() if tags else b""
        payload = b"p" * size
        self.submit(
            c.SendMessage(box, payload, priority, key, meta, ttl_s, delay_s, dedupe_id), hold
        )

    @rule(box=mailboxes, count=st.integers(1, 4), data=st.data())
    def send_some(self, box: bytes, count: int, data: st.DataObject) -> None:
        """Several plain messages in one entry."""
        for _ in range(count):
            self.submit(c.SendMessage(box, b"", data.draw(st.sampled_from([0, 2, 2]))), hold=True)
        self.flush()

    @rule(
        box=mailboxes,
        group=groups,
        owner=owners,
        consumer=st.sampled_from(["", "", "", "c", "d"]),
        deliver=st.sampled_from([*c.Deliver, *[c.Deliver.EARLIEST] * 5]),
        ahead=st.integers(-5, 3),
        force=st.sampled_from([False] * 7 + [True]),
        tags=st.sampled_from([(), (), (), (), ("x",), ("x", "y")]),
        num_msgs=st.sampled_from([1, 2, 2, 3, 4, 100]),
        ack_wait_ms=st.sampled_from([0, 0, 1_000, 60_000]),
        priorities=st.sampled_from([15, 15, 15, 15, 4, 5, 8]),
        hold=st.booleans(),
    )
    def fetch(
        self,
        box: bytes,
        group: str,
        owner: c.Owner,
        consumer: str,
        deliver: int,
        ahead: int,
        force: bool,
        tags: tuple[str, ...],
        num_msgs: int,
        ack_wait_ms: int,
        priorities: int,
        hold: bool,
    ) -> None:
        value = self.start_value(box, deliver, ahead)
        fetch = c.FetchMessages(
            box, group, owner, consumer, deliver, value, force, tags, num_msgs, ack_wait_ms
        )
        self.submit(fetch._replace(priorities=priorities), hold)

    def start_value(self, box: bytes, deliver: int, ahead: int) -> int:
        """A from_id or from_time around now."""
        mailbox = self.model.mailboxes.get(box)
        if mailbox and mailbox.settings.retain_acked:
            ahead = min(ahead, 0)  # docs/protocol.md: what is sent before a start ahead may stay
        if deliver == c.Deliver.FROM_ID:
            return max((mailbox.last_id if mailbox else 0) + ahead, 0)
        return self.now_ms // 1000 + ahead if deliver == c.Deliver.FROM_TIME else 0

    @rule(
        group=groups,
        owner=owners,
        num_msgs=st.sampled_from([1, 2, 3, 5]),
        ack_wait_ms=st.sampled_from([0, 0, 1_000]),
    )
    def fetch_plainly(self, group: str, owner: c.Owner, num_msgs: int, ack_wait_ms: int) -> None:
        """What most clients do."""
        fetch = c.FetchMessages(
            SOURCES[0], group, owner, "", c.Deliver.EARLIEST, 0, False, (), num_msgs, ack_wait_ms
        )
        self.submit(fetch, hold=False)

    @rule(
        box=mailboxes,
        group=groups,
        owner=owners,
        scope=st.sampled_from([*c.AckScope, c.AckScope.BATCH]),
        by_name=st.booleans(),
        hold=st.booleans(),
        data=st.data(),
    )
    def ack(
        self,
        box: bytes,
        group: str,
        owner: c.Owner,
        scope: int,
        by_name: bool,
        hold: bool,
        data: st.DataObject,
    ) -> None:
        name = data.draw(st.sampled_from(self.recent_names[-6:])) if by_name else ""
        msg_id = self.draw_id(data, box)
        self.submit(c.AckMessages(box, group, msg_id, owner, name, scope), hold)

    @rule(scope=st.sampled_from(c.AckScope), late=st.booleans(), hold=st.booleans(), data=st.data())
    @precondition(lambda self: len(self.recent_names) > 1)
    def ack_by_its_owner(self, scope: int, late: bool, hold: bool, data: st.DataObject) -> None:
        """By the connection that fetched, of a message it was given."""
        found = self.draw_handout(data, late)
        if found:
            box, group, handout = found
            msg_id = data.draw(st.sampled_from(handout.places))[1]
            self.submit(c.AckMessages(box, group, msg_id, handout.owner, "", scope), hold)

    @rule(delay_s=seconds, late=st.booleans(), hold=st.booleans(), data=st.data())
    @precondition(lambda self: len(self.recent_names) > 1)
    def nack_by_its_owner(self, delay_s: int, late: bool, hold: bool, data: st.DataObject) -> None:
        """By the connection that fetched, of a message it was given."""
        found = self.draw_handout(data, late)
        if found:
            box, group, handout = found
            msg_id = data.draw(st.sampled_from(handout.places))[1]
            self.submit(c.NackMessage(box, group, msg_id, handout.owner, delay_s), hold)

    @rule(
        box=mailboxes,
        group=groups,
        owner=owners,
        delay_s=seconds,
        hold=st.booleans(),
        data=st.data(),
    )
    def nack(
        self, box: bytes, group: str, owner: c.Owner, delay_s: int, hold: bool, data: st.DataObject
    ) -> None:
        msg_id = self.draw_id(data, box)
        self.submit(c.NackMessage(box, group, msg_id, owner, delay_s), hold)

    @rule(box=mailboxes, hold=st.booleans(), data=st.data())
    def delete(self, box: bytes, hold: bool, data: st.DataObject) -> None:
        self.submit(c.DeleteMessage(box, self.draw_id(data, box)), hold)

    @rule(owner=owners, hold=st.booleans())
    def end_connection(self, owner: c.Owner, hold: bool) -> None:
        self.submit(c.EndConnection(owner), hold)

    @rule(run=st.sampled_from([None] * 12 + [(1, 1), (1, 2), (2, 2)]), hold=st.booleans())
    def end_incarnation(self, run: tuple[int, int] | None, hold: bool) -> None:
        if run:
            self.submit(c.EndIncarnation(*run), hold)

    @rule(
        agent=agents,
        address=addresses,
        ttl_s=st.sampled_from([0, 1, 2, 60, 700]),
        body=st.sampled_from(BODIES),
        codes=st.dictionaries(embedders, st.sampled_from([b"1", b"2"])),
        hold=st.booleans(),
    )
    def register(
        self,
        agent: bytes,
        address: str,
        ttl_s: int,
        body: bytes,
        codes: dict[str, bytes],
        hold: bool,
    ) -> None:
        command = c.RegisterAgent(agent, address, ttl_s, body, tuple(codes.items()))
        self.submit(command, hold)

    @rule(agent=agents, info=infos, hold=st.booleans())
    def report(self, agent: bytes, info: bytes, hold: bool) -> None:
        self.submit(c.ReportAgent(agent, info), hold)

    @rule(agent=agents, hold=st.booleans())
    def unregister(self, agent: bytes, hold: bool) -> None:
        self.submit(c.UnregisterAgent(agent), hold)

    @rule(
        mailbox=st.builds(mailbox_ref, st.sampled_from(ACCOUNTS), st.sampled_from(["m", "n"])),
        after=st.sampled_from(["", "", "", "a", "b"]),
        info=infos,
        end=st.sampled_from([False, False, True]),
        hold=st.booleans(),
    )
    def by_mailbox(self, mailbox: bytes, after: str, info: bytes, end: bool, hold: bool) -> None:
        """REPORT or UNREGISTER every agent of a mailbox."""
        command = (
            c.UnregisterAgents(mailbox, after) if end else c.ReportAgents(mailbox, info, after)
        )
        self.submit(command, hold)

    @rule(
        agent=agents,
        body=st.sampled_from(BODIES),
        embedder=embedders,
        code=st.sampled_from([b"1", b"2"]),
        hold=st.booleans(),
    )
    def set_code(self, agent: bytes, body: bytes, embedder: str, code: bytes, hold: bool) -> None:
        self.submit(c.SetAgentCode(agent, card_digest(body), embedder, code), hold)

    @rule(embedder=embedders)
    def drop_embedder(self, embedder: str) -> None:
        """Alone in its entry: followers are told of it in another way."""
        self.flush()
        self.submit(c.DropEmbedder(embedder), hold=False)

    @rule(
        box=mailboxes,
        key=st.sampled_from([b"", b"", b"k", b"l"]),
        tags=st.sampled_from([(), ("x",), ("x", "y")]),
        since_s=st.integers(-10, 2),
        limit=st.sampled_from([1, 2, 100]),
    )
    def query(
        self, box: bytes, key: bytes, tags: tuple[str, ...], since_s: int, limit: int
    ) -> None:
        self.flush()
        since_s += self.now_ms // 1000
        for since in (0, since_s):
            filters = (box, key, tags, since, limit)
            assert plain(self.replica.query(*filters)) == plain(self.model.query(*filters))

    @rule(
        box=mailboxes,
        deliver=st.sampled_from(c.Deliver),
        ahead=st.integers(-10, 3),
        tags=st.sampled_from([(), ("x",), ("x", "y")]),
        num_msgs=st.sampled_from([1, 2, 100]),
    )
    def browse(
        self, box: bytes, deliver: int, ahead: int, tags: tuple[str, ...], num_msgs: int
    ) -> None:
        self.flush()
        start = (box, deliver, self.start_value(box, deliver, ahead), tags, num_msgs)
        assert plain(self.replica.peek(*start)) == plain(self.model.peek(*start))

    def draw_id(self, data: st.DataObject, box: bytes) -> int:
        """An id of the mailbox, or one beside them; the newest most often."""
        mailbox = self.model.mailboxes.get(box)
        last_id = mailbox.last_id if mailbox else 0
        return data.draw(
            st.sampled_from([*range(last_id + 2), *range(max(last_id - 5, 1), last_id + 1)])
        )

    def draw_handout(self, data: st.DataObject, late: bool) -> Any:
        """(mailbox, group, hand-out) of one that is current, or has ended."""
        every = [
            (box, name, handout)
            for box, mailbox in self.model.mailboxes.items()
            for name, group in mailbox.groups.items()
            for handout in (group.ended[-4:] if late else group.current)
            if handout.places
        ]
        return data.draw(st.sampled_from(every)) if every else None


class WithSmallLimits(MachineAgainstModel):
    """The same where limits are near: of groups, of what a group holds, of what it remembers."""

    def __init__(self) -> None:
        small = {
            "GROUPS_PER_MAILBOX_MAX": 2,
            "HELD_PER_GROUP_MAX": 4,
            "HANDOUTS_REMEMBERED_MAX": 3,
            "HANDOUTS_UNSETTLED_MAX": 2,
            "AGENTS_PER_STEP_MAX": 2,
        }
        self.patches = [
            patch.multiple(limits, **small),
            patch.multiple(
                consumer_group,
                GROUPS_PER_MAILBOX_MAX=small["GROUPS_PER_MAILBOX_MAX"],
                HELD_PER_GROUP_MAX=small["HELD_PER_GROUP_MAX"],
            ),
            patch.multiple(unwritten, LAG_ENTRIES=4, UNWRITTEN_MAX=2, WRITTEN_AGENTS_MAX=1),
            patch.object(registry, "AGENTS_PER_STEP_MAX", small["AGENTS_PER_STEP_MAX"]),
            patch.object(rows, "HANDOUTS_REMEMBERED_MAX", small["HANDOUTS_REMEMBERED_MAX"]),
            patch.multiple(
                hand_outs,
                HANDOUTS_REMEMBERED_MAX=small["HANDOUTS_REMEMBERED_MAX"],
                HANDOUTS_UNSETTLED_MAX=small["HANDOUTS_UNSETTLED_MAX"],
            ),
        ]
        for each in self.patches:
            each.start()
        super().__init__()

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            for each in self.patches:
                each.stop()


LONG = settings(max_examples=2 * settings().max_examples, stateful_step_count=50)

TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = LONG
TestWithSmallLimits = WithSmallLimits.TestCase
TestWithSmallLimits.settings = LONG
