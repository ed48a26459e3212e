"""What clients saw, and whether a correct broker could have answered so.

Told by `whole_clients` of each request when it leaves and when it is answered; times are virtual
seconds. Checked at every answer, against what is known for sure by then: an answer that never came
means *unknown*, never *no*.

- A SEND that was acknowledged is in every later QUERY, under its one id, unless it was deleted,
  replaced, has expired, or was done for every group of a mailbox that keeps no such messages. One
  that was refused as not done never appears; one sent twice with the same Nats-Msg-Id appears once.
- Ids rise in real time, and FETCH gives the best first.
- Delays and ttl: never early, never late, by more than `OFF_S`.
- What a group has handed out to one consumer goes to no other before that one let go of it, could
  have lost it, or its time was over. What was acknowledged never comes back to the group; what was
  deleted to nobody.
"""

from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

OFF_S = 0.5  # what a delay, a ttl or an ack_wait may be off, leaders with slightly other clocks
QUERY_MAX = 1_000
MESSAGE_LOST = "message was lost"

Broken = Callable[[str], None]


@dataclass(slots=True)
class Sent:
    """One SEND, and its repetitions."""

    payload: str
    priority: str
    key: str
    delay_s: int
    ttl_s: int
    invoked_s: float
    newest_before: int  # the highest id acknowledged before it was first sent
    msg_id: int = 0
    acknowledged_s: float | None = None
    maybe: bool = False  # an attempt's outcome is unknown
    tries: int = 1
    refused_s: float | None = None  # when its last try was; None: not, or it is being tried again


@dataclass(slots=True)
class Hold:
    """A message in a consumer's hands, by what that one knows."""

    consumer: object
    since_s: float
    until_s: float  # when somebody else may have it at the earliest


@dataclass(slots=True)
class GroupHistory:
    """One consumer group."""

    done_s: dict[int, float] = field(default_factory=dict)  # acknowledged, and when that was told
    maybe_done: set[int] = field(default_factory=set)
    handed: set[int] = field(default_factory=set)
    holds: dict[int, Hold] = field(default_factory=dict)
    closed_until_s: dict[int, float] = field(default_factory=dict)  # NACKed with a delay


@dataclass(frozen=True, slots=True)
class BoxKind:
    """How a mailbox was created."""

    max_deliver: int = 0
    retain_acked: bool = False
    max_msgs: int = 0
    ttl_s: int = 0


