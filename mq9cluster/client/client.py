"""The commands of docs/protocol.md as methods, over one NATS connection.

Each method asks through `asking` and turns the reply into values or into the errors of
`domain.errors`; `consume` and `present` begin what goes on by itself (`consumer`, `presence`).
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import orjson
from nats.aio.client import Client

from mq9cluster.client.asking import PATIENCE_S, Answer, Asking
from mq9cluster.client.connecting import connect
from mq9cluster.client.consumer import Consumer, Failed, Handler
from mq9cluster.client.messages import Discovered, Message, body_of, messages_of, send_headers
from mq9cluster.client.presence import Presence
from mq9cluster.domain.address import parse_address
from mq9cluster.domain.errors import (
    AgentNotFound,
    MailboxExists,
    MessageNotFound,
    Mq9Error,
    OutcomeUnknown,
)
from mq9cluster.domain.limits import RESULTS_DEFAULT, WAIT_MS_DEFAULT
from mq9cluster.domain.message import Priority


class Mq9Client:
    """A client of an mq9 broker; made by `connect`, closed by `close` or by leaving its `async
    with`.

    Every method raises `Mq9Error`: of the class that fits what the broker says, `Unavailable` where
    nobody could carry the command out for as long as the client is patient, and `OutcomeUnknown`
    where it may have been carried out.
    """

    def __init__(self, connection: Client, asking: Asking) -> None:
        """By `connect`."""
        self.connection = connection  # for plain NATS beside mq9
        self._asking = asking
        self._consumers: set[Consumer] = set()

    @classmethod
    async def connect(
        cls,
        servers: str | list[str] = "nats://127.0.0.1:4222",
        *,
        patience_s: float = PATIENCE_S,
        **options: Any,
    ) -> Self:
        """Connect to any node; the others are learnt from it. `options` are those of
        `nats.connect`. `patience_s`, at most 100: how long a command is asked again, and a first
        connection is tried.

        Raises Unavailable where no server answers, PermissionDenied where one lets nobody in.
        """
        connection = Client()
        asking = Asking(connection, patience_s)
        await connect(connection, servers, patience_s, asking.lost, options)
        await asking.start()
        return cls(connection, asking)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let handlers that run come to their end, and close the connection."""
        await asyncio.gather(*(consumer.leave() for consumer in self._consumers))
        await self.connection.close()
        self._asking.lost()

    # --- mailboxes -------------------------------------------------------------------------------

    async def mailbox_create(
        self,
        name: str = "",
        *,
        ttl: int = 0,
        desc: str = "",
        max_deliver: int = 0,
        max_msgs: int = 0,
        max_bytes: int = 0,
        retain: str = "",
        exist_ok: bool = False,
    ) -> str:
        """Create a mailbox; its address, a secret one where there is no `name`. `ttl` in seconds.

        Raises MailboxExists, unless that is as good (`exist_ok`).
        """
        fields = body_of(
            name=name,
            ttl=ttl,
            desc=desc,
            max_deliver=max_deliver,
            max_msgs=max_msgs,
            max_bytes=max_bytes,
            retain=retain,
        )
        answer = await self._asking.ask("MAILBOX.CREATE", fields)
        if answer.code == MailboxExists.code:
            if exist_ok:
                return name
            if answer.unsure:
                raise OutcomeUnknown(f"mailbox {name} exists, made by this command or by another")
        return str(answer.or_error()["mail_address"])

    async def send(
        self,
        address: str,
        payload: bytes,
        *,
        priority: Priority = Priority.NORMAL,
        key: str = "",
        delay: int = 0,
        ttl: int = 0,
        tags: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        msg_id: str = "",
    ) -> int:
        """Store a message on a majority of nodes; its id, -1 with a `delay`. Times in seconds.

        `msg_id` is the sender's own id: within two minutes a second SEND of it stores nothing.
        """
        named = send_headers(
            msg_id=msg_id or secrets.token_urlsafe(12),
            priority=priority,
            key=key,
            delay=delay,
            ttl=ttl,
            tags=tags,
            headers=headers,
        )
        answer = await self._about("SEND", address, payload, headers=named)
        return int(answer.or_error()["msg_id"])

    async def fetch(
        self,
        address: str,
        *,
        group_name: str = "",
        consumer: str = "",
        deliver: str = "",
        from_time: int = 0,
        from_id: int = 0,
        force_deliver: bool = False,
        tags: Sequence[str] = (),
        num_msgs: int = RESULTS_DEFAULT,
        max_wait_ms: int = WAIT_MS_DEFAULT,
        ack_wait_ms: int = 0,
    ) -> list[Message]:
        """What there is, best first; with a group, handed out to this client until acknowledged.

        Waits up to `max_wait_ms` for a message. `deliver` is latest (where nothing is said),
        earliest, from_time or from_id.
        """
        config = {"num_msgs": num_msgs, "max_wait_ms": max_wait_ms}
        if ack_wait_ms:
            config["ack_wait_ms"] = ack_wait_ms
        fields = body_of(
            group_name=group_name,
            consumer=consumer,
            deliver=deliver,
            force_deliver=force_deliver,
            tags=list(tags),
            config=config,
            from_time=from_time,
            from_id=from_id,
        )
        answer = await self._about("FETCH", address, fields, wait_s=max_wait_ms / 1000)
        return messages_of(address, answer.or_error(), group_name)

    async def ack(
        self, address: str, group_name: str, msg_id: int, *, handout: str = "", scope: str = ""
    ) -> None:
        """Confirm a message and those before it in its hand-out; with scope "message" it alone."""
        fields = orjson.dumps(
            {"group_name": group_name, "msg_id": msg_id}
            | ({"handout": handout} if handout else {})
            | ({"scope": scope} if scope else {})
        )
        (await self._about("ACK", address, fields)).or_error()

    async def nack(self, address: str, group_name: str, msg_id: int, *, delay: int = 0) -> None:
        """Give a message back, to be handed out again, after `delay` seconds."""
        fields = orjson.dumps({"group_name": group_name, "msg_id": msg_id, "delay": delay})
        _or_gone(await self._about("NACK", address, fields), MessageNotFound)

    async def query(
        self,
        address: str,
        *,
        key: str = "",
        tags: Sequence[str] = (),
        since: int = 0,
        limit: int = RESULTS_DEFAULT,
    ) -> list[Message]:
        """What is visible now, by id; the newest `limit` of it. Changes nothing."""
        fields = body_of(key=key, tags=list(tags), since=since, limit=limit)
        return messages_of(address, (await self._about("QUERY", address, fields)).or_error())

    async def delete(self, address: str, msg_id: int) -> None:
        """Delete a message. Raises MessageNotFound."""
        command = f"MSG.DELETE.{parse_address(address)}.{msg_id:d}"
        _or_gone(await self._asking.ask(command), MessageNotFound)

    async def consume(
        self,
        address: str,
        handler: Handler,
        *,
        group_name: str,
        concurrency: int = 1,
        deliver: str = "earliest",
        tags: Sequence[str] = (),
        retry_delay: int = 1,
        error_handler: Failed | None = None,
    ) -> Consumer:
        """Have `handler` called with each message that comes, as a member of a group.

        It is acknowledged when the handler returns. Where it raises, `error_handler` is told, and
        the message given back: it is handed out again `retry_delay` seconds later, until it has
        come back as often as the mailbox's `max_deliver`. `concurrency`: messages at a time.
        """
        consumer = Consumer(
            self,
            address,
            handler,
            group_name=group_name,
            concurrency=concurrency,
            deliver=deliver,
            tags=tags,
            retry_delay=retry_delay,
            error_handler=error_handler,
            ended=self._consumers.discard,
        )
        self._consumers.add(consumer)
        return consumer

    async def _about(
        self,
        verb: str,
        address: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        wait_s: float = 0.0,
    ) -> Answer:
        # Parsed here: what is no address might be more than one token of a subject, or a line.
        command = f"MSG.{verb}.{parse_address(address)}"
        return await self._asking.ask(command, body, headers=headers, wait_s=wait_s)

    # --- agents ----------------------------------------------------------------------------------

    async def agent_register(self, card: Mapping[str, Any], *, ttl: int | None = None) -> int:
        """Make an agent known, or known anew; until when, in Unix seconds, 0: for ever.

        `card`: `{"name", "mailbox", "payload"}` or an A2A AgentCard. `ttl` in seconds, 0: for ever,
        None: what the card or the broker says.
        """
        body = orjson.dumps(card if ttl is None else {**card, "ttl": ttl})
        return int((await self._asking.ask("AGENT.REGISTER", body)).or_error()["expires_at"])

    async def agent_report(self, name: str, report_info: object = None) -> int:
        """Say that an agent is alive, and how it is; until when it is known, as REGISTER."""
        info = {} if report_info is None else {"report_info": report_info}
        body = orjson.dumps({"name": name, **info})
        return int((await self._asking.ask("AGENT.REPORT", body)).or_error()["expires_at"])

    async def agent_unregister(self, name: str) -> None:
        """Have an agent found no more. Raises AgentNotFound."""
        body = orjson.dumps({"name": name})
        _or_gone(await self._asking.ask("AGENT.UNREGISTER", body), AgentNotFound)

    async def agent_discover(
        self, text: str = "", *, semantic: str = "", **fields: object
    ) -> Discovered:
        """Find agents by words, by what is wanted, or by both; with neither, all of them by name.

        `fields` are the others of DISCOVER: mode, filter, limit, page, min_score, exact, live,
        vector, embedder, consistency.
        """
        named = {"text": text, "semantic": semantic, **fields}
        body = orjson.dumps({name: value for name, value in named.items() if value != ""})
        return Discovered((await self._asking.ask("AGENT.DISCOVER", body)).or_error())

    def present(
        self,
        card: Mapping[str, Any],
        *,
        ttl: int = 60,
        report: Callable[[], object] | None = None,
    ) -> Presence:
        """An agent that is known for as long as its `async with` lasts: REGISTERed, REPORTed three
        times in each `ttl`, and UNREGISTERed at the end. `report` makes each report_info.
        """
        return Presence(self, card, ttl, report)


def _or_gone(answer: Answer, error: type[Mq9Error]) -> None:
    """A thing that is gone when one asks again was likely removed by the first try."""
    if not (answer.unsure and answer.code == error.code):
        answer.or_error()
