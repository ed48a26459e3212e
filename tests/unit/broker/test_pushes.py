"""What readers ask, and what they make of answers, refusals, lost leases and clients that lag."""

import asyncio
from itertools import pairwise

import pytest

from mq9cluster.broker import pushes as under_test
from mq9cluster.broker.pushes import READERS_FROM, Pushes
from mq9cluster.cluster.features import DIALECTS
from mq9cluster.domain.address import mailbox_ref, public_list_ref
from mq9cluster.domain.command import AckMessages, Deliver, EndConnection, FetchMessages, Owner
from mq9cluster.domain.errors import (
    InvalidField,
    InvalidMailAddress,
    MailboxNotFound,
    MessageNotFound,
    OutcomeUnknown,
    Overloaded,
    Unavailable,
)
from mq9cluster.domain.message import Message
from mq9cluster.domain.outcome import Done, Refused
from mq9cluster.domain.read import Follow, MessagesRead

REF = mailbox_ref("$G", "a")
SUBJECT = "$mq9.AI.MAILBOX.MSG.a.*"
NODE, RUN, CONNECTION = 1, 2, 7
OWNER = Owner(NODE, RUN, READERS_FROM)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(under_test, "AGAIN_S", 0)
    monkeypatch.setattr(under_test, "REFUSED_AGAIN_S", 0)


class FakeShard:
    """Answers nothing by itself, and remembers what it was asked, in order."""

    def __init__(self):
        self.level = DIALECTS
        self.waiters, self.cancelled, self.proposed, self.acks = [], [], [], []

    def may(self, level):
        return level <= self.level

    def fetch(self, waiter):
        self.waiters.append(waiter)

    def cancel(self, waiter):
        self.cancelled.append(waiter.forget() and waiter)

    def propose(self, command, done):
        self.proposed.append(command)
        self.acks.append(done)

    def propose_surely(self, command, done):
        self.proposed.append(command)
        done()

    @property
    def asked(self):
        return [waiter.request for waiter in self.waiters]


class Shards:
    def __init__(self, count=1):
        self.all = [FakeShard() for _ in range(count)]

    def of(self, _):
        return self.all[0]


class Subscriber:
    """A client: what it was given, and whether it takes more."""

    def __init__(self, most=10_000):
        self.given, self.most, self.room = [], most, True
        self.reads = True  # what it is given, at once; None: later
        self.to_confirm = []

    def confirm(self, then):
        if self.reads is None:
            self.to_confirm.append(then)
        else:
            then(self.reads)

    def deliver(self, subject, header, payload):
        if len(self.given) == self.most:
            return False
        self.given.append(payload)
        return True


class Bench:
    """One subscription at one shard."""

    def __init__(self, most=10_000, queue=None, count=1, readers_max=1_000):
        self.shards = Shards(count)
        self.shard = self.shards.all[0]
        self.holds = True
        self.pushes = Pushes(self.shards, NODE, RUN, lambda: self.holds, readers_max)
        self.client = Subscriber(most)
        self.queue = queue

    async def subscribe(self, subject=SUBJECT):
        client = self.pushes.client(
            CONNECTION, self.client.deliver, self.has_room, self.client.confirm
        )
        push = self.pushes.subscribe(CONNECTION, "$G", subject, self.queue, "", client)
        await turns()
        return push

    def has_room(self):
        return self.client.room

    async def answer(self, *ids, mark="9", error=None):
        found = Refused(error) if error else MessagesRead([message(i) for i in ids], mark)
        self.shard.waiters[-1].finish(found)
        await turns()

    async def acked(self, outcome):
        self.shard.acks[-1](outcome)
        await turns()


def message(msg_id, priority=2):
    return Message(msg_id, priority, 1_000, 0, "", b"", b"%d" % msg_id)


async def turns():
    for _ in range(5):
        await asyncio.sleep(0)


# --- plain ---------------------------------------------------------------------------------------


async def test_each_page_is_asked_for_behind_the_one_before():
    bench = Bench()
    await bench.subscribe()
    await bench.answer(3, 5)
    await bench.answer(6)
    assert bench.client.given == [b"3", b"5", b"6"]
    assert [(asked.number, asked.starts) for asked in bench.shard.asked] == [
        (0, (1, 1, 1, 1)),
        (9, (1, 1, 6, 1)),
        (9, (1, 1, 7, 1)),
    ]


async def test_another_mailbox_of_the_same_name_is_read_from_its_beginning():
    bench = Bench()
    await bench.subscribe()
    await bench.answer(3)
    await bench.answer(1, mark="10")
    assert bench.shard.asked[-1] == Follow(REF, 10, (1, 1, 2, 1), num_msgs=100)


async def test_an_answer_with_nothing_in_it_leaves_the_place_as_it_is():
    bench = Bench()
    await bench.subscribe()
    await bench.answer(3)
    await bench.answer(mark="")
    before, after = bench.shard.asked[-2:]
    assert before == after