class BoxHistory:
    """One mailbox."""

    def __init__(self, name: str, kind: BoxKind, broken: Broken) -> None:
        self.name = name
        self.kind = kind
        self.created_s: float | None = None
        self.groups: dict[str, GroupHistory] = {}
        self.sent: dict[str, Sent] = {}
        self.newest = 0  # highest id acknowledged
        self.deleted_s: dict[int, float] = {}
        self.maybe_deleted: set[int] = set()
        self.newest_of_key: dict[str, int] = {}  # acknowledged
        self.visited = False  # groups nobody keeps a history of may have read here
        self._by_id: dict[int, Sent] = {}
        self._broken = broken

    def broken(self, why: str) -> None:
        """Say what cannot be."""
        self._broken(f"{self.name}: {why}")

    # --- SEND ------------------------------------------------------------------------------------

    def stored(self, sent: Sent, msg_id: int, now_s: float, *, duplicate: bool) -> None:
        """A SEND was acknowledged."""
        if self.kind.ttl_s:
            pass  # its next life begins at 1 again
        elif msg_id == -1:
            if not sent.delay_s:
                self.broken(f"{sent.payload} was delayed, unasked")
        else:
            self._identify(sent, msg_id)
            if not duplicate and sent.tries == 1 and msg_id <= sent.newest_before:
                self.broken(f"id {msg_id} for {sent.payload}, {sent.newest_before} was told before")
            self.newest = max(self.newest, msg_id)
            if sent.key:
                self.newest_of_key[sent.key] = max(self.newest_of_key.get(sent.key, 0), msg_id)
        if sent.acknowledged_s is None:
            sent.acknowledged_s = now_s

    def not_stored(self, sent: Sent, code: str, now_s: float) -> None:
        """A SEND was refused, or its outcome is unknown."""
        if code == "timeout":
            sent.maybe = True
        else:
            sent.refused_s = now_s

    def _identify(self, sent: Sent, msg_id: int) -> None:
        if sent.msg_id and sent.msg_id != msg_id:
            self.broken(f"{sent.payload} has the ids {sent.msg_id} and {msg_id}")
        other = self._by_id.setdefault(msg_id, sent)
        if other is not sent:
            self.broken(f"{other.payload} and {sent.payload} both have id {msg_id}")
        sent.msg_id = msg_id

    # --- what is read ----------------------------------------------------------------------------

    def seen(self, message: dict[str, Any], invoked_s: float, now_s: float) -> Sent | None:
        """A message was given to somebody who had asked at `invoked_s`."""
        payload, msg_id = message["payload"], message["msg_id"]
        sent = self.sent.get(payload)
        if sent is None:
            self.broken(f"nobody sent {payload}")
            return None
        if self.kind.ttl_s:
            return sent
        if sent.acknowledged_s is None and not sent.maybe and sent.refused_s is not None:
            self.broken(f"{payload} was refused, and is there")
        self._identify(sent, msg_id)
        if msg_id in self.deleted_s and self.deleted_s[msg_id] < invoked_s:
            self.broken(f"{payload}, id {msg_id}, was deleted, and is there")
        if now_s < sent.invoked_s + sent.delay_s - OFF_S:
            self.broken(f"{payload} is early: {sent.delay_s} s after {sent.invoked_s:.3f}")
        ends_s = self.gone_by(sent)
        if ends_s is not None and ends_s < invoked_s:
            self.broken(f"{payload} should be gone since {ends_s:.3f}")
        if message["priority"] != sent.priority:
            self.broken(f"{payload} has become {message['priority']}")
        return sent

    @staticmethod
    def gone_by(sent: Sent) -> float | None:
        """When an acknowledged message's own ttl is over for sure."""
        if not sent.ttl_s or sent.acknowledged_s is None:
            return None
        return sent.acknowledged_s + sent.ttl_s + OFF_S

    def must_be_there(self, sent: Sent, invoked_s: float, now_s: float) -> bool:
        """Whether a QUERY asked at `invoked_s` and answered now must have shown it."""
        told_s = sent.acknowledged_s
        if told_s is None or told_s >= invoked_s or self.kind.ttl_s:
            return False
        if sent.delay_s and told_s + sent.delay_s + OFF_S >= invoked_s:
            return False
        if sent.ttl_s and sent.invoked_s + sent.ttl_s - OFF_S <= now_s:
            return False
        if sent.msg_id in self.maybe_deleted or sent.msg_id in self.deleted_s or sent.key:
            return False  # keys: see `_check_keys`
        return not (self.kind.retain_acked and (self.visited or self._may_be_done(sent)))

    def _may_be_done(self, sent: Sent) -> bool:
        return any(
            sent.msg_id in group.done_s or sent.msg_id in group.maybe_done
            for group in self.groups.values()
        )

    def queried(
        self,
        messages: list[dict[str, Any]],
        newest_of_key: dict[str, int],
        invoked_s: float,
        now_s: float,
    ) -> None:
        """A QUERY for everything was answered; `newest_of_key` as known when it was asked."""
        ids = [message["msg_id"] for message in messages]
        if ids != sorted(set(ids)):
            self.broken(f"QUERY gives ids {ids}")
        there = {message["payload"] for message in messages}
        keys: dict[str, int] = {}
        for message in messages:
            self.seen(message, invoked_s, now_s)
            key = message.get("key", "")
            if key and key in keys:
                self.broken(f"key {key} is there twice")
            keys[key] = message["msg_id"]
        if len(messages) == QUERY_MAX:
            return  # there were more
        for sent in self.sent.values():
            if sent.payload not in there and self.must_be_there(sent, invoked_s, now_s):
                self.broken(f"{sent.payload}, id {sent.msg_id}: {MESSAGE_LOST}")
        self._check_keys(keys, newest_of_key)

    def _check_keys(self, found: dict[str, int], newest: dict[str, int]) -> None:
        if self.kind.retain_acked or self.kind.ttl_s or self.deleted_s or self.maybe_deleted:
            return
        for key, msg_id in newest.items():
            if found.get(key, 0) < msg_id and not any(
                sent.ttl_s for sent in self.sent.values() if sent.key == key
            ):
                self.broken(f"key {key}: id {msg_id} was acknowledged, {found.get(key)} is there")

    # --- hand-outs -------------------------------------------------------------------------------

    def handed_out(
        self,
        name: str,
        consumer: object,
        messages: list[dict[str, Any]],
        invoked_s: float,
        now_s: float,
        until_s: float,
    ) -> None:
        """A FETCH with a group was answered; others may have these again from `until_s` on."""
        group = self.groups.setdefault(name, GroupHistory())
        self.in_order(messages)
        for message in messages:
            self.seen(message, invoked_s, now_s)
            msg_id = message["msg_id"]
            if self.kind.ttl_s:
                continue
            if group.done_s.get(msg_id, invoked_s) < invoked_s:
                self.broken(f"group {name}: {msg_id} was acknowledged, and came back")
            if now_s < group.closed_until_s.get(msg_id, 0.0):
                self.broken(f"group {name}: {msg_id} is back before its delay was over")
            hold = group.holds.get(msg_id)
            if hold and hold.consumer is not consumer and now_s < hold.until_s:
                self.broken(
                    f"group {name}: {msg_id} is in two hands: one has it since {hold.since_s:.3f}"
                )
            group.handed.add(msg_id)
            group.holds[msg_id] = Hold(consumer, now_s, until_s)

    def in_order(self, messages: list[dict[str, Any]]) -> None:
        """Best first, then first come."""
        places = [(PRIORITIES.index(m["priority"]), m["msg_id"]) for m in messages]
        if places != sorted(set(places)):
            self.broken(f"FETCH gives {places}")

    def let_go(
        self, name: str, consumer: object, now_s: float, ids: set[int] | None = None
    ) -> None:
        """A consumer asks for what ends its hold of these (None: of all)."""
        group = self.groups.get(name)
        if group is not None:
            for msg_id, hold in group.holds.items():
                if hold.consumer is consumer and (ids is None or msg_id in ids):
                    hold.until_s = min(hold.until_s, now_s)

    # --- the end ---------------------------------------------------------------------------------

    def not_drained(self, name: str, now_s: float) -> list[str]:
        """Acknowledged messages that a group which reads everything never got nor finished."""
        group = self.groups.setdefault(name, GroupHistory())
        if self.kind.retain_acked and self.visited:
            return []  # what others were done with before this group began is gone
        return [
            f"{sent.payload} (id {sent.msg_id})"
            for sent in self.sent.values()
            if sent.acknowledged_s is not None
            and not sent.ttl_s
            and not sent.key
            and not self.kind.ttl_s
            and sent.acknowledged_s + sent.delay_s + OFF_S < now_s
            and sent.msg_id not in self.maybe_deleted
            and sent.msg_id not in self.deleted_s
            and sent.msg_id not in group.done_s
            and sent.msg_id not in group.maybe_done
        ]


PRIORITIES = ("critical", "urgent", "normal")


def decoded(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a reply, payloads as text."""
    messages: list[dict[str, Any]] = reply["messages"]
    for message in messages:
        if message.get("encoding") != "text":
            message["payload"] = b64decode(message["payload"]).decode()
    return messages
