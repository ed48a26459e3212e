"""A shard on real storage: batches, bounds, deadlines, and what a restart keeps."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mq9cluster.cluster import proposals as proposals_module
from mq9cluster.cluster import shard as shard_module
from mq9cluster.cluster.beat import Beat
from mq9cluster.cluster.clocks import STEP_MS_MAX, AwakeClock
from mq9cluster.cluster.engine import LogEntry, NotLeader
from mq9cluster.cluster.proposals import LOST
from mq9cluster.cluster.replica import Replica
from mq9cluster.cluster.shard import PROPOSAL_DEADLINE_MS
from mq9cluster.domain import failpoints
from mq9cluster.domain.address import agent_ref
from mq9cluster.domain.command import CreateMailbox, RegisterAgent, ReportAgent, SendMessage
from mq9cluster.domain.errors import OutcomeUnknown, Overloaded, Unavailable
from mq9cluster.domain.outcome import MailboxCreated, MessageStored, Outcome, Refused
from mq9cluster.machine.agents_read import agents_at
from mq9cluster.machine.apply import Machine
from mq9cluster.machine.codec import PARCEL_OF_NOBODY, encode_entry, encode_parcel
from mq9cluster.storage.state import ShardState
from tests.unit.cluster.one_shard import REF, OneShard, outcome_of, queried, replica_of, until, why

HOUR_MS = 3_600_000


async def test_commands_of_one_turn_are_one_entry_and_answered_in_order(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    before = replica_of(shard).machine.applied_index
    sends = [outcome_of(shard, SendMessage(REF, b"%d" % n)) for n in range(50)]
    assert await asyncio.gather(*sends) == [MessageStored(n) for n in range(1, 51)]
    assert replica_of(shard).machine.applied_index == before + 1


async def test_patient_commands_leave_together_after_a_while(one: OneShard) -> None:
    one.beat = Beat(50)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    before = replica_of(shard).machine.applied_index
    for first in (1, 6):
        sends = [outcome_of(shard, SendMessage(REF, b"x"), may_wait=True) for _ in range(5)]
        assert await asyncio.gather(*sends) == [MessageStored(first + n) for n in range(5)]
    assert replica_of(shard).machine.applied_index == before + 2


@pytest.fixture
async def never(one: OneShard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patient commands would wait for an hour, and no deadline looks at them."""
    one.beat = Beat(HOUR_MS, least_ms=HOUR_MS)
    monkeypatch.setattr(shard_module, "PROPOSAL_DEADLINE_MS", HOUR_MS)


@pytest.mark.usefixtures("never")
async def test_patient_commands_leave_with_one_that_is_not_and_before_it(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    before = replica_of(shard).machine.applied_index
    patient = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"1"), may_wait=True))
    for _ in range(10):
        await asyncio.sleep(0)
    assert shard.pending_commands == 1
    assert await outcome_of(shard, SendMessage(REF, b"2")) == MessageStored(2)
    assert await patient == MessageStored(1)
    assert replica_of(shard).machine.applied_index == before + 1


@pytest.mark.usefixtures("never")
async def test_patient_commands_join_an_entry_that_others_cause(one: OneShard) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    patient = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"1"), may_wait=True))
    await asyncio.sleep(0)
    replica_of(shard).accept(encode_parcel(PARCEL_OF_NOBODY, []), lambda _: None)
    assert await patient == MessageStored(1)


@pytest.mark.usefixtures("never")
async def test_so_many_patient_commands_and_no_more_wait(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_module, "PATIENT_COMMANDS_MAX", 3)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    sends = [
        asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"x"), may_wait=True))
        for _ in range(2)
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert shard.commands_under_way == 0
    sends.append(asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"x"), may_wait=True)))
    assert await asyncio.gather(*sends) == [MessageStored(n) for n in (1, 2, 3)]


async def test_a_leader_holds_what_may_wait_until_its_beat(one: OneShard) -> None:
    """Parcels of heartbeats from several nodes arrive in turns of their own, and share an entry."""
    one.hold = Beat(50, least_ms=50)
    shard = await one.start()
    replica = replica_of(shard)
    before = replica.machine.applied_index
    answers = []
    for _ in range(3):
        answers.append(held(replica))
        for _ in range(10):
            await asyncio.sleep(0)
    assert await asyncio.gather(*answers) == [[], [], []]
    assert replica.machine.applied_index == before + 1


