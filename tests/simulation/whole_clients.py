"""Clients of a simulated cluster: each at one node at a time, asking for one thing after the other.

Owned by `whole.World`; what they ask and hear goes to `whole_history`. A client whose request is
not answered in time gives up on the connection, as one does who suspects it, and goes to another
node; what it held there is no longer its.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from mq9cluster.domain.tracing import TRACEPARENT
from mq9cluster.protocol import nats_headers
from tests.simulation import whole_agents, whole_core, whole_pushes, whole_wider
from tests.simulation.whole_history import (
    OFF_S,
    PRIORITIES,
    BoxHistory,
    GroupHistory,
    Sent,
    decoded,
)
from tests.simulation.whole_options import PUSHES

if TYPE_CHECKING:
    from tests.simulation.whole import World
    from tests.simulation.whole_node import WholeNode

PATIENCE_S = 7.0  # beyond what a node takes to say "timeout"
LATENCY_US = 2_000
WORK_S = (0.0, 0.5, 2.5, 9.0)  # on what was fetched; the last is longer than others wait for a node
FOREVER_S = 1e9
GROUP = "workers"
NOT_DONE = frozenset({"unavailable", "overloaded", "mailbox_full", "mailbox_not_found"})
EXPECTED = NOT_DONE | {"timeout", "message_not_found", "mailbox_exists", "agent_not_found"}
EXPECTED |= {"embedder_mismatch"}

Reply = dict[str, Any]
Answered = Callable[[Reply | None], None]  # None: the connection ended, or was given up


class Client:
    """One client."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.name = f"c{number}"
        self.random = random.Random(f"client/{world.options.seed}/{number}")
        self.node: WholeNode | None = None
        self.connection = 0
        self.resting = False
        self.busy = False
        self._sent = 0
        self._waiting: dict[int, Answered] = {}
        self._next = 0
        self._held: dict[str, tuple[list[int], str, bool]] = {}  # by mailbox: ids, hand-out, timed
        self._tried: list[tuple[BoxHistory, Sent]] = []  # to be sent again
        self._works = self._choose_works()

    # --- a connection ----------------------------------------------------------------------------

    @property
    def now_s(self) -> float:
        """True time."""
        return self.world.scheduler.now_us / 1_000_000

    def connect(self) -> bool:
        """Go to any node that serves; whether there is one."""
        nodes = [node for node in self.world.nodes if node.serving]
        if not nodes:
            return False
        self.node = self.random.choice(nodes)
        self.connection = self.node.connect(self._closed)
        if "core" in self.world.options.features:
            account = self.random.choice(whole_core.ACCOUNTS)
            self.node.open_session(self.connection, account, partial(whole_core.begin, self))
        if PUSHES in self.world.options.features:
            whole_pushes.begin(self)
        return True

    def disconnect(self) -> None:
        """Leave the node."""
        node, self.node = self.node, None
        if node is not None:
            self._let_go_of_all()
            node.hang_up(self.connection)
            self._nobody_answers()

    def may_lose_all(self, at_s: float) -> None:
        """Its node stands still: from `at_s` on others may have what it holds, unknown to it."""
        for box in self.world.boxes.values():
            box.let_go(GROUP, self, at_s)

    def _closed(self) -> None:
        """The node closed the connection, or is gone."""
        if self.node is not None:
            self.node = None
            self._let_go_of_all()
            self.world.in_turn(self._nobody_answers)

    def _let_go_of_all(self) -> None:
        for box in self.world.boxes.values():
            box.let_go(GROUP, self, self.now_s)
        self._held.clear()

    def _nobody_answers(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            answered(None)

    def ask(
        self,
        subject: str,
        body: Reply | bytes,
        answered: Answered,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Ask the node; `answered` hears the reply, once, or that there is none."""
        node = self.node
        assert node is not None
        self._next += 1
        number, connection = self._next, self.connection
        self._waiting[number] = answered
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        if "traces" in self.world.options.features and self.random.random() < 0.5:
            headers = {**(headers or {}), TRACEPARENT: self.world.tracer.new_trace()}
        header = nats_headers.encode(headers.items()) if headers else None

        def heard(reply: bytes) -> None:
            if connection == self.connection and (waits := self._waiting.pop(number, None)):
                waits(orjson.loads(reply))

        def respond(reply: bytes) -> None:
            self.world.scheduler.after(
                self.random.randint(50, LATENCY_US), partial(self.world.in_turn, heard, reply)
            )

        def give_up() -> None:
            if number in self._waiting:
                self.world.seen["given up"] += 1
                self.disconnect()

        self.world.scheduler.after(
            self.random.randint(50, LATENCY_US),
            partial(node.ask, connection, f"$mq9.AI.{subject}", header, data, respond),
        )
        self.world.later(PATIENCE_S, give_up)

    # --- what it does ----------------------------------------------------------------------------

    def _choose_works(self) -> list[Callable[[BoxHistory], None]]:
        features = self.world.options.features
        works: list[Callable[[BoxHistory], None]] = [self.send] * 5 + [self.query] * 3
        if "groups" in features:
            works += [self.fetch] * 4 + [self.ack] * 3
        if "nack" in features and "groups" in features:
            works += [self.nack] * 2
        if "delete" in features:
            works.append(self.delete)
        if "browse" in features:
            works.append(self.browse)
        if "reconnects" in features:
            works.append(self.reconnect)
        if "retries" in features:
            works.append(self.send_again)
        if "registry" in features:
            works += whole_agents.works(self)
        if "core" in features:
            works += whole_core.works(self)
        if "visitors" in features:
            works += whole_wider.works(self)
        if PUSHES in features:
            works += whole_pushes.works(self)
        return works

    def begin(self) -> None:
        """Work, one thing after the other."""
        self.world.later(self.random.uniform(0, 0.2), self.go_on)

    def go_on(self) -> None:
        """The next thing."""
        self.busy = False
        if self.resting:
            return
        if self.node is None and not self.connect():
            self.world.later(0.1, self.go_on)
            return
        self.busy = True
        silent = self.world.silent() if self.world.healed_us else []
        box = self.random.choice(silent or list(self.world.boxes.values()))
        again = 0.5 if silent else 0.1  # that one which expires is created again
        if box.created_s is None or (box.kind.ttl_s and self.random.random() < again):
            self.create(box)
        elif silent and self.random.random() < 0.5:
            self.send(box)
        else:
            self.random.choice(self._works)(box)

    def rest(self) -> None:
        """Begin nothing more."""
        self.resting = True

    def soon(self, call: Callable[[], object]) -> None:
        """What this client sends arrives."""
        self.world.scheduler.after(self.random.randint(50, LATENCY_US), lambda: call() and None)

    def next_soon(self) -> None:
        """That is done; the next thing, after a thought."""
        think_s = self.world.options.think_ms / 1000
        self.world.later(self.random.uniform(0, 2 * think_s), self.go_on)

    def code_of(self, box: BoxHistory, reply: Reply | None, invoked_s: float) -> str:
        """How a request to a mailbox ended: "" for well."""
        code = self.code(box.broken, reply)
        if code == "mailbox_not_found":
            created = box.created_s is not None and box.created_s < invoked_s
            if created and not box.kind.ttl_s:
                box.broken("was created, and is not there")
        return code

    def code(self, broken: Callable[[str], None], reply: Reply | None) -> str:
        """How a request ended: "" for well, "timeout" where nobody knows."""
        if reply is None:
            return "timeout"
        code: str = reply.get("code", "")
        self.world.seen[code or "answered"] += 1
        if code and code not in EXPECTED:
            broken(f"{code}: {reply['error']}")
        return code

    def create(self, box: BoxHistory) -> None:
        """CREATE; others may be trying, too."""
        kind, invoked_s = box.kind, self.now_s
        body: Reply = {"name": box.name}
        if kind.max_deliver:
            body["max_deliver"] = kind.max_deliver
        if kind.retain_acked:
            body["retain"] = "acked"
        body |= {"ttl": kind.ttl_s, "max_msgs": kind.max_msgs}

        def answered(reply: Reply | None) -> None:
            code = self.code_of(box, reply, invoked_s)
            if not code:
                if box.name in self.world.created and not kind.ttl_s:
                    box.broken("was created twice")
                self.world.created.add(box.name)
            if code in ("", "mailbox_exists") and box.created_s is None:
                box.created_s = self.now_s
            self.next_soon()

        self.ask("MAILBOX.CREATE", body, answered)

    def send(self, box: BoxHistory) -> None:
        """SEND something new."""
        features, draw = self.world.options.features, self.random
        self._sent += 1
        sent = Sent(
            payload=f"{self.name}-{self._sent}",
            priority=draw.choice(PRIORITIES),
            key=draw.choice("xyz") if "keys" in features and draw.random() < 0.3 else "",
            delay_s=draw.choice([1, 2]) if "delay" in features and draw.random() < 0.2 else 0,
            ttl_s=draw.choice([1, 3]) if "ttl" in features and draw.random() < 0.2 else 0,
            invoked_s=self.now_s,
            newest_before=box.newest,
        )
        box.sent[sent.payload] = sent
        self._send(box, sent)

    def send_again(self, box: BoxHistory) -> None:
        """Repeat a SEND whose outcome is unknown, or one that is known: it is stored once."""
        if not self._tried:
            self.send(box)
            return
        box, sent = self._tried.pop(self.random.randrange(len(self._tried)))
        sent.tries += 1
        sent.refused_s = None  # until this try is answered it may be there (seed 719)
        self._send(box, sent)

    def _send(self, box: BoxHistory, sent: Sent) -> None:
        headers = {"mq9-priority": sent.priority}
        headers |= {"mq9-key": sent.key} if sent.key else {}
        headers |= {"mq9-delay": str(sent.delay_s)} if sent.delay_s else {}
        headers |= {"mq9-ttl": str(sent.ttl_s)} if sent.ttl_s else {}
        features = self.world.options.features
        again = "retries" in features
        headers |= {"Nats-Msg-Id": sent.payload} if again or self.world.options.tiny else {}
        if "visitors" in features:
            headers |= whole_wider.headers(self)
        invoked_s = self.now_s

        def answered(reply: Reply | None) -> None:
            code = self.code_of(box, reply, invoked_s)
            if not code and reply is not None:
                duplicate = reply.get("duplicate", False)
                box.stored(sent, reply["msg_id"], self.now_s, duplicate=duplicate)
                self.world.acknowledged += 1
            elif code:
                box.not_stored(sent, code, self.now_s)
            if again and (code == "timeout" or self.random.random() < 0.1):
                self._tried.append((box, sent))
            self.next_soon()

        self.ask(f"MSG.SEND.{box.name}", sent.payload.encode(), answered, headers)

    def query(self, box: BoxHistory) -> None:
        """QUERY everything."""
        invoked_s, newest = self.now_s, dict(box.newest_of_key)

        def answered(reply: Reply | None) -> None:
            if not self.code_of(box, reply, invoked_s) and reply is not None:
                self.world.seen["queried"] += 1
                box.queried(decoded(reply), newest, invoked_s, self.now_s)
            self.next_soon()

        self.ask(f"MSG.QUERY.{box.name}", {"limit": 1_000}, answered)

    def browse(self, box: BoxHistory) -> None:
        """FETCH without a group."""
        invoked_s = self.now_s

        def answered(reply: Reply | None) -> None:
            if not self.code_of(box, reply, invoked_s) and reply is not None:
                messages = decoded(reply)
                box.in_order(messages)
                for message in messages:
                    box.seen(message, invoked_s, self.now_s)
            self.next_soon()

        body = {"deliver": "earliest", "config": {"num_msgs": 50, "max_wait_ms": 100}}
        self.ask(f"MSG.FETCH.{box.name}", body, answered)

    def fetch(self, box: BoxHistory, done: Callable[[int], None] | None = None) -> None:
        """FETCH with a group. `done` hears how many messages came, -1 for no answer."""
        features, invoked_s, draw = self.world.options.features, self.now_s, self.random
        timed = done is None and "ack_wait" in features and draw.random() < 0.4
        config = {"num_msgs": draw.choice([1, 3, 10]), "max_wait_ms": draw.choice([0, 100, 800])}
        if done is not None:
            config = {"num_msgs": 1_000, "max_wait_ms": 0}
        ack_wait_s = draw.choice([2, 3])
        if timed:
            config["ack_wait_ms"] = ack_wait_s * 1_000
        body: Reply = {"group_name": GROUP, "deliver": "earliest", "config": config}
        if "named consumers" in features:
            body["consumer"] = self.name
        box.let_go(GROUP, self, invoked_s)  # a new FETCH ends the hand-out before
        self._held.pop(box.name, None)

        def answered(reply: Reply | None) -> None:
            count = -1
            if not self.code_of(box, reply, invoked_s) and reply is not None:
                messages = decoded(reply)
                count = len(messages)
                until_s = invoked_s + ack_wait_s - OFF_S if timed else FOREVER_S
                box.handed_out(GROUP, self, messages, invoked_s, self.now_s, until_s)
                self.world.seen["handed out"] += count
                if messages:
                    ids = [message["msg_id"] for message in messages]
                    self._held[box.name] = ids, reply["handout"], timed
            if done is not None:
                done(count)
            elif count > 0 and "slow work" in features and not self.world.healed_us:
                self.world.later(draw.choice(WORK_S), self.go_on)
            else:
                self.next_soon()

        self.ask(f"MSG.FETCH.{box.name}", body, answered)

    def ack(self, box: BoxHistory, done: Callable[[], None] | None = None) -> None:
        """ACK what was fetched, or some of it."""
        held = self._held.pop(box.name, None)
        if held is None:
            self.fetch(box) if done is None else done()
            return
        ids, handout, timed = held
        count = len(ids) if done else self.random.randint(1, len(ids))
        invoked_s, last = self.now_s, ids[count - 1]
        body: Reply = {"group_name": GROUP, "msg_id": last}
        if self.random.random() < 0.5:
            body["handout"] = handout
        whole = self.random.random() < 0.8 or done is not None
        if not whole:
            body["scope"] = "message"
        covered = ids[:count] if whole else [last]
        group = box.groups.setdefault(GROUP, GroupHistory())
        group.maybe_done.update(covered)
        box.let_go(GROUP, self, invoked_s, set(covered))
        node, connection = self.node, self.connection

        def answered(reply: Reply | None) -> None:
            code = self.code_of(box, reply, invoked_s)
            if not code:
                self.world.seen["acked"] += 1
                # Others may have been passed on meanwhile where a time was set.
                stayed = node is self.node and connection == self.connection
                for msg_id in covered if stayed and not timed else [last]:
                    group.done_s.setdefault(msg_id, self.now_s)
            if done is not None:
                done()
            else:
                self.next_soon()

        self.ask(f"MSG.ACK.{box.name}", body, answered)

    def nack(self, box: BoxHistory) -> None:
        """Give one message back."""
        held = self._held.get(box.name)
        if held is None:
            self.fetch(box)
            return
        msg_id = self.random.choice(held[0])
        delay_s = self.random.choice([0, 0, 2])
        invoked_s = self.now_s
        group = box.groups.setdefault(GROUP, GroupHistory())
        box.let_go(GROUP, self, invoked_s, {msg_id})
        if box.kind.max_deliver:
            group.maybe_done.add(msg_id)  # it may be a dead letter now

        def answered(reply: Reply | None) -> None:
            code = self.code_of(box, reply, invoked_s)
            if not code:
                self.world.seen["nacked"] += 1
                if delay_s and not box.kind.max_deliver:
                    group.closed_until_s[msg_id] = invoked_s + delay_s - OFF_S
            elif code == "timeout" and reply is not None:
                group.maybe_done.add(msg_id)  # not carried out, it stays in the list: see below
            # Refused, it stays in the list of its hand-out, ended or not, and the ACK of one behind
            # it confirms it with the others (seed 2535: a NACK after the ack_wait).
            if code in ("", "timeout"):
                held[0].remove(msg_id)
                if not held[0]:
                    self._held.pop(box.name, None)
            self.next_soon()

        body = {"group_name": GROUP, "msg_id": msg_id, "delay": delay_s}
        self.ask(f"MSG.NACK.{box.name}", body, answered)

    def delete(self, box: BoxHistory) -> None:
        """DELETE one that is known."""
        known = [sent.msg_id for sent in box.sent.values() if sent.msg_id > 0]
        if not known:
            self.send(box)
            return
        msg_id, invoked_s = self.random.choice(known), self.now_s
        box.maybe_deleted.add(msg_id)

        def answered(reply: Reply | None) -> None:
            if not self.code_of(box, reply, invoked_s):
                self.world.seen["deleted"] += 1
                box.deleted_s.setdefault(msg_id, self.now_s)
            self.next_soon()

        self.ask(f"MSG.DELETE.{box.name}.{msg_id}", b"", answered)

    def reconnect(self, _: BoxHistory) -> None:
        """Go elsewhere, letting go of everything."""
        self.disconnect()
        self.next_soon()
