"""Brokers deliberately broken around their engines, to show that whole-node runs notice.

Each is a patch of one thing, as somebody might get it wrong; never of a function with a failpoint:
arming those would undo it. `mutants` has the broken engines.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from mq9cluster.cluster import runs, snapshot_install
from mq9cluster.cluster.clocks import ClusterClock
from mq9cluster.cluster.durability import Durability
from mq9cluster.cluster.replica import Replica
from mq9cluster.domain.command import SendMessage
from mq9cluster.domain.outcome import Outcome
from mq9cluster.domain.ports import Family
from mq9cluster.machine import apply, consumer_group, ends, hand_outs, rows
from mq9cluster.machine import mailbox as mailboxes
from mq9cluster.machine.codec import Parcel
from mq9cluster.machine.sessions import Sessions
from mq9cluster.machine.workspace import Workspace
from mq9cluster.storage.database import STATE_FAMILIES
from mq9cluster.storage.state import ShardState, switch_epoch
from tests.simulation.database import SimBatch, SimDatabase
from tests.simulation.disk import Disk
from tests.simulation.mutants import ReadsAlone
from tests.simulation.whole import simulate_whole
from tests.simulation.whole_options import WholeOptions
from tests.simulation.wider_mutants import WIDER_MUTANTS

_SHARDS = STATE_FAMILIES[Family.SHARDS]  # where a shard's own row is, with its applied index

Patch = AbstractContextManager[Any]
Broken = Callable[[], Patch]


def _skips_the_sync() -> Patch:
    """The disk says that it synced, and did not."""
    return patch.object(Disk, "honest", False)


def _state_apart_from_index() -> Patch:
    """Rows in one batch, the applied index in the next."""
    write = SimDatabase.write

    def in_two(database: SimDatabase, batch: SimBatch) -> None:
        first, second = database.batch(), database.batch()
        for change in batch.changes:
            (second if change[0] == _SHARDS else first).changes.append(change)
        for part in (first, second):
            if part.changes:
                write(database, part)

    return patch.object(SimDatabase, "write", in_two)


def _releases_early() -> Patch:
    """A hand-out with a time of its own comes back in a quarter of it."""
    set_deadline = consumer_group._set_deadline

    def early(ws: Any, mailbox: Any, group: Any, handout: Any) -> None:
        wait_ms, handout.ack_wait_ms = handout.ack_wait_ms, handout.ack_wait_ms // 4
        set_deadline(ws, mailbox, group, handout)
        handout.ack_wait_ms = wait_ms

    return patch.object(consumer_group, "_set_deadline", early)


def _ends_runs_in_their_lease() -> Patch:
    """A node's run is ended before it has given up its lease."""
    return patch.object(runs, "LEASE_S", 1.0)


@contextmanager
def _ignores_the_end_of_a_lease() -> Iterator[None]:
    """Connections stay open and are heard when others have been given what they held."""

    def lose(self: runs.Runs) -> None:
        self.in_lease = False

    with ExitStack() as patches:
        patches.enter_context(patch.object(runs.Runs, "lose", lose))
        patches.enter_context(patch.object(consumer_group, "_refuse_ended_run", lambda *_: None))
        patches.enter_context(patch.object(Workspace, "is_ended", lambda *_: False))
        yield


def _applies_parcels_twice() -> Patch:
    """A parcel that comes again is applied again."""
    known = Sessions.known

    def forgetful(sessions: Sessions, parcel: Parcel, count: int) -> list[Outcome] | None:
        session = sessions._sessions.get(parcel.node)
        if session is not None:
            session.kept.discard(parcel.sequence)
        return known(sessions, parcel, count)

    return patch.object(Sessions, "known", forgetful)


def _installs_in_two_steps() -> Patch:
    """A state is current before the log that leads to the old one is gone."""

    def at_once(database: Any, shard: int, epoch: int, _: Any) -> None:
        first = database.batch()
        switch_epoch(database, shard, epoch, first)
        database.write(first)

    return patch.object(snapshot_install, "switch_epoch", at_once)


