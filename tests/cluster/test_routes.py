"""Core NATS over three nodes: each check runs against ours, and against three nats-servers.

What a client may rely on is the same wherever its peer is connected (docs/protocol.md, section 7,
and the behaviour of nats-server's routes). Interest travels at its own pace between nodes, so a
check that publishes elsewhere first waits until every node knows (`Nodes.know`).
"""

import asyncio
import itertools
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import nats
import pytest

from tests.support.cluster import ServedCluster, until
from tests.support.nats_cluster import NatsCluster
from tests.support.nats_py import settled
from tests.support.raw_nats import Delivered, RawNats, publication

HOST = "127.0.0.1"
KNOWN_S_MAX = 60.0
QUIET_S = 0.15  # so long nothing more arrived: a copy too many would be as quick as the first one
TOO_BUSY_S = 15.0

_run = secrets.token_hex(4)
_numbers = itertools.count(1)

Queue = asyncio.Queue[Delivered]


def fresh(word: str = "s") -> str:
    return f"{word}.{_run}.{next(_numbers)}"


class Nodes:
    """Connections at three nodes, a, b and c being places in the list of ports."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self._opened: list[RawNats] = []

    async def at(self, place: int, **options: object) -> RawNats:
        """A connection at one node."""
        self._opened.append(await RawNats.connect(HOST, self.ports[place], **options))
        return self._opened[-1]

    async def at_each(self) -> list[RawNats]:
        """One connection at each node."""
        return [await self.at(place) for place in range(len(self.ports))]

    async def know(self, *subscribers: RawNats) -> None:
        """Wait until every node knows what `subscribers` subscribed to up to now.

        A node tells its interest in order: who knows of the last subscription knows of all.
        """
        probes = await self.at_each()
        for subscriber in subscribers:
            subject = fresh("known")
            heard = subscriber.subscribe(subject)
            missing = set(range(len(probes)))
            async with asyncio.timeout(KNOWN_S_MAX):
                while missing:
                    for place in missing:
                        probes[place].post(publication(subject, str(place).encode()))
                    await asyncio.sleep(0.01)
                    while not heard.empty():
                        missing.discard(int(heard.get_nowait().payload))
            subscriber.post(f"UNSUB {subscriber.last_sid}\r\n".encode())
            await subscriber.flush()

    async def close(self) -> None:
        for client in self._opened:
            await client.close()


@pytest.fixture(scope="session")
def nats_cluster() -> Iterator[NatsCluster]:
    cluster = NatsCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(params=["ours", "nats-server"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    """Three nodes of each kind in turn."""
    if request.param == "ours":
        served: ServedCluster = request.getfixturevalue("shared_cluster")
        nodes = Nodes([node.port for node in served])
    else:
        nodes = Nodes(request.getfixturevalue("nats_cluster").ports)
    yield nodes
    await nodes.close()


async def take(queue: Queue, count: int) -> list[Delivered]:
    """`count` messages, and nothing behind them."""
    async with asyncio.timeout(TOO_BUSY_S):
        taken = [await queue.get() for _ in range(count)]
    assert await rest(queue) == []
    return taken


async def rest(*queues: Queue) -> list[Delivered]:
    """What arrives until nothing has for a while."""
    taken: list[Delivered] = []
    while True:
        await asyncio.sleep(QUIET_S)
        more = [queue.get_nowait() for queue in queues for _ in range(queue.qsize())]
        if not more:
            return taken
        taken += more


def numbered(subject: str, count: int, prefix: bytes = b"") -> bytes:
    """`count` PUBs in one write."""
    return b"".join(publication(subject, prefix + b"%d" % number) for number in range(count))


def bodies(messages: list[Delivered]) -> list[bytes]:
    return [message.payload for message in messages]


async def all_of(count: int, *queues: Queue) -> list[list[bytes]]:
    """What each queue got, once `count` arrived in all and nothing behind them."""
    await until(
        lambda: sum(queue.qsize() for queue in queues) >= count, f"{count} messages", TOO_BUSY_S
    )
    await asyncio.sleep(QUIET_S)
    got = [[queue.get_nowait().payload for _ in range(queue.qsize())] for queue in queues]
    assert sum(map(len, got)) == count, got
    return got


# --- plain subscriptions -------------------------------------------------------------------------


async def test_what_is_published_at_any_node_reaches_subscribers_at_every_node_once(
    nodes: Nodes,
) -> None:
    subject = fresh()
    readers = await nodes.at_each()
    heard = [reader.subscribe(subject) for reader in readers]
    await nodes.know(*readers)
    for place, writer in enumerate(await nodes.at_each()):
        writer.post(numbered(subject, 20, b"%d-" % place))
    expected = sorted(b"%d-%d" % pair for pair in itertools.product(range(3), range(20)))
    for queue in heard:
        assert sorted(bodies(await take(queue, 60))) == expected


async def test_overlapping_subscriptions_elsewhere_get_one_copy_each(nodes: Nodes) -> None:
    root = fresh()
    reader, other = await nodes.at(1), await nodes.at(1)
    patterns = [f"{root}.x", f"{root}.*", f"{root}.>", f"{root}.x"]
    heard = [reader.subscribe(pattern) for pattern in patterns] + [other.subscribe(f"{root}.>")]
    await nodes.know(reader, other)
    writer = await nodes.at(0)
    writer.post(publication(f"{root}.x", b"1") + publication(f"{root}.y", b"2"))
    assert [
        bodies(await take(queue, count))
        for queue, count in zip(heard, (1, 2, 2, 1, 2), strict=True)
    ] == [
        [b"1"],
        [b"1", b"2"],
        [b"1", b"2"],
        [b"1"],
        [b"1", b"2"],
    ]


async def test_each_publishers_messages_keep_their_order_at_every_node(nodes: Nodes) -> None:
    subject = fresh()
    readers = [await nodes.at(1), await nodes.at(2)]
    heard = [reader.subscribe(subject) for reader in readers]
    await nodes.know(*readers)
    for name, writer in zip((b"a", b"b"), (await nodes.at(0), await nodes.at(0)), strict=True):
        writer.post(numbered(subject, 1000, name))
    for queue in heard:
        came = bodies(await take(queue, 2000))
        for name in (b"a", b"b"):
            assert [body for body in came if body.startswith(name)] == [
                name + b"%d" % number for number in range(1000)
            ]


async def test_messages_on_different_subjects_keep_their_order(nodes: Nodes) -> None:
    root = fresh()
    reader = await nodes.at(2)
    heard = reader.subscribe(f"{root}.>")
    reader.subscribe(f"{root}.3")
    await nodes.know(reader)
    writer = await nodes.at(0)
    subjects = [f"{root}.{number % 7}" for number in range(500)]
    writer.post(b"".join(map(publication, subjects)))
    assert [message.subject for message in await take(heard, 500)] == subjects


async def test_subject_reply_headers_and_bytes_arrive_unchanged(nodes: Nodes) -> None:
    subject = f"{fresh()}.Grüße.$SYS.{'t' * 300}"
    reader = await nodes.at(1)
    plain = await nodes.at(1, headers=False, no_responders=False)
    heard, without = reader.subscribe(subject), plain.subscribe(subject)
    await nodes.know(reader, plain)
    headers = ((b"A", b"1"), (b"a", b" 2 "), (b"A", b""))
    payload = b"\r\nMSG x 1 1\r\n\x00\xff"
    writer = await nodes.at(0)
    writer.post(publication(subject, payload, "re.ply", headers) + publication(subject))
    first, second = await take(heard, 2)
    block = b"NATS/1.0\r\nA: 1\r\na:  2 \r\nA: \r\n\r\n"
    assert first[0::2] == (subject, "re.ply", payload)
    assert first.headers == block
    assert second == Delivered(subject, first.sid, "", b"", b"")
    assert [(m.reply, m.headers, m.payload) for m in await take(without, 2)] == [
        ("re.ply", b"", payload),
        ("", b"", b""),
    ]


async def test_a_megabyte_crosses_whole(nodes: Nodes) -> None:
    subject = fresh()
    reader, writer = await nodes.at(2), await nodes.at(0)
    heard = reader.subscribe(subject)
    await nodes.know(reader)
    payload = secrets.token_bytes(1 << 20)
    for _ in range(3):
        writer.post(publication(subject, payload))
    assert [body == payload for body in bodies(await take(heard, 3))] == [True] * 3


async def test_a_maximum_counts_what_comes_from_elsewhere(nodes: Nodes) -> None:
    subject = fresh()
    reader, writer = await nodes.at(1), await nodes.at(0)
    heard = reader.subscribe(subject)
    reader.post(f"UNSUB {reader.last_sid} 3\r\n".encode())
    await nodes.know(reader)
    writer.post(numbered(subject, 10))
    assert bodies(await take(heard, 3)) == [b"0", b"1", b"2"]


async def test_the_wildcard_of_all_sees_inboxes_of_other_nodes(nodes: Nodes) -> None:
    spy, inbox = await nodes.at(2), fresh("_INBOX")
    heard = spy.subscribe(">")
    await nodes.know(spy)
    (await nodes.at(0)).post(publication(inbox, b"seen"))
    async with asyncio.timeout(TOO_BUSY_S):
        while (message := await heard.get()).subject != inbox:
            pass
    assert message.payload == b"seen"


async def test_who_wants_no_echo_hears_others_but_not_itself(nodes: Nodes) -> None:
    subject = fresh()
    silent, other = await nodes.at(0, echo=False), await nodes.at(1)
    own, others = silent.subscribe(subject), other.subscribe(subject)
    await nodes.know(other)
    silent.post(publication(subject, b"mine"))
    assert bodies(await take(others, 1)) == [b"mine"]
    elsewhere = await nodes.at(1)
    async with asyncio.timeout(KNOWN_S_MAX):
        while own.empty():  # until node 1 knows of node 0's subscription
            elsewhere.post(publication(subject, b"theirs"))
            await asyncio.sleep(0.01)
    assert set(bodies(await rest(own))) == {b"theirs"}


# --- queue groups --------------------------------------------------------------------------------


async def test_a_queue_group_gets_a_message_once_in_the_cluster(nodes: Nodes) -> None:
    subject = fresh()
    members = await nodes.at_each()
    heard = [member.subscribe(subject, "workers") for member in members]
    await nodes.know(*members)
    for place, writer in enumerate(await nodes.at_each()):
        writer.post(numbered(subject, 100, b"%d-" % place))
    got = await all_of(300, *heard)
    assert len(set(itertools.chain(*got))) == 300
    assert min(map(len, got)) >= 50  # 100 expected, sd 8


async def test_members_of_a_group_share_evenly_wherever_they_are(nodes: Nodes) -> None:
    subject = fresh()
    alone, together = await nodes.at(0), await nodes.at(1)
    heard = [alone.subscribe(subject, "g")] + [together.subscribe(subject, "g") for _ in range(3)]
    await nodes.know(alone, together)
    writer = await nodes.at(2)
    writer.post(numbered(subject, 800))
    counts = [len(got) for got in await all_of(800, *heard)]
    assert all(130 <= count <= 270 for count in counts), counts  # 200 expected, sd 12


async def test_one_group_over_overlapping_filters_gets_a_message_once(nodes: Nodes) -> None:
    root = fresh()
    first, second, third = await nodes.at_each()
    heard = [
        first.subscribe(f"{root}.*", "g"),
        second.subscribe(f"{root}.>", "g"),
        third.subscribe(f"{root}.x", "g"),
        third.subscribe(f"{root}.>", "g"),
    ]
    await nodes.know(first, second, third)
    (await nodes.at(0)).post(numbered(f"{root}.x", 200))
    got = await all_of(200, *heard)
    assert sorted(map(int, itertools.chain(*got))) == list(range(200))


async def test_groups_and_plain_subscribers_do_not_take_from_each_other(nodes: Nodes) -> None:
    subject = fresh()
    readers = await nodes.at_each()
    plain = [reader.subscribe(subject) for reader in readers]
    groups = {
        name: [reader.subscribe(subject, name) for reader in readers] for name in ("g", "h", "i")
    }
    await nodes.know(*readers)
    (await nodes.at(1)).post(numbered(subject, 60))
    everything = sorted(b"%d" % number for number in range(60))
    for queue in plain:
        assert sorted(bodies(await take(queue, 60))) == everything
    for members in groups.values():
        assert sorted(itertools.chain(*await all_of(60, *members))) == everything


async def test_the_others_get_everything_when_members_leave_or_vanish(nodes: Nodes) -> None:
    subject = fresh()
    first, second, third = await nodes.at_each()
    heard = third.subscribe(subject, "g")
    first.subscribe(subject, "g")
    leaving = f"UNSUB {first.last_sid}\r\n".encode()
    second.subscribe(subject, "g")
    await nodes.know(first, second, third)
    first.post(leaving)
    await nodes.know(first)
    await second.close()
    behind = await nodes.at(1)  # at the same node: what it wants is told behind the end of second
    await nodes.know(behind)
    writer = await nodes.at(0)
    writer.post(numbered(subject, 100))
    assert bodies(await take(heard, 100)) == [b"%d" % number for number in range(100)]


async def test_a_group_with_its_publishers_own_silent_member_is_served_elsewhere(
    nodes: Nodes,
) -> None:
    subject = fresh()
    silent, other = await nodes.at(0, echo=False), await nodes.at(1)
    own, heard = silent.subscribe(subject, "g"), other.subscribe(subject, "g")
    await nodes.know(other)
    silent.post(numbered(subject, 50))
    assert bodies(await take(heard, 50)) == [b"%d" % number for number in range(50)]
    assert own.empty()


# --- request and reply ---------------------------------------------------------------------------


async def test_requests_are_answered_from_any_node_at_any_node(nodes: Nodes) -> None:
    subject = fresh()
    responders = [await nats.connect(f"nats://{HOST}:{port}") for port in nodes.ports]
    for place, responder in enumerate(responders):

        async def answer(message: nats.aio.msg.Msg, place: int = place) -> None:
            await message.respond(b"%d " % place + message.data)

        await responder.subscribe(f"{subject}.{place}", cb=answer)
        await settled(responder)
    sync = [await nodes.at(place) for place in range(3)]
    await nodes.know(*sync)
    for asker, place in itertools.product(responders, range(3)):
        reply = await asker.request(f"{subject}.{place}", b"ping", timeout=TOO_BUSY_S)
        assert reply.data == b"%d ping" % place
    for responder in responders:
        await responder.close()


async def test_a_request_right_behind_its_subscription_never_loses_the_reply(nodes: Nodes) -> None:
    subject = fresh()
    responders = await nodes.at_each()
    answering = [
        asyncio.create_task(echo(responder, responder.subscribe(subject, "g")))
        for responder in responders
    ]
    await nodes.know(*responders)

    async def ask(place: int) -> bytes:
        client = await RawNats.open(HOST, nodes.ports[place])
        inbox, body = fresh("_INBOX"), secrets.token_hex(4).encode()
        client.post(b'CONNECT {"verbose":false,"no_responders":true,"headers":true}\r\n')
        heard = client.subscribe(f"{inbox}.*")
        client.post(publication(subject, body, f"{inbox}.1"))
        reply = await asyncio.wait_for(heard.get(), TOO_BUSY_S)
        await client.close()
        return body + b" " + reply.payload

    for _ in range(15):
        asked = await asyncio.gather(*(ask(place % 3) for place in range(30)))
        assert [pair.split()[0] == pair.split()[1] for pair in asked] == [True] * 30
    for task in answering:
        task.cancel()


async def echo(responder: RawNats, heard: Queue) -> None:
    while True:
        message = await heard.get()
        responder.post(publication(message.reply, message.payload))


async def test_no_responders_means_nobody_in_the_whole_cluster(nodes: Nodes) -> None:
    subject = fresh()
    asker, plain, member = await nodes.at(0), await nodes.at(1), await nodes.at(2)
    refused = await asker.request(subject)
    assert refused.headers == f"NATS/1.0 503\r\nNats-Subject: {subject}\r\n\r\n".encode()
    for client, queue in ((plain, ""), (member, "g")):
        heard = client.subscribe(subject, queue)
        ending = f"UNSUB {client.last_sid}\r\n".encode()
        await nodes.know(client)
        answer = asker.ask(subject, b"anyone?")
        asked = await asyncio.wait_for(heard.get(), TOO_BUSY_S)
        client.post(publication(asked.reply, b"me"))
        assert (await asyncio.wait_for(answer, TOO_BUSY_S)).payload == b"me"
        client.post(ending)
        await nodes.know(client)
        assert (await asker.request(subject)).headers == refused.headers


async def test_many_answers_to_one_request_all_arrive(nodes: Nodes) -> None:
    subject, inbox = fresh(), fresh("_INBOX")
    responders = await nodes.at_each()
    answering = [
        asyncio.create_task(echo(responder, responder.subscribe(subject)))
        for responder in responders
    ]
    await nodes.know(*responders)
    asker = await nodes.at(0)
    heard = asker.subscribe(inbox)
    asker.post(publication(subject, b"all", inbox))
    assert bodies(await take(heard, 3)) == [b"all"] * 3
    for task in answering:
        task.cancel()


# --- INFO ----------------------------------------------------------------------------------------


async def test_every_node_names_all_nodes_as_places_to_connect(nodes: Nodes) -> None:
    expected = {f"{HOST}:{port}" for port in nodes.ports}
    for place in range(3):
        client = await nodes.at(place)
        await client.flush()
        urls = client.info.get("connect_urls")
        assert isinstance(urls, list)
        assert {str(url) for url in urls} == expected
        assert Counter(map(str, urls)).most_common(1)[0][1] == 1
        json.dumps(client.info)