async def test_what_a_leader_holds_leaves_with_what_may_not_wait(one: OneShard) -> None:
    one.hold = Beat(HOUR_MS, least_ms=HOUR_MS)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    replica = replica_of(shard)
    before = replica.machine.applied_index
    answer = held(replica)
    assert await outcome_of(shard, SendMessage(REF, b"1")) == MessageStored(1)
    assert await answer == []
    assert replica.machine.applied_index == before + 1


async def test_what_a_leader_holds_is_told_when_it_leads_no_more(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.hold = Beat(HOUR_MS, least_ms=HOUR_MS)
    shard = await one.start()
    replica = replica_of(shard)
    answer = held(replica)
    with monkeypatch.context() as patch:
        patch.setattr(replica.engine, "is_leader", False)
        patch.setattr(replica.engine, "propose", refuse)
        replica.wake()
        assert await answer == LOST  # nothing was done: it was in no log


async def test_a_replica_answers_nobody_for_an_entry_that_it_did_not_propose(
    one: OneShard, request: pytest.FixtureRequest
) -> None:
    passed: list[str] = []
    request.addfinalizer(failpoints.disarm)
    failpoints.arm(passed.append)
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    assert passed.count("parcel.answer.before") == 1
    replica = replica_of(shard)
    entry = encode_entry(0, [encode_parcel(PARCEL_OF_NOBODY, [])])
    replica.on_committed([LogEntry(replica.machine.applied_index + 1, 2, entry)])
    assert passed.count("apply.after") > passed.count("parcel.answer.after") == 1


def held(replica: Replica) -> "asyncio.Future[object]":
    """The answer to a parcel that may wait."""
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    replica.accept(encode_parcel(PARCEL_OF_NOBODY, []), answer.set_result, may_wait=True)
    return answer


def refuse(_: bytes) -> tuple[int, int]:
    raise NotLeader("")


async def test_what_is_too_much_for_one_entry_becomes_several(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(shard_module, "PARCEL_BYTES_MAX", 1_000)
    monkeypatch.setattr(proposals_module, "ENTRY_BYTES_MAX", 1_000)
    before = replica_of(shard).machine.applied_index
    sizes = [300, 300, 300, 300, 2_000, 10]
    sends = [outcome_of(shard, SendMessage(REF, b"x" * size)) for size in sizes]
    assert await asyncio.gather(*sends) == [MessageStored(n) for n in range(1, 7)]
    assert replica_of(shard).machine.applied_index == before + 4


async def test_a_restart_keeps_what_was_acknowledged(one: OneShard) -> None:
    shard = await one.start()
    assert await outcome_of(shard, CreateMailbox(REF)) == MailboxCreated(REF)
    assert await outcome_of(shard, SendMessage(REF, b"kept")) == MessageStored(1)
    await one.stop()
    shard = await one.start()
    assert await queried(shard) == [b"kept"]
    assert await outcome_of(shard, SendMessage(REF, b"more")) == MessageStored(2)


@pytest.mark.parametrize("orderly", [True, False])
async def test_heartbeats_that_no_row_said_survive_a_restart(one: OneShard, orderly: bool) -> None:
    agent = agent_ref("$G", "a")
    shard = await one.start()
    await outcome_of(shard, RegisterAgent(agent, "m", 60, b"{}", ()))
    registered_at = replica_of(shard).machine.applied_index
    for load in range(3):
        await outcome_of(shard, ReportAgent(agent, b"%d" % load))
    machine = replica_of(shard).machine
    assert replica_of(shard)._group.needed_from == machine.needed_from == registered_at + 1
    if orderly:
        await one.shards.stop()
    rows = Machine(ShardState(one.store.database, 0))
    assert rows.applied_index == (machine.applied_index if orderly else registered_at)
    assert rows.heard_from == 0
    await one.durability.idle()
    one.store.close()
    shard = await one.start()
    (found,) = agents_at(replica_of(shard).machine.workspace, "$G", ["a"])
    assert found.report_info == b"2"


async def test_a_full_shard_refuses_and_does_nothing(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(shard_module, "UNDER_WAY_COMMANDS_MAX", 2)
    sends = [outcome_of(shard, SendMessage(REF, b"%d" % n)) for n in range(3)]
    answers = await asyncio.gather(*sends)
    assert answers[:2] == [MessageStored(1), MessageStored(2)]
    assert why(answers[2]) is Overloaded
    assert await queried(shard) == [b"0", b"1"]


async def test_bytes_under_way_are_bounded_too(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    monkeypatch.setattr(shard_module, "UNDER_WAY_BYTES_MAX", 1_000)
    sends = [outcome_of(shard, SendMessage(REF, b"x" * 600)) for _ in range(2)]
    first, second = await asyncio.gather(*sends)
    assert first == MessageStored(1)
    assert why(second) is Overloaded


async def test_on_a_disk_that_hangs_outcomes_are_unknown_and_new_commands_unavailable(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = await one.start()
    await outcome_of(shard, CreateMailbox(REF))
    await one.stop()
    monkeypatch.setattr(shard_module, "PROPOSAL_DEADLINE_MS", 50)
    one.beat = Beat(10)  # at which deadlines are looked at
    shard = await one.start(sync_delay_s=0.3)
    while one.durability.syncs_inline:  # the slow disk is noticed, and syncs go to the thread
        await outcome_of(shard, SendMessage(REF, b"before"))
    proposed = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"proposed")))
    await until(lambda: shard.commands_under_way == 1)
    gathered = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"gathered")))
    unknown, unavailable = await asyncio.gather(proposed, gathered)
    assert why(unknown) is OutcomeUnknown
    assert why(unavailable) is Unavailable
    await one.durability.idle()
    stored = await queried(shard)
    assert b"proposed" in stored
    assert b"gathered" not in stored


