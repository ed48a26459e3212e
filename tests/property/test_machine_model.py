"""The machine against the model: interleaved clients, jumping clocks, restarts, batched entries.

Every outcome is compared, and after every entry all that can be seen: each mailbox's messages and
what each group would be handed next. A second replica starts anew from its rows before every entry;
it must answer the same and end with the same rows.
"""

import json
from collections import Counter
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mq9cluster.domain import command as c
from mq9cluster.domain import errors, limits
from mq9cluster.domain.address import agent_ref, dead_letter_ref, mailbox_ref
from mq9cluster.domain.agent import card_digest
from mq9cluster.domain.message import Message
from mq9cluster.domain.outcome import HandedOut, Outcome, Refused
from mq9cluster.domain.ports import Family
from mq9cluster.machine import consumer_group, hand_outs, keys, reads, registry
from mq9cluster.machine.keys import Due
from tests.property.machine_shard import MachineShard
from tests.property.model import Mailbox, Model

START_MS = 1_700_000_000_000
DAY_MS = 86_400_000

SOURCES = [mailbox_ref("$G", "a"), mailbox_ref("$G", "b"), mailbox_ref("other", "a")]
MAILBOXES = [*SOURCES, dead_letter_ref(SOURCES[0])]
GROUPS = ["g", "h", "g2"]
PROBE = c.Owner(2**40, 1, 1)
EXACT_TEXT = (
    errors.MailboxExists,
    errors.MailboxNotFound,
    errors.MailboxFull,
    errors.AgentNotFound,
)
ACCOUNTS = ["$G", "other"]
AGENT_NAMES = ["a", "b", "c", "d.dlq"]
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


