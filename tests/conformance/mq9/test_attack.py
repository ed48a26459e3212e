"""An attacker with an ordinary connection at every node, and the run of the HTTP side and the logs.

PROTOCOL section 7, attacked as a whole: it subscribes to everything it can think of, knows its
victim's inbox and guesses reply subjects, replays sids, reads every page and every log line. All it
may ever hear is what is meant for everybody; every secret of the victim carries a mark.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from chaos.cluster.process import ServedNode
from tests.conftest import ONE_OR_THREE
from tests.support.cluster import ServedCluster
from tests.support.mq9 import Mq9, encoded, fresh, payloads
from tests.support.raw_nats import Delivered, RawNats, publication

MARK = "sesame" + secrets.token_hex(4)  # in every payload, key, tag, header, group of the victim
SECRET = MARK.encode()
HEARD_S_MAX = 30.0

FIRST = (">", "*", "$mq9", "_INBOX", "_R_", "$SYS", "$JS", "mbx", "$mq9.AI", "$mq9.AI.MSG")
TAILS = (".>", ".*", ".*.*", ".*.*.*", ".*.*.*.*", ".*.*.*.*.*", ".*.>", ".*.*.>", ".*.*.*.>")
VERBS = ("SEND", "FETCH", "ACK", "NACK", "QUERY", "DELETE")
OLDER = ("MAILBOX.MSG", "MAILBOX.LIST", "MAILBOX.DELETE", "MAILBOX.QUERY", "INBOX", "MAILBOX")


def patterns() -> list[str]:
    """Every pattern a stranger can think of; those that are refused are part of the attack."""
    found = [">", "*", *(first + tail for first in FIRST for tail in TAILS)]
    found += [f"$mq9.AI.MSG.{verb}{tail}" for verb in VERBS for tail in TAILS]
    found += [f"$mq9.AI.{older}{tail}" for older in OLDER for tail in TAILS]
    found += [f"$mq9.*.{verb}.>" for verb in ("MSG", "MAILBOX", "AGENT", "INBOX")]
    found += ["$mq9.AI.MAILBOX.CREATE", "$mq9.AI.AGENT.>", "$mq9.AI.AGENT.*", "*.AI.MSG.*.>"]
    return found


FOR_EVERYBODY = b"for everybody"


class Attacker:
    """A connection at each node, each with subscriptions to everything, plain and as a group."""

    def __init__(self, connections: Sequence[RawNats]) -> None:
        self.connections = connections
        self.heard: list[list[asyncio.Queue[Delivered]]] = [[] for _ in connections]

    @classmethod
    async def at(cls, nodes: Sequence[ServedNode]) -> "Attacker":
        attacker = cls([await RawNats.connect(node.host, node.port) for node in nodes])
        await attacker.listen(patterns())
        return attacker

    async def listen(self, subjects: Sequence[str]) -> None:
        for connection, heard in zip(self.connections, self.heard, strict=True):
            for subject in subjects:
                heard.append(connection.subscribe(subject))
                heard.append(connection.subscribe(subject, queue="thieves"))
            await connection.flush()

    async def loot(self) -> list[Delivered]:
        """All that was heard since the last time, the attackers' own inboxes aside."""
        for connection in self.connections:
            await connection.flush()
            assert not connection.ended.is_set(), connection.errors
        queues = itertools.chain(*self.heard)
        heard = [queue.get_nowait() for queue in queues for _ in range(queue.qsize())]
        return [message for message in heard if message.payload != FOR_EVERYBODY]

    async def hears_core(self, speaker: RawNats) -> None:
        """Wait until a core message of `speaker` was heard at every node, and nothing before it."""
        assert await self.heard_before(speaker) == []

    async def heard_before(self, speaker: RawNats) -> list[Delivered]:
        """Wait until a core message of `speaker` was heard at every node: what was published before
        it was heard, too, and is returned.
        """
        found: list[Delivered] = []
        subject = fresh("public")
        asked = asyncio.get_running_loop().time()
        told: set[int] = set()
        while len(told) < len(self.connections):
            assert asyncio.get_running_loop().time() - asked < HEARD_S_MAX
            speaker.post(publication(subject, FOR_EVERYBODY))
            await speaker.flush()
            await asyncio.sleep(0.01)
            for place, queues in enumerate(self.heard):
                for queue in queues:
                    while not queue.empty():
                        message = queue.get_nowait()
                        if message.payload == FOR_EVERYBODY:
                            told.add(place)
                        else:
                            found.append(message)
        return found

    async def close(self) -> None:
        for connection in self.connections:
            await connection.close()


