"""A message, and what a consumer group knows of it, as `model` has them: lists and sets, nothing
clever.

Written from docs/protocol.md section 3, as `model` is. Used by it alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from mq9cluster.domain import command as c
from mq9cluster.domain import limits
from mq9cluster.domain.message import Message, MsgId

Place = tuple[int, int]
Consumer = str | c.Owner


@dataclass(slots=True)
class Msg:
    """A message; while it is delayed, msg_id is 0 and `created_ms` when it will be visible."""

    msg_id: int
    priority: int
    created_ms: int
    expires_ms: int
    key: bytes
    meta: bytes
    payload: bytes

    @property
    def place(self) -> Place:
        return (self.priority, self.msg_id)

    def read(self) -> Message:
        """As readers get it."""
        return Message(
            MsgId(self.msg_id),
            self.priority,
            self.created_ms,
            self.expires_ms,
            self.key.decode(),
            self.meta,
            self.payload,
        )

    @property
    def tags(self) -> list[str]:
        return list(json.loads(self.meta).get("tags", [])) if self.meta else []


@dataclass(slots=True)
class HandOut:
    """One FETCH reply: in `places` what was handed out, less what the consumer gave back; in `held`
    what of it is still unconfirmed.
    """

    name: str
    consumer: Consumer
    owner: c.Owner
    ack_wait_ms: int
    deadline_ms: int
    places: list[Place]
    held: set[int]

    def contains(self, msg_id: int) -> bool:
        return any(place[1] == msg_id for place in self.places)

    def up_to(self, msg_id: int) -> list[int]:
        """The ids in delivery order, `msg_id` the last."""
        ids = [place[1] for place in self.places]
        return ids[: ids.index(msg_id) + 1]


@dataclass(slots=True)
class Group:
    """What a consumer group has done and handed out. Before its start all counts as done."""

    start_id: int
    start_ms: int
    used_ms: int
    done: set[int] = field(default_factory=set)
    open_at_ms: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    current: list[HandOut] = field(default_factory=list)
    ended: list[HandOut] = field(default_factory=list)  # the one that ended last stands last
    unsettled: list[HandOut] = field(default_factory=list)  # kept longer: some of it is wanted
    has_forgotten: bool = False
    forgotten_id: int = 0  # up to it a message may have been handed out to who knows whom

    def has_done(self, message: Msg) -> bool:
        before_start = message.msg_id < self.start_id or message.created_ms < self.start_ms
        return before_start or message.msg_id in self.done

    def holder(self, msg_id: int) -> HandOut | None:
        return next((h for h in self.current if msg_id in h.held), None)

    def is_open(self, message: Msg, now_ms: int) -> bool:
        return (
            not self.has_done(message)
            and self.holder(message.msg_id) is None
            and self.open_at_ms.get(message.msg_id, 0) <= now_ms
        )

    def remember(self, handout: HandOut, wanted: Callable[[HandOut], bool]) -> None:
        """`handout` has ended, or all of it is done. `wanted`: whether any of one is not."""
        self.current.remove(handout)
        self.ended.append(handout)
        for oldest in self.ended[: -limits.HANDOUTS_REMEMBERED_MAX]:
            self.ended.remove(oldest)
            if wanted(oldest):
                self.unsettled.append(oldest)
            else:
                self.has_forgotten = True
        for oldest in self.unsettled[: -limits.HANDOUTS_UNSETTLED_MAX]:
            self.unsettled.remove(oldest)
            self.has_forgotten = True
            if wanted(oldest):
                self.forgotten_id = max(self.forgotten_id, *(place[1] for place in oldest.places))

    def ended_with(self, msg_id: int, owner: c.Owner | None = None) -> list[HandOut]:
        """Those with `msg_id` that ended, the last one last, of one connection if it is given."""
        known = self.unsettled + self.ended
        return [h for h in known if h.contains(msg_id) and owner in (None, h.owner)]

    def named(self, name: str) -> HandOut | None:
        known = self.current + self.unsettled + self.ended
        return next((h for h in known if h.name == name), None)