class MachineAgainstModel(RuleBasedStateMachine):
    """One run of the comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.replica = MachineShard()
        self.forgetful = MachineShard()
        self.now_ms = START_MS
        self.buffer: list[c.Command] = []
        self.model_names: dict[str, str] = {}  # of hand-outs, by the machine's name
        self.recent_names: list[str] = ["nonsense"]
        self.readable: dict[tuple[bytes, str], set[tuple[int, int]]] = {}  # after the last entry

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

    def submit(self, command: c.Command, hold: bool) -> None:
        """Apply, or hold back to be applied in one entry with what follows."""
        self.buffer.append(command)
        if not hold or len(self.buffer) >= 5:
            self.flush()

    def flush(self) -> None:
        if not self.buffer:
            return
        commands, self.buffer = self.buffer, []
        outcomes = self.replica.entry(self.now_ms, commands)
        self.forgetful.restart()
        assert self.forgetful.entry(self.now_ms, commands) == outcomes
        assert self.forgetful.store.rows == self.replica.store.rows
        self.check_groups_in_memory()
        for command, machine_says in zip(commands, outcomes, strict=True):
            model_says = self.model.apply(self.now_ms, self.for_model(command))
            self.compare(command, machine_says, model_says)
        self.compare_all()
        self.compare_agents()
        self.compare_schedule()
        self.check_announcements()

    def check_groups_in_memory(self) -> None:
        """What a replica remembers of its groups is what their rows say to one that starts anew."""
        kept, anew = self.replica.machine.workspace, self.replica.copy().machine.workspace
        for group in kept._groups.values():
            mailbox = anew.stored_mailbox(group.mailbox_ref) if group else None
            if group is None or mailbox is None:
                continue
            told = anew.group(mailbox, group.name)
            assert told is not None
            upto = range(mailbox.last_id + 2)
            for known, derived in zip(
                group.taken + group.done, told.taken + told.done, strict=True
            ):
                assert [i for i in upto if i in known] == [i for i in upto if i in derived]
            assert {i: h.seq for i, h in group.holder.items()} == {
                i: h.seq for i, h in told.holder.items()
            }
            assert list(group.remembered) == list(told.remembered)
            assert {h.seq for h in group.active.values()} == {h.seq for h in told.active.values()}
            assert (group.counts, group.delays) == (told.counts, told.delays)
            for owner in group.owner_rows:
                assert anew.get(Family.GROUPS, keys.owner(owner) + group.prefix) is not None

    # --- commands --------------------------------------------------------------------------------

    @rule(
        box=mailboxes,
        ttl_s=seconds,
        max_deliver=st.integers(0, 3),
        max_msgs=st.sampled_from([0, 0, 3, 5]),
        max_bytes=st.sampled_from([0, 0, 8]),
        retain=st.booleans(),
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
        hold: bool,
    ) -> None:
        settings = c.CreateMailbox(box, ttl_s, "", max_deliver, max_msgs, max_bytes, retain)
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
        hold: bool,
    ) -> None:
        value = self.start_value(box, deliver, ahead)
        self.submit(
            c.FetchMessages(
                box, group, owner, consumer, deliver, value, force, tags, num_msgs, ack_wait_ms
            ),
            hold,
        )

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
            assert _plain(self.replica.query(*filters)) == _plain(self.model.query(*filters))

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
        assert _plain(self.replica.peek(*start)) == _plain(self.model.peek(*start))

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

    # --- comparison ------------------------------------------------------------------------------

    def for_model(self, command: c.Command) -> c.Command:
        if isinstance(command, c.AckMessages) and command.handout:
            return command._replace(handout=self.model_names.get(command.handout, "unknown"))
        return command

    def compare(self, command: c.Command, machine: Outcome, model: Outcome) -> None:
        said = f"{command}\nmachine: {machine!r}\nmodel:   {model!r}"
        if isinstance(machine, HandedOut) and isinstance(model, HandedOut):
            assert machine.places == model.places, said
            assert bool(machine.handout) == bool(model.handout), said
            if machine.handout:
                assert machine.handout not in self.model_names, said
                self.model_names[machine.handout] = model.handout
                self.recent_names.append(machine.handout)
        elif isinstance(machine, Refused) and isinstance(model, Refused):
            assert type(machine.error) is type(model.error), said
            if isinstance(machine.error, EXACT_TEXT):
                assert machine == model, said
        else:
            assert machine == model, said

    def compare_all(self) -> None:
        """Everything a client could see, and what the shard counts."""
        counted, boxes = self.replica.machine.workspace.shard, self.model.mailboxes
        assert counted.mailboxes == len(boxes)
        assert counted.messages == sum(mailbox.count() for mailbox in boxes.values())
        probed = self.replica.copy()
        for box in [*MAILBOXES, *(dead_letter_ref(box) for box in MAILBOXES)]:
            machine, model = self.replica.query(box), self.model.query(box)
            assert _plain(machine) == _plain(model)
            if isinstance(machine, Refused):
                continue
            for name in self.model.mailboxes[box].groups:
                fetch = c.FetchMessages(box, name, PROBE, num_msgs=1_000)
                worth_it = reads.would_change(probed.machine.workspace, fetch)
                handed = probed.apply(self.now_ms, fetch)
                if isinstance(handed, Refused):
                    assert isinstance(handed.error, errors.Overloaded)
                    continue
                assert isinstance(handed, HandedOut)
                room = limits.HELD_PER_GROUP_MAX - self.model.held(box, name)
                assert list(handed.places) == self.model.open_places(box, name)[:room]
                assert worth_it or not handed.places

    def compare_agents(self) -> None:
        """The registry, to whoever follows it, builds an index of it or shows it."""
        known = self.model.known_agents()
        assert self.replica.known_agents() == known
        assert self.replica.follower.agents == known
        assert self.replica.machine.workspace.shard.agents == len(known)
        for account in ACCOUNTS:
            machine = self.replica.agents_at(account, AGENT_NAMES)
            assert machine == self.model.agents_at(account, AGENT_NAMES)
        if not known:
            assert self.replica.store.rows[Family.AGENTS] == {}

    def check_announcements(self) -> None:
        """A waiting FETCH looks again when its mailbox is said to have changed: nothing may become
        readable unsaid.
        """
        before, self.readable = self.readable, {}
        for ref, box in self.model.mailboxes.items():
            self.readable[ref, ""] = {message.place for message in box.messages.values()}
            for name in box.groups:
                self.readable[ref, name] = set(self.model.open_places(ref, name))
        for (ref, name), places in self.readable.items():
            new = places - before.get((ref, name), places if name else set())
            assert not new or ref in self.replica.changed, f"{new} opened for {name!r} of {ref!r}"

    def compare_schedule(self) -> None:
        """What is scheduled for the mailboxes there are: all that will happen, and nothing else."""
        ws = self.replica.machine.workspace
        machine: Counter[tuple[bytes, Due]] = Counter()
        for key, ref in self.replica.store.rows[Family.SCHEDULE].items():
            _, kind, detail = keys.due_of(key)
            if kind == Due.AGENT_EXPIRY:
                machine[detail, Due.AGENT_EXPIRY] += 1
                continue
            mailbox = ws.mailbox(ref) if ref else None
            if mailbox and detail.startswith(mailbox.prefix):
                machine[ref, Due(kind)] += 1
        model: Counter[tuple[bytes, Due]] = Counter()
        for ref, box in self.model.mailboxes.items():
            handouts = [h for group in box.groups.values() for h in group.current]
            model.update(
                {
                    (ref, Due.MAILBOX_EXPIRY): box.expires_ms > 0,
                    (ref, Due.PROMOTION): len(box.delayed),
                    (ref, Due.MESSAGE_EXPIRY): sum(m.expires_ms > 0 for m in box.messages.values()),
                    (ref, Due.ACK_WAIT): sum(h.deadline_ms > 0 for h in handouts),
                    (ref, Due.NACK_DELAY): self.waiting(box),
                    (ref, Due.GROUP_IDLE): len(box.groups),
                }
            )
        for ref, agent in self.model.registry.by_ref.items():
            model[ref, Due.AGENT_EXPIRY] = int(agent.expires_ms > 0)
        for what, count in machine.items():
            if what[1] == Due.NACK_DELAY:  # of what is gone or begun anew: they will find nothing
                model[what] += max(count - model[what], 0)
        assert machine == +model, f"machine {machine}, model {+model}"

    def waiting(self, box: Mailbox) -> int:
        """How many messages given back with a delay are not yet open again."""
        return sum(
            group.open_at_ms.get(message.msg_id, 0) > self.now_ms and not group.has_done(message)
            for group in box.groups.values()
            for message in box.messages.values()
        )

    def teardown(self) -> None:
        self.flush()


class WithSmallLimits(MachineAgainstModel):
    """The same where limits are near: of groups, of what a group holds, of what it remembers."""

    def __init__(self) -> None:
        small = {
            "GROUPS_PER_MAILBOX_MAX": 2,
            "HELD_PER_GROUP_MAX": 4,
            "HANDOUTS_REMEMBERED_MAX": 3,
            "AGENTS_PER_STEP_MAX": 2,
        }
        self.patches = [
            patch.multiple(limits, **small),
            patch.multiple(
                consumer_group,
                GROUPS_PER_MAILBOX_MAX=small["GROUPS_PER_MAILBOX_MAX"],
                HELD_PER_GROUP_MAX=small["HELD_PER_GROUP_MAX"],
            ),
            patch.object(registry, "AGENTS_PER_STEP_MAX", small["AGENTS_PER_STEP_MAX"]),
            patch.object(hand_outs, "HANDOUTS_REMEMBERED_MAX", small["HANDOUTS_REMEMBERED_MAX"]),
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


def _plain(found: list[Message] | Refused) -> Any:
    """Comparable: meta as the object it says."""
    if isinstance(found, Refused):
        return found
    return [
        (*message[:5], json.loads(message.meta) if message.meta else {}, message.payload)
        for message in found
    ]


LONG = settings(max_examples=2 * settings().max_examples, stateful_step_count=50)

TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = LONG
TestWithSmallLimits = WithSmallLimits.TestCase
TestWithSmallLimits.settings = LONG