@pytest.fixture(scope="module", params=ONE_OR_THREE)
def nodes(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServedNode]]:
    """Nodes that log all they ever log."""
    home = tmp_path_factory.mktemp("attacked")
    if request.param == "one node":
        node = ServedNode(home, log_level="debug")
        node.start_now()
        yield [node]
        node.kill_now()
    else:
        cluster = ServedCluster(home, 3, log_level="debug")
        try:
            cluster.start_now()
            yield list(cluster)
        finally:
            cluster.kill_now()


@pytest.fixture
async def attacker(nodes) -> AsyncIterator[Attacker]:
    one = await Attacker.at(nodes)
    yield one
    await one.close()


@pytest.fixture
async def victims(nodes) -> AsyncIterator[list[RawNats]]:
    """Two connections of the victim, at different nodes where there are several."""
    pair = [await RawNats.connect(node.host, node.port) for node in (nodes[0], nodes[-1])]
    yield pair
    for connection in pair:
        await connection.close()


async def busy_life(asker: Mq9, worker: Mq9) -> list[str]:
    """Everything a client does, with success and without; the addresses it must keep to itself."""
    address = await asker.create(ttl=3600, desc=MARK, max_deliver=2)
    named = await asker.create(fresh("named"))
    waiting = asyncio.create_task(worker.fetch(address, MARK, max_wait_ms=60_000))
    headers = {"X-Mine": MARK, "mq9-key": MARK, "mq9-tags": MARK, "Nats-Msg-Id": MARK}
    for box in (address, named):
        sent = await asker.ask(f"MSG.SEND.{box}", SECRET, headers)
        assert sent["error"] == ""
        await asker.ask(f"MSG.SEND.{box}", SECRET, headers)
        await asker.query(box)
        await asker.try_send(box, SECRET, priority="wrong")
    assert payloads(await waiting) == [SECRET]
    for _ in range(2):  # into the dead letters
        await worker.nack(address, MARK, 1)
        await worker.fetch(address, MARK, num_msgs=1)
    dead = await asker.query(f"{address}.dlq")
    assert payloads(dead) == [SECRET]
    await worker.ack(address, MARK, 1, handout="unknown")
    await asker.delete(address, 1)
    await asker.ask("MAILBOX.CREATE", {"name": named})
    await asker.ask("MAILBOX.CREATE", {"name": MARK.upper()})
    await asker.ask(f"MSG.{MARK}.{address}", SECRET)
    await asker.ask(f"MSG.FETCH.{address}", b"{" + SECRET)
    await asker.ask(f"MSG.SEND.{address[:-1]}", SECRET)
    return [address, named]


async def test_listening_to_everything_tells_nothing_of_a_busy_client(attacker, victims) -> None:
    await busy_life(Mq9(victims[0]), Mq9(victims[1]))
    for victim in victims:
        await attacker.hears_core(victim)
    assert await attacker.loot() == []


async def test_knowing_the_inbox_and_the_next_reply_subjects_tells_nothing(
    attacker, victims
) -> None:
    """Whoever answers one core request of the victim learns its inbox."""
    asker, worker = victims
    await attacker.hears_core(asker)
    learnt = asker.ask("some.service")  # of nobody: but the attacker hears it
    asked = await attacker.heard_before(asker)
    inboxes = {message.reply.rpartition(".")[0] for message in asked}
    (inbox,) = inboxes
    learnt.cancel()
    guesses = [f"{inbox}.{number}" for number in range(1, 60)]
    await attacker.listen([*guesses, f"{inbox}.*", f"{inbox}.>"])
    # with a queue group, too: it would take the reply from its owner instead of copying it
    await busy_life(Mq9(asker), Mq9(worker))
    for victim in victims:
        await attacker.hears_core(victim)
    assert await attacker.loot() == []


