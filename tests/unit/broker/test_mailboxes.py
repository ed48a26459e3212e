"""What is left to do for a connection that nobody reads, and at a node out of its lease."""

import pytest

from mq9cluster.broker.call import Call, Counted
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.domain.command import Owner
from mq9cluster.domain.errors import Unavailable
from mq9cluster.domain.measures import Histogram
from mq9cluster.domain.read import MessagesRead


class FakeShards:
    """Shards that answer nothing, and remember what they were told to stop."""

    def __init__(self):
        self.asked, self.cancelled, self.forgotten = [], [], []

    def of(self, _):
        return self

    def query(self, request, done, client):
        self.asked.append(client)

    def fetch(self, waiter):
        self.asked.append(waiter.client)

    def cancel(self, waiter):
        self.cancelled.append(waiter.client)

    def forget(self, client):
        self.forgotten.append(client)

    def propose_surely(self, command, done):
        self.asked.append(command)


def mailboxes_of(shards, may_hand_out=lambda: True):
    return Mailboxes(shards, None, 1, 2, may_hand_out, duplicate_window_ms=0)


def call():
    return Call(None, Counted(Histogram(), {}, lambda: 0.0))


def test_searches_of_a_client_that_is_gone_are_given_up_though_it_never_fetched():
    shards = FakeShards()
    mailboxes = mailboxes_of(shards)
    mailboxes.query(mailboxes.target("$G", "a"), 7, None, b"", call())
    assert shards.asked == [Owner(1, 2, 7)]
    mailboxes.connection_lost(7)
    assert shards.forgotten == [Owner(1, 2, 7)]


def test_who_is_lost_waits_for_nothing_and_gives_back_only_when_it_is_closed():
    shards = FakeShards()
    mailboxes = mailboxes_of(shards)
    mailboxes.fetch(mailboxes.target("$G", "a"), 7, None, b'{"group_name":"g"}', call())
    mailboxes.connection_lost(7)
    assert (shards.cancelled, len(shards.asked)) == ([Owner(1, 2, 7)], 1)
    mailboxes.connection_closed(7)
    assert len(shards.cancelled) == 1
    assert [type(one).__name__ for one in shards.asked[1:]] == ["EndConnection"]


GROUP = b'{"group_name":"g"}'
TIMED = b'{"group_name":"g","config":{"ack_wait_ms":1000}}'


def test_a_node_out_of_its_lease_hands_out_nothing_that_ends_with_its_run():
    shards = FakeShards()
    mailboxes = mailboxes_of(shards, lambda: False)
    target = mailboxes.target("$G", "a")
    with pytest.raises(Unavailable):
        mailboxes.fetch(target, 7, None, GROUP, call())
    assert (shards.asked, mailboxes.holding()) == ([], [])
    mailboxes.fetch(target, 7, None, TIMED, call())
    mailboxes.fetch(target, 7, None, b"{}", call())
    assert len(shards.asked) == 2


@pytest.mark.parametrize("body", [GROUP, TIMED])
@pytest.mark.parametrize("lease", [True, False])
def test_what_is_handed_out_while_the_lease_ends_is_not_shown_to_the_client(body, lease):
    """Simulator, whole nodes, seed 319: by then others may have it."""
    waiters, answers, in_lease = [], [], True
    shards = FakeShards()
    shards.fetch = waiters.append
    mailboxes = mailboxes_of(shards, lambda: in_lease)
    asked = Call(answers.append, Counted(Histogram(), {}, lambda: 0.0))
    mailboxes.fetch(mailboxes.target("$G", "a"), 7, None, body, asked)
    in_lease = lease
    waiters[0].done(MessagesRead([], "1-1"))
    assert (b'"code":"timeout"' in answers[0]) == (body == GROUP and not lease)
