"""NATS over websockets, for clients in browsers: the same sessions behind another socket.

Made by `listener` for every socket accepted at --ws-listen; upgrades it, and then hands the bytes
inside of frames to a session, whose own bytes leave as frames. The only door to wsproto, which
knows the protocol (RFC 6455) and does no I/O. No compression is offered: nobody can make a frame of
a kilobyte unfold into a gigabyte here.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import Any, Final, Protocol

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from mq9cluster.gateway.shares import Shares

FRAMES_ALONE_MAX: Final = 256  # one client's share of a turn, however small its frames: some ms
FRAMES_IN_COMPANY_MAX: Final = 32  # some of its tenths
PONGS_BEHIND_BYTES_MAX: Final = 65_536  # a client that pings and does not read gets no more PONGs
UPGRADE_BYTES_MAX: Final = 16_384  # of an HTTP request; what a browser sends takes two
NORMAL, TOO_MUCH = 1000, 431

BytesLike = bytes | bytearray | memoryview


class Inner(Protocol):
    """The session behind the frames."""

    connection: int  # its number

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As of an asyncio.Protocol; so the others."""

    def data_received(self, data: bytes) -> None: ...  # noqa: D102

    def eof_received(self) -> bool | None: ...  # noqa: D102

    def pause_writing(self) -> None: ...  # noqa: D102

    def resume_writing(self) -> None: ...  # noqa: D102

    def connection_lost(self, exc: Exception | None) -> None: ...  # noqa: D102


