"""What else clients ask of mailboxes: every way to read, groups that come and go, late and partial
ACKs, mailboxes without a name, and requests that are refused.

Owned by `whole_clients`. These *visitors* are groups of their own, of which nothing is promised
between two requests; what they see is checked all the same: only what was sent, in order, within
what was asked for.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.simulation.whole_history import BoxHistory, decoded

if TYPE_CHECKING:
    from tests.simulation.whole_clients import Client, Reply

TAGS = ("red", "green", "blue")
GROUPS = 5
HELD_MAX = 6  # hand-outs a client remembers, over or not
REFUSED = (
    ("MAILBOX.CREATE", {"ttl": -1}),
    ("MAILBOX.CREATE", {"name": "No such Name"}),
    ("MSG.FETCH.plain", {"deliver": "sometimes"}),
    ("MSG.FETCH.plain", {"deliver": "from_id"}),
    ("MSG.ACK.plain", {"msg_id": 1}),
    ("MSG.NACK.plain", {"group_name": "x", "msg_id": 1, "delay": -1}),
    ("MSG.QUERY.plain", {"limit": 0}),
    ("MSG.QUERY.nowhere", {"key": 7}),
    ("AGENT.REGISTER", {"name": ""}),
    ("AGENT.REPORT", {}),
    ("MSG.SHOUT.plain", {}),
)
BAD = frozenset({"invalid_field", "invalid_request", "invalid_mail_address", "unknown_command"})
NOT_THERE = "mailbox_not_found"

Work = Callable[[BoxHistory], None]


def works(client: "Client") -> list[Work]:
    """What a client may do next."""
    visitor = Visitor(client)
    fetching = [visitor.fetch] * 3 + [visitor.settle] * 3
    return [*fetching, visitor.query, visitor.browse, visitor.create, visitor.ask_wrongly]


class Visitor:
    """One client, as one that only comes by."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._held: list[tuple[BoxHistory, str, str, list[int]]] = []  # group, hand-out, ids

    def _ask(
        self,
        box: BoxHistory,
        subject: str,
        body: "Reply",
        heard: Callable[["Reply", float], None] = lambda *_: None,
    ) -> None:
        client, invoked_s = self._client, self._client.now_s

        def answered(reply: "Reply | None") -> None:
            if not client.code_of(box, reply, invoked_s) and reply is not None:
                heard(reply, invoked_s)
            client.next_soon()

        client.ask(subject, body, answered)

    def _look(
        self, box: BoxHistory, messages: "list[Reply]", body: "Reply", invoked_s: float
    ) -> None:
        """What was read is what was asked for."""
        client = self._client
        client.world.seen["read by visitors"] += len(messages)
        for message in messages:
            box.seen(message, invoked_s, client.now_s)
            if body.get("tags") and not {*body["tags"]} & {*message.get("tags", ())}:
                box.broken(f"{body['tags']} were asked for, not {message}")
            if body.get("key") and message.get("key") != body["key"]:
                box.broken(f"key {body['key']} was asked for, not {message}")
            if message["create_time"] < max(body.get("since", 0), body.get("from_time", 0)):
                box.broken(f"{message} is older than was asked for")
            if message["msg_id"] < body.get("from_id", 0):
                box.broken(f"{message} is before {body['from_id']}")

    # --- reading ---------------------------------------------------------------------------------

    def _where(self, box: BoxHistory) -> "Reply":
        """Where to begin."""
        draw, now_s = self._client.random, int(self._client.world.wall_s)
        where: Reply = draw.choice(
            [
                {"deliver": "latest"},
                {"deliver": "earliest"},
                {},
                {"deliver": "from_id", "from_id": draw.randint(1, box.newest + 2)},
                {"deliver": "from_time", "from_time": now_s + draw.choice([-5, -2, -1, 1])},
            ]
        )
        if draw.random() < 0.4:
            where["tags"] = draw.sample(TAGS, k=draw.randint(1, 2))
        return where

    def query(self, box: BoxHistory) -> None:
        """QUERY of a part."""
        draw = self._client.random
        limit = draw.choice([1, 3, 1_000])
        body: Reply = {"limit": limit, "encoding": "text"}
        if draw.random() < 0.4:
            body["key"] = draw.choice("xyz")
        if draw.random() < 0.4:
            body["tags"] = draw.sample(TAGS, k=draw.randint(1, 2))
        if draw.random() < 0.4:
            body["since"] = int(self._client.world.wall_s) - draw.choice([0, 1, 3])

        def heard(reply: "Reply", invoked_s: float) -> None:
            messages = decoded(reply)
            ids = [message["msg_id"] for message in messages]
            if ids != sorted(set(ids)) or len(ids) > limit:
                box.broken(f"QUERY of {limit} gives {ids}")
            self._look(box, messages, body, invoked_s)

        self._ask(box, f"MSG.QUERY.{box.name}", body, heard)

    def browse(self, box: BoxHistory) -> None:
        """FETCH without a group, from anywhere."""
        draw = self._client.random
        count = draw.choice([1, 5, 50])
        config = {"num_msgs": count, "max_wait_ms": draw.choice([0, 50, 400])}
        body = {**self._where(box), "config": config, "encoding": "text"}

        def heard(reply: "Reply", invoked_s: float) -> None:
            messages = decoded(reply)
            box.in_order(messages)
            if len(messages) > count:
                box.broken(f"FETCH of {count} gives {len(messages)}")
            self._look(box, messages, body, invoked_s)

        self._ask(box, f"MSG.FETCH.{box.name}", body, heard)

    # --- groups ----------------------------------------------------------------------------------

    def fetch(self, box: BoxHistory) -> None:
        """FETCH with a group that may be new, may have others in it, and may begin anew."""
        client = self._client
        draw = client.random
        group = f"visitors-{draw.randrange(GROUPS)}"
        config = {"num_msgs": draw.choice([1, 2, 5, 30]), "max_wait_ms": draw.choice([0, 50, 400])}
        if draw.random() < 0.3:
            config["ack_wait_ms"] = draw.choice([1_000, 2_000])
        where = self._where(box)
        body = {**where, "group_name": group, "config": config}
        if draw.random() < 0.15:
            body["force_deliver"] = True
        if draw.random() < 0.3:
            body["consumer"] = draw.choice(["ann", "bob"])
        box.visited = True
        # Only a group that begins here begins where it was asked to.
        asked = {"tags": where["tags"]} if "tags" in where else {}

        def heard(reply: "Reply", invoked_s: float) -> None:
            messages = decoded(reply)
            box.in_order(messages)
            self._look(box, messages, asked, invoked_s)
            if messages:
                ids = [message["msg_id"] for message in messages]
                self._held = [*self._held[1 - HELD_MAX :], (box, group, reply["handout"], ids)]

        self._ask(box, f"MSG.FETCH.{box.name}", body, heard)

    def settle(self, box: BoxHistory) -> None:
        """ACK, whole or in part or for more time, or NACK what was handed out, perhaps long ago."""
        draw = self._client.random
        if not self._held:
            self.fetch(box)
            return
        box, group, handout, ids = draw.choice(self._held)
        body: Reply = {"group_name": group, "msg_id": draw.choice([*ids, ids[-1], ids[-1] + 1])}
        if draw.random() < 0.25:
            body["delay"] = draw.choice([0, 1])
            self._ask(box, f"MSG.NACK.{box.name}", body)
            return
        if draw.random() < 0.5:
            body["handout"] = handout
        if draw.random() < 0.6:
            body["scope"] = draw.choice(["batch", "message", "progress", "progress"])
        self._ask(box, f"MSG.ACK.{box.name}", body)

    # --- other requests --------------------------------------------------------------------------

    def create(self, box: BoxHistory) -> None:
        """CREATE of a mailbox that the broker names; it takes and gives a message."""
        client = self._client
        body = {"ttl": client.random.choice([0, 1]), "desc": "of a visitor", "max_bytes": 1_000}

        def created(reply: "Reply", invoked_s: float) -> None:
            address = reply["mail_address"]
            client.ask(f"MSG.SEND.{address}", b"x", partial(sent, address, invoked_s))

        def sent(address: str, invoked_s: float, reply: "Reply | None") -> None:
            if reply is not None and reply.get("code") == NOT_THERE and not body["ttl"]:
                box.broken(f"{address} was created at {invoked_s:.3f}, and is not there")

        self._ask(box, "MAILBOX.CREATE", body, created)

    def ask_wrongly(self, box: BoxHistory) -> None:
        """What is no request is refused, and nothing else happens."""
        client = self._client
        subject, body = client.random.choice(REFUSED)

        def answered(reply: "Reply | None") -> None:
            if reply is not None and reply.get("code") not in BAD:
                box.broken(f"{subject} of {body} is answered {reply}")
            client.next_soon()

        client.ask(subject, dict(body), answered)


def headers(client: "Client") -> dict[str, str]:
    """What else a SEND may carry."""
    draw: Any = client.random
    found = {}
    if draw.random() < 0.5:
        found["mq9-tags"] = ", ".join(draw.sample(TAGS, k=draw.randint(1, 3)))
    if draw.random() < 0.3:
        found["Content-Type"] = "text/plain"
    return found
