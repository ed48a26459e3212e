"""SENDs without key, tags, header, ttl or delay, as nearly all are, stored from their very bytes.

Does what `mailbox.send` does for them, which stays the rule: the state is the same either way
(tests/property/test_plain_send.py). What a mailbox needs is looked up once for all SENDs to it
in one run of them; a message then costs no object but its row and its outcome. Called by `apply`.
"""

from mq9cluster.domain.errors import Mq9Error
from mq9cluster.domain.outcome import MessageStored, Outcome, refused
from mq9cluster.machine import codec, rows
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.rows import Mailbox
from mq9cluster.machine.workspace import Workspace

_Place = tuple[Mailbox, int, bytes, dict[bytes, bytes | None]]  # with priority, key prefix, rows


class PlainSends:
    """The plain SENDs of one entry."""

    __slots__ = ("_places", "_row_head", "_shard", "_ws")

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._shard = ws.shard
        self._row_head = rows.plain_message_head(ws.now_ms)
        self._places: dict[bytes, _Place] = {}  # by what stands before the payload

    def forget(self) -> None:
        """Another command may have changed mailboxes: look them up anew."""
        self._places.clear()

    def store(self, data: bytes) -> Outcome:
        """Store one, or refuse it."""
        end = codec.plain_send_payload_at(data)
        head = data[:end]
        place = self._places.get(head)
        if place is None:
            found = self._look_up(head)
            if found is None:
                return self._store_as_any(data)
            place = found
        mailbox, priority, key_prefix, pending = place
        mailbox.last_id = msg_id = mailbox.last_id + 1
        mailbox.last_of[priority] = msg_id
        mailbox.count += 1
        mailbox.payload_bytes += len(data) - end
        self._shard.messages += 1
        pending[key_prefix + msg_id.to_bytes(8, "big")] = self._row_head + data[end:]
        return MessageStored(msg_id)

    def _look_up(self, head: bytes) -> _Place | None:
        """What the SENDs with this head have in common; None where the long way decides."""
        ws = self._ws
        ref, priority = codec.plain_send_to(head)
        mailbox = ws.mailbox(ref)
        if mailbox is None or mailbox.max_msgs or mailbox.max_bytes or mailbox.latest:
            return None
        ws.mark(mailbox)
        ws.changed.add(mailbox.ref)
        place = mailbox, priority, mailbox.prefix + bytes((priority,)), ws.rows_of(mailbox)
        self._places[head] = place
        return place

    def _store_as_any(self, data: bytes) -> Outcome:
        try:
            return mailboxes.send(self._ws, codec.decode_plain_send(data))
        except Mq9Error as refusal:
            return refused(refusal)
