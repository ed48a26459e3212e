"""What is left to do for a connection that nobody reads any more."""

from mq9cluster.broker.call import Call, Counted
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.domain.command import Owner
from mq9cluster.domain.measures import Histogram


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


def call():
    return Call(None, Counted(Histogram(), {}, lambda: 0.0))


def test_searches_of_a_client_that_is_gone_are_given_up_though_it_never_fetched():
    shards = FakeShards()
    mailboxes = Mailboxes(shards, None, node=1, incarnation=2, duplicate_window_ms=0)
    mailboxes.query(mailboxes.target("$G", "a"), 7, None, b"", call())
    assert shards.asked == [Owner(1, 2, 7)]
    mailboxes.connection_lost(7)
    assert shards.forgotten == [Owner(1, 2, 7)]


def test_who_is_lost_waits_for_nothing_and_gives_back_only_when_it_is_closed():
    shards = FakeShards()
    mailboxes = Mailboxes(shards, None, node=1, incarnation=2, duplicate_window_ms=0)
    mailboxes.fetch(mailboxes.target("$G", "a"), 7, None, b'{"group_name":"g"}', call())
    mailboxes.connection_lost(7)
    assert (shards.cancelled, len(shards.asked)) == ([Owner(1, 2, 7)], 1)
    mailboxes.connection_closed(7)
    assert len(shards.cancelled) == 1
    assert [type(one).__name__ for one in shards.asked[1:]] == ["EndConnection"]