@pytest.mark.parametrize("error", [Unavailable("x"), Overloaded("x"), OutcomeUnknown("x")])
async def test_what_is_refused_is_asked_again_later(error):
    bench = Bench()
    await bench.subscribe()
    await bench.answer(error=error)
    assert [first == second for first, second in pairwise(bench.shard.asked)] == [True]


@pytest.mark.parametrize("queue", [None, "g"])
async def test_who_has_no_room_is_asked_nothing_for_and_given_nothing(queue):
    bench = Bench(queue=queue)
    push = await bench.subscribe()
    bench.client.room = False
    await bench.answer(3)
    assert (bench.client.given, len(bench.shard.asked)) == ([], 1)
    bench.client.room = True
    push.resume()
    await turns()
    first, again = bench.shard.asked
    assert first == again
    await bench.answer(3)
    assert bench.client.given == [b"3"]
    push.resume()  # it had room all along
    await turns()
    assert len(bench.shard.asked) == (2 if queue else 3)


async def test_nothing_is_asked_before_the_whole_cluster_knows_how_to_answer():
    bench = Bench()
    bench.shard.level = DIALECTS - 1
    await bench.subscribe()
    assert bench.shard.asked == []
    bench.shard.level = DIALECTS
    await turns()
    assert len(bench.shard.asked) == 1


async def test_a_subscription_that_is_over_asks_nothing_more():
    bench = Bench(most=1)
    push = await bench.subscribe()
    await bench.answer(1, 2)
    push.cancel()
    await turns()
    assert (bench.client.given, len(bench.shard.asked), bench.pushes.readers) == ([b"1"], 1, 0)


async def test_one_that_ends_while_it_waits_is_cancelled():
    bench = Bench()
    push = await bench.subscribe()
    push.cancel()
    await bench.answer(1)
    assert bench.shard.cancelled == bench.shard.waiters
    assert (bench.client.given, len(bench.shard.asked)) == ([], 1)


async def test_so_many_readers_and_no_more():
    bench = Bench(count=3, readers_max=4)
    first = await bench.subscribe("$mq9.AI.PUBLIC.LIST")
    await bench.subscribe()
    assert bench.pushes.readers == 4
    with pytest.raises(Overloaded):
        await bench.subscribe()
    first.cancel()
    await bench.subscribe("$mq9.AI.PUBLIC.LIST")
    assert bench.pushes.readers == 4


async def test_the_list_is_read_in_every_shard():
    bench = Bench(count=3)
    await bench.subscribe("$mq9.AI.PUBLIC.LIST")
    asked = [shard.asked[0].mailbox for shard in bench.shards.all]
    assert asked == [public_list_ref(REF)] * 3


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("$mq9.AI.MAILBOX.MSG.a.b", InvalidField),
        ("$mq9.AI.MAILBOX.MSG.A.normal", InvalidMailAddress),
        ("$mq9.AI.INBOX.a.low", InvalidField),
        ("$mq9.AI.INBOX.normal", InvalidMailAddress),
    ],
)
async def test_what_names_no_mailbox_or_priority_is_refused(subject, error):
    bench = Bench()
    with pytest.raises(error):
        await bench.subscribe(subject)
    assert bench.pushes.readers == 0


@pytest.mark.parametrize("subject", ["$mq9.AI.MSG.SEND.a", "$mq9.AI.PUBLIC.LISTS", "$mq9.AI.>"])
async def test_other_subjects_are_no_push_subscriptions(subject):
    assert await Bench().subscribe(subject) is None


@pytest.mark.parametrize(
    ("queue", "fine"), [("q" * 256, True), ("q" * 257, False), ("\udcff", False)]
)
async def test_a_queue_group_has_a_groups_name(queue, fine):
    bench = Bench(queue=queue)
    if fine:
        assert await bench.subscribe()
    else:
        with pytest.raises(InvalidField):
            await bench.subscribe()


# --- queue groups --------------------------------------------------------------------------------


def ack(msg_id, owner=OWNER):
    return AckMessages(REF, "g", msg_id, owner, "9")


async def test_what_was_given_is_acknowledged_before_more_is_asked_for():
    bench = Bench(queue="g")
    await bench.subscribe()
    (asked,) = bench.shard.asked
    wanted = FetchMessages(REF, "g", OWNER, deliver=Deliver.EARLIEST, num_msgs=8)
    assert asked == wanted
    await bench.answer(1, 2)
    assert (bench.client.given, bench.shard.proposed) == ([b"1", b"2"], [ack(2)])
    assert len(bench.shard.asked) == 1
    await bench.acked(Done())
    assert bench.shard.asked == [wanted, wanted]


