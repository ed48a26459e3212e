"""gRPC's place in simulations of whole nodes: `cluster.peers.Peers` over a virtual network.

Links keep order, as streams do, and break as a whole: a message that is lost takes the link down
with it, and requests under way are `Lost`. Pings go four times a second; a second without an answer
means that the peer is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from mq9cluster.cluster.outbox import PATIENCE_S
from mq9cluster.cluster.peers import (
    PING_S,
    SILENCE_S_MAX,
    Answered,
    Lost,
    NotSent,
    PeerHandler,
    PeerIdentity,
    PeerReply,
    PeerUnavailable,
)
from mq9cluster.domain.ports import Clock, Random
from mq9cluster.storage.errors import StorageFailed
from tests.simulation.network import Network
from tests.simulation.process import PROCESS, Process


class SimRequest:
    """A request under way. Stands for `peers.PendingRequest`."""

    def __init__(self, link: "SimLink", done: Callable[[PeerReply], None]) -> None:
        self.link = link
        self.done: Callable[[PeerReply], None] | None = done
        self.id = 0

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.done:
            self.done = None
            self.link.forget(self)

    def finish(self, reply: PeerReply) -> None:
        """Call `done`, once."""
        done, self.done = self.done, None
        if done:
            done(reply)


class SimLink:
    """What this node says to one peer."""

    def __init__(self, peers: "SimPeers", name: str) -> None:
        self.peers = peers
        self.name = name
        self.up = False
        self.broken = False
        self.heard_s = peers.loop.time()
        self.offset_ms: int | None = None
        self.patient: list[tuple[int, bytes]] = []
        self.requests: dict[int, SimRequest] = {}
        self.serving: dict[int, Callable[[], None] | None] = {}
        self.states_out: dict[int, asyncio.Queue[bytes | None]] = {}  # answers: None, it took one
        self.states_in: dict[int, asyncio.Queue[bytes | None]] = {}  # chunks; b"": it broke off
        self._next_id = 0

    def say(self, *message: Any) -> None:
        """Send, if the process still lives."""
        if not self.peers.stopped:
            self.peers.network.send(self.peers.me.name, self.name, message)

    def send_raft(self, group: int, data: bytes, *, patient: bool) -> None:
        """What is patient leaves with what is not, or when its time is over."""
        self.patient.append((group, data))
        if not patient:
            self.send_patient()
        elif len(self.patient) == 1:
            self.peers.loop.call_later(PATIENCE_S, self.send_patient)

    def send_patient(self) -> None:
        """Send what waits, in order."""
        waiting, self.patient = self.patient, []
        for group, data in waiting:
            self.say("raft", group, data)

    def next_id(self) -> int:
        """A number for what is asked or sent."""
        self._next_id += 1
        return self._next_id

    def request(self, kind: int, data: bytes, done: Callable[[PeerReply], None]) -> SimRequest:
        """Ask."""
        pending = SimRequest(self, done)
        if not self.up:
            self.peers.loop.call_soon(pending.finish, NotSent())
            return pending
        pending.id = self.next_id()
        self.requests[pending.id] = pending
        self.say("request", pending.id, kind, data)
        return pending

    def forget(self, pending: SimRequest) -> None:
        """A request was cancelled."""
        if self.requests.pop(pending.id, None):
            self.say("cancel", pending.id)

    def hear(self) -> None:
        """The peer answered a ping."""
        self.heard_s = self.peers.loop.time()
        if not self.up and not self.broken:
            self.up = True
            self.say("dialled")
            self.peers.handler.on_up(self.name)

    def serve_no_more(self) -> None:
        """What the peer asked over a stream that has ended."""
        serving, self.serving = self.serving, {}
        for cancel in serving.values():
            if cancel:
                cancel()

    def look(self) -> None:
        """A ping's time has passed."""
        if self.up and (self.broken or self.peers.loop.time() - self.heard_s > SILENCE_S_MAX):
            self.up = False
            self.patient = []
            requests, self.requests = self.requests, {}
            for pending in requests.values():
                pending.finish(Lost())
            self.serve_no_more()
            for queue in (*self.states_out.values(), *self.states_in.values()):
                queue.put_nowait(b"")
            self.peers.handler.on_down(self.name)
        self.broken = False


