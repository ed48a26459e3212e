"""A machine, another that starts anew before every entry, and the model that judges both: how they
are given the same commands, and compared in everything a client or an index could see.

Called by test_machine_model, which has the rules by which commands come.
"""

import json
from collections import Counter
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from mq9cluster.domain import command as c
from mq9cluster.domain import errors, limits
from mq9cluster.domain.address import dead_letter_ref, mailbox_ref, public_list_ref
from mq9cluster.domain.message import Message
from mq9cluster.domain.outcome import HandedOut, Outcome, Refused
from mq9cluster.domain.ports import Family
from mq9cluster.machine import keys, reads
from mq9cluster.machine.keys import Due
from tests.property.machine_shard import MachineShard
from tests.property.model import Mailbox, Model

START_MS = 1_700_000_000_000

SOURCES = [mailbox_ref("$G", "a"), mailbox_ref("$G", "b"), mailbox_ref("other", "a")]
MAILBOXES = [*SOURCES, dead_letter_ref(SOURCES[0])]
PROBE = c.Owner(2**40, 1, 1)
FOLLOWED = [((1, 1, 1, 1), 0b1111), ((2, 1, 3, 4), 0b1111), ((1, 1, 2, 2), 0b1010)]
EXACT_TEXT = (
    errors.MailboxExists,
    errors.MailboxNotFound,
    errors.MailboxFull,
    errors.AgentNotFound,
)
ACCOUNTS = ["$G", "other"]
AGENT_NAMES = ["a", "b", "c", "d.dlq"]


class Comparison(RuleBasedStateMachine):
    """What one run compares."""

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
            assert list(group.unsettled) == list(told.unsettled)
            assert group.forgotten_id == told.forgotten_id
            assert {h.seq for h in group.active.values()} == {h.seq for h in told.active.values()}
            assert (group.counts, group.delays) == (told.counts, told.delays)
            for owner in group.owner_rows:
                assert anew.get(Family.GROUPS, keys.owner(owner) + group.prefix) is not None

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
        lists = {public_list_ref(box) for box in MAILBOXES}
        for box in [*MAILBOXES, *(dead_letter_ref(box) for box in MAILBOXES), *sorted(lists)]:
            machine, model = self.replica.query(box), self.model.query(box)
            assert plain(machine) == plain(model)
            for starts, priorities in FOLLOWED:
                told = self.replica.behind(box, starts, priorities)
                assert plain(told) == plain(self.model.behind(box, starts, priorities))
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


def plain(found: list[Message] | Refused) -> Any:
    """Comparable: meta as the object it says."""
    if isinstance(found, Refused):
        return found
    return [
        (*message[:5], json.loads(message.meta) if message.meta else {}, message.payload)
        for message in found
    ]
