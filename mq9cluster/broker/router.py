"""From subject to command: the table of what mq9 can be asked.

The gateway calls `handle` for every message published under `$mq9.AI.`; the tables lead to a
method of `Mailboxes`, `Agents` or `Discovery`. Subjects repeat, so what one means is remembered.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from mq9cluster.broker import dialects as older
from mq9cluster.broker.agents import Agents
from mq9cluster.broker.call import Call, Counted
from mq9cluster.broker.dialects import Dialects
from mq9cluster.broker.discovery import Discovery
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.broker.pushes import Push, Pushes
from mq9cluster.domain.address import parse_address
from mq9cluster.domain.errors import Mq9Error, UnknownCommand
from mq9cluster.domain.measures import Histogram
from mq9cluster.domain.ports import Clock
from mq9cluster.protocol import replies, requests
from mq9cluster.protocol.dialects import DIALECT_000, DIALECT_001, PUBLIC_LIST, place_of

SUBJECT_PREFIX: Final = "$mq9.AI."
ROUTES_REMEMBERED_MAX: Final = 16_384  # about 500 bytes each; forgotten all at once when full

# Commands whose subject is complete, and those that an address follows.
BARE: Final = {"MAILBOX.CREATE": Mailboxes.create}
OF_AGENTS: Final = {
    "AGENT.REGISTER": Agents.register,
    "AGENT.UNREGISTER": Agents.unregister,
    "AGENT.REPORT": Agents.report,
}
DISCOVER: Final = "AGENT.DISCOVER"
ADDRESSED: Final = {
    "MSG.SEND": Mailboxes.send,
    "MSG.FETCH": Mailboxes.fetch,
    "MSG.ACK": Mailboxes.ack,
    "MSG.NACK": Mailboxes.nack,
    "MSG.QUERY": Mailboxes.query,
    "MAILBOX.QUERY": Mailboxes.query,
}
LIST: Final = "MAILBOX.LIST"  # an address follows
DELETE: Final = ("MSG.DELETE", "MAILBOX.DELETE")  # an address and a msg_id follow
# Of the older dialects: an address and a word for priorities follow, and are the subject's own.
STORED: Final = tuple(
    dialect.prefix.removeprefix(SUBJECT_PREFIX)[:-1] for dialect in (DIALECT_001, DIALECT_000)
)

_Run = Callable[[int, bytes | None, bytes, Call], None]


class Router:
    """The gateway's `CommandHandler`."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        pushes: Pushes,
        agents: Agents,
        discovery: Discovery,
        clock: Clock,
    ) -> None:
        self._mailboxes = mailboxes
        self._pushes = pushes
        self._dialects = Dialects(mailboxes)
        bound: dict[str, Callable[..., None]] = {
            words: partial(method, mailboxes) for words, method in BARE.items()
        }
        bound |= {words: partial(method, agents) for words, method in OF_AGENTS.items()}
        bound[DISCOVER] = partial(discovery.discover)
        bound[PUBLIC_LIST.removeprefix(SUBJECT_PREFIX)] = older.refuse_to_publish
        self._bare = bound
        self._routes: dict[tuple[str, bytes], tuple[_Run, Counted]] = {}
        self.refused: dict[str, int] = {}  # how often, by error code
        self.counted = {
            command: Counted(Histogram(), self.refused, clock.seconds)
            for command in (*self._bare, *ADDRESSED, LIST, *DELETE, *STORED, "unknown")
        }

    def handle(
        self,
        connection: int,
        account: str,
        subject: bytes,
        header: bytes | None,
        payload: bytes,
        respond: Callable[[bytes], None] | None,
    ) -> None:
        """Carry out one command; `respond` gets the reply, now or later, once."""
        route = self._routes.get((account, subject))
        if route is None:
            route = self._find(account, subject)
        run, counted = route
        if respond and self._dialects.is_old(connection):
            respond = partial(_without_error, respond)
        call = Call(respond, counted)
        try:
            run(connection, header, payload, call)
        except Mq9Error as error:
            call.refuse(error)

    def introduced(self, connection: int, name: str) -> None:
        """The client says its name, which may be that of one with ways of its own."""
        self._dialects.introduced(connection, name)

    def subscribe(
        self,
        connection: int,
        account: str,
        subject: bytes,
        queue: bytes | None,
        deliver: Callable[[bytes, bytes | None, bytes], bool],
        has_room: Callable[[], bool],
        confirm: Callable[[Callable[[bool], None]], None],
    ) -> Push | None:
        """A push subscription begins; None where `subject` is none.

        Raises what is wrong with it.
        """
        name = self._dialects.name_of(connection)
        text = subject.decode("utf-8", "replace")
        group = queue.decode("utf-8", "surrogateescape") if queue is not None else None
        client = self._pushes.client(connection, deliver, has_room, confirm)
        return self._pushes.subscribe(connection, account, text, group, name, client)

    def connection_lost(self, connection: int) -> None:
        """Nothing is heard on this connection any more."""
        self._mailboxes.connection_lost(connection)

    def connection_closed(self, connection: int) -> None:
        """Nothing more comes from this connection."""
        self._dialects.forget(connection)
        self._mailboxes.connection_closed(connection)

    def _find(self, account: str, subject: bytes) -> tuple[_Run, Counted]:
        text = subject.decode("utf-8", "replace")
        words = text.removeprefix(SUBJECT_PREFIX)
        command = ".".join(words.split(".", 2)[:2])
        rest = words[len(command) + 1 :]
        if command.startswith(STORED[1] + "."):
            command = STORED[1]
        counted = self.counted.get(command, self.counted["unknown"])
        try:
            if words in self._bare:
                run: _Run = partial(self._bare[words], account)
            elif command in STORED and (place := place_of(text)):
                run = self._dialects.storing(account, place).store
            elif command == LIST and rest:
                target = self._mailboxes.target(account, parse_address(rest))
                run = partial(self._dialects.list_messages, target)
            elif command in ADDRESSED and rest:
                target = self._mailboxes.target(account, parse_address(rest))
                run = partial(_bound(ADDRESSED[command], self._mailboxes), target)
            elif command in DELETE and "." in rest:
                return self._delete(account, rest), counted  # each is asked once: not remembered
            else:
                raise UnknownCommand(text)
        except Mq9Error as error:
            return partial(_refuse, error), counted
        if len(self._routes) >= ROUTES_REMEMBERED_MAX:
            self._routes.clear()
        self._routes[account, subject] = run, counted
        return run, counted

    def _delete(self, account: str, rest: str) -> _Run:
        address, _, msg_id = rest.rpartition(".")
        target = self._mailboxes.target(account, parse_address(address))
        return partial(self._mailboxes.delete, target, msg_id=requests.parse_msg_id(msg_id))


def _bound(method: Callable[..., None], mailboxes: Mailboxes) -> Callable[..., None]:
    return partial(method, mailboxes)


def _without_error(respond: Callable[[bytes], None], reply: bytes) -> None:
    respond(replies.without_error(reply))


def _refuse(error: Mq9Error, *_: Any) -> None:
    raise error
