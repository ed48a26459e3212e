"""One command and its reply, whatever becomes of the node that was asked.

Called by `client`; calls nats-py. A reply may say that nothing was done, or that the outcome is not
known (docs/protocol.md, section 5), and there may be no reply: then the command is asked again, by
whatever node nats-py is connected to. Where a connection breaks, nobody waits for its answers.
"""

import asyncio
import itertools
import random
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import nats.errors
import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg

from mq9cluster.domain.errors import InvalidField, Mq9Error, OutcomeUnknown, Overloaded, Unavailable

PATIENCE_S: Final = 60.0
# The last try is answered, or given up, before the id of a SEND is forgotten (2 minutes).
PATIENCE_S_MAX: Final = 100.0
ANSWER_S: Final = 8.0  # beyond what a FETCH waits: nodes say `timeout` after 5 s
AGAIN_S_MIN: Final = 0.05  # an election takes about a second
AGAIN_S_MAX: Final = 1.0

CRLF: Final = b"\r\n"
HEADER_BLOCK_BYTES: Final = len(b"NATS/1.0") + 2 * len(CRLF)  # around what the headers take

Reply = dict[str, Any]
Headers = Mapping[str, str]

UNSURE: Final = (Unavailable, Overloaded, OutcomeUnknown)  # said when patience has ended

_NOT_DONE: Final = (Unavailable.code, Overloaded.code)
_KINDS: Final = {kind.code: kind for kind in Mq9Error.__subclasses__()}


class Answer(NamedTuple):
    """A reply; `unsure` where an earlier try, of unknown outcome, may have been carried out."""

    reply: Reply
    unsure: bool

    @property
    def code(self) -> str:
        """The error's, or ""."""
        return str(self.reply.get("code", ""))

    def or_error(self) -> Reply:
        """The reply. Raises what it says went wrong."""
        if self.reply["error"]:
            raise error_of(self.reply)
        return self.reply


class Asking:
    """The commands of one client under way."""

    def __init__(self, connection: Client, patience_s: float) -> None:
        """`start` comes before anything is asked. Raises ValueError where the patience is more than
        PATIENCE_S_MAX.
        """
        if not 0 <= patience_s <= PATIENCE_S_MAX:
            raise ValueError(f"patience_s is {patience_s:g}, not 0 to {PATIENCE_S_MAX:g}")
        self._connection = connection
        self._patience_s = patience_s
        self._inbox = ""
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._luck = random.Random()  # noqa: S311 spreads tries, hides nothing

    async def start(self) -> None:
        """Listen for replies, now that there is a connection."""
        self._inbox = self._connection.new_inbox()
        await self._connection.subscribe(f"{self._inbox}.*", cb=self._answered)

    def lost(self) -> None:
        """The connection broke: what was asked over it is answered no more."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(_reply(OutcomeUnknown("the connection was lost")))

    async def ask(
        self,
        command: str,
        body: bytes = b"",
        *,
        headers: Headers | None = None,
        wait_s: float = 0.0,
        harmless: bool = True,
    ) -> Answer:
        """Ask `$mq9.AI.{command}` until it is carried out or refused, or patience ends.

        `wait_s`: how long the broker may let it wait. `harmless`: nothing is done twice by asking
        twice; else a command of unknown outcome is not asked again. Raises InvalidField where the
        payload is too large or a header not one line, Unavailable where the client is closed.
        """
        self._check(body, headers or {})
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._patience_s
        pause_s = AGAIN_S_MIN
        unsure = False
        while True:
            reply = await self._ask_once(f"$mq9.AI.{command}", body, headers, ANSWER_S + wait_s)
            code = reply.get("code", "")
            again = code in _NOT_DONE or (code == OutcomeUnknown.code and harmless)
            if not again or loop.time() + pause_s > until_s:
                if unsure and code in _NOT_DONE:
                    reply = _reply(OutcomeUnknown(f"asked again, and told {reply['error']}"))
                return Answer(reply, unsure)
            unsure = unsure or code == OutcomeUnknown.code
            await asyncio.sleep(pause_s * self._luck.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, AGAIN_S_MAX)

    def _check(self, body: bytes, headers: Headers) -> None:
        """Servers end connections that send more than they take."""
        size = len(body) + HEADER_BLOCK_BYTES if headers else len(body)
        for name, value in headers.items():
            try:
                line = f"{name}: {value}".encode()
            except UnicodeEncodeError as error:
                raise InvalidField("header", f"{name!r} is not text") from error
            if b"\r" in line or b"\n" in line:
                raise InvalidField("header", f"{name!r} is more than a line")
            size += len(line) + len(CRLF)
        if size > (limit := self._connection.max_payload):
            raise InvalidField("payload", f"{size} bytes with its headers, of the server's {limit}")

    async def _ask_once(
        self, subject: str, body: bytes, headers: Headers | None, within_s: float
    ) -> Reply:
        number = str(next(self._numbers))
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        sent = dict(headers) if headers else None
        try:
            async with asyncio.timeout(within_s):
                await self._connection.publish(
                    subject, body, reply=f"{self._inbox}.{number}", headers=sent
                )
                return await answer
        except nats.errors.OutboundBufferLimitError:
            return _reply(Unavailable("no server is connected, and too much waits for one"))
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
            raise Unavailable("the connection is closed") from error
        except TimeoutError:
            return _reply(OutcomeUnknown(f"no reply within {within_s:g} s"))
        finally:
            del self._waiting[number]

    async def _answered(self, message: Msg) -> None:
        answer = self._waiting.get(message.subject.rpartition(".")[2])
        if answer is None or answer.done():
            return
        if (message.headers or {}).get("Status") == "503":
            answer.set_exception(Unavailable("this server serves NATS, but no mq9"))
        else:
            answer.set_result(orjson.loads(message.data))


def error_of(reply: Reply) -> Mq9Error:
    """What a reply says went wrong, in the class of its code; a plain Mq9Error where the broker is
    newer and the code unknown here.
    """
    code = reply.get("code", "")
    kind = _KINDS.get(code, Mq9Error)
    error = kind.__new__(kind)  # which would make up a text of its own
    error.args = (reply["error"],)
    error.code = code
    return error


def _reply(error: Mq9Error) -> Reply:
    return {"error": str(error), "code": error.code}
