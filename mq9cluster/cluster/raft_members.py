"""Who takes part in a group, entry by entry.

Owned by `raft_engine`, its only caller; calls nothing. A change of members is in force from the
moment its entry is in the log, committed or not (Ongaro's thesis, 4.1), so replacing an entry takes
its change back. An entry carries the whole list: taking back is then looking at the entry before,
and a snapshot's list needs no history.
"""

import struct

from mq9cluster.cluster.engine import MEMBERS_MARK, LogEntry, Members, MembersRefused

FORMAT = 1
NAME_BYTES_MAX = 255  # a name's length is one byte
_HEAD = struct.Struct("<BBHH")


class MalformedMembers(Exception):
    """An entry marked as a change of members that is none."""


def encode_members(members: Members) -> bytes:
    """The data of the entry that sets `members`."""
    names = [name.encode() for group in members for name in group]
    head = _HEAD.pack(MEMBERS_MARK, FORMAT, len(members.voters), len(members.learners))
    return head + b"".join(bytes((len(name),)) + name for name in names)


def sets_members(data: bytes) -> bool:
    """Whether an entry's data changes the members."""
    return data[:1] == b"\x00"


def decode_members(data: bytes) -> Members:
    """What `encode_members` was given. Raises MalformedMembers."""
    try:
        mark, version, voters, learners = _HEAD.unpack_from(data)
        if mark != MEMBERS_MARK or version != FORMAT:
            raise MalformedMembers(f"mark {mark}, format {version}")
        names, place = [], _HEAD.size
        for _ in range(voters + learners):
            size = data[place]
            names.append(data[place + 1 : place + 1 + size].decode())
            place += 1 + size
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedMembers(str(error)) from error
    if place != len(data):
        raise MalformedMembers("length")
    return Members(tuple(names[:voters]), tuple(names[voters:]))


def check_change(old: Members, new: Members, leader: str) -> None:
    """Raises MembersRefused unless all majorities of `old` and `new` share a voter."""
    names = (*new.voters, *new.learners)
    if len(set(names)) != len(names):
        raise MembersRefused("a node is named twice")
    if any(not 0 < len(name.encode()) <= NAME_BYTES_MAX for name in names):
        raise MembersRefused("a node's name is empty or too long")
    if len(set(old.voters) ^ set(new.voters)) > 1:
        raise MembersRefused("one voter at a time")
    if leader not in new.voters:
        raise MembersRefused("the leader cannot leave: transfer leadership first")


class MembersHistory:
    """The members in force, and those that a replaced entry would bring back."""

    __slots__ = ("_changes",)

    def __init__(self, index: int, members: Members) -> None:
        """`members` of the state at `index`."""
        self._changes: list[tuple[int, Members]] = [(index, members)]

    @property
    def current(self) -> Members:
        """The members in force."""
        return self._changes[-1][1]

    @property
    def applied(self) -> Members:
        """The members of the state, as of what `forget` was last told."""
        return self._changes[0][1]

    @property
    def changed_at(self) -> int:
        """The index of the entry (or state) that set them."""
        return self._changes[-1][0]

    def append(self, entry: LogEntry) -> bool:
        """Take note of an entry; whether it changed the members."""
        if not sets_members(entry.data):
            return False
        self._changes.append((entry.index, decode_members(entry.data)))
        return True

    def truncate(self, index: int) -> bool:
        """Entries from `index` on are gone; whether that changed the members."""
        count = len(self._changes)
        while len(self._changes) > 1 and self._changes[-1][0] >= index:
            self._changes.pop()
        return len(self._changes) != count

    def forget(self, index: int) -> None:
        """Entries up to `index` are applied and stay: what came before the newest of them is not
        needed again.
        """
        while len(self._changes) > 1 and self._changes[1][0] <= index:
            del self._changes[0]
