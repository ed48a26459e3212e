"""What one client says and hears: NATS operations in, deliveries out.

Made by `listener` for every accepted socket; its lower half is `connection`. Calls `exchange` (core
NATS), the CommandHandler (mq9) and the Authenticator. No task per connection and none per message:
`data_received` → parser → one handler per event → one write at the end of the turn.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

from mq9cluster.domain.errors import Mq9Error, Overloaded, PermissionDenied
from mq9cluster.gateway.allowance import Allowance
from mq9cluster.gateway.auth import Busy, Claim, Identity, Verdict
from mq9cluster.gateway.connection import (
    AUTHENTICATING,
    ENDED,
    TOO_MANY_COMMANDS,
    TURN_OVER,
    Connection,
    Read,
)
from mq9cluster.gateway.interest import NOBODY, Interest, Match, Subscription
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.gateway.permissions import Received, Rights
from mq9cluster.gateway.settings import (
    DROPPED_PER_TURN_MAX,
    FIRST_PING_S,
    FLUSH_BYTES,
    PARSED_PER_TURN_BYTES,
    PUSHED_AHEAD_BYTES_MAX,
    REPLY_PREFIX_BYTES_MAX,
    REPLY_PREFIXES_MAX,
)
from mq9cluster.gateway.shared import Shared
from mq9cluster.protocol import replies
from mq9cluster.protocol.nats import (
    CONNECT,
    CONTROL_LINE_EXCEEDED,
    FAIL,
    OK_LINE,
    PING,
    PING_LINE,
    PONG,
    PONG_LINE,
    PUB,
    SUB,
    UNSUB,
    Event,
    encode_error,
)
from mq9cluster.protocol.nats_connect import PROTOCOLS, BadConnect, ConnectOptions
from mq9cluster.protocol.subjects import (
    BROADCAST_PREFIX,
    COMMAND_PREFIX,
    FETCH_PREFIX,
    READ_PREFIXES,
    SEND_PREFIX,
    is_command,
    is_literal,
    is_valid,
    is_valid_literal,
    reads_other_mailboxes,
)

if TYPE_CHECKING:
    from mq9cluster.gateway.commands import Push

Respond = Callable[[bytes], None]

OPTIONS_DEFAULT = ConnectOptions()
NOBODY_YET = Identity()
DENIED = replies.refused(PermissionDenied("this user may not publish to the command's subject"))
BEFORE_AUTHENTICATION = frozenset((CONNECT, FAIL))


class Session(Connection):
    """A client, from accept to the end of its last command."""

    __slots__ = (
        "_allowance",
        "_authenticated",
        "_careful",
        "_connected",
        "_decided_later",
        "_headers",
        "_interest",
        "_literal_ends",
        "_looks_again",
        "_pongs_sent",
        "_pushes",
        "_received",
        "_reply_routes",
        "_rights",
        "_seated",
        "account",
        "identity",
        "nonce",
        "options",
        "subscriptions",
    )

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        anonymous = shared.authenticator.anonymous
        self.identity = anonymous or NOBODY_YET
        self.account = self.identity.account
        self.options = OPTIONS_DEFAULT
        self.nonce = shared.authenticator.nonce()
        self.subscriptions: dict[bytes, Subscription] = {}
        self._pushes: dict[bytes, Push] = {}  # of these, by sid: known to no interest table
        self._looks_again = False  # at whether the client keeps up with them
        self._interest: Interest = shared.exchange.interest(self.account)
        self._authenticated = anonymous is not None
        self._seated = False  # counted among its account's and user's connections
        self._decided_later = False  # the credentials are being checked
        self._rights: Rights | None = self.identity.rights
        # Only where deliveries need a look too: some are denied, or may be answered.
        self._received: Received | None = None
        # Verbose, pedantic, restricted, without headers or not yet known: a PUB needs a second look
        self._careful = True
        self._connected = False
        self._headers = False
        self._pongs_sent = False
        self._reply_routes: dict[bytes, tuple[Subscription, ...]] = {}
        rate = shared.settings.requests_per_s_max
        self._allowance = Allowance(rate, self._loop.time()) if rate else None
        # Own patterns such as `a.*.c`: for these a reply's prefix does not say whether they match.
        self._literal_ends = 0

    def _greet(self) -> None:
        if not self.greeted:
            self._write(self._shared.info(self, False))
        if self._authenticated:
            self._be(self.identity)
        else:
            self._loop.call_later(self._shared.settings.auth_timeout_s, self._auth_timeout)

    def _work(self, events: Iterator[Event]) -> None:
        for event in events:
            if event[0] == PUB:
                _, subject, reply, header, payload = event
                self.in_messages += 1
                if self._careful and not self._may_publish(subject, reply, header):
                    if self._stall:
                        return
                    continue
                if subject.startswith(COMMAND_PREFIX) and not subject.startswith(BROADCAST_PREFIX):
                    self._command(subject, reply, header, payload)
                else:
                    self._publish_core(subject, reply, header, payload)
            elif self._authenticated or event[0] in BEFORE_AUTHENTICATION:
                self._HANDLERS[event[0]](self, event)
            else:
                self._auth_violation()
            if self._stall:
                return

    # --- messages in ------------------------------------------------------------------------------

    def _take_request(self, data: bytes) -> bool:
        if self._careful or self._gone:
            return False
        request = self._parser.feed_request(data)
        if request is None:
            return False
        subject, reply, payload = request
        self.in_messages += 1
        self._command(subject, reply, None, payload)
        return True

    def _may_publish(self, subject: bytes, reply: bytes | None, header: bytes | None) -> bool:
        if not self._authenticated:
            self._auth_violation()
            return False
        if header is not None and not self._headers:
            self.fail(b"")
            return False
        if self.options.pedantic and not is_valid_literal(subject):
            self._write(encode_error(b"Invalid Publish Subject"))
        if self._rights is not None and not self._permitted(self._rights, subject):
            self._deny_publish(subject, reply)
            return False
        self._acknowledge()  # of having been understood: it stands before what the message causes
        return True

    def _permitted(self, rights: Rights, subject: bytes) -> bool:
        if rights.may_publish(subject):
            return True
        received = self._received
        return received is not None and received.may_answer(subject, self._loop.time())

    def _deny_publish(self, subject: bytes, reply: bytes | None) -> None:
        """As nats-server; who asked for a command's answer gets one too, instead of a timeout."""
        self._shared.totals.permission_violations += 1
        self._write(encode_error(b'Permissions Violation for Publish to "%b"' % subject))
        if reply is not None and is_command(subject):
            for subscription in self._own_subscriptions(reply):
                self._deliver_reply(subscription, reply, DENIED)

    def _command(
        self, subject: bytes, reply: bytes | None, header: bytes | None, payload: bytes
    ) -> None:
        if self._gone and subject.startswith(READ_PREFIXES):
            return
        shared = self._shared
        size = len(payload)
        self.in_flight += 1
        self.in_flight_bytes += size
        settings = shared.settings
        if not self._gone and (
            self.in_flight >= settings.commands_in_flight_max
            or self.in_flight_bytes >= settings.commands_in_flight_bytes_max
            or self.in_flight - self._fetches >= shared.shares.commands
        ):
            self._stall |= TOO_MANY_COMMANDS
            shared.totals.reading_paused += 1
        if self._allowance is not None and not self._allowance.take(self._loop.time()):
            shared.totals.over_rate += 1
            self._respond(self.account, reply, size, self._allowance.refusal)
            return
        to_parse = len(header) if header else 0
        respond: Respond
        if subject.startswith(SEND_PREFIX):
            respond = partial(self._respond, self.account, reply, size)
        else:
            to_parse += size
            if reply is not None and (own := self._own_subscriptions(reply)):
                respond = partial(self._respond_alone, own, reply, size)
            else:
                respond = partial(self._respond, self.account, reply, size)
            if subject.startswith(FETCH_PREFIX):
                self._fetches += 1
                respond = partial(self._respond_to_fetch, respond)
        if to_parse > PARSED_PER_TURN_BYTES:
            self._stall |= TURN_OVER
        shared.handler.handle(self.connection, self.account, subject, header, payload, respond)

    def _respond_to_fetch(self, respond: Respond, body: bytes) -> None:
        self._fetches -= 1
        respond(body)

    def _respond_alone(
        self, listened: tuple[Subscription, ...], reply: bytes, size: int, body: bytes
    ) -> None:
        """The answer, with messages or an address in it, to a client that listened for it when it
        asked: nobody else is told, also where it has left or listens no more.
        """
        if not self._left:
            mine = self.subscriptions
            for subscription in listened:
                if mine.get(subscription.sid) is not subscription:
                    listened = self._own_subscriptions(reply)  # what listens in its place, if any
                    break
            for subscription in listened:
                self._deliver_reply(subscription, reply, body)
        self._answered(size)

    def _respond(self, account: str, reply: bytes | None, size: int, body: bytes) -> None:
        """A command's answer: to its own connection if that subscribes to `reply`, else to exactly
        that subject, if the client may publish there itself; without one it only makes room for
        another command. `account`: of the one who asked, who may be another since.
        """
        if reply is not None:
            own = () if self._left else self._own_subscriptions(reply)
            if own:
                for subscription in own:
                    self._deliver_reply(subscription, reply, body)
            elif self._rights is None or self._rights.may_publish(reply):
                self._shared.exchange.publish_exactly(account, reply, body)
        self._answered(size)

    def _answered(self, size: int) -> None:
        """A command less is under way."""
        self.in_flight -= 1
        self.in_flight_bytes -= size
        if self._stall & TOO_MANY_COMMANDS:
            self._maybe_go_on()
        elif self._retiring:
            self._maybe_retire()

    def _own_subscriptions(self, reply: bytes) -> tuple[Subscription, ...]:
        """This connection's subscriptions that match `reply`; what patterns say is remembered by
        the reply's prefix.
        """
        interest = self._interest
        prefix = reply.rpartition(b".")[0]
        found = self._reply_routes.get(prefix)
        if found is None:
            found = tuple(
                subscription
                for subscription in _everyone(interest.match(reply))
                if subscription.subscriber is self and not is_literal(subscription.subject)
            )
            if self._may_remember(prefix, reply):
                if len(self._reply_routes) >= REPLY_PREFIXES_MAX:
                    self._reply_routes.clear()
                self._reply_routes[prefix] = found
        literal = interest.match_literal(reply)
        if literal is NOBODY:
            return found
        return found + tuple(s for s in _everyone(literal) if s.subscriber is self)

    def _may_remember(self, prefix: bytes, reply: bytes) -> bool:
        """Whether what matches `reply` matches all replies of its prefix, and is worth a place."""
        return not self._literal_ends and len(prefix) <= REPLY_PREFIX_BYTES_MAX and is_valid(reply)

    def _publish_core(
        self, subject: bytes, reply: bytes | None, header: bytes | None, payload: bytes
    ) -> None:
        exchange = self._shared.exchange
        silent_for = None if self.options.echo else self
        delivered = exchange.publish(
            self.account, subject, reply, header, payload, silent_for=silent_for
        )
        if exchange.reader_behind:
            exchange.reader_behind = False
            self._outran = True
        if delivered:
            self._budget -= delivered
            if self._budget <= 0:
                self._stall |= TURN_OVER
        elif reply is not None and self.options.no_responders:
            self._say_no_responders(subject, reply)

    def _say_no_responders(self, subject: bytes, reply: bytes) -> None:
        """Only a plain subscription of this very client hears it, and it counts against no maximum
        (as nats-server).
        """
        for subscription in self._interest.match(reply).plain:
            if subscription.subscriber is self:
                header = b"NATS/1.0 503\r\nNats-Subject: %b\r\n\r\n" % subject
                self._write(
                    b"HMSG %b %b %d %d\r\n%b\r\n"
                    % (reply, subscription.sid, len(header), len(header), header)
                )
                return

    # --- the other operations ---------------------------------------------------------------------

    def _connect(self, event: Event) -> None:
        shared = self._shared
        try:
            options = self.options.updated(event[1])
        except BadConnect:
            self.fail(b"")
            return
        if self._connected and not options.brings_other_credentials(self.options):
            self._decide(options, self.identity)
            return
        self._stall |= AUTHENTICATING
        claim = Claim(options, self.peer[0], self.nonce, self._certificate)
        shared.authenticator.authenticate(claim, partial(self._decide, options))
        self._decided_later = bool(self._stall & AUTHENTICATING)

    def _decide(self, options: ConnectOptions, verdict: Verdict) -> None:
        """CONNECT goes on here, at once or when a password was checked."""
        self._stall &= ~AUTHENTICATING
        if self._stall & ENDED:
            return
        if isinstance(verdict, Busy):
            self.fail(b"Authentication Timeout")
        elif verdict is None:
            self._auth_violation()
        elif self._decided_later:
            # The users may have changed in the meantime.
            now = self._shared.authenticator.renewed(verdict)
            self._enter(options, now) if now is not None else self._auth_violation()
            self._decided_later = False
            self._schedule_turn()
        else:
            self._enter(options, verdict)

    def _enter(self, options: ConnectOptions, identity: Identity) -> None:
        """The credentials are right."""
        if options.protocol not in PROTOCOLS:
            self.fail(b"invalid client protocol")
            return
        if options.no_responders and not options.headers:
            self.fail(b"no responders requires headers support")
            return
        if self._connected or identity.account != self.account:
            self._unsubscribe_all()  # another CONNECT starts anew, as with nats-server
        if not self._connected:
            self._ping_at = min(self._ping_at, self._loop.time() + FIRST_PING_S)
        self.options = options.without_secrets()
        self.nonce = ""  # nobody signs the same one twice
        self._authenticated = self._connected = True
        self._headers = options.headers
        self._shared.handler.introduced(self.connection, options.name)
        if self._be(identity):
            self._acknowledge()

    def _be(self, identity: Identity) -> bool:
        """Act as `identity` from now on, if it has a seat left."""
        seats = self._shared.seats
        before = self.identity if self._seated else None
        if before is None or (before.account, before.user) != (identity.account, identity.user):
            full = seats.take(identity)
            if full:
                self._shared.totals.refused_connections += 1
                self.fail(full)
                return False
            if before is not None:
                seats.subscribed(before, -len(self.subscriptions))
                seats.leave(before)
                seats.subscribed(identity, len(self.subscriptions))
        self._seated = True
        if identity.account != self.account:
            self.account = identity.account
            self._interest = self._shared.exchange.interest(identity.account)
        self.identity = identity
        rights = self._rights = identity.rights
        watched = rights is not None and (rights.restrict_receiving or rights.responses is not None)
        self._received = Received(rights) if rights is not None and watched else None
        options = self.options
        # Verbose and pedantic clients are answered each message at once, and strangers refused.
        self._reports_wait = self._connected and not (options.verbose or options.pedantic)
        self._careful = (
            options.verbose
            or options.pedantic
            or not options.headers
            or not self._connected
            or (rights is not None and rights.restrict_publishing)
        )
        return True

    def renew(self) -> None:
        """The users have changed: stay as what the new ones say of this one, or go."""
        if not self._authenticated or self._stall & ENDED:
            return
        identity = self._shared.authenticator.renewed(self.identity)
        if identity is None:
            self._auth_violation()
            return
        if not self._be(identity) or self._rights is None:
            return
        for subscription in list(self.subscriptions.values()):
            if not self._rights.may_subscribe(subscription.subject, subscription.queue):
                self._forget(subscription)
                self._deny_subscription(
                    subscription.subject, subscription.queue, b' (sid "%b")' % subscription.sid
                )

    def _certificate(self) -> bytes:
        """The client's, as DER; b"" if it showed none."""
        tls = self._transport.get_extra_info("ssl_object")
        return (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""

    def _subscribe(self, event: Event) -> None:
        _, subject, queue, sid = event
        if reads_other_mailboxes(subject) or (
            self._rights is not None and not self._rights.may_subscribe(subject, queue)
        ):
            self._deny_subscription(subject, queue)
            return
        limit = self._shared.settings.subscriptions_max
        full = limit and len(self.subscriptions) >= limit
        if sid not in self.subscriptions and (
            full or not self._shared.seats.may_subscribe(self.identity)
        ):
            self._shared.totals.refused_subscriptions += 1
            self._write(encode_error(b"maximum subscriptions exceeded"))
            return
        if sid not in self.subscriptions:  # a sid that is taken stays what it was
            if not is_valid(subject):
                self._write(encode_error(b"Invalid Subject"))
                return
            subscription = Subscription(self, subject, queue, sid)
            if is_command(subject) and not self._begin_push(subscription):
                return
            self.subscriptions[sid] = subscription
            self._shared.seats.subscribed(self.identity, 1)
            if sid not in self._pushes:
                self._interest.add(subscription)
                self._literal_ends += _ends_literally(subject)
                self._reply_routes.clear()
        self._acknowledge()

    def _begin_push(self, subscription: Subscription) -> bool:
        """Have a subscription that names a mailbox be given its messages; whether it stands."""
        subject, queue, sid = subscription.subject, subscription.queue, subscription.sid
        deliver = partial(self._deliver_push, subscription)
        try:
            push = self._shared.handler.subscribe(
                self.connection,
                self.account,
                subject,
                queue,
                deliver,
                self._takes_pushes,
                self._confirm_read,
            )
        except Overloaded:
            self._shared.totals.refused_subscriptions += 1
            self._write(encode_error(b"maximum subscriptions exceeded"))
            return False
        except Mq9Error:  # it names no mailbox, or no priority
            self._deny_subscription(subject, queue)
            return False
        if push is not None:
            self._pushes[sid] = push
        return True

    def _confirm_read(self, then: Read) -> None:
        """A PING behind what was delivered: whoever answers it has read that."""
        if self._left or self._gone:
            then(False)
            return
        self._pongs_due.append(then)
        self._write(PING_LINE)

    def _takes_pushes(self) -> bool:
        """Whether the client keeps up; where it does not, `_go_on_pushing` will be called."""
        if self._full:
            return False
        waiting = self._out_bytes + self._transport.get_write_buffer_size()
        if waiting < PUSHED_AHEAD_BYTES_MAX:
            return True
        if not self._looks_again:  # the socket takes it in this very turn, or says that it is full
            self._looks_again = True
            self._loop.call_soon(self._look_again)
        return False

    def _look_again(self) -> None:
        self._looks_again = False
        if not self._full:
            self._go_on_pushing()

    def _go_on_pushing(self) -> None:
        for push in self._pushes.values():
            push.resume()

    def _deliver_push(
        self, subscription: Subscription, subject: bytes, header: bytes | None, payload: bytes
    ) -> bool:
        """A message of a mailbox; False once the subscription is over."""
        if self._left or self._gone or self.subscriptions.get(subscription.sid) is not subscription:
            return False
        self.deliver(subscription, Outgoing(subject, None, header, payload))
        return True

    def _deny_subscription(self, subject: bytes, queue: bytes | None, which: bytes = b"") -> None:
        self._shared.totals.permission_violations += 1
        using = b' using queue "%b"' % queue if queue is not None else b""
        text = b'Permissions Violation for Subscription to "%b"%b%b' % (subject, using, which)
        self._write(encode_error(text))

    def _unsubscribe(self, event: Event) -> None:
        _, sid, maximum = event
        subscription = self.subscriptions.get(sid)
        if subscription is not None:
            if maximum > subscription.delivered:
                subscription.maximum = maximum
            else:
                self._forget(subscription)
        self._acknowledge()

    def _ping(self, event: Event) -> None:
        self._write(PONG_LINE)
        if self._connected and not self._pongs_sent:
            self._pongs_sent = True
            if self.options.protocol >= 1:
                self._write(self._shared.info(self, True))

    def _pong(self, event: Event) -> None:
        self.pings_out = 0
        due = self._pongs_due
        then = due.pop(0) if due else None  # clients answer in order
        if then is not None:
            then(True)
        elif self._ping_sent_at:
            self.rtt_s = self._loop.time() - self._ping_sent_at

    def _failed(self, event: Event) -> None:
        self._shared.totals.protocol_errors += 1
        if not self._authenticated and event[1] != CONTROL_LINE_EXCEEDED:
            self._auth_violation()
            return
        self.fail(event[1])

    _HANDLERS: ClassVar[dict[int, Callable[["Session", Event], None]]] = {
        CONNECT: _connect,
        SUB: _subscribe,
        UNSUB: _unsubscribe,
        PING: _ping,
        PONG: _pong,
        FAIL: _failed,
    }

    def _acknowledge(self) -> None:
        if self.options.verbose:
            self._write(OK_LINE)

    def _forget(self, subscription: Subscription) -> None:
        if self.subscriptions.pop(subscription.sid, None) is None:
            return
        self._shared.seats.subscribed(self.identity, -1)
        push = self._pushes.pop(subscription.sid, None)
        if push is not None:
            push.cancel()
            return
        self._interest.remove(subscription)
        self._literal_ends -= _ends_literally(subscription.subject)
        self._reply_routes.clear()

    def _unsubscribe_all(self) -> None:
        for subscription in list(self.subscriptions.values()):
            self._forget(subscription)

    def _drop_subscriptions(self) -> None:
        for subscription in list(islice(self.subscriptions.values(), DROPPED_PER_TURN_MAX)):
            self._forget(subscription)
        if self.subscriptions:
            self._shared.shares.wait(self._drop_subscriptions)

    def _stand_up(self) -> None:
        if self._seated:
            self._seated = False
            self._shared.seats.leave(self.identity)

    def _auth_violation(self) -> None:
        self._shared.totals.auth_violations += 1
        self.fail(b"Authorization Violation")

    def _auth_timeout(self) -> None:
        if not self._authenticated and not self._stall & (ENDED | AUTHENTICATING):
            self.fail(b"Authentication Timeout")

    def announce(self) -> None:
        """Send INFO anew, to a client that said it takes it at any time."""
        if self.options.protocol >= 1 and not self._left:
            self._write(self._shared.info(self, False))

    # --- output -----------------------------------------------------------------------------------

    def deliver(self, subscription: Subscription, message: Outgoing) -> bool:
        """Take a message for `subscription`; False once the connection ended."""
        if self._left or self._gone:
            return False
        if self._received is not None and not self._may_receive(self._received, message):
            return False
        if message.header is None or self._headers:
            head, tail = message.head, message.tail
        else:
            head, tail = message.plain()
        out = self._out
        if not out:
            self._shared.exchange.mark(self)
        sid = subscription.sid
        out += (head, sid, tail)
        self.out_messages += 1
        self._out_bytes += len(head) + len(sid) + len(tail)
        subscription.delivered += 1
        if subscription.delivered == subscription.maximum:
            self._forget(subscription)
        if self._out_bytes >= FLUSH_BYTES:
            self.flush()
        if self._behind:
            self._shared.exchange.reader_behind = True
        return True

    def _may_receive(self, received: Received, message: Outgoing) -> bool:
        if not received.take(message):
            return False
        if message.reply is not None:
            received.asked(message.reply, self._loop.time())
        return True

    def _deliver_reply(self, subscription: Subscription, reply: bytes, body: bytes) -> None:
        out = self._out
        if not out:
            self._shared.exchange.mark(self)
        head = b"MSG %b %b %d\r\n" % (reply, subscription.sid, len(body))
        out += (head, body, b"\r\n")
        self.out_messages += 1
        self._out_bytes += len(head) + len(body) + 2
        subscription.delivered += 1
        if subscription.delivered == subscription.maximum:
            self._forget(subscription)
        if self._out_bytes >= FLUSH_BYTES:
            self.flush()


def _everyone(match: Match) -> tuple[Subscription, ...]:
    everyone = match.plain
    for _, members in match.groups:
        everyone += members
    return everyone


def _ends_literally(subject: bytes) -> bool:
    """Whether `subject` is a pattern whose last token is text."""
    return not is_literal(subject) and subject.rpartition(b".")[2] not in (b"*", b">")
