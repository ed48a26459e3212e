"""Two servers with the same users and certificates: ours, from TOML, and nats-server, from its own
configuration; and one client for both.
"""

import asyncio
import json
import ssl
import tomllib
from dataclasses import dataclass

from mq9cluster.config_access import read_access
from mq9cluster.config_tls import ClientTlsSettings
from mq9cluster.gateway.auth import AllowAll, Authenticator
from mq9cluster.gateway.settings import Settings
from mq9cluster.gateway.tls import ClientTls, Handshake
from tests.support.access import authenticator
from tests.support.core_servers import CoreConfig, NatsServer, OurServer
from tests.support.websocket import Browser
from tests.support.wire import WAIT_S

NOTHING_SAID = b"<nothing said>"


class OurSecureServer(OurServer):
    """Our listener, with the users of a TOML file."""

    def __init__(self, toml: str, tls: ClientTlsSettings | None, settings: Settings) -> None:
        super().__init__(CoreConfig(websocket=tls is not None))
        self._toml = toml
        self._tls = tls
        self._settings = settings

    async def _listen(self, port: int) -> None:
        await self.listen_with(self._settings, self._who(self._toml), self._client_tls(), port)

    def _who(self, toml: str) -> Authenticator:
        by_certificate = self._tls is not None and self._tls.verify == "map"
        access = read_access(tomllib.loads(toml), by_certificate=by_certificate)
        return AllowAll() if access.open else authenticator(access, by_certificate=by_certificate)

    def _client_tls(self) -> ClientTls | None:
        tls = self._tls
        return ClientTls(tls.context, Handshake(tls.handshake), tls.verify != "no") if tls else None

    def reload(self, toml: str) -> None:
        self._run(self._change(toml))

    async def _change(self, toml: str) -> None:
        self.listener.change(self._settings, self._who(toml), self._client_tls())


class TheirSecureServer(NatsServer):
    """The nats-server binary with a given configuration."""

    def __init__(self, conf: str) -> None:
        super().__init__(CoreConfig())
        self._text = conf

    def settings(self) -> str:
        return self._text


@dataclass
class Said:
    """What a server said to one client, and whether it closed."""

    info: dict[str, object]
    data: bytes
    closed: bool

    def same(self) -> tuple[dict[str, object], bytes, bool]:
        """What both servers have to agree on."""
        return self.info, self.data, self.closed


# What INFO says of who may come in.
INFO_SECURITY = {"auth_required", "tls_required", "tls_available", "tls_verify"}


async def talk(
    port: int,
    data: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    first: bool = False,
    ping: bool = True,
) -> Said:
    """Connect, send `data` and a PING: what is heard before the PONG, or the end.

    With `tls` behind INFO, or `first`. A handshake that fails is heard as its alert.
    """
    now = tls if first else None
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(
                "127.0.0.1", port, ssl=now, server_hostname="localhost" if now else None
            ),
            WAIT_S,
        )
    except ssl.SSLError as error:
        return Said({}, _alert(error), closed=True)
    try:
        info = {}
        line = await asyncio.wait_for(reader.readline(), WAIT_S)
        if line:
            told = json.loads(line.removeprefix(b"INFO "))
            info = {key: told[key] for key in sorted(INFO_SECURITY & told.keys())}
            info["nonce"] = len(told.get("nonce", ""))
        if tls is not None and not first:
            await asyncio.wait_for(writer.start_tls(tls, server_hostname="localhost"), WAIT_S)
        writer.write(data + (b"PING\r\n" if ping else b""))
        try:
            heard = await asyncio.wait_for(reader.readuntil(b"PONG\r\n"), WAIT_S)
        except asyncio.IncompleteReadError as error:
            return Said(info, error.partial, closed=True)
        return Said(info, heard, closed=False)
    except ssl.SSLError as error:
        return Said({}, _alert(error), closed=True)
    except ConnectionError:
        return Said({}, NOTHING_SAID, closed=True)
    finally:
        writer.transport.abort()


async def talk_in_frames(port: int, data: bytes, tls: ssl.SSLContext) -> Said:
    """The same over a websocket with TLS."""
    try:
        browser = await Browser.open(port, ssl=tls, server_hostname="localhost")
        heard = await browser.rest(lambda: b"INFO " in browser.heard)
        if browser.ended:
            return Said({}, heard, closed=True)
        info, _, browser.heard = heard.partition(b"\r\n")
        told = json.loads(info.removeprefix(b"INFO "))
        browser.send(data + b"PING\r\n")
        heard = await browser.rest(lambda: b"PONG\r\n" in browser.heard)
    except ssl.SSLError as error:
        return Said({}, _alert(error), closed=True)
    browser.abort()
    shown = {key: told[key] for key in sorted(INFO_SECURITY & told.keys())}
    return Said(shown, heard, closed=browser.ended)


def _alert(error: ssl.SSLError) -> bytes:
    return (error.reason or "no reason").encode()