class SimPeers:
    """All other nodes, as one reaches them."""

    def __init__(
        self,
        network: Network,
        me: PeerIdentity,
        addresses: Mapping[str, str],
        handler: PeerHandler,
        clock: Clock,
        random: Random,
        tls: object = None,
    ) -> None:
        del random, tls
        self.network = network
        self.me = me
        self.handler = handler
        self.clock = clock
        self.cluster_id = ""
        self.stopped = False
        self.loop = asyncio.get_running_loop()
        process = PROCESS.get()
        assert process is not None
        self._process: Process = process
        self._links = {name: SimLink(self, name) for name in addresses if name != me.name}
        network.on_drop[me.name] = self._dropped

    async def start(self, host: str, port: int) -> int:
        """Begin to talk."""
        del host
        self.network.join(self.me.name, partial(self._process.enter, self._receive))
        self._ping()
        return port

    async def stop(self) -> None:
        """Say nothing more."""
        self.die()

    def die(self) -> None:
        """The process is gone."""
        self.stopped = True
        self.network.leave(self.me.name)

    def send_raft(
        self, peer: str, group: int, data: bytes, *, bulk: bool = False, patient: bool = False
    ) -> None:
        """Dropped where the peer is down."""
        del bulk
        if self._links[peer].up:
            self._links[peer].send_raft(group, data, patient=patient)

    def request(
        self, peer: str, kind: int, data: bytes, done: Callable[[PeerReply], None]
    ) -> SimRequest:
        """Ask `peer`."""
        return self._links[peer].request(kind, data, done)

    def send_route(self, peer: str, data: bytes) -> bool:
        """A frame of core NATS; whether it was taken."""
        if not self._links[peer].up:
            return False
        self._links[peer].say("route", data)
        return True

    async def send_snapshot(self, peer: str, header: bytes, chunks: AsyncIterator[bytes]) -> bytes:
        """Stream a state; a chunk goes when the one before was taken."""
        link = self._links[peer]
        if not link.up:
            raise PeerUnavailable(peer)
        number = link.next_id()
        answers = link.states_out[number] = asyncio.Queue()
        link.say("state", number, header)
        try:
            async for chunk in chunks:
                link.say("chunk", number, chunk)
                answer = await answers.get()
                if answer is not None:
                    break
            else:
                link.say("chunk", number, None)
                answer = await answers.get()
        finally:
            del link.states_out[number]
            link.say("chunk", number, b"")
        if not answer:
            raise PeerUnavailable(peer)
        return answer

    @property
    def names(self) -> list[str]:
        """All peers."""
        return list(self._links)

    def is_up(self, peer: str) -> bool:
        """Whether the link works, as far as known."""
        link = self._links.get(peer)
        return link is not None and link.up

    def silent_ms(self, peer: str) -> int:
        """How long ago `peer` answered."""
        return round((self.loop.time() - self._links[peer].heard_s) * 1000)

    def clock_offset_ms(self, peer: str) -> int | None:
        """How far its clock is ahead."""
        return self._links[peer].offset_ms if self.is_up(peer) else None

    def know(self, node_ids: Mapping[str, str]) -> None:
        """Nobody here lies about who it is."""

    def _ping(self) -> None:
        if self.stopped:
            return
        for link in self._links.values():
            link.look()
            link.say("ping", self.handler.flags(), self.silent_ms(link.name))
        self.loop.call_later(PING_S, self._ping)

    def _dropped(self, target: str) -> None:
        self._links[target].broken = True

    def _receive(self, peer: str, message: Sequence[Any]) -> None:
        if self.stopped:
            return
        kind, *rest = message
        getattr(self, f"_on_{kind}")(self._links[peer], *rest)

    def _on_ping(self, link: SimLink, flags: Any, silent_ms: int) -> None:
        link.say("pong", self.clock.wall_ms())
        self.handler.on_ping(link.name, flags, silent_ms)

    def _on_pong(self, link: SimLink, wall_ms: int) -> None:
        link.offset_ms = wall_ms - self.clock.wall_ms()
        link.hear()

    def _on_dialled(self, link: SimLink) -> None:
        """A new stream from a peer ends its older one (cluster/peer_service.py)."""
        link.serve_no_more()

    def _on_raft(self, link: SimLink, group: int, data: bytes) -> None:
        self.handler.on_raft(link.name, [(group, data)])

    def _on_route(self, link: SimLink, data: bytes) -> None:
        if link.up:
            self.handler.on_route(link.name, data)

    def _on_request(self, link: SimLink, request_id: int, kind: int, data: bytes) -> None:
        def respond(answer: bytes) -> None:
            link.serving.pop(request_id, None)
            link.say("answer", request_id, answer)

        link.serving[request_id] = None
        cancel = self.handler.on_request(link.name, kind, data, respond)
        if request_id in link.serving:
            link.serving[request_id] = cancel

    def _on_cancel(self, link: SimLink, request_id: int) -> None:
        cancel = link.serving.pop(request_id, None)
        if cancel:
            cancel()

    def _on_state(self, link: SimLink, number: int, header: bytes) -> None:
        link.states_in[number] = asyncio.Queue()
        task = self.loop.create_task(self._take_state(link, number, header))
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def _take_state(self, link: SimLink, number: int, header: bytes) -> None:
        queue = link.states_in[number]

        async def chunks() -> AsyncIterator[bytes]:
            while (chunk := await queue.get()) is not None:
                if not chunk:
                    raise PeerUnavailable(link.name)
                yield chunk
                link.say("taken", number, None)

        try:
            link.say("taken", number, await self.handler.on_snapshot(link.name, header, chunks()))
        except StorageFailed:
            if not self.stopped:
                raise
        finally:
            del link.states_in[number]

    def _on_chunk(self, link: SimLink, number: int, chunk: bytes | None) -> None:
        if number in link.states_in:
            link.states_in[number].put_nowait(chunk)

    def _on_taken(self, link: SimLink, number: int, answer: bytes | None) -> None:
        if number in link.states_out:
            link.states_out[number].put_nowait(answer)

    def _on_answer(self, link: SimLink, request_id: int, data: bytes) -> None:
        pending = link.requests.pop(request_id, None)
        if pending:
            pending.finish(Answered(data))
