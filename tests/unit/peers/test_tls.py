"""TLS between nodes: without the right certificate nobody gets a word in."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from mq9cluster.cluster import peer_link
from mq9cluster.cluster.peers import Answered, PeerTls
from mq9cluster.cluster.proto import peers_pb2 as pb

PEM = Path(__file__).parent / "tls"


def _pem(name):
    return (PEM / name).read_bytes()


OURS = PeerTls(_pem("node.pem"), _pem("node.key"), _pem("authority.pem"))
STRANGER = PeerTls(_pem("stranger.pem"), _pem("stranger.key"), _pem("authority.pem"))
ELSEWHERE = PeerTls(_pem("node.pem"), _pem("node.key"), _pem("stranger-authority.pem"))


async def test_nodes_with_certificates_of_one_authority_talk(net):
    a, b = await net.start("a", tls=OURS), await net.start("b", tls=OURS)
    await a.ears.until(lambda: a.ears.told == ["b up"])
    await b.ears.until(lambda: b.ears.told == ["a up"])
    reply = asyncio.get_running_loop().create_future()
    a.peers.request("b", 1, b"x", reply.set_result)
    assert await reply == Answered(b"re: x")

    async def chunks():
        yield b"chunk"

    assert await a.peers.send_snapshot("b", b"header", chunks()) == b"header installed"
    assert b.ears.chunks == [b"chunk"]


@pytest.mark.parametrize(
    "theirs",
    [STRANGER, ELSEWHERE, None],
    ids=["certificate of another authority", "trusts another authority", "plain"],
)
async def test_a_node_without_the_right_certificate_neither_hears_nor_is_heard(
    net, theirs, monkeypatch
):
    monkeypatch.setattr(peer_link, "SILENCE_S_MAX", 60.0)  # a slow machine is no silence
    b, c = (
        await net.start("b", names="abc", tls=OURS),
        await net.start("c", names="abc", tls=theirs),
    )
    a = await net.start("a", names="abc", tls=OURS)
    await a.ears.until(lambda: a.ears.told == ["b up"])
    # `a` and `b` have met and pinged each other several times: `c` had as many chances.
    await b.ears.until(lambda: len(b.ears.pings) >= 5)
    assert {ping[0] for ping in b.ears.pings} == {"a"}
    assert b.ears.told == ["a up"]
    assert c.ears.told == c.ears.pings == []


@pytest.mark.parametrize("how", ["no certificate", "a stranger's", "plain"])
@pytest.mark.parametrize("method", ["Raft", "Requests", "Routes", "Snapshot"])
async def test_not_one_word_of_whoever_has_no_certificate_arrives(net, caplog, how, method):
    b = await net.start("b", tls=OURS)
    address = f"127.0.0.1:{b.port}"
    if how == "plain":
        channel = grpc.aio.insecure_channel(address)
    else:
        pair = (_pem("stranger.key"), _pem("stranger.pem")) if how == "a stranger's" else ()
        credentials = grpc.ssl_channel_credentials(_pem("authority.pem"), *pair)
        channel = grpc.aio.secure_channel(address, credentials)
    async with channel, asyncio.timeout(60):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await _say(channel.stream_stream(f"/mq9.peers.v1.Peers/{method}")())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    # What gRPC has left over of an earlier test's loop, it complains of in a later one.
    assert [one for one in caplog.records if one.name.startswith("mq9cluster")] == []


async def _say(call):
    """Say what, had it arrived, would be answered with a refusal and be warned of."""
    await call.write(pb.RaftFrame(hello=pb.Hello(name="x")).SerializeToString())
    await call.read()


NEXT = PeerTls(_pem("stranger.pem"), _pem("stranger.key"), _pem("stranger-authority.pem"))


async def test_new_certificates_count_from_the_next_connection_on(net):
    a = await net.start("a", names="abc", tls=OURS)
    b = await net.start("b", names="abc", tls=OURS)
    await a.ears.until(lambda: a.ears.told == ["b up"])
    for node in (a, b):
        node.peers.change_tls(NEXT)
    c = await net.start("c", names="abc", tls=NEXT)
    await c.ears.until(lambda: sorted(c.ears.told) == ["a up", "b up"])
    await a.ears.until(lambda: "c up" in a.ears.told)
    # Who was connected stayed connected.
    assert a.ears.told == ["b up", "c up"]
    assert "a down" not in b.ears.told


async def test_old_certificates_do_not_count_any_more(net):
    a = await net.start("a", names="abc", tls=OURS)
    a.peers.change_tls(NEXT)
    b = await net.start("b", names="abc", tls=NEXT)
    c = await net.start("c", names="abc", tls=OURS)
    await a.ears.until(lambda: a.ears.told == ["b up"])
    await b.ears.until(lambda: len(b.ears.pings) >= 5)
    assert {ping[0] for ping in b.ears.pings} == {"a"}
    assert c.ears.told == c.ears.pings == []