class WebSocket(asyncio.Protocol):
    """One accepted socket. `inner` makes the session once the client is a websocket."""

    __slots__ = (
        "_deadline",
        "_inner",
        "_loop",
        "_make",
        "_origins",
        "_read",
        "_shares",
        "_socket",
        "_turn_due",
        "held",
        "wire",
    )

    def __init__(
        self,
        make: Callable[[], Inner],
        origins: Collection[str],
        upgrade_s: float,
        shares: Shares,
    ) -> None:
        self._make = make
        self._shares = shares
        self._origins = origins
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.call_later(upgrade_s, self._too_late)
        self._inner: Inner | None = None
        self._socket: asyncio.Transport
        self._read = 0  # bytes of the request
        self._turn_due = False
        self.held = False  # the session does not want to be given anything just now
        self.wire = WSConnection(ConnectionType.SERVER)

    # --- the socket ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client speaks first: it asks for the upgrade."""
        assert hasattr(transport, "write")  # noqa: S101  uvloop's are no asyncio.Transport by name
        self._socket = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """A piece of the request, or of frames."""
        if self._inner is None:
            self._upgrade(data)
        elif self.wire.state in _READABLE:
            self.wire.receive_data(data)
            if not self._turn_due:
                self._turn()

    def eof_received(self) -> bool:
        """A client that is gone without a word: what it sent still counts."""
        return self._inner is not None and bool(self._inner.eof_received())

    def pause_writing(self) -> None:
        """The socket takes no more just now."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """So is its session."""
        self._deadline.cancel()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    # --- the upgrade -----------------------------------------------------------------------------

    def _upgrade(self, data: bytes) -> None:
        self._read += len(data)
        if self._read > UPGRADE_BYTES_MAX:
            self._reject(RejectConnection(status_code=TOO_MUCH))
            return
        try:
            self.wire.receive_data(data)
            request = next(iter(self.wire.events()), None)
        except RemoteProtocolError as error:
            hint = error.event_hint
            self._reject(hint if isinstance(hint, RejectConnection) else RejectConnection())
        except UnicodeError:  # a host or path of other than ASCII
            self._reject(RejectConnection())
        else:
            if isinstance(request, Request):
                self._answer(request)

    def _answer(self, request: Request) -> None:
        if not self._is_welcome(request):
            self._reject(RejectConnection(status_code=403))
            return
        self._deadline.cancel()
        self._socket.write(self.wire.send(AcceptConnection()))
        self._inner = self._make()
        self._inner.connection_made(FramedTransport(self, self._socket))

    def _is_welcome(self, request: Request) -> bool:
        """Whether pages of its origin may connect; who names none is no page."""
        if not self._origins:
            return True
        named = [value for name, value in request.extra_headers if name == b"origin"]
        return all(origin.decode("ascii", "replace").lower() in self._origins for origin in named)

    def _reject(self, why: RejectConnection) -> None:
        self._deadline.cancel()
        if self.wire.state is ConnectionState.CONNECTING:
            self._socket.write(self.wire.send(why))
        self._socket.close()

    def _too_late(self) -> None:
        self._socket.abort()

    # --- frames ----------------------------------------------------------------------------------

    def resume(self) -> None:
        """The session takes what waits, and more."""
        self.held = False
        self._turn_later()

    def _turn_later(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._socket.pause_reading()
            self._shares.wait(self._later_turn)

    def _later_turn(self) -> None:
        self._turn_due = False
        self._turn()

    def _turn(self) -> None:
        """Hand on what is in the next frames, in one piece; then others have their turn."""
        if not self._may_go_on:
            return
        parts: list[bytes] = []
        ended = False
        count = 0
        inner, shares = self._inner, self._shares
        if inner is not None and shares.last != inner.connection:
            shares.work(inner.connection)
        most = FRAMES_IN_COMPANY_MAX if shares.in_company else FRAMES_ALONE_MAX
        for event in islice(self.wire.events(), most):
            count += 1
            if isinstance(event, BytesMessage):
                parts.append(bytes(event.data))
            elif isinstance(event, TextMessage):
                parts.append(event.data.encode())
            elif isinstance(event, CloseConnection):
                ended = True
                break
            else:
                self._answer_ping(event)
        if parts and inner is not None:
            inner.data_received(b"".join(parts))
        if ended:
            self._end()
        elif count == most:
            self._turn_later()
        elif self._may_go_on:
            self._socket.resume_reading()

    @property
    def _may_go_on(self) -> bool:
        return not self.held and not self._socket.is_closing()

    def _answer_ping(self, event: Event) -> None:
        if not isinstance(event, Ping) or self.wire.state is not ConnectionState.OPEN:
            return
        if self._socket.get_write_buffer_size() <= PONGS_BEHIND_BYTES_MAX:
            self._socket.write(self.wire.send(event.response()))

    def _end(self) -> None:
        """The client said goodbye, or what it sends is no websocket's: as the end of a TCP stream,
        what it sent before is worked off.
        """
        if self._inner is None or not self._inner.eof_received():
            self.goodbye()
            self._socket.close()

    def goodbye(self) -> None:
        """Send a Close frame, unless one was sent."""
        if self.wire.state in _CLOSABLE and not self._socket.is_closing():
            self._socket.write(self.wire.send(CloseConnection(code=NORMAL)))


_READABLE = frozenset((ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING))
_CLOSABLE = frozenset((ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING))


class FramedTransport(asyncio.Transport):
    """What a session takes for its socket: what is written leaves as one frame a call."""

    __slots__ = ("_outer", "_socket")

    def __init__(self, outer: WebSocket, socket: asyncio.Transport) -> None:
        super().__init__()
        self._outer = outer
        self._socket = socket

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of the socket, and `websocket`: True."""
        return True if name == "websocket" else self._socket.get_extra_info(name, default)

    def write(self, data: BytesLike) -> None:
        """One frame; nothing once a Close frame was sent."""
        wire = self._outer.wire
        if wire.state is ConnectionState.OPEN:
            self._socket.write(wire.send(BytesMessage(data=bytes(data))))

    def writelines(self, list_of_data: Iterable[BytesLike]) -> None:
        """One frame of all."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """What the socket did not take yet."""
        return self._socket.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Also what is read already, and not yet handed on."""
        self._outer.held = True
        if not self._socket.is_closing():
            self._socket.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with what waits first."""
        self._outer.resume()

    def is_closing(self) -> bool:
        """Whether the socket is."""
        return self._socket.is_closing()

    def can_write_eof(self) -> bool:
        """As the socket can; TLS cannot."""
        return self._socket.can_write_eof()

    def write_eof(self) -> None:
        """Say goodbye, and nothing more."""
        self._outer.goodbye()
        self._socket.write_eof()

    def close(self) -> None:
        """Say goodbye, and close behind what was written."""
        self._outer.goodbye()
        self._socket.close()

    def abort(self) -> None:
        """Cut."""
        self._socket.abort()
