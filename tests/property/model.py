"""A plain model of one shard's mailboxes: lists and dicts, nothing clever, slow and obvious.

Written from docs/protocol.md sections 2, 3 and 5 alone, never from the machine's code. The
property tests apply the same commands to it and to the machine and compare every outcome; what
differs is a bug in one of the two.

Hand-out ids are opaque, so the model numbers its own: whoever compares keeps the pairs.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mq9cluster.domain import command as c
from mq9cluster.domain import errors, limits, outcome
from mq9cluster.domain.address import address_of, dead_letter_ref, public_list_ref
from mq9cluster.domain.message import ALL_PRIORITIES, DELAYED_MSG_ID, Message, Priority
from mq9cluster.domain.registry import AgentFound
from tests.property.agents_model import Agents, Known, NotFound
from tests.property.group_model import Consumer, Group, HandOut, Msg, Place


@dataclass(slots=True)
class Mailbox:
    """A mailbox with all that vanishes with it."""

    settings: c.CreateMailbox
    expires_ms: int
    last_id: int = 0
    messages: dict[int, Msg] = field(default_factory=dict)
    delayed: list[Msg] = field(default_factory=list)  # in the order of their SENDs
    seen: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)

    def count(self) -> int:
        return len(self.messages) + len(self.delayed)

    def payload_bytes(self) -> int:
        return sum(len(m.payload) for m in [*self.messages.values(), *self.delayed])

    def with_key(self, key: bytes) -> Msg | None:
        return next((m for m in self.messages.values() if key and m.key == key), None)

    def show(self, message: Msg) -> int:
        """Make `message` visible under the next id; it replaces the one with its key."""
        older = self.with_key(message.key)
        if older is not None:
            del self.messages[older.msg_id]
        if self.settings.latest:
            self.messages.clear()
        self.last_id += 1
        message.msg_id = self.last_id
        self.messages[message.msg_id] = message
        return message.msg_id

    def sweep(self) -> None:
        """retain "acked": what every group, and at least one, has done is removed."""
        if not self.settings.retain_acked or not self.groups:
            return
        for message in list(self.messages.values()):
            if all(group.has_done(message) for group in self.groups.values()):
                del self.messages[message.msg_id]


class Refuse(Exception):
    """Leave a command with this error."""

    def __init__(self, error: errors.Mq9Error) -> None:
        super().__init__(str(error))
        self.error = error


class Model:
    """One shard."""

    def __init__(self) -> None:
        self.mailboxes: dict[bytes, Mailbox] = {}
        self.registry = Agents()
        self.ended_incarnations: dict[int, int] = {}
        self.now_ms = 0
        self._handouts = 0

    # What time does.

    def advance(self, now_ms: int) -> None:
        """Do all that is due up to `now_ms`, each at its own moment."""
        while due := min(self._due(now_ms), default=None, key=lambda event: event[:2]):
            self.now_ms = due[0]
            due[2](*due[3])
            self._sweep()
        self.now_ms = now_ms

    def _due(self, now_ms: int) -> Iterator[tuple[int, int, Callable[..., Any], tuple[Any, ...]]]:
        """(time, rank within that time, what to do, with what); what vanishes goes first."""
        for ref, box in self.mailboxes.items():
            if 0 < box.expires_ms <= now_ms:
                yield box.expires_ms, 0, self._vanish, (ref,)
            for message in box.messages.values():
                if 0 < message.expires_ms <= now_ms:
                    yield message.expires_ms, 1, box.messages.pop, (message.msg_id,)
            for message in box.delayed:
                if 0 < message.expires_ms <= now_ms:
                    yield message.expires_ms, 1, box.delayed.remove, (message,)
                if message.created_ms <= now_ms:
                    yield message.created_ms, 2, self._promote, (box, message)
            for name, group in sorted(box.groups.items()):
                if group.used_ms + limits.GROUP_IDLE_MS <= now_ms:
                    yield group.used_ms + limits.GROUP_IDLE_MS, 4, box.groups.pop, (name,)
                for h in group.current:
                    if 0 < h.deadline_ms <= now_ms:
                        yield h.deadline_ms, 3, self._end, (ref, name, h, "ack_wait")

        for ref in self.registry.by_ref:
            if 0 < self.registry.swept_at(ref) <= now_ms:
                yield self.registry.swept_at(ref), 5, self.registry.by_ref.pop, (ref,)

    def _vanish(self, ref: bytes) -> None:
        if self.mailboxes.pop(ref).settings.public:
            until_ms = self.now_ms + limits.REMOVED_TOLD_S * 1000
            self._tell_public(ref, {"event": "removed"}, until_ms)

    def _tell_public(self, ref: bytes, event: dict[str, Any], expires_ms: int) -> None:
        """A message under the mailbox's address, in its account's list."""
        to = public_list_ref(ref)
        told = self.mailboxes.setdefault(to, Mailbox(c.CreateMailbox(to), 0))
        kind = event.pop("event")
        text = json.dumps(
            {"event": kind, "mail_id": address_of(ref), **event},
            separators=(",", ":"),
            ensure_ascii=False,
        )
        key, payload = address_of(ref).encode(), text.encode()
        told.show(Msg(0, int(Priority.NORMAL), self.now_ms, expires_ms, key, b"", payload))

    def _promote(self, box: Mailbox, message: Msg) -> None:
        box.delayed.remove(message)
        box.show(message)

    def _sweep(self) -> None:
        for box in self.mailboxes.values():
            box.sweep()

    # Commands.

    def apply(self, now_ms: int, command: c.Command) -> outcome.Outcome:
        """Apply `command` at `now_ms`."""
        self.advance(now_ms)
        try:
            result = _WORK[type(command)](self, command)
        except (Refuse, NotFound) as refusal:
            return outcome.Refused(refusal.error)
        self._sweep()
        return result

    def _mailbox(self, ref: bytes) -> Mailbox:
        if ref not in self.mailboxes:
            raise Refuse(errors.MailboxNotFound(address_of(ref)))
        return self.mailboxes[ref]

    def _check_owner(self, owner: c.Owner) -> None:
        if owner.incarnation <= self.ended_incarnations.get(owner.node, -1):
            raise Refuse(errors.Unavailable("this run of the node was ended"))

    def _create_mailbox(self, create: c.CreateMailbox) -> outcome.Outcome:
        present = self.mailboxes.get(create.mailbox)
        if present is not None:
            if not (present.settings.public and create.public):
                raise Refuse(errors.MailboxExists(address_of(create.mailbox)))
            return outcome.MailboxCreated(create.mailbox)
        expires_ms = self.now_ms + create.ttl_s * 1000 if create.ttl_s else 0
        self.mailboxes[create.mailbox] = Mailbox(create, expires_ms)
        if create.public:
            about = {"desc": create.desc, "ttl": create.ttl_s, "create_time": self.now_ms // 1000}
            self._tell_public(create.mailbox, {"event": "added", **about}, 0)
        return outcome.MailboxCreated(create.mailbox)

    def _send_message(self, send: c.SendMessage) -> outcome.Outcome:
        box = self._mailbox(send.mailbox)
        if send.dedupe_id in box.seen:
            until_ms, msg_id = box.seen[send.dedupe_id]
            if self.now_ms < until_ms:
                return outcome.MessageStored(msg_id, duplicate=True)
        self._check_room(box, send)
        message = Msg(
            msg_id=0,
            priority=int(send.priority),
            created_ms=self.now_ms + send.delay_s * 1000,
            expires_ms=self.now_ms + send.ttl_s * 1000 if send.ttl_s else 0,
            key=send.key,
            meta=send.meta,
            payload=send.payload,
        )
        if send.delay_s:
            box.delayed.append(message)
            msg_id = int(DELAYED_MSG_ID)
        else:
            msg_id = box.show(message)
        if send.dedupe_id:
            box.seen[send.dedupe_id] = (self.now_ms + send.duplicate_window_ms, msg_id)
        return outcome.MessageStored(msg_id)

    def _check_room(self, box: Mailbox, send: c.SendMessage) -> None:
        max_msgs, max_bytes = box.settings.max_msgs, box.settings.max_bytes
        replaced = None if send.delay_s else box.with_key(send.key)
        if box.settings.latest and not send.delay_s:
            replaced = next(iter(box.messages.values()), None)
        if max_msgs and replaced is None and box.count() + 1 > max_msgs:
            raise Refuse(errors.MailboxFull(f"max_msgs {max_msgs} reached"))
        growth = len(send.payload) - (len(replaced.payload) if replaced else 0)
        if max_bytes and growth > 0 and box.payload_bytes() + growth > max_bytes:
            raise Refuse(errors.MailboxFull(f"max_bytes {max_bytes} reached"))

    def _delete_message(self, delete: c.DeleteMessage) -> outcome.Outcome:
        box = self._mailbox(delete.mailbox)
        if delete.msg_id not in box.messages:
            raise Refuse(errors.MessageNotFound(f"message {delete.msg_id} does not exist"))
        del box.messages[delete.msg_id]
        return outcome.Done()

    def _fetch_messages(self, fetch: c.FetchMessages) -> outcome.Outcome:
        box = self._mailbox(fetch.mailbox)
        self._check_owner(fetch.owner)
        is_new = fetch.group not in box.groups
        if is_new and len(box.groups) >= limits.GROUPS_PER_MAILBOX_MAX:
            raise Refuse(errors.InvalidField("group_name", "too many groups"))
        consumer: Consumer = fetch.consumer or fetch.owner
        if not is_new and not fetch.force:
            group = box.groups[fetch.group]
            self._check_held(group, consumer)
        start_id, start_ms = self._start(box, fetch.deliver, fetch.from_value)
        if is_new:
            box.groups[fetch.group] = Group(start_id, start_ms, self.now_ms)
        group = box.groups[fetch.group]
        group.used_ms = self.now_ms
        if fetch.force:
            for h in list(group.current):
                self._end(fetch.mailbox, fetch.group, h, "")
            group.done, group.open_at_ms, group.counts = set(), {}, {}
            if group.has_forgotten:
                group.forgotten_id = box.last_id
            group.start_id, group.start_ms = start_id, start_ms
        for h in list(group.current):
            if h.consumer == consumer:
                self._end(fetch.mailbox, fetch.group, h, "")
        places = self._open_places(box, group, fetch.tags, fetch.priorities)
        room = limits.HELD_PER_GROUP_MAX - sum(len(h.held) for h in group.current)
        places = places[: min(fetch.num_msgs, room)]
        if not places:
            return outcome.HandedOut("", ())
        self._handouts += 1
        deadline_ms = self.now_ms + fetch.ack_wait_ms if fetch.ack_wait_ms else 0
        held = {msg_id for _, msg_id in places}
        name = f"model-{self._handouts}"
        group.current.append(
            HandOut(name, consumer, fetch.owner, fetch.ack_wait_ms, deadline_ms, places, held)
        )
        return outcome.HandedOut(name, tuple(places))

    def _check_held(self, group: Group, consumer: Consumer) -> None:
        """Overloaded when the others already hold all that a group may hold."""
        others = sum(len(h.held) for h in group.current if h.consumer != consumer)
        if others >= limits.HELD_PER_GROUP_MAX:
            raise Refuse(errors.Overloaded("too many messages are handed out"))

    def _start(self, box: Mailbox, deliver: int, from_value: int) -> tuple[int, int]:
        """(first msg_id, first created_ms) of reading."""
        match deliver:
            case c.Deliver.LATEST:
                return max(box.messages, default=box.last_id + 1), 0
            case c.Deliver.FROM_TIME:
                return 0, from_value * 1000
            case c.Deliver.FROM_ID:
                return from_value, 0
        return 0, 0

    def _open_places(
        self,
        box: Mailbox,
        group: Group,
        tags: Iterable[str],
        priorities: int = ALL_PRIORITIES,
    ) -> list[Place]:
        return sorted(
            message.place
            for message in box.messages.values()
            if group.is_open(message, self.now_ms)
            and _matches(message, tags)
            and priorities >> message.priority & 1
        )

    # The ends of hand-outs.

    def _end(self, ref: bytes, group_name: str, handout: HandOut, reason: str) -> None:
        """End `handout`; with a reason what it held has come back once more, and may be dead."""
        box = self.mailboxes[ref]
        group = box.groups[group_name]
        back = [msg_id for _, msg_id in handout.places if msg_id in handout.held]
        handout.held.clear()
        group.remember(handout, partial(self._is_wanted, box, group))
        for msg_id in back if reason else ():
            self._came_back(ref, group_name, msg_id, reason)

    def _is_wanted(self, box: Mailbox, group: Group, handout: HandOut) -> bool:
        """Whether any of the hand-out is there and not done."""
        ids = [msg_id for _, msg_id in handout.places if msg_id in box.messages]
        return not all(group.has_done(box.messages[msg_id]) for msg_id in ids)

    def _came_back(self, ref: bytes, group_name: str, msg_id: int, reason: str) -> bool:
        """Count it; True when that made it a dead letter."""
        box = self.mailboxes[ref]
        group = box.groups[group_name]
        message = box.messages.get(msg_id)
        if message is None or not box.settings.max_deliver:
            return False
        count = group.counts.get(msg_id, 0) + 1
        group.counts[msg_id] = count
        if count < box.settings.max_deliver:
            return False
        group.done.add(msg_id)
        self._dead_letter(ref, message, group_name, count, reason)
        return True

    def _dead_letter(self, ref: bytes, message: Msg, group: str, count: int, reason: str) -> None:
        to = dead_letter_ref(ref)
        if to not in self.mailboxes:
            self._create_mailbox(c.CreateMailbox(to, self.mailboxes[ref].settings.ttl_s))
        meta = json.loads(message.meta) if message.meta else {}
        header = {
            **meta.get("header", {}),
            "mq9-dlq-from": address_of(ref),
            "mq9-dlq-group": group,
            "mq9-dlq-count": str(count),
            "mq9-dlq-reason": reason,
        }
        letter = Msg(
            msg_id=0,
            priority=message.priority,
            created_ms=self.now_ms,
            expires_ms=message.expires_ms,
            key=b"",
            meta=json.dumps({**meta, "header": header}).encode(),
            payload=message.payload,
        )
        self.mailboxes[to].show(letter)

    def _end_connection(self, end: c.EndConnection) -> outcome.Outcome:
        self._end_owners(lambda owner: owner == end.owner)
        return outcome.Done()

    def _end_incarnation(self, end: c.EndIncarnation) -> outcome.Outcome:
        self._end_owners(lambda o: o.node == end.node and o.incarnation <= end.incarnation)
        before = self.ended_incarnations.get(end.node, -1)
        self.ended_incarnations[end.node] = max(before, end.incarnation)
        return outcome.Done()

    def _end_owners(self, is_ended: Callable[[c.Owner], bool]) -> None:
        boxes = sorted(self.mailboxes.items())
        holding = [
            (h.owner, ref, name, h)
            for ref, box in boxes
            for name, group in sorted(box.groups.items())
            for h in group.current
            if is_ended(h.owner) and not h.ack_wait_ms
        ]
        for _, ref, name, h in sorted(holding, key=lambda held: held[0]):
            self._end(ref, name, h, "connection")

    def _expire(self, _: c.Expire) -> outcome.Outcome:
        return outcome.Done()

    # Agents.

    def known_agents(self) -> Known:
        """What a follower of the registry knows."""
        return self.registry.known()

    def agents_at(self, account: str, names: Iterable[str]) -> list[AgentFound]:
        """A page of agents."""
        return self.registry.found(account, names)

    # ACK and NACK.

    def _ack_messages(self, ack: c.AckMessages) -> outcome.Outcome:
        box = self._mailbox(ack.mailbox)
        self._check_owner(ack.owner)
        group = box.groups.get(ack.group)
        if group is None or not 1 <= ack.msg_id <= box.last_id:
            raise Refuse(errors.MessageNotFound("no such group or message"))
        handout = self._acked_handout(group, ack)
        holder = group.holder(ack.msg_id)
        if handout is not None and holder is not None and holder.consumer != handout.consumer:
            raise Refuse(errors.MessageNotFound("another consumer holds it"))
        if ack.scope == c.AckScope.PROGRESS:
            if holder is None or (ack.handout and holder is not handout):
                raise Refuse(errors.MessageNotFound("not handed out"))
            if holder.ack_wait_ms:
                holder.deadline_ms = self.now_ms + holder.ack_wait_ms
        elif handout is not None:
            ids = [ack.msg_id] if ack.scope == c.AckScope.MESSAGE else handout.up_to(ack.msg_id)
            if not ack.handout and ack.owner != handout.owner:
                ids = self._surely_seen(group, ack.msg_id, ids)
            self._confirm(box, group, handout.consumer, ids)
        elif ack.msg_id in box.messages and not group.has_done(box.messages[ack.msg_id]):
            raise Refuse(errors.MessageNotFound("it is open"))
        group.used_ms = self.now_ms
        return outcome.Done()

    def _acked_handout(self, group: Group, ack: c.AckMessages) -> HandOut | None:
        """The hand-out an ACK speaks of, or None when the message is in none that is known."""
        if ack.handout:
            named = group.named(ack.handout)
            if named is None or not named.contains(ack.msg_id):
                raise Refuse(errors.MessageNotFound("no such hand-out"))
            return named
        current = next((h for h in group.current if h.contains(ack.msg_id)), None)
        if current is not None and current.owner == ack.owner:
            return current
        own_ended = group.ended_with(ack.msg_id, ack.owner)
        if own_ended or current:
            return own_ended[-1] if own_ended else current
        return next(reversed(group.ended_with(ack.msg_id)), None)

    def _surely_seen(self, group: Group, msg_id: int, ids: list[int]) -> list[int]:
        """What of `ids` whoever ACKs `msg_id` was given: a late loser, or one that reconnected."""
        if msg_id <= group.forgotten_id:
            return [msg_id]
        last_of: dict[Consumer, HandOut] = {}
        for handout in group.ended_with(msg_id) + [h for h in group.current if h.contains(msg_id)]:
            last_of[handout.consumer] = handout
        return [i for i in ids if all(i in h.up_to(msg_id) for h in last_of.values())]

    def _confirm(self, box: Mailbox, group: Group, consumer: Consumer, ids: list[int]) -> None:
        emptied = []
        for msg_id in ids:
            holder = group.holder(msg_id)
            if holder is not None and holder.consumer != consumer:
                continue
            group.done.add(msg_id)
            if holder is not None:
                holder.held.remove(msg_id)
                emptied += [] if holder.held else [holder]
        for holder in emptied:
            group.remember(holder, partial(self._is_wanted, box, group))

    def _nack_message(self, nack: c.NackMessage) -> outcome.Outcome:
        box = self._mailbox(nack.mailbox)
        self._check_owner(nack.owner)
        group = box.groups.get(nack.group)
        holder = group.holder(nack.msg_id) if group else None
        if group is None or holder is None:
            raise Refuse(errors.MessageNotFound("not handed out"))
        own_ended = group.ended_with(nack.msg_id, nack.owner)[-1:]
        if own_ended and nack.owner != holder.owner and own_ended[0].consumer != holder.consumer:
            raise Refuse(errors.MessageNotFound("another consumer holds it"))
        holder.held.remove(nack.msg_id)
        for h in group.current + group.unsettled + group.ended:
            if h.consumer == holder.consumer:  # given back by it: no later ACK may mean it
                h.places = [place for place in h.places if place[1] != nack.msg_id]
        if not holder.held:
            group.remember(holder, partial(self._is_wanted, box, group))
        if not self._came_back(nack.mailbox, nack.group, nack.msg_id, "nack"):
            group.open_at_ms[nack.msg_id] = self.now_ms + nack.delay_s * 1000
        group.used_ms = self.now_ms
        return outcome.Done()

    # Reads: what is visible at the time of the last command.

    def query(
        self,
        ref: bytes,
        key: bytes = b"",
        tags: Iterable[str] = (),
        since_s: int = 0,
        limit: int = limits.RESULTS_DEFAULT,
    ) -> list[Message] | outcome.Refused:
        """QUERY: by msg_id, the most recent `limit`."""
        if ref not in self.mailboxes:
            return outcome.Refused(errors.MailboxNotFound(address_of(ref)))
        found = [
            message
            for _, message in sorted(self.mailboxes[ref].messages.items())
            if (not key or message.key == key)
            and _matches(message, tags)
            and message.created_ms >= since_s * 1000
        ]
        return [message.read() for message in found[-limit:]]

    def peek(
        self,
        ref: bytes,
        deliver: int = c.Deliver.LATEST,
        from_value: int = 0,
        tags: Iterable[str] = (),
        num_msgs: int = limits.RESULTS_DEFAULT,
    ) -> list[Message] | outcome.Refused:
        """FETCH without a group: from the start on, best first."""
        if ref not in self.mailboxes:
            return outcome.Refused(errors.MailboxNotFound(address_of(ref)))
        box = self.mailboxes[ref]
        start = Group(*self._start(box, deliver, from_value), self.now_ms)
        places = self._open_places(box, start, tags)[:num_msgs]
        return [box.messages[msg_id].read() for _, msg_id in places]

    def behind(self, ref: bytes, starts: Sequence[int], priorities: int) -> list[Message]:
        """What a push subscription is given that has seen everything before `starts`."""
        if ref not in self.mailboxes:
            return []
        found = sorted(self.mailboxes[ref].messages.values(), key=lambda message: message.place)
        return [
            message.read()
            for message in found
            if priorities >> message.priority & 1 and message.msg_id >= starts[message.priority]
        ]

    def held(self, ref: bytes, group: str) -> int:
        """How many messages consumers of this group hold."""
        return sum(len(h.held) for h in self.mailboxes[ref].groups[group].current)

    def open_places(self, ref: bytes, group: str) -> list[Place]:
        """What a FETCH of this group by a new consumer would find."""
        box = self.mailboxes[ref]
        return self._open_places(box, box.groups[group], ())


def _agents(work: Callable[[Agents, int, Any], outcome.Outcome]) -> Any:
    return lambda model, command: work(model.registry, model.now_ms, command)


def _matches(message: Msg, tags: Iterable[str]) -> bool:
    wanted = set(tags)
    return not wanted or not wanted.isdisjoint(message.tags)


_WORK: dict[type, Callable[[Model, Any], outcome.Outcome]] = {
    c.CreateMailbox: Model._create_mailbox,
    c.SendMessage: Model._send_message,
    c.DeleteMessage: Model._delete_message,
    c.FetchMessages: Model._fetch_messages,
    c.AckMessages: Model._ack_messages,
    c.NackMessage: Model._nack_message,
    c.EndConnection: Model._end_connection,
    c.EndIncarnation: Model._end_incarnation,
    c.Expire: Model._expire,
    c.RegisterAgent: _agents(Agents.register),
    c.UnregisterAgent: _agents(Agents.unregister),
    c.ReportAgent: _agents(Agents.report),
    c.UnregisterAgents: _agents(Agents.unregister_all),
    c.ReportAgents: _agents(Agents.report_all),
    c.SetAgentCode: _agents(Agents.set_code),
    c.DropEmbedder: _agents(Agents.drop_embedder),
}
