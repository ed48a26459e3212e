"""From subject to command: the table of what mq9 can be asked.

The gateway calls `handle` for every message published under `$mq9.AI.`; the tables lead to a
method of `Mailboxes`, `Agents` or `Discovery`. Subjects repeat, so what one means is remembered.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from mq9cluster.broker.agents import Agents
from mq9cluster.broker.call import Call, Counted
from mq9cluster.broker.discovery import Discovery
from mq9cluster.broker.mailboxes import Mailboxes
from mq9cluster.domain.address import parse_address
from mq9cluster.domain.errors import Mq9Error, UnknownCommand
from mq9cluster.domain.measures import Histogram
from mq9cluster.domain.ports import Clock
from mq9cluster.protocol import requests

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
}
DELETE: Final = "MSG.DELETE"  # an address and a msg_id follow

_Run = Callable[[int, bytes | None, bytes, Call], None]


class Router:
    """The gateway's `CommandHandler`."""

    def __init__(
        self, mailboxes: Mailboxes, agents: Agents, discovery: Discovery, clock: Clock
    ) -> None:
        self._mailboxes = mailboxes
        bound = {words: partial(method, mailboxes) for words, method in BARE.items()}
        bound |= {words: partial(method, agents) for words, method in OF_AGENTS.items()}
        bound[DISCOVER] = partial(discovery.discover)
        self._bare = bound
        self._routes: dict[tuple[str, bytes], tuple[_Run, Counted]] = {}
        self.refused: dict[str, int] = {}  # how often, by error code
        self.counted = {
            command: Counted(Histogram(), self.refused, clock.seconds)
            for command in (*self._bare, *ADDRESSED, DELETE, "unknown")
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
        call = Call(respond, counted)
        try:
            run(connection, header, payload, call)
        except Mq9Error as error:
            call.refuse(error)

    def connection_lost(self, connection: int) -> None:
        """Nothing is heard on this connection any more."""
        self._mailboxes.connection_lost(connection)

    def connection_closed(self, connection: int) -> None:
        """Nothing more comes from this connection."""
        self._mailboxes.connection_closed(connection)

    def _find(self, account: str, subject: bytes) -> tuple[_Run, Counted]:
        text = subject.decode("utf-8", "replace")
        words = text.removeprefix(SUBJECT_PREFIX)
        command = ".".join(words.split(".", 2)[:2])
        rest = words[len(command) + 1 :]
        counted = self.counted.get(command, self.counted["unknown"])
        try:
            if words in self._bare:
                run: _Run = partial(self._bare[words], account)
            elif command in ADDRESSED and rest:
                target = self._mailboxes.target(account, parse_address(rest))
                run = partial(_bound(ADDRESSED[command], self._mailboxes), target)
            elif command == DELETE and "." in rest:
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


def _refuse(error: Mq9Error, *_: Any) -> None:
    raise error