def _sends_a_state_with_a_row_missing() -> Patch:
    """What a follower is brought lacks a row."""
    everything = ShardState.everything

    def but_one(state: ShardState) -> Iterator[tuple[int, bytes, bytes]]:
        found = list(everything(state))
        del found[len(found) // 2]
        return iter(found)

    return patch.object(ShardState, "everything", but_one)


def _compacts_what_is_not_applied() -> Patch:
    """Log entries go by their number, applied or not.

    (That they go as soon as they are applied, the state not synced, is no fault with one log for
    all writes, RocksDB's: what deletes them is behind what applied them.)
    """
    put = Durability._put

    def hasty(durability: Durability, batch: Any, group: Any, ready: Any) -> None:
        group.applied_on_disk = group.log.last_index()
        put(durability, batch, group, ready)

    return patch.object(Durability, "_put", hasty)


def _forgets_who_sent() -> Patch:
    """A repeated Nats-Msg-Id stores once more."""
    send = mailboxes.send

    def anew(ws: Any, command: Any) -> Any:
        return send(ws, command._replace(dedupe_id=b""))

    return patch.dict(apply._WORK, {SendMessage: anew})


def _shows_what_has_expired() -> Patch:
    """Reads do not compare times."""
    return patch.object(rows, "is_visible", lambda *_: True)


def _reads_before_what_is_due() -> Patch:
    """A read after a change of leaders does not wait for what fell due meanwhile."""
    return patch.object(Replica, "_when_due", lambda _, then, __: then())


def _forgets_acks() -> Patch:
    """What was acknowledged is only noted as taken, in memory."""
    finish = hand_outs.finish

    def forgetful(ws: Any, group: Any, priority: int, msg_id: int) -> None:
        finish(ws, group, priority, msg_id)
        group.done[priority].discard(msg_id)

    return patch.object(hand_outs, "finish", forgetful)


def _keeps_what_a_connection_held() -> Patch:
    """The end of a connection releases nothing."""
    return patch.object(ends, "release", lambda *_: None)


def _lets_any_clock_lead() -> Patch:
    """A node an hour off stamps entries."""
    return patch.object(ClusterClock, "may_lead", True)


WHOLE_MUTANTS: dict[str, Broken] = {
    "the sync is skipped": _skips_the_sync,
    "state is written apart from its index": _state_apart_from_index,
    "a timed hand-out is released early": _releases_early,
    "a run is ended within its lease": _ends_runs_in_their_lease,
    "the end of a lease is ignored": _ignores_the_end_of_a_lease,
    "parcels are applied twice": _applies_parcels_twice,
    "a state is installed in two steps": _installs_in_two_steps,
    "a state is sent with a row missing": _sends_a_state_with_a_row_missing,
    "the log goes before it is applied": _compacts_what_is_not_applied,
    "repeated sends are stored again": _forgets_who_sent,
    "what has expired is shown": _shows_what_has_expired,
    "reads do not wait for what is due": _reads_before_what_is_due,
    "acknowledgements are not written": _forgets_acks,
    "ends of connections release nothing": _keeps_what_a_connection_held,
    "any clock may lead": _lets_any_clock_lead,
    **WIDER_MUTANTS,
}

WHOLE_ENGINES = {"reads do not ask": ReadsAlone}


def simulate_mutant(name: str, seed: int | WholeOptions) -> object:
    """Run `seed` broken so. Raises Violation, as is hoped."""
    engine = WHOLE_ENGINES.get(name)
    if engine is not None:
        return simulate_whole(seed, engine)
    with WHOLE_MUTANTS[name]():
        return simulate_whole(seed)


ALL = {
    **{name: partial(simulate_mutant, name) for name in WHOLE_MUTANTS},
    **{name: partial(simulate_mutant, name) for name in WHOLE_ENGINES},
}