async def test_time_that_a_node_stood_still_takes_nothing_off_deadlines(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.beat = Beat(1)
    shard = await one.start()
    steady: Any = SimpleNamespace(now_ms=0)
    steady.monotonic_ms = lambda: steady.now_ms
    monkeypatch.setattr(shard, "_awake", AwakeClock(steady))
    taken: list[Callable[[list[Outcome] | Refused | None], None]] = []
    monkeypatch.setattr(replica_of(shard), "accept", lambda _, done, **__: taken.append(done))
    proposed = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"proposed")))
    await until(lambda: len(taken) == 1)
    steady.now_ms += HOUR_MS
    await _some_beats(one.beat)
    for _ in range(PROPOSAL_DEADLINE_MS // STEP_MS_MAX - 2):  # the standstill was one
        steady.now_ms += STEP_MS_MAX
        await _some_beats(one.beat)
    assert not proposed.done()
    steady.now_ms += STEP_MS_MAX
    assert why(await proposed) is OutcomeUnknown


async def _some_beats(beat: Beat) -> None:
    for _ in range(3):
        await beat.come()


async def test_an_answer_to_an_earlier_run_is_not_taken_for_one_to_this(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulator, a mutant of runs: both runs count their parcels from 1."""
    shard = await one.start()
    taken: list[Callable[[list[Outcome] | Refused | None], None]] = []
    monkeypatch.setattr(replica_of(shard), "accept", lambda _, done, **__: taken.append(done))
    earlier = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"earlier")))
    await until(lambda: len(taken) == 1)
    shard.begin_run(2)
    assert isinstance(await earlier, Refused)
    later = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"later")))
    await until(lambda: len(taken) == 2)
    for late in ([MessageStored(7)], Refused(Overloaded("full")), None):
        taken[0](late)
    taken[1]([MessageStored(1)])
    assert await asyncio.wait_for(later, 30) == MessageStored(1)
    assert len(taken) == 2


async def test_what_an_earlier_leader_may_have_done_is_not_refused_by_a_full_one(
    one: OneShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was answered with `overloaded`, which says that nothing was done, and could be stored."""
    shard = await one.start()
    monkeypatch.setattr(shard_module, "RETRY_S", 0.0)
    tries: list[Callable[[list[Outcome] | Refused | None], None]] = []

    def accept(
        _: bytes, done: Callable[[list[Outcome] | Refused | None], None], **__: bool
    ) -> None:
        tries.append(done)
        if len(tries) in (2, 4):
            raise Overloaded("full")

    monkeypatch.setattr(replica_of(shard), "accept", accept)
    sent = asyncio.ensure_future(outcome_of(shard, SendMessage(REF, b"one")))
    await until(lambda: len(tries) == 1)
    tries[0](None)
    await until(lambda: len(tries) == 3 or sent.done())
    tries[-1]([MessageStored(1)])
    assert await asyncio.wait_for(sent, 30) == MessageStored(1)
    refused = await outcome_of(shard, SendMessage(REF, b"two"))  # which nobody else can have
    assert why(refused) is Overloaded
