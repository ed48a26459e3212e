"""Heartbeats that no row says yet: the log says them.

An agent reports again and again, and each time its SEEN row would be written anew, at every
replica. So what a REPORT by name changes stays in memory (`Heard`) at first, and the row is written
once for many: when the entry since which the row is old lies LAG_ENTRIES or LAG_BYTES of the log
back, when so many agents wait that memory ends it, or when somebody needs all rows (a state that is
sent, an index that is built). Up to then the log must keep the entries (`Shard.heard_from`), and
`recall` reads REPORTs from them again when the machine starts.

Owned by `workspace`; `plain_report` marks agents here. Everything else that changes an agent writes
its row at once, with the entry's index in it: `recall` passes over what is older than a row. Which
row is written when depends on the log alone, save that a replica which sent its state, or started,
has some written sooner; what they say does not.

A REPORT in entry 700: its row says entry 300; the agent is marked, and entry 700 is kept. A crash
at 900: rows stand at 900, less what is marked; `recall` goes through entries 700 to 900, finds the
REPORT, and the agent is as it was. In entry 1724 the row is written, saying 700 or the last REPORT
since.

A parcel that comes twice is applied once, which a look at the log alone does not tell: an entry
with such a parcel has all rows written (`write_all`).
"""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from mq9cluster.domain.command import Command
from mq9cluster.machine.agent_rows import Heard
from mq9cluster.machine.codec import (
    REPORT_KIND,
    decode_entry,
    open_parcel,
    plain_report_parts,
)
from mq9cluster.machine.rows import Shard

if TYPE_CHECKING:
    from mq9cluster.machine.workspace import Workspace

LAG_ENTRIES: Final = 1_024  # four minutes of heartbeats alone; a start recalls 400,000 in a second
LAG_BYTES: Final = 8 << 20  # of the log, where entries are large
UNWRITTEN_MAX: Final = 131_072  # agents of all shards together, which share a node's memory
WRITTEN_PART: Final = 32  # of these limits is written at once
WRITTEN_AGENTS_MAX: Final = 4_096  # but no more than so: ten milliseconds of work

Rows = dict[bytes, bytes | None]


class _Marked(NamedTuple):
    """The agents whose rows are old since one entry."""

    entry: int
    before_ms: int  # shard time before it
    log_bytes: int  # parcels applied before it
    agents: list[Heard]


class Unwritten:
    """The marked agents of one shard, by entry."""

    __slots__ = (
        "_agents_max",
        "_count",
        "_entries",
        "_log_bytes",
        "_shard",
        "fresh",
        "index",
        "write_all",
    )

    def __init__(self, shard: Shard, shards: int) -> None:
        """One of so many shards."""
        self._agents_max = UNWRITTEN_MAX // shards
        self._shard = shard
        self._entries: deque[_Marked] = deque()
        self._log_bytes = 0
        self._count = 0  # of agents that are marked
        self.index = 0
        self.fresh: list[Heard] = []  # marked by the present entry; to be added to
        self.write_all = False  # at the end of this entry

    def begin(self, index: int) -> None:
        """Entry `index` begins; the shard's time is that before it."""
        self.index = index
        self._entries.append(_Marked(index, self._shard.now_ms, self._log_bytes, []))
        self.fresh = self._entries[-1].agents

    def end(self, log_bytes: int, rows: Rows) -> None:
        """The entry, with so many bytes of parcels, ends: write what has waited long enough, and
        a little more, so that the next entries need not.
        """
        self.keep(log_bytes)
        if self.write_all or self._waits_too_long():
            entries, count_before = self._entries, self._count
            while entries and (
                self.write_all
                or self._waits_too_long()
                or (
                    count_before - self._count < WRITTEN_AGENTS_MAX
                    and self._waits_too_long(by_part=WRITTEN_PART)
                )
            ):
                self._write(entries.popleft(), rows)
            self.write_all = False
            self._note()

    def _waits_too_long(self, by_part: int = 0) -> bool:
        """Whether a limit is reached, or all but one part of so many."""
        entries_max, bytes_max, agents_max = (
            limit - limit // by_part if by_part else limit
            for limit in (LAG_ENTRIES, LAG_BYTES, self._agents_max)
        )
        oldest = self._entries[0] if self._entries else None
        return oldest is not None and (
            oldest.entry <= self.index - entries_max
            or oldest.log_bytes < self._log_bytes - bytes_max
            or self._count > agents_max
        )

    def keep(self, log_bytes: int) -> None:
        """The entry ends, and nothing is written."""
        self._log_bytes += log_bytes
        if not self.fresh:
            self._entries.pop()
        self._note()

    def mark(self, heard: Heard) -> None:
        """The present entry changes an agent whose row says what was so before it."""
        heard.old_since = self.index
        self._count += 1
        self.fresh.append(heard)

    def unmark(self, heard: Heard) -> None:
        """The present entry writes the agent's row, or deletes it."""
        if heard.old_since:
            heard.old_since = 0
            self._count -= 1

    def write(self, rows: Rows) -> bool:
        """Between two entries, write all there is; whether there was any."""
        if not self._entries:
            return False
        while self._entries:
            self._write(self._entries.popleft(), rows)
        self._note()
        return True

    def _write(self, marked: _Marked, rows: Rows) -> None:
        for heard in marked.agents:
            if heard.old_since == marked.entry:
                self.unmark(heard)
                rows[heard.key] = heard.row()

    def _note(self) -> None:
        """Have the shard's row say what the log must keep: no entry whose agents were written."""
        shard, entries = self._shard, self._entries
        while entries and not any(
            heard.old_since == entries[0].entry for heard in entries[0].agents
        ):
            entries.popleft()
        shard.heard_from = entries[0].entry if entries else 0
        shard.heard_ms = entries[0].before_ms if entries else 0


def recall(ws: "Workspace", entries: Iterable[tuple[int, bytes]]) -> None:
    """Take REPORTs from the log again: `entries` are those from `heard_from` to the applied one, as
    (index, data), without data where they are not the machine's.
    """
    shard = ws.shard
    applied_ms, shard.now_ms = shard.now_ms, shard.heard_ms
    unwritten = ws.unwritten
    for index, data in entries:
        stamp_ms, parcels = decode_entry(data) if data else (0, [])
        unwritten.begin(index)
        shard.now_ms = max(stamp_ms, shard.now_ms)
        for parcel in parcels:
            _recall(ws, index, open_parcel(parcel)[1])
        unwritten.keep(sum(map(len, parcels)))
    shard.now_ms = applied_ms


def _recall(ws: "Workspace", index: int, commands: Iterable[Command | bytes]) -> None:
    """What `plain_report` does with those of one parcel, where no row says it."""
    now_ms = ws.shard.now_ms
    lately = ws.heard_lately
    look_up, mark = lately.get, ws.unwritten.mark
    for command in commands:
        if type(command) is not bytes or command[0] != REPORT_KIND:
            continue
        ref, report_info = plain_report_parts(command)
        heard = look_up(ref) or ws.heard(ref)
        if heard is None or (heard.index >= index and not heard.old_since):
            continue  # it is gone, or its row is newer
        if heard.lives_at(now_ms):
            heard.report(now_ms, report_info)
            if not heard.old_since:
                mark(heard)
            heard.index = index
            lately[ref] = heard
