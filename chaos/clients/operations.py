"""What clients of a mailbox ask, in the wire's words, how an answer is entered in a history, and
what a seed chooses of it. Used by the chaos suite's workload and by the crash test's.
"""

import random
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from chaos.clients.connection import Reply, payload_of
from chaos.history import PRIORITIES, Confirmation, HandOut, Repeat, Send, Stored

DELAY_S: Final = 1  # of messages and of NACKs, where there is one


def percent(rng: random.Random, share: int) -> bool:
    """True this often in a hundred."""
    return rng.randrange(100) < share


# --- SEND ----------------------------------------------------------------------------------------


def new_send(rng: random.Random, payload: str, *, with_id: int, keys: int) -> Send:
    """A message to send; `with_id` percent have a Nats-Msg-Id, some a delay or one of the keys."""
    send = Send(0, payload=payload)
    send.priority = rng.choices(PRIORITIES, (1, 2, 7))[0]
    if percent(rng, with_id):
        send.dedupe_id = f"id-{send.payload}"
    if percent(rng, 5):
        send.delay_s = DELAY_S
    elif percent(rng, 10):
        send.key = f"key{rng.randrange(keys)}"
    return send


def padding(rng: random.Random) -> bytes:
    """What makes payloads long and short; readers take it off again."""
    return b"." * rng.choice((0, 0, 10, 100, 1000))


def headers_of(send: Send) -> list[tuple[str, str]]:
    """The headers of a SEND."""
    headers = [("mq9-priority", send.priority)]
    if send.dedupe_id:
        headers.append(("Nats-Msg-Id", send.dedupe_id))
    if send.key:
        headers.append(("mq9-key", send.key))
    if send.delay_s:
        headers.append(("mq9-delay", str(send.delay_s)))
    return headers


def enter_repeat(repeat: Repeat, reply: Reply) -> None:
    """What a repeated SEND was answered."""
    repeat.msg_id = reply.get("msg_id", 0)
    repeat.duplicate = reply.get("duplicate", False)


# --- FETCH ---------------------------------------------------------------------------------------


class Holding:
    """What one client holds. A consumer's FETCH lets go of what its last one gave."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, str], HandOut] = {}

    def take(self, mailbox: str, hand_out: HandOut) -> None:
        """A FETCH begins."""
        place = (mailbox, hand_out.group, hand_out.consumer)
        if held := self._held.get(place):
            held.released = min(held.released, hand_out.began)
        self._held[place] = hand_out

    def let_go(self, at: float) -> None:
        """The connection ends, and with it what is held over it."""
        for hand_out in self._held.values():
            hand_out.released = min(hand_out.released, max(at, hand_out.began))
        self._held.clear()


def fetch_body(
    hand_out: HandOut, num_msgs: int, *, consumer: str = "", wait_ms: int = 0, ack_wait_ms: int = 0
) -> Reply:
    """The body of a group's FETCH; `consumer` is named, or else the connection."""
    config = {"num_msgs": num_msgs, "max_wait_ms": wait_ms}
    if ack_wait_ms:
        config["ack_wait_ms"] = ack_wait_ms
    body: Reply = {"group_name": hand_out.group, "deliver": "earliest", "config": config}
    if consumer:
        body["consumer"] = consumer
    return body


def enter_messages(hand_out: HandOut, reply: Reply) -> list[Reply]:
    """What a FETCH was given; the messages."""
    messages: list[Reply] = reply.get("messages", [])
    hand_out.handout = reply.get("handout", "")
    hand_out.msg_ids = tuple(message["msg_id"] for message in messages)
    hand_out.payloads = tuple(payload_of(message) for message in messages)
    return messages


def stored(messages: Iterable[Reply]) -> list[Stored]:
    """Messages as a reader was shown them."""
    return [
        Stored(message["msg_id"], payload_of(message), message["priority"], message.get("key", ""))
        for message in messages
    ]


# --- ACK and NACK --------------------------------------------------------------------------------


class Settlement(NamedTuple):
    """What becomes of a hand-out: messages confirmed by one ACK, one message given back."""

    confirmed: tuple[int, ...] = ()
    scope: str = "batch"
    given_back: int | None = None


def settle(rng: random.Random, got: tuple[int, ...]) -> Settlement | None:
    """ACK the batch, its beginning or one message, give the last one back, or (None) do nothing."""
    (how,) = rng.choices(("all", "some", "one", "back", "nothing"), (60, 15, 10, 10, 5))
    match how:
        case "all":
            return Settlement(got)
        case "some":
            return Settlement(got[: rng.randint(1, len(got))])
        case "one":
            return Settlement((rng.choice(got),), "message")
        case "back":
            return Settlement(got[:-1], given_back=got[-1])
    return None


def confirmation_of(
    hand_out: HandOut, began: float, msg_ids: tuple[int, ...], scope: str = "batch"
) -> Confirmation:
    """An ACK of the last of `msg_ids`, which confirms all of them."""
    return Confirmation(
        began,
        group=hand_out.group,
        msg_ids=msg_ids,
        handout=hand_out.handout,
        timed=hand_out.timed,
        scope=scope,
    )


def ack_body(confirmation: Confirmation, handout: str) -> dict[str, Any]:
    """The body of an ACK; `handout` may be left out."""
    body: Reply = {
        "group_name": confirmation.group,
        "msg_id": confirmation.msg_ids[-1],
        "scope": confirmation.scope,
    }
    if handout:
        body["handout"] = handout
    return body


def nack_body(rng: random.Random, hand_out: HandOut, msg_id: int) -> dict[str, Any]:
    """The body of a NACK, some with a delay."""
    body: Reply = {"group_name": hand_out.group, "msg_id": msg_id}
    if percent(rng, 30):
        body["delay"] = DELAY_S
    return body