@pytest.mark.parametrize("error", [Unavailable("x"), Overloaded("x"), OutcomeUnknown("x")])
async def test_an_acknowledgement_is_repeated_until_its_outcome_is_known(error):
    bench = Bench(queue="g")
    await bench.subscribe()
    await bench.answer(1)
    await bench.acked(Refused(error))
    assert bench.shard.proposed == [ack(1), ack(1)]
    assert len(bench.shard.asked) == 1
    await bench.acked(Refused(MessageNotFound("its mailbox is gone")))
    assert (len(bench.shard.proposed), len(bench.shard.asked)) == (2, 2)


async def test_a_member_that_is_given_full_pages_is_given_larger_ones():
    bench = Bench(queue="g")
    await bench.subscribe()
    for count in (8, 16, 32, 64, 100, 100, 99, 8, 7, 8):
        asked = bench.shard.asked[-1].num_msgs
        assert count <= asked
        await bench.answer(*range(1, count + 1))
        await bench.acked(Done())
    assert [one.num_msgs for one in bench.shard.asked] == [
        8, 16, 32, 64, 100, 100, 100, 8, 16, 8, 16,
    ]  # fmt: skip


async def test_members_have_owners_of_their_own():
    bench = Bench(queue="g")
    await bench.subscribe()
    await bench.subscribe()
    assert [asked.owner.connection - READERS_FROM for asked in bench.shard.asked] == [0, 1]


async def test_a_mailbox_that_is_not_there_is_waited_for():
    bench = Bench(queue="g")
    await bench.subscribe()
    await bench.answer(error=MailboxNotFound("a"))
    assert bench.shard.asked[-1] == Follow(REF, num_msgs=1)
    await bench.answer(1)
    assert bench.client.given == []
    assert isinstance(bench.shard.asked[-1], FetchMessages)


async def test_out_of_the_lease_nothing_is_asked_for_and_nothing_given():
    bench = Bench(queue="g")
    bench.holds = False
    await bench.subscribe()
    assert bench.shard.asked == []
    bench.holds = True
    await turns()
    bench.holds = False
    await bench.answer(1)
    assert (bench.client.given, bench.shard.proposed) == ([], [])
    bench.holds = True
    await turns()
    assert len(bench.shard.asked) == 2  # the same run: it is handed the same again


async def test_what_another_run_was_handed_is_not_given():
    bench = Bench(queue="g")
    await bench.subscribe()
    bench.pushes.begin_run(RUN + 1)
    await bench.answer(1)
    assert (bench.client.given, bench.shard.proposed) == ([], [])
    await bench.answer(1)
    assert bench.client.given == [b"1"]
    assert bench.shard.proposed == [ack(1, OWNER._replace(incarnation=RUN + 1))]


async def test_an_acknowledgement_of_an_ended_run_is_not_repeated():
    bench = Bench(queue="g")
    await bench.subscribe()
    await bench.answer(1)
    bench.pushes.begin_run(RUN + 1)
    await bench.acked(Refused(Unavailable("this run of the node was ended")))
    assert (len(bench.shard.proposed), len(bench.shard.asked)) == (1, 2)


async def test_what_was_not_taken_is_given_back_behind_the_acknowledgement():
    bench = Bench(most=2, queue="g")
    push = await bench.subscribe()

    def deliver(subject, header, payload):  # as a session does whose client wants no more
        bench.client.given.append(payload)
        if len(bench.client.given) == 2:
            push.cancel()
        return len(bench.client.given) <= 2

    push.readers[0]._client.deliver = deliver
    await bench.answer(1, 2, 3)
    assert bench.shard.proposed == [ack(2), EndConnection(OWNER)]


async def test_nothing_is_acknowledged_before_the_client_has_read_it():
    bench = Bench(queue="g")
    await bench.subscribe()
    bench.client.reads = None
    await bench.answer(1, 2)
    assert (bench.client.given, bench.shard.proposed) == ([b"1", b"2"], [])
    (then,) = bench.client.to_confirm
    then(True)
    assert bench.shard.proposed == [ack(2)]


async def test_what_was_given_and_never_read_is_given_back():
    bench = Bench(queue="g")
    push = await bench.subscribe()
    bench.client.reads = None
    await bench.answer(1, 2)
    push.cancel()  # UNSUB, or the end of the connection: who knows
    assert bench.shard.proposed == []
    (then,) = bench.client.to_confirm
    then(False)
    assert bench.shard.proposed == [EndConnection(OWNER)]


async def test_what_was_read_after_all_is_acknowledged_before_the_rest_is_given_back():
    bench = Bench(queue="g")
    push = await bench.subscribe()
    bench.client.reads = None
    await bench.answer(1, 2)
    push.cancel()
    bench.client.to_confirm[0](True)
    assert bench.shard.proposed == [ack(2), EndConnection(OWNER)]


async def test_who_ends_between_two_pages_gives_back_what_it_may_hold():
    bench = Bench(queue="g")
    push = await bench.subscribe()
    push.cancel()
    assert bench.shard.proposed == [EndConnection(OWNER)]
    bench.holds = False
    push = await bench.subscribe()
    push.cancel()  # it asked for nothing
    assert bench.shard.proposed == [EndConnection(OWNER)]
