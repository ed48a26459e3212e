"""A client's socket: fair shares of input, gathered output, and every way a connection ends.

The lower half of `session`, which says what the bytes mean. Owns the transport, the parser, the
keepalive and the write deadline; calls `Session._work` with events, and `exchange` to be flushed at
the end of a turn.

A client gets a bounded share of each turn (`shares`; DELIVERIES_PER_TURN_MAX deliveries); what it
sent beyond that waits, unread or unworked, while others have theirs.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from mq9cluster.gateway.settings import (
    BEHIND_SHARE,
    DELIVERIES_PER_TURN_MAX,
    LINGER_S,
    OUTRAN_PAUSE_S,
    SHARED_PART_BYTES,
)
from mq9cluster.gateway.shared import Shared
from mq9cluster.gateway.shares import READ_BYTES_MAX, READ_S
from mq9cluster.protocol.nats import PING_LINE, Event, ServerParser, encode_error

if TYPE_CHECKING:
    from mq9cluster.gateway.session import Session

Read = Callable[[bool], None]  # whether the client has read what was sent

# Why a connection does not go on with its input just now.
TURN_OVER = 1
TOO_MANY_COMMANDS = 2
ENDED = 4
AUTHENTICATING = 8
WAITS = TOO_MANY_COMMANDS | AUTHENTICATING  # until something else ends it


class Connection(asyncio.Protocol):
    """The socket of one client. Its counters are plain integers, read by monitoring."""

    __slots__ = (
        "_backlog",
        "_behind",
        "_budget",
        "_eof",
        "_fetches",
        "_full",
        "_gone",
        "_left",
        "_loop",
        "_out",
        "_out_bytes",
        "_outran",
        "_parser",
        "_paused",
        "_ping_at",
        "_ping_sent_at",
        "_pongs_due",
        "_reports_wait",
        "_retiring",
        "_shared",
        "_stall",
        "_stuck_since",
        "_stuck_until_bytes",
        "_transport",
        "_turn_due",
        "_unread",
        "connection",
        "greeted",
        "in_bytes",
        "in_flight",
        "in_flight_bytes",
        "in_messages",
        "last_active",
        "out_bytes",
        "out_messages",
        "peer",
        "pings_out",
        "rtt_s",
        "started",
    )

    def __init__(self, shared: Shared) -> None:
        shared.last_connection += 1
        self.connection = shared.last_connection
        self.peer: tuple[str, int] = ("", 0)
        self.greeted = False  # INFO went out before TLS began
        self.in_messages = self.in_bytes = self.out_messages = self.out_bytes = 0
        self.in_flight = self.in_flight_bytes = 0  # commands that were not answered yet
        self._fetches = 0  # FETCHes of these: they may wait for long
        self.started = self.last_active = 0.0
        self.pings_out = 0
        self.rtt_s: float | None = None
        self._loop = asyncio.get_running_loop()
        self._shared = shared
        settings = shared.settings
        self._parser = ServerParser(settings.payload_bytes_max, settings.control_line_bytes_max)
        self._transport: asyncio.Transport
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._backlog: Iterator[Event] | None = None  # parsed, not worked off
        self._unread: list[bytes] = []  # received, not parsed
        self._reports_wait = False  # unread, for their beat
        self._turn_due = False
        self._stall = 0
        self._budget = 0  # deliveries this turn may still make
        self._behind = False  # the client reads more slowly than it is sent to
        self._full = False  # the socket takes no more just now
        self._outran = False  # it published to one that is behind
        self._paused = False
        self._eof = False
        self._left = False  # subscriptions are gone and the handler knows
        self._gone = False  # so is the socket
        self._retiring = False
        self._ping_at = self._ping_sent_at = 0.0
        # Whom each PING that is not yet answered is for: the keepalive, or who wants to know what
        # the client has read.
        self._pongs_due: list[Read | None] = []
        self._stuck_since = 0.0
        self._stuck_until_bytes = 0

    @property
    def pending_bytes(self) -> int:
        """What the client has not taken yet, for monitoring."""
        return self._out_bytes + self._transport.get_write_buffer_size()

    @property
    def over_websocket(self) -> bool:
        """Whether the client came in at --ws-listen."""
        transport = getattr(self, "_transport", None)  # none yet while TLS is settled
        return transport is not None and bool(transport.get_extra_info("websocket"))

    @property
    def tls_cipher(self) -> tuple[str, str, int] | None:
        """Cipher suite, version and bits; None in clear."""
        cipher: tuple[str, str, int] | None = self._transport.get_extra_info("cipher")
        return cipher

    def change_payload_max(self, payload_bytes_max: int) -> None:
        """Of what is read from now on."""
        self._parser.payload_bytes_max = payload_bytes_max

    # --- what a session is ------------------------------------------------------------------------

    @abstractmethod
    def _greet(self) -> None:
        """The socket is open and within the limits: speak first."""

    @abstractmethod
    def _work(self, events: Iterator[Event]) -> None:
        """Act on `events`, until they end or something stalls."""

    @abstractmethod
    def _take_request(self, data: bytes) -> bool:
        """Act on `data` as on its events, if it is one request that needs no second look."""

    @abstractmethod
    def _go_on_pushing(self) -> None:
        """The socket takes more again."""

    @abstractmethod
    def _drop_subscriptions(self) -> None:
        """Nothing is to be delivered any more: take the subscriptions out, a slice a turn."""

    @abstractmethod
    def _stand_up(self) -> None:
        """This is no connection of its account and user any more."""

    # --- the socket -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server speaks first."""
        transport = cast(asyncio.Transport, transport)  # uvloop's are none by name
        shared = self._shared
        self._transport = transport
        peer = transport.get_extra_info("peername")
        if peer:
            self.peer = (peer[0], peer[1])
        self.started = self.last_active = self._loop.time()
        self._ping_at = self.started + shared.settings.ping_interval_s
        shared.totals.connections += 1
        shared.empty.clear()
        if len(shared.sessions) >= shared.settings.connections_max:
            shared.totals.refused_connections += 1
            self._write(shared.info(cast("Session", self), False))
            self.fail(b"maximum connections exceeded")
            return
        shared.sessions[self.connection] = cast("Session", self)
        self._greet()

    def data_received(self, data: bytes) -> None:
        """Work off what arrived, as far as this turn's share goes."""
        self.in_bytes += len(data)
        self.last_active = self._loop.time()
        if self._stall & ENDED:
            return
        if self._backlog is not None or self._turn_due:
            self._unread.append(data)
            return
        shared = self._shared
        if self._reports_wait and shared.patience.suits(data):
            self._unread.append(data)
            shared.patience.wait(self)
            return
        if self._unread:
            self._unread.append(data)
            data = self._take_unread()
        shares = shared.shares
        if shares.last != self.connection:
            shares.work(self.connection)
        self._go_on(iter(self._parser.feed(data, shares.events)))
        if len(data) >= READ_BYTES_MAX and shares.in_company and not self._paused:
            self._read_on_later()

    def read_unread(self) -> None:
        """The beat has come for what `patience` left unread."""
        unread = self._unread
        if not unread or self._backlog is not None or self._turn_due:
            return
        if len(unread) > 1 or self._stall or self._eof or self._paused or self._retiring:
            self._turn()
            return
        working = True
        try:
            taken = self._take_request(unread[0])
            working = False
        finally:
            if working:  # as in `_go_on`
                self.abort()
        if not taken:
            self._turn()
            return
        unread.clear()
        self._pause_if_stalled()

    def _pause_if_stalled(self) -> None:
        """What was taken may be the last command that was to be under way."""
        if self._stall:
            self._go_on(iter(()))

    def _take_unread(self) -> bytes:
        unread = self._unread
        data = unread[0] if len(unread) == 1 else b"".join(unread)
        unread.clear()
        return data

    def eof_received(self) -> bool:
        """A client that half-closed keeps what it sent: all of it is worked off before the socket
        closes.
        """
        self._eof = True
        self.flush()
        # TLS cannot be half-closed: what was sent is worked off without a socket then.
        half = self._transport.can_write_eof()
        return half and self._has_work and not self._stall & ENDED

    def connection_lost(self, exc: Exception | None) -> None:
        """What was read still counts; then this is over."""
        self._gone = True
        if not self._has_work or self._stall & ENDED:
            self._leave()
        else:
            self._read_no_more()
            self._drop_subscriptions()
            self._shared.handler.connection_lost(self.connection)
            # What was read is not much, and who reads for nobody does not answer either.
            self._stall &= ~TOO_MANY_COMMANDS
            if not self._stall:
                self._schedule_turn()
        shared = self._shared
        shared.sessions.pop(self.connection, None)
        shared.leaving.discard(self)
        if not shared.sessions and not shared.leaving:
            shared.empty.set()
        self._hand_over_counters()

    def pause_writing(self) -> None:
        """The client reads more slowly than it is sent to: what can wait, does."""
        self._full = True

    def resume_writing(self) -> None:
        """It has caught up."""
        self._full = False
        self._go_on_pushing()

    # --- input, in shares -------------------------------------------------------------------------

    @property
    def _has_work(self) -> bool:
        return self._backlog is not None or self._turn_due or bool(self._unread)

    def _turn(self) -> None:
        """The next share of input that waited."""
        self._turn_due = False
        if self._stall & ENDED:
            return
        events = self._backlog
        shares = self._shared.shares
        if shares.last != self.connection:
            shares.work(self.connection)
        if events is None:
            data = self._take_unread()
            events = iter(self._parser.feed(data, shares.events))
        self._go_on(events)

    def _go_on(self, events: Iterator[Event]) -> None:
        self._backlog = events
        self._budget = DELIVERIES_PER_TURN_MAX
        self._stall &= ~TURN_OVER
        working = True
        try:
            self._work(events)
            working = False
        finally:
            if working:  # a fault above must not leave a connection that waits for ever
                self.abort()
        if self._stall & ENDED:
            self._backlog = None
            return
        if self._outran:
            self._outran = False
            self._pause()
            if not self._stall & WAITS:
                self._schedule_turn(OUTRAN_PAUSE_S)
            return
        if not self._stall:
            self._backlog = None
            if not self._parser.has_more and not self._unread:
                self._caught_up()
                return
        self._pause()
        if not self._stall & WAITS:
            self._shared.totals.turns_over += 1
            self._schedule_turn()

    def _schedule_turn(self, delay_s: float = 0.0) -> None:
        if self._turn_due:
            return
        self._turn_due = True
        if delay_s:
            self._loop.call_later(delay_s, self._shared.shares.wait, self._turn)
        else:
            self._shared.shares.wait(self._turn)

    def _read_on_later(self) -> None:
        """A message of megabytes is under way: others are read meanwhile."""
        self._pause()
        if self._paused:
            self._shared.totals.turns_over += 1
            self._schedule_turn()

    def _caught_up(self) -> None:
        """Nothing waits any more: read on, or end what the client has ended."""
        if self._gone:
            self._leave()
        elif self._eof:
            self.flush()
            self._transport.close()
        elif self._retiring:
            self._maybe_retire()
        elif self._paused:
            self._paused = False
            self._transport.resume_reading()
            self._shared.shares.charge(READ_S)

    def _pause(self) -> None:
        if not self._paused and not self._gone and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def _maybe_go_on(self) -> None:
        """Read on once half the room is free, so that a client does not stop and go for every
        single command.
        """
        settings = self._shared.settings
        if (
            self.in_flight <= settings.commands_in_flight_max // 2
            and self.in_flight_bytes <= settings.commands_in_flight_bytes_max // 2
            and (self.in_flight - self._fetches) * 2 < self._shared.shares.commands
        ):
            self._stall &= ~TOO_MANY_COMMANDS
            if not self._stall & AUTHENTICATING:
                self._schedule_turn()

    # --- output -----------------------------------------------------------------------------------

    def _write(self, line: bytes) -> None:
        if self._left:
            return
        if not self._out:
            self._shared.exchange.mark(self)
        self._out.append(line)
        self._out_bytes += len(line)

    def flush(self) -> None:
        """Hand what was gathered to the socket; a client too far behind is cut off instead."""
        if not self._out:
            return
        parts = self._out
        size = self._out_bytes
        self._out = []
        self._out_bytes = 0
        transport = self._transport
        if self._gone or transport.is_closing():
            return
        waiting = transport.get_write_buffer_size() + size
        pending_max = self._shared.settings.pending_bytes_max
        if waiting > pending_max:
            if not self._left:  # a client that was told to go may be slow about it
                self._shared.totals.over_pending += 1
            self.abort()
            return
        self._behind = waiting > pending_max * BEHIND_SHARE
        self.out_bytes += size
        if size < len(parts) * SHARED_PART_BYTES:
            transport.write(b"".join(parts))
        else:  # large payloads stay one object, however many subscribers wait for them
            transport.writelines(parts)

    # --- the end ----------------------------------------------------------------------------------

    def fail(self, text: bytes) -> None:
        """Say `-ERR text` (unless empty) and end the connection.

        The output is shut and the input read into the void for LINGER_S: closing at once would turn
        what the client is still sending into a reset, which destroys the line it should read.
        """
        if text:
            self._write(encode_error(text))
        self.flush()
        self._leave()
        if self._gone or self._transport.is_closing():
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._loop.call_later(LINGER_S, self._transport.abort)
        else:
            self._transport.close()

    def close(self) -> None:
        """End the connection once what was written has left."""
        self.flush()
        self._leave()
        self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        self._leave()
        self._transport.abort()

    def retire(self) -> None:
        """Take nothing new, answer what is under way, then close (lame duck)."""
        if self._stall & ENDED:
            return
        self._retiring = True
        self._pause()
        self._maybe_retire()

    def _maybe_retire(self) -> None:
        if not self.in_flight and not self._has_work and not self._left:
            self.close()

    def sweep(self, now: float) -> None:
        """Called about once a second: the keepalive and the write deadline."""
        if self._gone:
            return
        self._check_writing(now)
        if now >= self._ping_at and not self._stall & ENDED:
            self._keep_alive(now)

    def _keep_alive(self, now: float) -> None:
        settings = self._shared.settings
        self._ping_at = now + settings.ping_interval_s
        if self._paused:  # a PONG could not be read either
            return
        if self.rtt_s is not None and now - self.last_active < settings.ping_interval_s:
            return
        if self.pings_out + 1 > settings.pings_out_max:
            self._shared.totals.stale_connections += 1
            self.fail(b"Stale Connection")
            return
        self.pings_out += 1
        self._ping_sent_at = now
        self._pongs_due.append(None)
        self._write(PING_LINE)

    def _check_writing(self, now: float) -> None:
        """What waited to be written when this last looked must have left within the deadline,
        however slowly.
        """
        waiting = self._transport.get_write_buffer_size()
        if not waiting:
            self._stuck_since = 0.0
        elif not self._stuck_since or self.out_bytes - waiting >= self._stuck_until_bytes:
            self._stuck_since = now
            self._stuck_until_bytes = self.out_bytes
        elif now - self._stuck_since >= self._shared.settings.write_deadline_s:
            if not self._left:
                self._shared.totals.over_deadline += 1
            self.abort()

    def _leave(self) -> None:
        """Nothing more is taken or delivered; the handler hears of it once."""
        self._stall |= ENDED
        self._backlog = None
        self._unread.clear()
        if self._left:
            return
        self._left = True
        self._read_no_more()
        self._drop_subscriptions()
        self._stand_up()
        shared = self._shared
        if not self._gone:
            shared.sessions.pop(self.connection, None)
            shared.leaving.add(self)
        self._hand_over_counters()
        shared.handler.connection_closed(self.connection)

    def _read_no_more(self) -> None:
        """What was sent since the last PONG may never have been read."""
        due, self._pongs_due = self._pongs_due, []
        for then in due:
            if then is not None:
                then(False)

    def _hand_over_counters(self) -> None:
        """From here on the totals count them."""
        totals = self._shared.totals
        totals.in_messages += self.in_messages
        totals.in_bytes += self.in_bytes
        totals.out_messages += self.out_messages
        totals.out_bytes += self.out_bytes
        self._stuck_until_bytes -= self.out_bytes
        self.in_messages = self.in_bytes = self.out_messages = self.out_bytes = 0
