"""A bare NATS client over a socket: sends any bytes, shows every line that comes back.

Owns one connection. Tests use it where nats-py is too polite (malformed subjects, repeated headers,
wildcards on everything, half-open sockets), and the crash workload uses it because it is cheap. It
calls nothing of the project.
"""

import asyncio
import json
import secrets
from collections.abc import Sequence
from typing import NamedTuple, Self, TypeVar, cast

T = TypeVar("T")

Headers = Sequence[tuple[str | bytes, str | bytes]]

READ_BYTES = 1 << 18
STREAM_LINE_BYTES_MAX = 1 << 20  # an INFO line with many connect_urls; payloads are read by size


class Delivered(NamedTuple):
    """One MSG or HMSG; `headers` are the header bytes verbatim, b"" for MSG."""

    subject: str
    sid: str
    reply: str
    headers: bytes
    payload: bytes


class ConnectionEnded(Exception):
    """The server closed the connection while an answer was awaited; carries the -ERR texts seen."""


def header_block(headers: Headers) -> bytes:
    """The NATS/1.0 header bytes of `headers`, in order, repeated names included."""
    lines = [b"NATS/1.0\r\n"]
    for name, value in headers:
        raw_name = name.encode() if isinstance(name, str) else name
        raw_value = value.encode() if isinstance(value, str) else value
        lines.append(raw_name + b": " + raw_value + b"\r\n")
    return b"".join(lines) + b"\r\n"


def publication(
    subject: str | bytes, payload: bytes = b"", reply: str = "", headers: Headers = ()
) -> bytes:
    """The bytes of one PUB or HPUB."""
    raw_subject = subject.encode() if isinstance(subject, str) else subject
    to = raw_subject + (b" " + reply.encode() if reply else b"")
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to, len(payload), payload)
    block = header_block(headers)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (
        to,
        len(block),
        len(block) + len(payload),
        block,
        payload,
    )


class RawNats:
    """One connection. `errors`: the -ERR texts in order; `ended` is set when the socket closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._queues: dict[str, asyncio.Queue[Delivered]] = {}
        self._waiting: dict[str, asyncio.Future[Delivered]] = {}
        self._pongs: list[asyncio.Future[None]] = []
        self._inbox = f"_INBOX.{secrets.token_hex(11)}"
        self._inbox_subscribed = False
        self._requests = 0
        self._sids = 0
        self.info: dict[str, object] = {}
        self.errors: list[str] = []
        self.ended = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def connect(cls, host: str, port: int, **options: object) -> Self:
        """A connection past the handshake. `options` go into CONNECT."""
        client = await cls.open(host, port)
        fields = {
            "verbose": False,
            "headers": True,
            "no_responders": True,
            "protocol": 1,
            "lang": "raw",
            **options,
        }
        client.post(b"CONNECT " + json.dumps(fields).encode() + b"\r\n")
        await client.flush()
        return client

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        """A bare socket: nothing is sent yet."""
        return cls(*await asyncio.open_connection(host, port, limit=STREAM_LINE_BYTES_MAX))

    def post(self, data: bytes) -> None:
        """Queue bytes for the socket."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until the kernel took most of what was posted."""
        await self._writer.drain()

    async def flush(self) -> None:
        """PING, and wait for the PONG: everything posted before was read by the server."""
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self.post(b"PING\r\n")
        await self._or_ended(pong)

    @property
    def last_sid(self) -> int:
        """The sid of the newest subscription, to end it by."""
        return self._sids

    def subscribe(
        self, subject: str, queue: str = "", maximum: int = 0
    ) -> asyncio.Queue[Delivered]:
        """Subscribe, with a `maximum` for so many messages; what comes goes into the queue. `flush`
        to know that the server knows.
        """
        self._sids += 1
        sid = str(self._sids)
        self._queues[sid] = asyncio.Queue()
        only = f"UNSUB {sid} {maximum}\r\n" if maximum else ""
        self.post(f"SUB {subject} {queue + ' ' if queue else ''}{sid}\r\n{only}".encode())
        return self._queues[sid]

    async def request(
        self,
        subject: str | bytes,
        payload: bytes = b"",
        headers: Headers = (),
        timeout_s: float = 60.0,
    ) -> Delivered:
        """Publish with a reply subject in this connection's own wildcard inbox; the answer."""
        answer = self.ask(subject, payload, headers)
        return await asyncio.wait_for(self._or_ended(answer), timeout_s)

    def ask(
        self, subject: str | bytes, payload: bytes = b"", headers: Headers = ()
    ) -> asyncio.Future[Delivered]:
        """Like `request`, without waiting; the future fails with ConnectionEnded."""
        if not self._inbox_subscribed:
            self.post(f"SUB {self._inbox}.* 0\r\n".encode())
            self._inbox_subscribed = True
        self._requests += 1
        reply = f"{self._inbox}.{self._requests}"
        answer: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = answer
        if self.ended.is_set():
            self._fail(answer)
        else:
            self.post(publication(subject, payload, reply, headers))
        return answer

    def stop_reading(self) -> None:
        """Leave what the server sends in the socket."""
        cast(asyncio.Transport, self._writer.transport).pause_reading()

    def read_on(self) -> None:
        """Take it, after all."""
        cast(asyncio.Transport, self._writer.transport).resume_reading()

    async def close(self) -> None:
        """Close the socket at once."""
        self._writer.transport.abort()
        await self.ended.wait()

    async def _or_ended(self, answer: asyncio.Future[T]) -> T:
        if self.ended.is_set():
            self._fail(answer)
        return await answer

    def _fail(self, answer: asyncio.Future[T]) -> None:
        if not answer.done():
            answer.set_exception(ConnectionEnded(*self.errors))
            answer.exception()  # retrieved: nobody has to await all of a dead connection

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                await self._take(line)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # told by `ended`: a test asks for it, the reason does not matter
        finally:
            self.ended.set()
            for answer in (*self._waiting.values(), *self._pongs):
                self._fail(answer)
            self._writer.close()

    async def _take(self, line: bytes) -> None:
        if line.startswith((b"MSG ", b"HMSG ")):
            await self._take_message(line)
        elif line.startswith(b"PING"):
            self.post(b"PONG\r\n")
        elif line.startswith(b"PONG") and self._pongs:
            pong = self._pongs.pop(0)
            if not pong.done():
                pong.set_result(None)
        elif line.startswith(b"INFO "):
            self.info = json.loads(line[5:])
        elif line.startswith(b"-ERR"):
            self.errors.append(line[4:].strip().strip(b"'").decode())

    async def _take_message(self, line: bytes) -> None:
        with_headers = line.startswith(b"HMSG")
        fields = line.decode().split()
        head = int(fields[-2]) if with_headers else 0
        body = await self._reader.readexactly(int(fields[-1]) + 2)
        reply = fields[3] if len(fields) == (6 if with_headers else 5) else ""
        message = Delivered(fields[1], fields[2], reply, body[:head], body[head:-2])
        if message.sid != "0":
            if message.sid in self._queues:  # else subscribed by bytes of the test's own
                self._queues[message.sid].put_nowait(message)
        elif (answer := self._waiting.pop(message.subject, None)) and not answer.done():
            answer.set_result(message)
