"""What the state machine works on: the committed view, overlaid with what the current entry has
written.

Mailboxes and groups are decoded once and kept in bounded caches between entries; they are written
back once an entry, however many commands touched them. The caches hold nothing that the rows do
not say: a machine started anew behaves the same. But what heartbeats changed is left to the log for
a while (`unwritten`), and of entries that hold nothing else not even the shard's own books are
handed out before ROWS_EVERY of them are there, or an entry that changes more: they are applied
again at a start.
"""

from bisect import insort
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from mq9cluster.domain.address import slot_of
from mq9cluster.domain.ports import Family, StateView, Writes
from mq9cluster.machine import keys, rows
from mq9cluster.machine.agent_rows import Heard
from mq9cluster.machine.rows import Group, HandOut, Mailbox, Shard
from mq9cluster.machine.unwritten import UNWRITTEN_MAX, Unwritten

if TYPE_CHECKING:
    from mq9cluster.domain.registry import AgentChange, AgentsSeen
    from mq9cluster.machine.retention import Behind

# What one shard keeps; where there are more than SHARDS_CACHED_MAX, they share what so many keep.
SHARDS_CACHED_MAX = 16
MAILBOXES_CACHED_MAX = 8_192  # about 1 kB each
NAMED_MAILBOXES_MAX = 64  # with up to a thousand groups each
GROUPS_CACHED_MAX = 4_096  # small while little is held
# Of all shards together. About 450 bytes each; looking for one is half of a heartbeat's cost.
HEARD_CACHED_MAX = 2 * UNWRITTEN_MAX  # so that half of them can always go
HELD_COUNTED_EVERY = 64  # entries: the count looks at every cached group
HELD_CACHED_MAX = 400_000  # about 150 bytes each, all groups of a shard together
ROWS_EVERY = 16  # entries: so many of heartbeats alone are one write of rows

_NOT_BOOKS = tuple(family for family in Family if family is not Family.SHARDS)


def _share(of_a_shard: int, shards: int) -> int:
    return of_a_shard * SHARDS_CACHED_MAX // max(shards, SHARDS_CACHED_MAX)


