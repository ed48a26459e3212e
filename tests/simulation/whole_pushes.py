"""Push subscriptions of a simulated cluster: plain ones and members of a queue group, at whatever
nodes clients are, some slow, some ending in the middle of a page.

Owned by `whole_clients` (who subscribes) and `whole_node` (a connection's readers end with it);
does what `gateway.session` does for a subscription: what is under way to a client when its
connection ends never gets there. Checked at every message: somebody sent it and it can be there; a
plain reader is given each priority's ids rising, and so nothing twice; a member of a group is given
nothing twice in one run of its node. Checked at the end: a reader at any node gets everything that
is there, and the members of the group together got everything.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from mq9cluster.protocol import nats_headers
from tests.simulation.whole_history import BoxHistory

if TYPE_CHECKING:
    from mq9cluster.broker.pushes import Push
    from tests.simulation.whole import World
    from tests.simulation.whole_clients import Client
    from tests.simulation.whole_node import WholeNode

GROUP = "pushed"
UNDER_WAY_S = (0.0002, 0.001, 0.001, 0.3)
LAGS_S = (0.05, 0.5, 3.0)  # of a client that does not read
SLOW = 0.05  # of looks at whether a client has room
READERS_MAX = 4  # of one connection

Work = Callable[[BoxHistory], None]


class Reader:
    """One subscription, in the node's process."""

    def __init__(
        self, world: "World", node: "WholeNode", connection: int, box: BoxHistory, group: str
    ) -> None:
        self.world = world
        self.box = box
        self.ids: set[int] = set()
        self._node = node
        self._connection = connection
        self._group = group
        self._random = world.pushing
        self._since_s = world.now_s
        self._last: dict[str, int] = {}  # by priority
        self._given: set[tuple[int, int]] = set()  # run and id
        self._most = self._random.choice([3, 20, 10**9, 10**9])
        self._push: Push | None = None
        self._over = False
        self._at_s = 0.0  # when what was sent last gets to the client

    def begin(self, *, for_good: bool = False) -> None:
        """SUB."""
        if for_good:
            self._most = 10**9
        subject = f"$mq9.AI.MAILBOX.MSG.{self.box.name}.*".encode()
        queue = self._group.encode() or None
        router = self._node.router
        assert router is not None
        self._push = router.subscribe(
            self._connection,
            "$G",
            subject,
            queue,
            self._deliver,
            self._has_room,
            self._confirm,
        )
        if self._group and self.box.kind.retain_acked:
            self.box.visited = True

    def end(self) -> None:
        """UNSUB, or the end of the connection."""
        if not self._over:
            self._over = True
            if self._push is not None:
                self._push.cancel()

    def _has_room(self) -> bool:
        if self._random.random() >= SLOW:
            return True
        process = self._node.process
        assert process is not None
        self.world.later(self._random.choice(LAGS_S), partial(process.enter, self._resume))
        return False

    def _resume(self) -> None:
        if self._push is not None and not self._over:
            self._push.resume()

    def _deliver(self, _: bytes, header: bytes | None, payload: bytes) -> bool:
        if self._over:
            return False
        assert header is not None
        told = dict(nats_headers.parse(header))
        msg_id, priority = int(told["mq9-msg-id"]), told["mq9-priority"]
        message: dict[str, Any] = {
            "payload": payload.decode(),
            "msg_id": msg_id,
            "priority": priority,
        }
        self.world.seen["pushed to groups" if self._group else "pushed"] += 1
        self.box.seen(message, self._since_s, self.world.now_s)
        if not self.box.kind.ttl_s:
            self._check_order(msg_id, priority)
        self._under_way(partial(self._arrived, msg_id))
        self._most -= 1
        if not self._most:
            self.end()
        return True

    def _under_way(self, arrive: Callable[[bool], None]) -> None:
        """Something is sent to the client, behind what was before; whether it gets there."""
        node, process, connection = self._node, self._node.process, self._connection
        self._at_s = max(self._at_s, self.world.now_s + self._random.choice(UNDER_WAY_S))

        def there() -> None:
            arrive(node.process is process and connection in node.connections)

        self.world.later(self._at_s - self.world.now_s, there)

    def _arrived(self, msg_id: int, there: bool) -> None:
        if not there:
            self.world.seen["pushed in vain"] += 1
            return
        self.ids.add(msg_id)
        if self._group:
            self.world.pushed.setdefault(self.box.name, set()).add(msg_id)

    def _confirm(self, then: Callable[[bool], None]) -> None:
        """A PING to the client, and its PONG; or the end of the connection, which is told too."""
        process = self._node.process
        assert process is not None
        self._under_way(lambda there: process.enter(then, there))

    def _check_order(self, msg_id: int, priority: str) -> None:
        if self._group:
            assert self._node.cluster is not None
            once = self._node.cluster.incarnation, msg_id
            # Where limits are tiny, a group is forgotten while its members wait (seed 379).
            if once in self._given and not self.world.options.tiny:
                self.box.broken(f"a member was given {msg_id} twice")
            self._given.add(once)
        elif msg_id <= self._last.get(priority, 0):
            self.box.broken(f"{msg_id} was pushed behind {self._last[priority]}")
        self._last[priority] = msg_id


def group_of(box: BoxHistory, draw: Any) -> str:
    """Plain, or the group; none where coming back makes a message a dead letter."""
    return GROUP if not box.kind.max_deliver and draw.random() < 0.5 else ""


def begin(client: "Client") -> None:
    """A client that just connected subscribes to a mailbox or two."""
    draw = client.world.pushing
    for box in draw.sample(list(client.world.boxes.values()), k=draw.randint(0, 2)):
        subscribe(client, box)


def subscribe(client: "Client", box: BoxHistory) -> None:
    """SUB, under way to the node."""
    node, connection = client.node, client.connection
    if node is not None:
        group = group_of(box, client.world.pushing)
        client.soon(partial(node.open_reader, connection, box, group))


def works(client: "Client") -> list[Work]:
    """What a client may do next."""

    def more(box: BoxHistory) -> None:
        subscribe(client, box)
        client.next_soon()

    def less(_: BoxHistory) -> None:
        if client.node is not None:
            client.soon(partial(client.node.close_reader, client.connection))
        client.next_soon()

    return [more, less]