async def test_a_reply_whose_asker_has_left_goes_to_nobody_who_guessed_its_subject(
    nodes, attacker, victims
) -> None:
    owner = Mq9(victims[0])
    address = await owner.create()
    for number in itertools.count():
        inbox = f"_INBOX.{secrets.token_hex(11)}"
        await attacker.listen([f"{inbox}.1", f"{inbox}.*"])
        leaver = await RawNats.connect(nodes[-1].host, nodes[-1].port)
        wait = encoded({"deliver": "earliest", "config": {"max_wait_ms": 60_000}})
        leaver.post(f"SUB {inbox}.* 1\r\n".encode())
        leaver.post(publication(f"$mq9.AI.MSG.FETCH.{address}", wait, f"{inbox}.1"))
        leaver.post(publication("$mq9.AI.MAILBOX.CREATE", b"", f"{inbox}.1"))
        if number % 2:  # by listening no more, else by leaving
            leaver.post(b"UNSUB 1\r\n")
            await leaver.flush()
        await owner.send(address, SECRET)
        await leaver.close()
        await owner.ack(address, "nobody", 1)
        if number == 3:
            break
    await attacker.hears_core(victims[0])
    assert await attacker.loot() == []


async def test_replayed_sids_end_and_steal_nothing(attacker, victims) -> None:
    asker, worker = (Mq9(victim) for victim in victims)
    heard = victims[0].subscribe("private.talk")
    await victims[0].flush()
    address = await asker.create()
    waiting = asyncio.create_task(worker.fetch(address, "g", max_wait_ms=60_000))
    for connection in attacker.connections:
        for sid in range(40):  # the victims' sids among them; a taken sid of one's own stays
            connection.post(b"UNSUB %d\r\nUNSUB %d 1\r\n" % (10_000 + sid, sid))
            connection.post(b"SUB replayed.%d %d\r\n" % (sid, 20_000 + sid))
        await connection.flush()
    await asker.send(address, SECRET)
    assert payloads(await waiting) == [SECRET]
    victims[1].post(publication("private.talk", b"still here"))
    message = await asyncio.wait_for(heard.get(), HEARD_S_MAX)
    assert message.payload == b"still here"
    assert all(loot.payload == b"still here" for loot in await attacker.loot())


PAGES = """
/ /healthz /readyz /varz /connz /connz?subs=1 /connz?subs=detail&limit=10000 /connz?auth=1 /subsz /subsz?subs=1
/routez /routez?subs=1 /routez?subs=detail /cluster /cluster?state_hashes=1 /metrics /jsz /accountz /accstatz /gatewayz
/leafz /ipqueuesz /stacksz /debug/pprof/ /debug/vars /expvarz /raftz /mailboxes /favicon.ico /../etc/passwd
/connz?limit=x
""".split()  # noqa: E501, SIM905


async def test_no_page_shows_an_address_an_inbox_or_a_payload(nodes, victims) -> None:
    asker, worker = (Mq9(victim) for victim in victims)
    addresses = await busy_life(asker, worker)
    inboxes = []
    for victim, address in zip(victims, addresses, strict=True):
        # what a client may be careless with: subscriptions to its own mailbox's subjects
        victim.subscribe(f"$mq9.AI.MSG.SEND.{address}")
        victim.subscribe(f"copies.of.{addresses[0]}")
        victim.post(b'CONNECT {"name":"worker of %b"}\r\n' % addresses[0].encode())
        victim.subscribe(f"$mq9.AI.MAILBOX.MSG.{address}.*")
        inboxes.append(f"_INBOX.{MARK}{len(inboxes)}")
        victim.subscribe(f"{inboxes[-1]}.*")
        await victim.flush()
    for node, page in itertools.product(nodes, PAGES):
        shown = (await node.get(page)).body.decode()
        for secret in (MARK, *addresses, *inboxes):
            assert secret not in shown, (page, secret)
    logs = "\n".join(node.log_text() for node in nodes)
    for secret in (MARK, addresses[0], *inboxes):
        assert secret not in logs