class Workspace:
    """One shard's state during an entry, and its caches in between."""

    def __init__(self, view: StateView, shards: int = 1) -> None:
        """`shards` of a cluster share a node's memory."""
        self._view = view
        row = view.get(Family.SHARDS, keys.SHARD_ROW)
        self.shard = Shard.unpack(row) if row else Shard()
        self.now_ms = self.shard.now_ms
        self.stamp_ms = self.now_ms  # of the entry; `now_ms` is behind it while due things are done
        self.spent = 0  # work of this entry that comes in steps: messages and rows
        self.index = self.shard.applied_index
        self.rows_at = self.index  # the last entry that the rows handed out say
        self.writes = Writes()
        self._passing: set[bytes] = set()  # of these, rows of which none says anything yet
        self.changed: set[bytes] = set()
        self.agents: list[AgentChange | AgentsSeen] = []  # what this entry did to the registry
        self.reindexed: set[bytes] = set()  # mailboxes that agents joined or left in this entry
        self.next_due_ms = 0  # not later than the first row of SCHEDULE
        self.due_done_ms = 0  # nothing due before this is left
        self._mailboxes: dict[bytes, Mailbox | None] = {}
        self._groups: dict[bytes, Group | None] = {}
        self._group_names: dict[bytes, list[str]] = {}  # by mailbox, where they were asked for
        self.behind: dict[bytes, dict[int, Behind]] = {}  # by mailbox and priority (see retention)
        self.heard_lately: dict[bytes, Heard] = {}  # by agent
        self._heard_max = HEARD_CACHED_MAX // shards
        self._mailboxes_max = _share(MAILBOXES_CACHED_MAX, shards)
        self._groups_max = _share(GROUPS_CACHED_MAX, shards)
        self._held_max = _share(HELD_CACHED_MAX, shards)
        self.unwritten = Unwritten(self.shard, shards)
        self._dirty_mailboxes: list[Mailbox] = []
        self._dirty_groups: list[Group] = []
        self._pending_mailboxes: list[Mailbox] = []
        self._ended_runs: dict[int, int] = {}  # by node, as far as asked for

    # --- an entry's frame ------------------------------------------------------------------------

    def begin(self, index: int, stamp_ms: int) -> None:
        """Start entry `index` at shard time `stamp_ms`, or later if the shard already was."""
        self.index = index
        self.now_ms = self.stamp_ms = max(stamp_ms, self.shard.now_ms)
        self.spent = 0
        self.changed = set()
        self.agents = []
        self.reindexed.clear()
        self.unwritten.begin(index)

    def finish(self, log_bytes: int = 0) -> Writes:
        """Write back what changed, with the applied index beside it. `log_bytes`: of the entry.

        Of heartbeats alone nothing is to be written yet: the entries are applied again at a start.
        """
        table = self.writes.rows
        mailbox_rows = table[Family.MAILBOXES]
        for mailbox in self._dirty_mailboxes:
            mailbox.dirty = False
            if self._mailboxes.get(mailbox.ref) is mailbox:
                mailbox_rows[keys.mailbox(mailbox.slot, mailbox.ref)] = mailbox.pack()
        message_rows = table[Family.MESSAGES]
        for mailbox in self._pending_mailboxes:
            message_rows.update(mailbox.pending)
            mailbox.pending = {}
        group_rows = table[Family.GROUPS]
        for group in self._dirty_groups:
            if group.dirty:
                group.dirty = False
                group_rows[group.header_key()] = group.pack()
                self._write_buckets(group, group_rows)
                for seq, handout in group.unwritten.items():
                    group_rows[group.handout_key(seq)] = handout.pack()
                group.unwritten.clear()
        self._dirty_mailboxes.clear()
        self._pending_mailboxes.clear()
        self._dirty_groups.clear()
        self.unwritten.end(log_bytes, table[Family.AGENTS])
        self.shard.applied_index = self.index
        self.shard.now_ms = self.now_ms
        self._trim()
        if self.agents and self.index % ROWS_EVERY and self._only_heartbeats():
            return Writes()
        return self._hand_out()

    def _only_heartbeats(self) -> bool:
        """Whether nothing changed but the shard's own books."""
        rows = self.writes.rows
        return not (any(rows[family] for family in _NOT_BOOKS) or self.writes.ranges)

    def _hand_out(self) -> Writes:
        writes, self.writes = self.writes, Writes()
        writes.rows[Family.SHARDS][keys.SHARD_ROW] = self.shard.pack()
        self.rows_at = self.shard.applied_index
        self._passing.clear()
        return writes

    def flush(self) -> Writes:
        """Between two entries: all that the rows do not say yet."""
        heard = self.unwritten.write(self.writes.rows[Family.AGENTS])
        return self._hand_out() if heard or self.needed_from else Writes()

    @property
    def needed_from(self) -> int:
        """The first entry that the log must keep, as the rows do not say all of it; 0 for none."""
        unsaid = self.rows_at + 1 if self.rows_at < self.shard.applied_index else 0
        heard_from = self.shard.heard_from
        return min(unsaid, heard_from) if unsaid and heard_from else unsaid or heard_from

    @staticmethod
    def _write_buckets(group: Group, group_rows: dict[bytes, bytes | None]) -> None:
        for priority, done in enumerate(group.done):
            for bucket in done.changed:
                bits = done.buckets.get(bucket)
                group_rows[group.bucket_key(priority, bucket)] = (
                    rows.pack_bucket(bits) if bits else None
                )
            done.changed.clear()

    def _trim(self) -> None:
        """Keep the caches bounded: what was loaded first goes first, half of it at once.

        One at a time would pass over all that went before it, every time.
        """
        if len(self._mailboxes) > self._mailboxes_max:
            for ref in list(
                islice(self._mailboxes, len(self._mailboxes) - self._mailboxes_max // 2)
            ):
                del self._mailboxes[ref]
        if len(self._groups) > self._groups_max:
            for key_prefix in list(islice(self._groups, len(self._groups) - self._groups_max // 2)):
                del self._groups[key_prefix]
        if len(self._group_names) > NAMED_MAILBOXES_MAX:
            self._group_names.clear()
            self.behind.clear()
        if len(self.heard_lately) > self._heard_max:
            written = (ref for ref, heard in self.heard_lately.items() if not heard.old_since)
            for ref in list(islice(written, len(self.heard_lately) - self._heard_max // 2)):
                del self.heard_lately[ref]
        if self.index % HELD_COUNTED_EVERY == 0 and self._held_cached() > self._held_max:
            self._groups.clear()

    def _held_cached(self) -> int:
        return sum(len(group.holder) for group in self._groups.values() if group)

    # --- rows ------------------------------------------------------------------------------------

    def get(self, family: Family, key: bytes) -> bytes | None:
        """The value under `key` as the entry sees it; for MESSAGES use `message_row`."""
        pending = self.writes.rows[family]
        if key in pending:
            return pending[key]
        if self.writes.ranges and self._is_dropped(family, key):
            return None
        return self._view.get(family, key)

    def put(self, family: Family, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.writes.rows[family][key] = value

    def delete(self, family: Family, key: bytes) -> None:
        """Delete a row, whether it is there or not."""
        self.writes.rows[family][key] = None

    def put_passing(self, key: bytes, value: bytes) -> None:
        """Write a row of the shard's books that is not there, and soon will not be again."""
        books = self.writes.rows[Family.SHARDS]
        if key not in books:  # or the one of before is yet to be deleted
            self._passing.add(key)
        books[key] = value

    def delete_passing(self, key: bytes) -> None:
        """Delete it: what was not handed out never was."""
        if key in self._passing:
            self._passing.remove(key)
            del self.writes.rows[Family.SHARDS][key]
        else:
            self.delete(Family.SHARDS, key)

    def drop(self, family: Family, key_prefix: bytes) -> None:
        """Delete every row that begins with `key_prefix`."""
        pending = self.writes.rows[family]
        for key in [key for key in pending if key.startswith(key_prefix)]:
            del pending[key]
        self.writes.ranges.append((family, key_prefix, keys.after(key_prefix)))

    def _is_dropped(self, family: Family, key: bytes) -> bool:
        return any(f == family and start <= key < stop for f, start, stop in self.writes.ranges)

    def scan(
        self, family: Family, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows in [start, stop) as the entry sees them; for MESSAGES use `messages`."""
        committed = self._view.scan(family, start, stop, reverse=reverse)
        if self.writes.ranges:
            committed = (row for row in committed if not self._is_dropped(family, row[0]))
        return _overlay(committed, self.writes.rows[family], start, stop, reverse=reverse)

    @property
    def committed(self) -> StateView:
        """The rows without what this entry has written."""
        return self._view

    # --- schedule --------------------------------------------------------------------------------

    def schedule(self, at_ms: int, kind: int, rest: bytes, value: bytes) -> None:
        """Have `kind` fall due at `at_ms`."""
        self.writes.rows[Family.SCHEDULE][keys.due(at_ms, kind, rest)] = value
        self.next_due_ms = min(self.next_due_ms, at_ms)
        self.due_done_ms = min(self.due_done_ms, at_ms)

    def unschedule(self, at_ms: int, kind: int, rest: bytes) -> None:
        """Forget what would have fallen due."""
        self.delete(Family.SCHEDULE, keys.due(at_ms, kind, rest))

    # --- mailboxes -------------------------------------------------------------------------------

    def mailbox(self, ref: bytes) -> Mailbox | None:
        """The mailbox `ref` names, unless it is missing or expired."""
        mailbox = self.stored_mailbox(ref)
        if mailbox is None or 0 < mailbox.expires_ms <= self.now_ms:
            return None
        return mailbox

    def stored_mailbox(self, ref: bytes) -> Mailbox | None:
        """The mailbox `ref` names, expired or not."""
        cache = self._mailboxes
        if ref in cache:
            return cache[ref]
        slot = slot_of(ref)
        row = self.get(Family.MAILBOXES, keys.mailbox(slot, ref))
        mailbox = Mailbox.unpack(ref, slot, row) if row else None
        cache[ref] = mailbox
        return mailbox

    def add_mailbox(self, mailbox: Mailbox) -> None:
        """Take in a new mailbox."""
        self._mailboxes[mailbox.ref] = mailbox
        self.shard.mailboxes += 1
        self.mark(mailbox)

    def forget_mailbox(self, mailbox: Mailbox) -> None:
        """Remove the mailbox's own row; its other rows are the caller's."""
        self._mailboxes[mailbox.ref] = None
        mailbox.pending = {}
        self.delete(Family.MAILBOXES, keys.mailbox(mailbox.slot, mailbox.ref))
        self.shard.mailboxes -= 1
        self.shard.messages -= mailbox.count

    def mark(self, mailbox: Mailbox) -> None:
        """Have the mailbox written at the end of the entry."""
        if not mailbox.dirty:
            mailbox.dirty = True
            self._dirty_mailboxes.append(mailbox)

    # --- messages --------------------------------------------------------------------------------

    def put_message(self, mailbox: Mailbox, place: bytes, row: bytes | None) -> None:
        """Write (or with None delete) a MESSAGES row of the mailbox."""
        self.rows_of(mailbox)[mailbox.prefix + place] = row

    def rows_of(self, mailbox: Mailbox) -> dict[bytes, bytes | None]:
        """Where this entry's MESSAGES rows of the mailbox gather, by whole key; to be added to."""
        if not mailbox.pending:
            self._pending_mailboxes.append(mailbox)
        return mailbox.pending

    def message_row(self, mailbox: Mailbox, place: bytes) -> bytes | None:
        """The MESSAGES row at `place` of the mailbox."""
        key = mailbox.prefix + place
        if key in mailbox.pending:
            return mailbox.pending[key]
        return self._view.get(Family.MESSAGES, key)

    def messages(
        self, mailbox: Mailbox, first: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """MESSAGES rows of the mailbox from place `first` to before place `stop`."""
        start, end = mailbox.prefix + first, mailbox.prefix + stop
        committed = self._view.scan(Family.MESSAGES, start, end, reverse=reverse)
        if not mailbox.pending:
            return committed
        return _overlay(committed, mailbox.pending, start, end, reverse=reverse)

    # --- runs of nodes ---------------------------------------------------------------------------

    def ended_run(self, node: int) -> int:
        """The last run of `node` that was ended here; 0 for none. Asked for every parcel."""
        ended = self._ended_runs.get(node)
        if ended is None:
            row = self.get(Family.GROUPS, keys.ended_run(node))
            ended = self._ended_runs[node] = int.from_bytes(row, "big") if row else 0
        return ended

    def is_ended(self, node: int, incarnation: int) -> bool:
        """Whether this run of `node` was ended here."""
        return 0 < self.ended_run(node) >= incarnation

    def end_runs(self, node: int, incarnation: int) -> None:
        """Refuse the node's runs up to this one from now on."""
        if incarnation > self.ended_run(node):
            self._ended_runs[node] = incarnation
            self.put(Family.GROUPS, keys.ended_run(node), incarnation.to_bytes(8, "big"))

    # --- heartbeats ------------------------------------------------------------------------------

    def heard(self, ref: bytes) -> Heard | None:
        """What is known of an agent's heartbeats; who changes it puts it back."""
        heard = self.heard_lately.get(ref)
        if heard is None:
            heard = Heard(ref)
            row = self.get(Family.AGENTS, heard.key)
            if row is None:
                return None
            heard.load(row)
        return heard

    def put_heard(self, heard: Heard) -> None:
        """Write it; the next heartbeat will want it again."""
        heard.index = self.index
        self.unwritten.unmark(heard)
        self.heard_lately[heard.ref] = heard
        self.writes.rows[Family.AGENTS][heard.key] = heard.row()

    def forget_heard(self, heard: Heard) -> None:
        """Delete it."""
        self.unwritten.unmark(heard)
        self.heard_lately.pop(heard.ref, None)
        self.delete(Family.AGENTS, heard.key)

    # --- groups ----------------------------------------------------------------------------------

    def group(self, mailbox: Mailbox, name: str) -> Group | None:
        """The group of that name, loaded whole."""
        key_prefix = keys.group(mailbox.prefix, name)
        cache = self._groups
        if key_prefix in cache:
            return cache[key_prefix]
        loaded: Group | None = None
        for key, row in self.scan(Family.GROUPS, key_prefix, keys.after(key_prefix)):
            if loaded is None:
                loaded = Group(mailbox, name, 0)
            loaded.load(key, row)
        if loaded:
            loaded.finish_load()
        cache[key_prefix] = loaded
        return loaded

    def add_group(self, group: Group) -> None:
        """Take in a new group, or one that started anew."""
        old = self._groups.get(group.prefix)
        if old:
            old.dirty = False
        self._groups[group.prefix] = group
        mailbox_prefix = group.prefix[: keys.PREFIX_BYTES]
        self.behind.pop(mailbox_prefix, None)
        names = self._group_names.get(mailbox_prefix)
        if names is not None and group.name not in names:
            insort(names, group.name, key=str.encode)
        self.put(Family.GROUPS, group.header_key(), group.pack())  # so that group_names sees it
        self.mark_group(group)

    def forget_group(self, group: Group) -> None:
        """Remove the group and all its rows."""
        self._groups[group.prefix] = None
        self.behind.pop(group.prefix[: keys.PREFIX_BYTES], None)
        self._group_names.pop(group.prefix[: keys.PREFIX_BYTES], None)
        group.dirty = False
        self.drop(Family.GROUPS, group.prefix)

    def forget_groups_of(self, mailbox: Mailbox) -> None:
        """Drop cached groups of a mailbox that is gone."""
        self.behind.pop(mailbox.prefix, None)
        self._group_names.pop(mailbox.prefix, None)
        for key_prefix in [key for key in self._groups if key.startswith(mailbox.prefix)]:
            group = self._groups.pop(key_prefix)
            if group:
                group.dirty = False

    def group_names(self, mailbox: Mailbox) -> list[str]:
        """The names of all groups of the mailbox."""
        names = self._group_names.get(mailbox.prefix)
        if names is None:
            names = self._group_names[mailbox.prefix] = self._look_up_group_names(mailbox)
        return names

    def _look_up_group_names(self, mailbox: Mailbox) -> list[str]:
        start = mailbox.prefix
        names: list[str] = []
        while True:
            row = next(self.scan(Family.GROUPS, start, keys.after(mailbox.prefix)), None)
            if row is None:
                break
            name = row[0][keys.PREFIX_BYTES :].split(b"\0", 1)[0]
            names.append(name.decode())
            start = mailbox.prefix + name + b"\1"
        return names

    def mark_handout(self, group: Group, handout: HandOut) -> None:
        """Have the hand-out written at the end of the entry, however many ACKs come before."""
        group.unwritten[handout.seq] = handout
        self.mark_group(group)

    def mark_group(self, group: Group) -> None:
        """Have the group's header and changed buckets written at the end of the entry."""
        if not group.dirty:
            group.dirty = True
            self._dirty_groups.append(group)


def _overlay(
    committed: Iterator[tuple[bytes, bytes]],
    pending: dict[bytes, bytes | None],
    start: bytes,
    stop: bytes,
    *,
    reverse: bool,
) -> Iterator[tuple[bytes, bytes]]:
    """Rows of `committed` with those of `pending` in their places; a pending None hides a row."""
    fresh = sorted((key for key in pending if start <= key < stop), reverse=reverse)
    at = 0
    for key, value in committed:
        while at < len(fresh) and ((fresh[at] > key) if reverse else (fresh[at] < key)):
            row = pending[fresh[at]]
            if row is not None:
                yield fresh[at], row
            at += 1
        if at < len(fresh) and fresh[at] == key:
            continue  # the pending one comes in its turn
        yield key, value
    for key in fresh[at:]:
        row = pending[key]
        if row is not None:
            yield key, row
